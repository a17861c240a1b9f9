"""The file of replies in trouble: one sentence with what to do."""

import sqlite3

import pytest

from tests.support.loopback import Loopback
from xlm_utils.ask import replies
from xlm_utils.ask.calls import run_calls
from xlm_utils.ask.cards import Card
from xlm_utils.judge.judging import SCHEMA, parse
from xlm_utils.study import StudyError


def ask(server: Loopback, store, prompts=("p",)):
    card = Card(name="mine", label="x", client="openai", model="m", base_url=server.openai, requests_per_minute=6000, price_out=1)
    return run_calls(card, list(prompts), SCHEMA, parse, store, max_cost_usd=1)


def test_a_damaged_store_is_one_sentence_before_any_call(tmp_path):
    store = tmp_path / "replies.sqlite"
    store.write_bytes(b"no database" * 500)
    with Loopback(["ok"]) as server, pytest.raises(StudyError, match=r"replies\.sqlite in .*: file is not a database; .*move it away"):
        ask(server, store)
    assert not server.prompts


def test_a_locked_store_is_one_sentence_before_any_call_and_the_run_goes_on_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(replies, "PATIENCE", 0.2)
    store = tmp_path / "replies.sqlite"
    with Loopback(["ok"]) as server:
        ask(server, store, ["first"])
        other = sqlite3.connect(store)
        other.execute("begin exclusive")
        with pytest.raises(StudyError, match="end the other process that holds it"):
            ask(server, store)
        other.rollback()
        assert [row["status"] for row in ask(server, store)] == ["ok"]
    assert len(server.prompts) == 2


def test_a_reply_that_the_file_did_not_take_stops_the_run_in_one_sentence(tmp_path, monkeypatch):
    from xlm_utils.ask import calls

    def full(_):
        raise sqlite3.OperationalError("database or disk is full")

    with Loopback(["ok"]) as server:
        ask(server, tmp_path / "replies.sqlite", ["first"])
        real = calls.spent_in
        monkeypatch.setattr(calls, "spent_in", lambda database: full(0) if len(server.prompts) > 1 else real(database))
        with pytest.raises(StudyError, match="disk is full; make room on the disk; 0 of 1 calls"):
            ask(server, tmp_path / "replies.sqlite", ["a"])


def test_half_of_a_surrogate_pair_is_mended():
    assert replies.mended("a\ud83d\ude00b") == "a😀b"
    assert replies.mended("a\ud83db") == "a\ufffdb"
    replies.mended("\udc00").encode()
