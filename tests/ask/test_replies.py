"""The file of replies in trouble: one sentence with what to do, and what is paid for is neither lost nor paid twice."""

import resource
import sqlite3

import pytest

from tests.support.loopback import Loopback
from xlm_utils.ask import replies
from xlm_utils.ask.calls import run_calls
from xlm_utils.ask.cards import Card
from xlm_utils.judge.judging import SCHEMA, parse
from xlm_utils.study import StudyError

SCORE = '{"score": 7}'


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(replies, "PATIENCE", 0.2)
    monkeypatch.setattr(replies.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    return tmp_path / "replies.sqlite"


def ask(server: Loopback, store, prompts=("p",)):
    card = Card(name="mine", label="x", client="openai", model="m", base_url=server.openai, requests_per_minute=6000, price_out=1)
    return run_calls(card, list(prompts), SCHEMA, parse, store, max_cost_usd=1)


def test_a_damaged_store_is_one_sentence_before_any_call(store):
    store.write_bytes(b"no database" * 500)
    with Loopback(["ok"]) as server, pytest.raises(StudyError, match=r"replies\.sqlite in .*: file is not a database; .*move it away"):
        ask(server, store)
    assert not server.prompts


def test_a_locked_store_is_one_sentence_before_any_call_and_the_run_goes_on_after_it(store):
    with Loopback(["ok"]) as server:
        ask(server, store, ["first"])
        other = sqlite3.connect(store)
        other.execute("begin exclusive")
        with pytest.raises(StudyError, match="end the other process that holds it"):
            ask(server, store)
        other.rollback()
        assert [row["status"] for row in ask(server, store)] == ["ok"]
    assert len(server.prompts) == 2


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"replies\.sqlite in "):
        replies.open_store(tmp_path / "file" / "replies.sqlite")


def test_replies_that_arrive_while_the_file_is_locked_are_kept_and_not_paid_twice(store):
    held = []

    def lock(prompt):
        if not held:
            held.append(sqlite3.connect(store, check_same_thread=False))
            held[0].execute("begin exclusive")
        return SCORE

    with Loopback(["ok"], answer=lock) as server:
        with pytest.raises(StudyError, match=r"locked; end the other process.*1 of 3 calls are done and kept"):
            ask(server, store, ["a", "b", "c"])
        asked = len(server.prompts)
        held[0].rollback()
        rows = ask(server, store, ["a", "b", "c"])
    assert (asked, len(server.prompts)) == (1, 3)
    assert {row["value"] for row in rows} == {7}
    assert replies.spent(store) == pytest.approx(sum(row["usd"] for row in rows))


def test_replies_that_arrive_after_the_file_is_damaged_are_in_the_one_that_takes_its_place(store):
    def damage(prompt):
        store.write_bytes(b"no database" * 5000)
        return SCORE

    with Loopback(["ok"], answer=damage) as server:
        with pytest.raises(StudyError, match="move it away"):
            ask(server, store, ["a"])
        with pytest.raises(StudyError, match="move it away"):
            ask(server, store, ["a"])
        store.unlink()
        rows = ask(server, store, ["a"])
    assert (len(server.prompts), rows[0]["value"]) == (1, 7)


@pytest.mark.parametrize("beside", [True, False])
def test_replies_that_the_disk_has_no_room_for_are_kept_elsewhere(store, beside):
    fill, room = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(prompt):  # for files as large as this one is by now, and perhaps for any beside it
        if prompt.startswith("a"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, room))
            if not beside:
                replies.places(store)[1].mkdir()
        return SCORE

    with Loopback(["ok"], answer=full) as server:
        ask(server, store, ["x" * 200_000])
        try:
            with pytest.raises(StudyError, match=r"(full|disk I/O|unable)"):
                ask(server, store, ["a" * 9_000, "b"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fill, room))
            if not beside:
                replies.places(store)[1].rmdir()
        asked = len(server.prompts)
        assert replies.places(store)[1 if beside else 2].is_file()
        ask(server, store, ["a" * 9_000, "b"])
    assert (asked, len(server.prompts)) == (2, 3)


def test_half_of_a_surrogate_pair_is_mended():
    assert replies.mended("a\ud83d\ude00b") == "a😀b"
    assert replies.mended("a\ud83db") == "a\ufffdb"
    replies.mended("\udc00").encode()
