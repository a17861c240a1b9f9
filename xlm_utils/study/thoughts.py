"""What a model thinks before it answers, and the marks around it: no part of an answer, whoever serves the model."""

import re

CLOSING = {f"<{name}>": f"</{name}>" for name in ("think", "thinking", "thought", "reasoning")}  # of a thought, by what opens it
CLOSING |= {"[THINK]": "[/THINK]", "<|START_THINKING|>": "<|END_THINKING|>", "<unused94>": "<unused95>"}
CHANNEL, FINAL = "<|channel|>", "<|channel|>final<|message|>"  # of the harmony format
MARKS = (*CLOSING, *CLOSING.values(), CHANNEL)


def without_thoughts(text: str) -> tuple[str, bool]:
    """The text without its thoughts, one that the prompt had opened among them; True if the last is open to the end."""
    if CHANNEL in text:
        _, final, answer = text.rpartition(FINAL)
        return (answer, False) if final else ("", True)
    for opening, closing in CLOSING.items():
        text = re.sub(f"{re.escape(opening)}.*?{re.escape(closing)}", "", text, flags=re.DOTALL)
        text = text.rpartition(closing)[2]
    before = min((text.partition(opening)[0] for opening in CLOSING), key=len)
    return before, before != text


def bare(text: str) -> str:
    """An answer without thoughts, marks of channels, a byte order mark and the fence around it."""
    text = without_thoughts(text)[0].replace("\ufeff", "")
    fenced = re.search(r"```\w*\s(.*?)```", text, re.DOTALL)
    return re.sub(r"<\|\w+\|>", "", fenced[1] if fenced else text).strip()
