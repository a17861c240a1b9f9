"""The file in which every reply is kept as it arrives: whose it is, to what, and what it cost."""

import sqlite3
from contextlib import closing
from pathlib import Path

from xlm_utils.ask.cards import Card, address
from xlm_utils.study.records import fingerprint

TABLE = """create table if not exists replies (
    key text primary key, identity text, judge text, repeat integer, prompt text, reply text, finish text, served_model text,
    value text, status text, tokens_in integer, tokens_out integer, usd real, at text)"""


def identity(card: Card, schema: dict, base_url: str = "") -> str:
    """Hash of all that makes two calls with one prompt the same call (limits and prices don't)."""
    return fingerprint([card.name, card.client, card.model, address(card, base_url), card.params, schema])


def open_store(path: Path) -> sqlite3.Connection:
    """The file of replies, made if need be; shared by threads (under a lock) and processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=60, check_same_thread=False)
    database.row_factory = sqlite3.Row
    with database:
        database.execute(TABLE)
        database.execute("create index if not exists replies_usd on replies (usd)")  # what is spent is asked after every call
    return database


def stored(path: Path, card: Card, schema: dict, base_url: str = "", repeat: int = 0) -> dict[str, dict]:
    """Replies this judge has given under these settings: prompt → row."""
    if not path.exists():
        return {}
    with closing(open_store(path)) as database:
        rows = database.execute("select * from replies where identity = ? and repeat = ?", (identity(card, schema, base_url), repeat))
        return {row["prompt"]: dict(row) for row in rows}


def spent(path: Path) -> float:
    """USD paid for all replies in the file."""
    if not path.exists():
        return 0.0
    with closing(open_store(path)) as database:
        return spent_in(database)


def spent_in(database: sqlite3.Connection) -> float:
    """USD paid for all replies so far, by this process and others."""
    return database.execute("select coalesce(sum(usd), 0) from replies").fetchone()[0]
