"""Batches over the real SDKs: every reply is there and paid once, whatever ends a batch or the run."""

from __future__ import annotations

import json
import sqlite3

import pytest

from tests.support.batch_modes import Batches
from tests.support.loopback import SERVED, Loopback
from xlm_utils.ask import batches, calls, cards
from xlm_utils.ask.cards import Card, load_card
from xlm_utils.ask.servers import tokens_of
from xlm_utils.judge.judging import SCHEMA, parse
from xlm_utils.study import StudyError, inputs

CLIENTS = ("openai", "google-genai")
PROMPTS = [f"prompt {n}" for n in range(8)]


def card(client: str = "openai", **values: object) -> Card:
    values = {"batch": True, "price_in": 1e4, "price_out": 1e4, "model": SERVED["openai" if client == "openai" else "gemini"]} | values
    return Card(name="test", label="Test", client=client, key_env=("TEST_KEY",), timeout=5, requests_per_minute=60_000, **values)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that take no time."""
    pauses: list[float] = []
    monkeypatch.setattr(batches, "sleep", pauses.append)
    monkeypatch.setenv("TEST_KEY", "sk-secret0123456789abcdefXYZ")
    return pauses


def ask(server: Loopback, folder, client: str = "openai", prompts: list[str] = PROMPTS, **values: object) -> list[dict]:
    run = {"base_url": server.url(client), "max_cost_usd": 100}
    return calls.run_calls(card(client, **values), prompts, SCHEMA, parse, folder / "r.sqlite", **run)


def seven(prompt: str) -> str:
    return json.dumps({"score": int(prompt.split()[1]) % 10})


@pytest.mark.parametrize("client", CLIENTS)
def test_all_replies_come_back_in_the_order_of_the_prompts_at_half_the_price(client, tmp_path, quick):
    with Loopback(answer=seven, batches=Batches(looks=3)) as server:
        rows = ask(server, tmp_path, client)
        assert [(row["prompt"], row["value"], row["status"]) for row in rows] == [(f"prompt {n}", n, "ok") for n in range(8)]
        assert rows[0]["usd"] == pytest.approx(105 * 1e4 / 1e6 / 2)  # 100 tokens in, 5 out
        assert rows[0]["served_model"] == SERVED["openai" if client == "openai" else "gemini"]
        assert quick == sorted(quick)
        assert len(quick) >= 3
        ask(server, tmp_path, client)
        assert (len(server.batches.made), len(server.prompts)) == (1, 8)
        ask(server, tmp_path, client, ["prompt 9"], batch=False)
    told = "messages" if client == "openai" else "contents"
    batched, direct = (server.bodies[n] for n in (0, -1))
    assert batched.pop(told) != direct.pop(told)
    assert batched == direct


@pytest.mark.parametrize("client", CLIENTS)
def test_a_run_killed_while_it_waits_goes_on_with_the_same_batch(client, tmp_path, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    with Loopback(batches=Batches(looks=4)) as server:
        monkeypatch.setattr(batches, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ask(server, tmp_path, client)
        monkeypatch.setattr(batches, "sleep", lambda seconds: None)
        assert {row["status"] for row in ask(server, tmp_path, client, PROMPTS[:3])} == {"ok"}
        assert {row["status"] for row in ask(server, tmp_path, client)} == {"ok"}  # the others of that batch are kept, too
        assert (len(server.batches.made), len(server.prompts)) == (1, 8)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_batch_that_was_sent_and_not_written_down_is_found_on_the_server(client, tmp_path, monkeypatch):
    with Loopback() as server:
        with monkeypatch.context() as patch:
            patch.setattr(batches, "told", lambda store: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                ask(server, tmp_path, client)
        assert len(server.batches.made) == 1
        ask(server, tmp_path, client)
        assert (len(server.batches.made), len(server.prompts)) == (1, 8)


@pytest.mark.parametrize("client", CLIENTS)
def test_what_failed_in_a_batch_is_sent_again_and_paid_once(client, tmp_path):
    with Loopback(["ok", "500", "429", "ok", "ok", "safety", "malformed", "ok"] + ["ok"] * 2) as server:
        rows = ask(server, tmp_path, client)
        assert [row["status"] for row in rows] == ["ok"] * 5 + ["blocked", "unparsable", "ok"]
        assert [len(one["requests"]) for one in server.batches.made.values()] == [8, 2]
        assert sum(row["usd"] for row in rows) == pytest.approx(8 * 0.525)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_a_batch_left_unanswered_is_sent_again_three_times_at_most(client, end, tmp_path):
    with Loopback(batches=Batches([end, "completed"])) as server:
        assert {row["status"] for row in ask(server, tmp_path, client)} == {"ok"}
        assert [len(one["requests"]) for one in server.batches.made.values()] == [8, 4]
    with Loopback(batches=Batches(end)) as server, pytest.raises(StudyError, match=rf"after 3 tries \(last: .*{end}.*\); 7 of 8 calls"):
        ask(server, tmp_path / "other", client)
    assert [len(one["requests"]) for one in server.batches.made.values()] == [8, 4, 2]
    with sqlite3.connect(tmp_path / "other" / "r.sqlite") as database:
        assert {row[0] for row in database.execute("select state from batches")} == {end}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_batch_that_is_refused_as_a_whole_is_one_sentence_and_the_next_run_sends_it_again(client, tmp_path):
    words = "Duplicate custom_id" if client == "openai" else "no reason"
    with Loopback(batches=Batches(["failed", "completed"])) as server:
        with pytest.raises(StudyError, match=rf"judge test: the server refuses .*{words}.*; 0 of 8 calls"):
            ask(server, tmp_path, client)
        assert {row["status"] for row in ask(server, tmp_path, client)} == {"ok"}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_batch_whose_every_prompt_is_refused_is_not_sent_again(client, tmp_path):
    with Loopback("no_access") as server, pytest.raises(StudyError, match=r"refuses every prompt of \S*batch_0: .*may not use.*; 0 of 8 calls"):
        ask(server, tmp_path, client)
    assert len(server.batches.made) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_a_torn_file_of_answers_is_read_again(client, tmp_path, monkeypatch):
    whole, torn = json.loads, ["once"]

    def loads(text, **options):
        if "response" in text and torn:
            return whole(text[: torn.clear() or 9])
        return whole(text, **options)

    with Loopback() as server, monkeypatch.context() as patch:
        patch.setattr(batches, "json", type("json", (), {"loads": staticmethod(loads), "dumps": staticmethod(json.dumps)}))
        assert {row["status"] for row in ask(server, tmp_path, client)} == {"ok"}
    assert not torn
    assert (len(server.batches.made), len(server.prompts)) == (1, 8)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_bound_on_enqueued_tokens_makes_parts_follow_one_another(client, tmp_path):
    schema = tokens_of(json.dumps(SCHEMA))
    bound = int(3.5 * (schema + 2))  # three prompts of nine letters
    with Loopback(batches=Batches(looks=2, room=bound, tokens_of=lambda prompt: tokens_of(prompt) + schema)) as server:
        assert {row["status"] for row in ask(server, tmp_path, client, batch_tokens=bound)} == {"ok"}
        assert [len(one["requests"]) for one in server.batches.made.values()] == [3, 3, 2]
        assert 0 < server.batches.most <= bound
    with Loopback(batches=Batches(room=bound, tokens_of=len)) as server:  # so little that one prompt is above it
        server.batches.room = 0
        ask(server, tmp_path / "other", client, batch_tokens=1)
        assert [len(one["requests"]) for one in server.batches.made.values()] == [1] * 8


def test_too_many_enqueued_tokens_are_told_in_the_servers_words(tmp_path):
    with Loopback(batches=Batches(room=10)) as server, pytest.raises(StudyError, match=r"Enqueued token limit reached\. Limit: 10"):
        ask(server, tmp_path)


def test_files_end_at_their_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "REQUESTS", 3)
    with Loopback() as server:
        ask(server, tmp_path)
        assert [len(one["requests"]) for one in server.batches.made.values()] == [3, 3, 2]
    monkeypatch.setattr(batches, "REQUESTS", 8)
    monkeypatch.setattr(batches, "BYTES", len(server.batches.files["file-0"]))
    with Loopback() as server:
        ask(server, tmp_path / "other")
        assert [len(one["requests"]) for one in server.batches.made.values()] == [3, 3, 2]


@pytest.mark.parametrize("client", CLIENTS)
def test_another_model_stops_and_its_replies_wait_for_a_card_that_knows_it(client, tmp_path):
    with Loopback(["ok"] * 7 + ["other_model"]) as server:
        for _ in range(2):
            with pytest.raises(StudyError, match=r"answers, and .* did before.*; (7 of 8|0 of 1) calls are done and kept"):
                ask(server, tmp_path, client)
        other = "gpt-4o-2024-11-20" if client == "openai" else "gemini-1.5-pro-001"
        assert len(ask(server, tmp_path, client, same_as=(other,))) == 8
        assert (len(server.batches.made), len(server.prompts)) == (1, 8)


def test_a_server_in_trouble_is_looked_at_again_and_one_without_the_batch_ends_the_run(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(batches, "TROUBLES", 2)
    with Loopback() as server:
        server.gets = {"/v1/batches?limit=100": (500, {}, {"error": {"message": "no disk"}})}
        with pytest.raises(StudyError, match=r"in trouble .*no disk"):
            ask(server, tmp_path)
        assert quick == [5.0, 7.5]
        server.gets = {}
        ask(server, tmp_path, prompts=PROMPTS[:1])
        with sqlite3.connect(tmp_path / "r.sqlite") as database:
            database.execute("update batches set id = 'gone', state = '', asked = ?", (json.dumps({"k": [0, "x"]}),))
        assert ask(server, tmp_path, prompts=PROMPTS[:1])[0]["status"] == "ok"  # stored: nothing is asked
        with pytest.raises(StudyError, match="No batch found with id 'gone'"):
            ask(server, tmp_path)
        with sqlite3.connect(tmp_path / "r.sqlite") as database:
            database.execute("update batches set at = at - 31 * 86400")
        assert {row["status"] for row in ask(server, tmp_path)} == {"ok"}  # no server keeps one for so long


def test_the_estimate_tells_both_prices_and_the_cost_limit_holds_before_anything_is_sent(tmp_path):
    prompts = ["x" * 400] * 10
    half, direct = (calls.estimate(card(batch=batch, batch_tokens=500), prompts, SCHEMA) for batch in (True, False))
    assert half["usd"] == pytest.approx(direct["usd"] / 2)
    assert (half["usd"], half["direct"]) == pytest.approx((direct["batch"], direct["usd"]))
    assert (half["parts"], direct["parts"]) == (3, 0)
    assert (
        calls.price([half])
        == f"{half['usd']:.2f} USD ({direct['usd']:.2f} without batch: true) and 0.0 h of calls, 3 batches one after another, 72 h at the longest"
    )
    assert calls.estimate(card("google-genai", batch_tokens=500), prompts, SCHEMA)["hours"] == 3 * 48  # when Gemini's expire
    assert f"({half['usd']:.2f} with batch: true)" in calls.price([direct])
    assert "with" not in calls.price([calls.estimate(card("google-generativeai", batch=False), prompts, SCHEMA)])
    with Loopback() as server, pytest.raises(StudyError, match=r"judging\.max_cost_usd = 0\.01 is below the"):
        calls.run_calls(card(), prompts, SCHEMA, parse, tmp_path / "r.sqlite", base_url=server.openai, max_cost_usd=0.01)
    assert not server.batches.files


def test_a_client_without_a_batch_mode_refuses_the_key(tmp_path, monkeypatch):
    for module in (cards, inputs):
        monkeypatch.setattr(module, "PARAMS", tmp_path)
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges" / "old.yaml").write_text("label: x\nclient: google-generativeai\nmodel: m\nbatch: true\n")
    with pytest.raises(StudyError, match=r"old\.yaml: batch = true: google-generativeai has no batch mode; .*openai or google-genai"):
        load_card("old")


def test_a_parameter_that_a_batch_can_t_carry_is_told_before_anything_is_sent(tmp_path):
    with Loopback() as server, pytest.raises(StudyError, match=r"params\.safety_settings is not one of"):
        ask(server, tmp_path, "google-genai", params={"safety_settings": []})
    assert not server.batches.files


@pytest.mark.parametrize("client", CLIENTS)
def test_answers_that_can_t_be_told_apart_are_not_paid_for_again(client, tmp_path):
    with Loopback() as server:
        server.batches.keep = lambda data, keep=server.batches.keep: keep(
            data.replace(b'"custom_id"', b'"id"').replace(b'"key"', b'"id"') if server.prompts else data
        )
        for _ in range(2):
            with pytest.raises(StudyError, match=r"batch_0 is \w+ and answers none of what was sent"):
                ask(server, tmp_path, client)
        assert (len(server.batches.made), len(server.prompts)) == (1, 8)
