"""Prompts → replies of a rate-limited server: paced, threaded, stored as they arrive, resumable.

One pacer spaces the requests of all threads; each reply is in an SQLite file before the next request of its thread starts, so a killed run loses
the calls in flight and nothing else, and a second run asks only what has no reply yet.
"""

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import closing
from pathlib import Path
from typing import Any

from xlm_utils.ask.batches import TIMES, collect
from xlm_utils.ask.cards import BATCH_HOURS, BATCH_PRICE, Card, address, rate
from xlm_utils.ask.clients import Ask, Reply, open_client
from xlm_utils.ask.replies import INSERT, SPENT, identity, mended, open_store, same_model, set_aside, spent, stored, told
from xlm_utils.ask.servers import HEADROOM, Fatal, Pacer, Retry, Void, shutdown_date, tokens_of
from xlm_utils.study import Progress, Study, StudyError, short
from xlm_utils.study.thoughts import bare

WORKERS, TRIES = 32, 8
LONGEST_WAIT = 120.0  # s; a server that asks for more is not waited for
UNREAD = 20  # replies of which none can be read end the run
PATIENCE = 300.0  # s without any reply before the run gives up (a fifth of it before the first reply)


def estimate(card: Card, prompts: list[str], schema: dict, base_url: str = "") -> dict[str, float]:
    """Calls, tokens in and out, USD (as the card asks, directly, and in batches), minutes, batches one after another and hours of them at most."""
    tokens_in = sum(map(tokens_of, prompts)) + len(prompts) * tokens_of(json.dumps(schema))
    tokens_out = len(prompts) * card.reply_tokens
    by_tokens = (tokens_in + tokens_out) / card.tokens_per_minute if card.tokens_per_minute else 0
    usd, minutes = card.usd(tokens_in, tokens_out), max(len(prompts) / rate(card, base_url), by_tokens) / HEADROOM
    direct = usd / BATCH_PRICE if card.batch else usd
    batch = direct * BATCH_PRICE if card.batch or (card.client in BATCH_HOURS and not address(card, base_url)) else direct
    parts = card.batch * (math.ceil(tokens_in / (card.batch_tokens or math.inf)) or min(1, len(prompts)))
    return {
        "calls": len(prompts), "tokens_in": tokens_in, "tokens_out": tokens_out, "usd": usd, "direct": direct, "batch": batch,
        "minutes": minutes * (not card.batch), "parts": parts, "hours": parts * BATCH_HOURS.get(card.client, 0)}  # fmt: skip


def price(needed: Sequence[Mapping[str, float]]) -> str:
    """USD of some estimates by either way, hours of calls, and of batches at the longest."""
    units = ("usd", "direct", "batch", "minutes", "parts", "hours")
    usd, direct, batch, minutes, parts, hours = (sum(part[unit] for part in needed) for unit in units)
    other = f" ({direct:.2f} without batch: true)" if usd < direct else f" ({batch:.2f} with batch: true)" if batch < usd else ""
    waiting = f", {parts:,} batches one after another, {hours:,} h at the longest" if parts else ""
    return f"{usd:.2f} USD{other} and {minutes / 60:.1f} h of calls{waiting}"


def announce(study: Study, card: Card, prompts: Iterable[tuple[str, int]], schema: dict, base_url: str = "") -> dict:
    """What asking these would take, printed before anything is spent: calls, tokens, cost, time, shutdown date.

    ``prompts``: each with its ``repeat`` (see ``run_calls``); equal ones count once, answered ones not at all. A StudyError: see ``afford``.
    """
    asked, store = dict.fromkeys(prompts), study.replies
    done = stored(store, card, schema, base_url)
    needed = estimate(card, [call[0] for call in asked if call not in done], schema, base_url)
    needed |= {"stored": len(asked) - int(needed["calls"]), "spent": spent(store), "shutdown": shutdown_date(card, base_url)}
    calls = f"{needed['calls']:,} calls to make, {needed['stored']:,} stored"
    tokens = f"{needed['tokens_in'] / 1000:,.0f}k tokens in, {needed['tokens_out'] / 1000:,.0f}k out"
    costs = f"{price([needed])}; {needed['spent']:.2f} USD spent before; shutdown: {needed['shutdown']}"
    print(f"{card.label} ({card.model}): {calls}; about {tokens}, {costs}; {card.note}")
    afford(study, needed["usd"])
    return needed


