"""The file in which every reply is kept as it arrives: whose it is, to what, and what it cost."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from xlm_utils.ask.cards import Card, address
from xlm_utils.study import StudyError
from xlm_utils.study.records import fingerprint

PATIENCE = 20.0  # s that another process may hold the file
WAYS = {  # what SQLite says → what to do about it
    "locked": "end the other process that holds it", "readonly": "make it writable", "unable to open": "make it writable",
    "full": "make room on the disk", "disk I/O": "make room on the disk",
}  # fmt: skip
TABLE = """create table if not exists replies (
    key text primary key, identity text, judge text, repeat integer, prompt text, reply text, finish text, served_model text,
    value text, status text, tokens_in integer, tokens_out integer, usd real, at text)"""


def identity(card: Card, schema: dict, base_url: str = "") -> str:
    """Hash of all that makes two calls with one prompt the same call (limits and prices don't)."""
    return fingerprint([card.name, card.client, card.model, address(card, base_url), card.params, schema])


def mended(text: str) -> str:
    """A text that can be written: a half of a surrogate pair, which some servers send, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Say in one sentence what is wrong with the file of replies, and what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        way = next((way for sign, way in WAYS.items() if sign in str(error)), "put a copy in its place, or move it away and pay for all again")
        raise StudyError(f"{path.name} in {path.parent}: {error}; {way}") from None


def open_store(path: Path) -> sqlite3.Connection:
    """The file of replies, made if need be; shared by threads (under a lock) and processes. A StudyError says what is wrong with it."""
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
        database.row_factory = sqlite3.Row
        with database:
            database.execute(TABLE)
            database.execute("create index if not exists replies_usd on replies (usd)")  # what is spent is asked after every call
    return database


def stored(path: Path, card: Card, schema: dict, base_url: str = "", repeat: int = 0) -> dict[str, dict]:
    """Replies this judge has given under these settings: prompt → row."""
    if not path.exists():
        return {}
    with told(path), closing(open_store(path)) as database:
        rows = database.execute("select * from replies where identity = ? and repeat = ?", (identity(card, schema, base_url), repeat))
        return {row["prompt"]: dict(row) for row in rows}


def spent(path: Path) -> float:
    """USD paid for all replies in the file."""
    if not path.exists():
        return 0.0
    with told(path), closing(open_store(path)) as database:
        return spent_in(database)


def spent_in(database: sqlite3.Connection) -> float:
    """USD paid for all replies so far, by this process and others."""
    return database.execute("select coalesce(sum(usd), 0) from replies").fetchone()[0]
