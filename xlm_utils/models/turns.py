"""What stands around a text: the chat template before it, the token that ends it, a thought that is no part of it."""

from datetime import datetime
from unittest.mock import patch

from jinja2 import TemplateError

from xlm_utils.models.libraries import PreTrainedTokenizerBase, transformers
from xlm_utils.models.weights import as_list
from xlm_utils.study import StudyError
from xlm_utils.study.thoughts import CLOSING, MARKS, without_thoughts

DATE = datetime(2024, 7, 26)  # what a template that prints today's date is given, or prompts would change at midnight; Llama-3.1 falls back to it


def chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict], add_generation_prompt: bool = True, of: str = "this model") -> str:
    """Messages inside the tokenizer's chat template: with thinking off where the template can, and always on the same date.

    A system message that the template refuses or drops stands before the first user message instead; a thought that the template opens for the answer
    is closed. ``messages``: turns with ``role`` and ``content``; ``of``: whose template it is, for the StudyError if it can't render them.
    """
    system = messages[0]["content"].strip() if messages[0]["role"] == "system" else ""
    try:
        text = _render(tokenizer, messages, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt)
    except (TemplateError, ValueError, TypeError) as error:
        if not system:
            raise StudyError(f"the chat template of {of} can't be used: {error}") from None
        text = ""
    if system not in text:
        first, *others = messages[1:]
        return chat(tokenizer, [{**first, "content": f"{system}\n\n{first['content']}"}, *others], add_generation_prompt, of)
    opened = next((opening for opening in CLOSING if text.rstrip().endswith(opening)), None)
    return f"{text.rstrip()}\n\n{CLOSING[opened]}\n\n" if opened and add_generation_prompt else text


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict], **options: bool) -> str:
    class Then(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return DATE

    with patch.object(transformers.utils.chat_template_utils, "datetime", Then):  # a function given as strftime_now would reach the template as text
        return tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, thinking=False, **options)


def said(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> tuple[str, str]:
    """Text of an answer without special tokens and thoughts, and whether it had a thought: "", ``closed``, or ``open`` to its end."""
    text = tokenizer.decode(tokens, skip_special_tokens=False)
    if not any(mark in text for mark in MARKS):
        return tokenizer.decode(tokens, skip_special_tokens=True), ""
    text, is_open = without_thoughts(text)
    for token in tokenizer.added_tokens_decoder.values():
        text = text.replace(token.content, "") if token.special else text
    return text.strip(), "open" if is_open else "closed"


def stop_tokens(eos: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an answer: the generation config's ``eos``, the tokenizer's own, and what the chat template ends a turn with.

    A fine-tune or merge whose generation config knows ``<|end_of_text|>`` alone would otherwise run on
    after Llama-3's ``<|eot_id|>`` until it is cut off. The end of a turn is read from the template
    itself: the special token behind an assistant's message, white space apart. A template that drops the answer, or can't be rendered, tells nothing.
    """
    found = {*as_list(eos), *as_list(tokenizer.eos_token_id)}
    turns = [{"role": "system", "content": "TASK"}, {"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": "ANSWER"}]
    for rendered in (turns[1:], turns) if tokenizer.chat_template else ():
        try:
            _, answer, tail = _render(tokenizer, rendered).rpartition("ANSWER")
        except (TemplateError, ValueError, TypeError):  # such a template stops the studies that use it, not the others
            continue
        if answer:
            behind = tokenizer(tail.lstrip(), add_special_tokens=False)["input_ids"][:1]
            found.update(token for token in behind if token in tokenizer.added_tokens_decoder)
            break
    return sorted(found)


def leave_open(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer, changed so that it appends nothing: an end token behind a prompt says that there is nothing more to say."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
    if start is None or not (appended := whole[start + len(bare) :]):
        return tokenizer
    print(f"{name}: its tokenizer appends {' '.join(tokenizer.convert_ids_to_tokens(appended))} to every text: left out")
    from tokenizers.processors import TemplateProcessing

    first = dict(zip(tokenizer.convert_ids_to_tokens(whole[:start]), whole[:start], strict=True))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=[*first, "$A"], special_tokens=list(first.items()))
    return tokenizer