def afford(study: Study, usd: float) -> None:
    """Stop with a StudyError, before the first call, if so much more is, for all judges together, above the study's limit."""
    _afford(study.replies, usd, study.judging.max_cost_usd)


def _afford(store: Path, usd: float, limit: float) -> None:
    before = spent(store)
    if before + usd > limit:
        needs = f"the {before + usd:.2f} USD that this takes ({before:.2f} of them spent)"
        raise StudyError(f"judging.max_cost_usd = {limit:g} is below {needs}; raise it in the study's file, or take fewer terms")


def run_calls(
    card: Card, prompts: list[str], schema: dict, parse: Callable[[str], tuple[Any, str]], store: Path, *,
    base_url: str = "", max_cost_usd: float = 0.0, repeats: Sequence[int] = (), backoff: float = 1.0) -> list[dict]:  # fmt: skip
    """One reply for each prompt, in their order; equal prompts share one, stored replies are not asked for again.

    ``parse``: the text of a whole reply → its value (or None) and a status; only ``ok`` has a value. ``store``: the SQLite file; what it has cost so
    far counts towards ``max_cost_usd``. ``repeats``: one for each prompt; another number than 0, of all by default, asks again for prompts that have
    a reply (test–retest). ``backoff``: seconds before the second try where the server names none; doubles with each try.

    Returns rows with reply (text or None), finish, served_model, tokens_in, tokens_out, usd, value, status. A StudyError: too expensive, or stopped
    (key, model, quota, another model answering, no reply for minutes); replies so far are kept, and the same call goes on from there.
    """
    asked = [*zip(prompts, repeats or [0] * len(prompts), strict=True)]
    done = stored(store, card, schema, base_url)
    todo = [call for call in dict.fromkeys(asked) if call not in done]
    if todo:
        _afford(store, estimate(card, [prompt for prompt, _ in todo], schema, base_url)["usd"], max_cost_usd)
        _Run(card, schema, parse, store, base_url, max_cost_usd, backoff).finish(todo)
        done = stored(store, card, schema, base_url)
    rows = []
    for call in asked:  # parsed anew each time, so that a better parser needs no call
        value, status = _outcome(done[call]["reply"], done[call]["finish"], parse)
        rows.append({**done[call], "value": value, "status": status})
    return rows


def _outcome(text: str | None, finish: str, parse: Callable[[str], tuple[Any, str]]) -> tuple[Any, str]:
    return parse(bare(text or "")) if finish == "stop" else (None, finish)


