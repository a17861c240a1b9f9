"""The file in which every reply is kept as it arrives: whose it is, to what, and what it cost."""

import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from xlm_utils.ask.cards import Card, address
from xlm_utils.study import StudyError
from xlm_utils.study.records import fingerprint

PATIENCE = 20.0  # s that another process may hold the file
WAYS = {  # what SQLite or the system says → what to do about it
    "locked": "end the other process that holds it", "readonly|unable to open|denied|Read-only": "make it writable",
    "full|disk I/O|No space": "make room on the disk", "": "put a copy in its place, or move it away and pay for all again"}  # fmt: skip
TABLE = """create table if not exists replies (
    key text primary key, identity text, judge text, repeat integer, prompt text, reply text, finish text, served_model text,
    value text, status text, tokens_in integer, tokens_out integer, usd real, at text)"""
BATCHES = """create table if not exists batches (
    id text primary key, identity text, asked text, tokens real, at integer, state text)"""  # asked: key → [prompt, repeat], "" once it has ended
SPENT = "select coalesce(sum(usd), 0) from replies"
INSERT = f"insert or ignore into replies values ({','.join('?' * 14)})"


def identity(card: Card, schema: dict, base_url: str = "") -> str:
    """Hash of all that makes two calls with one prompt the same call (limits and prices don't)."""
    at = re.sub("(?<=://)localhost(?=[:/]|$)", "127.0.0.1", address(card, base_url).rstrip("/"))  # one server, however it is spelt
    return fingerprint([card.name, card.client, card.model, at, card.params, schema])


def same_model(card: Card, first: str, second: str) -> bool:
    """Whether two names are one model's: routers change case and provider (``org/m``, ``ORG/M``), and a card knows others (``same_as``)."""
    one, other, *known = (name.lower().rpartition("/")[2] for name in (first, second, card.model, *card.same_as))
    return one == other or {one, other} <= set(known)


def mended(text: str) -> str:
    """A text that can be written: a half of a surrogate pair, which some servers send, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Say in one sentence what is wrong with the file of replies, and what to do."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        way = next(way for signs, way in WAYS.items() if re.search(signs, str(error)))
        raise StudyError(f"{path.name} in {path.parent}: {error}; {way}") from None


def places(path: Path) -> list[Path]:
    """The file of replies, and the two that take what it could not: one beside it, one on another disk, perhaps."""
    aside = f"{path.stem}-aside-{fingerprint(str(path.resolve()))}.sqlite"
    return [path, path.with_name(aside), Path(tempfile.gettempdir()) / aside]


def set_aside(path: Path, row: tuple) -> None:
    """Keep a paid reply that the file did not take; whoever opens the file next puts it there. A StudyError if no place takes it."""
    _, *others = places(path)
    for place in others:
        try:
            with told(place), closing(open_store(place)) as database, database:
                database.execute(INSERT, row)
            return
        except StudyError:
            if place == others[-1]:
                raise


def open_store(path: Path) -> sqlite3.Connection:
    """The file of replies, made if need be; shared by threads (under a lock) and processes. A StudyError says what is wrong with it."""
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
        database.row_factory = sqlite3.Row
        with database:
            database.execute(TABLE)
            database.execute(BATCHES)
            database.execute("create index if not exists replies_usd on replies (usd)")  # what is spent is asked after every call
        for place in filter(Path.exists, places(path)[1:]):
            with closing(open_store(place)) as aside, aside, database:  # emptied, not deleted: another process may be adding to it
                database.executemany(INSERT, map(tuple, aside.execute("select * from replies")))
                aside.execute("delete from replies")
    return database


def stored(path: Path, card: Card, schema: dict, base_url: str = "") -> dict[tuple[str, int], dict]:
    """Replies this judge has given under these settings: (prompt, repeat) → row."""
    rows = _read(path, "select * from replies where identity = ?", identity(card, schema, base_url))
    return {(row["prompt"], row["repeat"]): dict(row) for row in rows}


def spent(path: Path) -> float:
    """USD paid for all replies so far, by this process and others."""
    return next((row[0] for row in _read(path, SPENT)), 0.0)


def _read(path: Path, query: str, *values: str) -> list[sqlite3.Row]:
    """What a query finds, nothing where there is no file yet."""
    if not any(map(Path.exists, places(path))):
        return []
    with told(path), closing(open_store(path)) as database:
        return database.execute(query, values).fetchall()
