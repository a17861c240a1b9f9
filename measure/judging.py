"""300 judge calls against a loopback server that allows 20 starts in any sliding second (429 with Retry-After: 1 above that).

    python measure/judging.py            # about two minutes, no key, no network

Prints lost calls, refusals and rate for the runner (card right, and three times too fast; each
client; resumed), for the OpenAI SDK's own retries under the same load, and for five SIGKILLs; then
lost calls and seconds for kinds of servers: normal, a model that thinks aloud, a router that
spells the model's name in three ways, one on this machine while HTTP_PROXY is set, and batches
of OpenAI and Gemini, of which the first is only half answered. ``--kinds`` prints these alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.judge.test_judging import kill_and_resume  # noqa: E402
from tests.support.batch_modes import Batches  # noqa: E402
from tests.support.loopback import SERVED, Loopback  # noqa: E402
from xlm_utils.ask import batches, calls  # noqa: E402
from xlm_utils.ask.cards import Card  # noqa: E402
from xlm_utils.judge.judging import SCHEMA, parse  # noqa: E402

CALLS, LIMIT, LATENCY = 300, 20, 0.3
KINDS = ("normal", "thinking", "router", "behind HTTP_PROXY", "batch, OpenAI", "batch, Gemini")
SPELLINGS = ("org/m-7b", "ORG/M-7B", "M 7B")
PROMPTS = [f"prompt {n}" for n in range(CALLS)]


def runner(client: str, speed: float, folder: Path) -> str:
    """One row: our runner with the card's rate at ``speed`` times the server's limit, then resumed."""
    model = SERVED["openai"] if client == "openai" else "gemini-1.5-pro"
    card = Card(name=client, label=client, client=client, model=model, requests_per_minute=60 * LIMIT * speed)
    store = folder / f"{client}-{speed}.sqlite"
    with Loopback(limit=LIMIT, latency=LATENCY) as server:
        run = {"schema": SCHEMA, "parse": parse, "store": store, "base_url": server.url(client)}
        rows = calls.run_calls(card, PROMPTS, **run)
        answered = len(server.prompts)
        calls.run_calls(card, PROMPTS, **run)
        again = len(server.prompts) - answered
    lost = sum(row["status"] != "ok" for row in rows)
    rate = (CALLS - 1) / (server.times[-1] - server.times[0])
    name = f"runner, {client}, card at {speed:g}x"
    return f"{name:46} lost {lost:3}   refused {server.refused:4}   {rate:5.1f} starts/s ({rate / LIMIT:.0%} of the limit)   resume: {again} calls"


def chat(n: int) -> tuple[int, dict, dict]:
    """A router's answer: the score behind a thought, and another spelling of the model each time."""
    message = {"role": "assistant", "content": '<think>Is it a 3? {"score": 3}</think>{"score": 7}'}
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return 200, {}, {"id": "x", "object": "chat.completion", "created": 1, "model": SPELLINGS[n % 3], "choices": [choice], "usage": usage}


def kind(name: str, folder: Path) -> str:
    """One row: all calls to one kind of server, asked again where they have to be."""
    batch, client = name.startswith("batch"), "google-genai" if name == "batch, Gemini" else "openai"
    script = {"thinking": [chat(0)], "router": [chat(n) for n in range(CALLS)]}.get(name, "ok")
    model = "gemini-1.5-pro" if client == "google-genai" else SPELLINGS[0] if name == "router" else SERVED["openai"]
    card = Card(
        name=client, label=client, client=client, model=model, same_as=SPELLINGS[2:], requests_per_minute=60_000, batch=batch, batch_tokens=3000
    )
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9"} if name == "behind HTTP_PROXY" else {}
    start = time.monotonic()
    server = Loopback(script, latency=LATENCY, batches=Batches(["expired", "completed"]))
    with server, patch.dict(os.environ, proxy):
        rows = calls.run_calls(card, PROMPTS, SCHEMA, parse, folder / f"{name}.sqlite", base_url=server.url(client))
    lost, sent = sum(row["status"] != "ok" or row["value"] != 7 for row in rows), len(server.batches.made)
    return f"{name:46} lost {lost:3}   {time.monotonic() - start:5.1f} s" + (f"   {sent} batches" if batch else "")


def sdk_retries(retries: int, threads: int) -> str:
    """One row: the same load on the OpenAI SDK's own retries, without a pacer."""
    import openai

    with Loopback(limit=LIMIT, latency=LATENCY) as server:
        client = openai.OpenAI(api_key="none", base_url=server.openai, max_retries=retries)

        def ask(prompt: str) -> bool:
            try:
                client.chat.completions.create(model=SERVED["openai"], messages=[{"role": "user", "content": prompt}])
            except openai.RateLimitError:
                return False
            return True

        start = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            lost = CALLS - sum(pool.map(ask, PROMPTS))
        seconds = time.monotonic() - start
    name = f"SDK, {threads} threads, max_retries={retries}"
    return f"{name:46} lost {lost:3}   refused {server.refused:4}   {(CALLS - lost) / seconds:5.1f} answers/s"


def main() -> None:
    batches.FIRST = 0.5  # s; a real one takes minutes
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in KINDS:
            print(kind(name, folder), flush=True)
        if "--kinds" in sys.argv:
            return
        for client in ("openai", "google-generativeai", "google-genai"):
            for speed in (1, 3):
                print(runner(client, speed, folder), flush=True)
        for retries in (2, 5):
            print(sdk_retries(retries, threads=64), flush=True)
        rows, asked = kill_and_resume(folder, total=CALLS, kills=5)
        extra = sum(asked.values()) - CALLS
        print(f"five SIGKILLs in {CALLS} calls: {rows} rows, {CALLS - len(asked)} lost, {extra} asked twice (at most {5 * calls.WORKERS} in flight)")


if __name__ == "__main__":
    main()