class _Run:
    """The threads' shared state while one list of prompts is worked off."""

    def __init__(self, card: Card, schema: dict, parse: Callable, store: Path, base_url: str, max_cost: float, backoff: float):
        self.card, self.schema, self.parse, self.max_cost, self.backoff = card, schema, parse, max_cost, backoff
        self.ask: Ask = open_client(card, base_url)
        self.identity = identity(card, schema, base_url)
        self.pacer = Pacer(rate(card, base_url), card.tokens_per_minute)
        self.base_url, self.store, self.database, self.lock = base_url, store, open_store(store), threading.Lock()
        with told(store):  # written to before anything is paid for
            self.database.execute(f"pragma user_version = {int(time.time())}")
        found = self.database.execute("select served_model from replies where identity = ? and served_model is not null limit 1", (self.identity,))
        self.served_model = next((row[0] for row in found), None)
        self.usd = self.database.execute(SPENT).fetchone()[0]
        self.kept, self.reason, self.trouble, self.aside, self.unread = 0, "", "", False, []  # unread: replies, until one can be read; then None
        self.last_reply, self.patience = time.monotonic(), max(PATIENCE / 5, 2 * card.timeout)

    def finish(self, asked: list[tuple[str, int]]) -> None:
        """Work off all prompts with their repeats, or raise the one sentence that says why not."""
        progress = Progress(self.card.name, len(asked), "calls")
        with closing(self.database), ThreadPoolExecutor(min(WORKERS, len(asked))) as threads:
            try:
                if self.card.batch:
                    collect(self, asked, progress)
                else:
                    first = threads.submit(self.one, *asked[0])  # alone: a wrong key costs one call, and the SDK's slow first use delays nobody
                    wait([first])
                    for future in as_completed([first, *(threads.submit(self.one, *call) for call in asked[1:])]):
                        progress.update(future.result(), f"{self.usd:.2f} USD")
            finally:  # Ctrl-C too: calls in flight finish and are stored
                self.pacer.stopped.set()
        if self.kept < len(asked):
            reason = self.reason or f"no reply after {TIMES if self.card.batch else TRIES} tries (last: {self.trouble})"
            raise StudyError(f"judge {self.card.name}: {reason}; {self.kept} of {len(asked)} calls are done and kept, run again to go on")

    def one(self, prompt: str, repeat: int) -> bool:
        """Ask until there is a reply, tries run out or the run is stopped; True if a reply was kept."""
        tokens = tokens_of(prompt) + self.card.reply_tokens
        for attempt in range(TRIES):
            if not self.pacer.wait(tokens):
                return False
            started = time.monotonic()
            try:
                reply = self.ask(prompt, self.schema)
            except Void as error:
                reply = Reply(None, str(error), None, 0, 0)
            except Fatal as error:
                self.stop(str(error))
                return False
            except Retry as error:
                self.trouble = str(error)
                delay = error.after if error.after is not None else min(60, self.backoff * 2**attempt) * random.uniform(1, 1.5)
                if delay > LONGEST_WAIT:
                    self.stop(f"the server asks to wait {delay:.0f} s ({error})")
                elif time.monotonic() - self.last_reply > self.patience:
                    self.stop(f"no reply for {self.patience:.0f} s (last: {error})")
                elif error.limited:
                    self.pacer.hold(delay, started)
                else:
                    self.pacer.stopped.wait(delay)  # without holding the others up
                continue
            if reply.finish == "stop" and not (reply.text or "").strip() and attempt < 2:  # may have been a slip
                self.trouble = "an empty answer"
                continue
            return self.keep(prompt, repeat, reply)
        return False

    def key(self, prompt: str, repeat: int) -> str:
        """The name of one call, in the file of replies and in a batch."""
        return hashlib.sha256(json.dumps([self.identity, repeat, prompt]).encode()).hexdigest()

    def keep(self, prompt: str, repeat: int, reply: Reply) -> bool:
        """Store a reply the moment it is there, unless another model than before has answered."""
        text = reply.text and mended(reply.text)
        reply = reply._replace(finish="empty") if reply.finish == "stop" and not (text or "").strip() else reply
        value, status = _outcome(text, reply.finish, self.parse)
        usd = self.card.usd(reply.tokens_in, reply.tokens_out)
        row = (
            self.key(prompt, repeat), self.identity, self.card.name, repeat, prompt, text, reply.finish, reply.served_model,
            json.dumps(value), status, reply.tokens_in, reply.tokens_out, usd, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))  # fmt: skip
        with self.lock:
            self.served_model = self.served_model or reply.served_model
            if reply.served_model and not same_model(self.card, reply.served_model, self.served_model):
                self.stop(f"{reply.served_model} answers, and {self.served_model} did before: one table can't mix them, name one in the card")
                return False
            self.save(row)
            self.kept += 1
            self.unread = None if self.unread is None or status == "ok" else [*self.unread, text or reply.finish]
            if self.unread and len(self.unread) == UNREAD:
                self.stop(f"none of the first {UNREAD} replies can be read, such as {short(self.unread[0])}")
            self.last_reply, self.patience = time.monotonic(), max(PATIENCE, 2 * self.card.timeout)
            if self.usd > self.max_cost:
                self.stop(f"{self.usd:.2f} USD are spent, above judging.max_cost_usd = {self.max_cost:g}")
        self.pacer.ease()
        return True

    def save(self, row: tuple) -> None:
        """Put a paid reply into the file; if it does not take it, stop, and set it and those still in flight aside."""
        try:
            if not self.aside:
                with told(self.store), self.database:
                    self.database.execute(INSERT, row)
                    self.usd = self.database.execute(SPENT).fetchone()[0]  # by other processes, too: two judges at once share the limit
        except StudyError as error:
            self.aside = True
            self.stop(str(error))
        if self.aside:
            set_aside(self.store, row)

    def stop(self, reason: str) -> None:
        """Let no further call start; the first reason is the one told."""
        self.reason = self.reason or reason
        self.pacer.stopped.set()
