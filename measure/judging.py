"""300 judge calls against a loopback server that allows 20 starts in any sliding second (429 with Retry-After: 1 above that).

    python measure/judging.py            # about two minutes, no key, no network

Prints lost calls, refusals and rate for the runner (card right, and three times too fast; each
client; resumed), for the OpenAI SDK's own retries under the same load, and for five SIGKILLs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.judge.test_judging import kill_and_resume  # noqa: E402
from tests.support.loopback import SERVED, Loopback  # noqa: E402
from xlm_utils.ask import calls  # noqa: E402
from xlm_utils.ask.cards import Card  # noqa: E402
from xlm_utils.judge.judging import SCHEMA, parse  # noqa: E402

CALLS, LIMIT, LATENCY = 300, 20, 0.3
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
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
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
