"""Cards and clients: the real SDKs against loopback servers, every fault ends in the right status."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
import traceback
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.loopback import SERVED, Loopback
from xlm_utils.ask import calls, cards, clients, servers
from xlm_utils.ask.cards import OFFLINE, Card, find_key, load_card
from xlm_utils.ask.clients import Reply, open_client
from xlm_utils.ask.replies import same_model
from xlm_utils.ask.servers import Retry, shutdown_date
from xlm_utils.judge.judging import SCHEMA, parse
from xlm_utils.study import PARAMS, StudyError, inputs

KEY = "sk-secret0123456789abcdefXYZ"
CLIENTS = ("openai", "google-generativeai", "google-genai")


def card(client: str = "openai", **values: object) -> Card:
    model = SERVED["openai"] if client == "openai" else "gemini-1.5-pro"
    values = {"timeout": 5, "requests_per_minute": 60_000, "key_env": ("TEST_KEY",), "model": model} | values
    return Card(name="test", label="Test", client=client, **values)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def ask(client: str, script: str | list[str], tmp_path: Path, **values: object) -> tuple[dict, Loopback]:
    with Loopback(script, hang=1.5) as server:
        rows = calls.run_calls(
            card(client, **values), ["a prompt"], SCHEMA, parse, tmp_path / "replies.sqlite", base_url=server.url(client), backoff=0.01
        )
    return rows[0], server


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("scenario", "score", "status"),
    [
        ("ok", 7, "ok"), ("malformed", None, "unparsable"), ("eleven", None, "out_of_range"), ("string_seven", 7, "ok"),
        ("length", None, "length"), ("safety", None, "blocked"), ("blocked_prompt", None, "blocked"),
    ],
)  # fmt: skip
def test_an_answer_is_stored_with_its_status_and_a_missing_score_is_never_zero(client, scenario, score, status, tmp_path):
    row, server = ask(client, scenario, tmp_path)
    assert (row["value"], row["status"]) == (score, status)
    assert len(server.prompts) == 1
    if scenario == "ok":
        assert (row["served_model"], row["tokens_in"], row["tokens_out"]) == (SERVED["openai" if client == "openai" else "gemini"], 100, 5)


def test_a_refusal_is_stored_with_what_the_model_said(tmp_path):
    row, _ = ask("openai", "refusal", tmp_path)  # the Gemini protocol knows none
    assert (row["value"], row["status"], row["reply"]) == (None, "refusal", "I can't help with that.")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("scenario", ["429", "429_after", "500", "503", "html", "torn", "timeout"])
def test_a_passing_failure_is_tried_again_and_never_stored(client, scenario, tmp_path):
    row, server = ask(client, [scenario, "ok"], tmp_path, timeout=0.5)
    assert (row["value"], row["status"], len(server.prompts)) == (7, "ok", 2)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("scenario", "sentence"),
    [
        ("bad_key", "refuses the key in TEST_KEY"), ("unknown_model", "has no model"), ("no_quota", "quota of this key is used up"),
        ("429_hour", "asks to wait 3600 s"), ("no_access", "HTTP 403"),
    ],
)  # fmt: skip
def test_a_hopeless_failure_stops_at_the_first_call_in_one_sentence_without_the_key(client, scenario, sentence, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    with Loopback(scenario) as server, pytest.raises(StudyError, match=sentence) as caught:
        calls.run_calls(card(client), ["a", "b"], SCHEMA, parse, tmp_path / "replies.sqlite", base_url=server.url(client))
    assert server.keys == [KEY]  # one call, with the key, which some of these servers repeat in their message
    shown = "".join(traceback.format_exception(caught.value)) + "".join(capfd.readouterr()) + caplog.text
    assert KEY not in shown
    assert KEY[:12] not in shown
    assert "\n" not in str(caught.value)
    assert KEY.encode() not in (tmp_path / "replies.sqlite").read_bytes()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_served_model_that_changes_midway_stops_the_run(client, tmp_path):
    with Loopback(["ok"] * 3 + ["other_model"]) as server:
        run = {"schema": SCHEMA, "parse": parse, "store": tmp_path / "r.sqlite", "base_url": server.url(client)}
        with pytest.raises(StudyError, match=r"answers, and .* did before.*; 3 of 6 calls are done and kept"):
            calls.run_calls(card(client, requests_per_minute=1200), list("abcdef"), **run)
        with pytest.raises(StudyError, match=r"did before.*; 0 of 1"):  # and so does a later run, against the stored replies
            calls.run_calls(card(client), ["g"], **run)


@pytest.mark.parametrize("client", CLIENTS)
def test_the_schema_and_the_parameters_reach_the_server(client, tmp_path):
    _, server = ask(client, "ok", tmp_path, params={"temperature": 0.25})
    sent = server.bodies[0]
    settings = sent if client == "openai" else sent["generationConfig"]
    assert settings["temperature"] == 0.25
    assert '"score"' in str(settings).replace("'", '"')


@pytest.mark.parametrize("client", CLIENTS)
def test_the_same_runner_asks_for_other_structured_replies_such_as_translations(client, tmp_path):
    schema = {
        "type": "object", "properties": {"translation": {"type": "string"}, "established": {"type": "boolean"}},
        "required": ["translation", "established"], "additionalProperties": False,
    }  # fmt: skip
    with Loopback(answer=lambda prompt: '{"translation": "頻脈", "established": true}') as server:
        rows = calls.run_calls(
            card(client), ["tachycardia"], schema, lambda text: (json.loads(text), "ok"), tmp_path / "r.sqlite", base_url=server.url(client)
        )
    assert rows[0]["value"] == {"translation": "頻脈", "established": True}
    assert "established" in str(server.bodies[0])


@pytest.mark.parametrize("client", CLIENTS)
def test_absent_parameters_are_not_sent(client, tmp_path):
    _, server = ask(client, "ok", tmp_path)
    assert "temperature" not in str(server.bodies[0])


@pytest.mark.parametrize("client", CLIENTS)
def test_an_unknown_sampling_parameter_is_an_error_before_any_call(client):
    with pytest.raises(StudyError, match=r"params\.temprature is not one of"):
        open_client(card(client, params={"temprature": 0}), "http://127.0.0.1:9")


def test_two_judges_of_the_old_google_sdk_keep_their_own_addresses():
    with Loopback(answer=lambda p: "first") as one, Loopback(answer=lambda p: "second") as two:
        first, second = (open_client(card("google-generativeai"), server.root) for server in (one, two))
        assert (first("x", SCHEMA).text, second("x", SCHEMA).text) == ("first", "second")


@pytest.mark.parametrize("client", CLIENTS)
def test_an_sdk_is_imported_without_a_warning(client):
    code = f"""
import warnings
warnings.simplefilter("error")
from xlm_utils.ask.cards import Card
from xlm_utils.ask.clients import open_client
open_client(Card(name="t", label="t", client={client!r}, model="m"), "http://127.0.0.1:9")"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PARAMS.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_all_shipped_cards_are_valid_and_the_published_ones_name_the_published_models():
    names = {path.stem for path in (PARAMS / "judges").glob("*.yaml")}
    cards = {name: load_card(name) for name in names}
    assert cards["gpt-4o"].model == "gpt-4o-2024-08-06"
    assert cards["gemini-1.5-pro"].model == "gemini-1.5-pro"
    assert cards["proxy"].proxy
    assert {c.client for c in cards.values()} == {*CLIENTS, *OFFLINE}
    assert {name for name, card in cards.items() if card.client in OFFLINE} == {"proxy", "people", "written_ratings"}
    for name in (name for name in names if cards[name].client not in OFFLINE):
        open_client(cards[name], "http://127.0.0.1:9")  # its parameters are known to its SDK


def test_a_card_with_a_mistake_names_file_key_and_valid_keys(tmp_path, monkeypatch):
    for module in (cards, inputs):
        monkeypatch.setattr(module, "PARAMS", tmp_path)
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges" / "odd.yaml").write_text("label: x\nclient: openai\nmodel: m\nprize_in: 1\n")
    with pytest.raises(StudyError, match=r"odd\.yaml: unknown key prize_in; valid are .*price_in"):
        load_card("odd")
    (tmp_path / "judges" / "odd.yaml").write_text("label: x\nclient: opnai\nmodel: m\n")
    with pytest.raises(StudyError, match=r"odd\.yaml: client = 'opnai'"):
        load_card("odd")
    with pytest.raises(StudyError, match="judge 'even' is not one of odd"):
        load_card("even")


def test_the_key_comes_from_the_environment_or_colabs_secrets_and_a_named_server_needs_none(monkeypatch):
    assert find_key(card(), "") == KEY
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(StudyError, match="no key; set TEST_KEY"):
        find_key(card(), "")
    assert find_key(card(), "http://127.0.0.1:8000/v1") == "none"
    userdata = types.SimpleNamespace(get={"TEST_KEY": "from-colab"}.get, SecretNotFoundError=KeyError, NotebookAccessError=PermissionError)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.userdata", userdata)
    assert find_key(card(), "") == "from-colab"


def test_a_key_with_a_newline_is_trimmed_and_one_with_blanks_is_refused_unshown(monkeypatch):
    monkeypatch.setenv("TEST_KEY", f" {KEY}\n")
    assert find_key(card(), "") == KEY
    monkeypatch.setenv("TEST_KEY", f"{KEY} {KEY}")
    with pytest.raises(StudyError, match="TEST_KEY has blanks") as caught:
        find_key(card(), "")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("client", CLIENTS)
def test_the_sdks_own_address_variable_works(client, monkeypatch):
    with Loopback() as server:
        monkeypatch.setenv(cards.BASE_URL_VARIABLES[client], server.url(client))
        assert open_client(card(client))("x", SCHEMA) == Reply('{"score": 7}', "stop", SERVED["openai" if client == "openai" else "gemini"], 100, 5)


def test_a_retry_after_is_read_as_seconds_milliseconds_date_or_google_detail():
    after = servers._retry_after
    assert after({"retry-after": "2"}, "") == 2
    assert after({"retry-after-ms": "250", "retry-after": "9"}, "") == 0.25
    assert after({}, "{'retryDelay': '1.5s'}") == 1.5
    assert after({}, "") is None
    assert after({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, "") is None
    for nonsense in ("60s", "-1", "soon", "1.2.3"):
        assert after({"retry-after": nonsense}, "") is None


def test_the_announced_shutdown_date_is_read_from_the_servers_model():
    with Loopback(shutdown_date="2027-01-14") as server:
        assert shutdown_date(card(), server.openai) == "2027-01-14"
    with Loopback() as server:
        assert shutdown_date(card(), server.openai) == "none announced"
    assert shutdown_date(card("google-genai")) == "not told by this API"


@pytest.mark.parametrize(
    "echo", ["{key}", "sk-t...{tail}", "{head}…{tail}", "{head}****{tail}", "{head8} is wrong", "at http://user:pass@host/v1?key={key} x"]
)
def test_a_key_is_hidden_however_a_server_echoes_it(echo):
    key = "sk-test-0123456789abcdef"
    told = servers.clean("the key " + echo.format(key=key, head=key[:4], head8=key[:9], tail=key[-4:]), key)
    assert key[-4:] not in told
    assert key[:8] not in told
    assert "pass" not in told


@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_follows_a_redirect(client, tmp_path):
    seen = []

    class Away(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.path)
            self.send_response(307)
            self.send_header("Location", f"http://localhost:{server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Away)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        asked = card(client, base_url=f"http://127.0.0.1:{server.server_port}", requests_per_minute=6000)
        with pytest.raises(StudyError, match="sends on to another address"):
            calls.run_calls(asked, ["p"], SCHEMA, parse, tmp_path / "replies.sqlite", max_cost_usd=1)
    finally:
        server.shutdown()
    assert len(seen) == 1
    assert "/elsewhere" not in seen


def chat(content, finish="stop", usage=None, model="m", **more) -> tuple[int, dict, dict]:
    """An answer of an OpenAI-compatible server, with what such servers put into it."""
    message = None if content is Ellipsis else {"role": "assistant", "content": content, **more}
    return 200, {}, {"id": "x", "object": "chat.completion", "created": 1, "model": model, "usage": usage,
                     "choices": [{"index": 0, "finish_reason": finish, "message": message}]}  # fmt: skip


SEVEN = '{"score": 7}'
HARMONY = f"<|channel|>analysis<|message|>a 3?<|end|><|start|>assistant<|channel|>final<|message|>{SEVEN}<|return|>"


@pytest.mark.parametrize(
    "content",
    [
        f"<think>The definition is no 3.</think>\n{SEVEN}", f"thinking without its opening </think>{SEVEN}", f"```json\n{SEVEN}\n```",
        f"Here you are: {SEVEN} Anything else?", f"\ufeff{SEVEN}", HARMONY, '{"score": "7/10"}', "7", [{"type": "text", "text": SEVEN}],
    ],
)  # fmt: skip
def test_a_score_is_read_wherever_a_server_puts_it_and_the_raw_text_is_kept(content, tmp_path):
    row, _ = ask("openai", [chat(content)], tmp_path)
    assert (row["value"], row["status"], row["tokens_in"]) == (7, "ok", 0)
    assert row["reply"] == (SEVEN if isinstance(content, list) else content)


@pytest.mark.parametrize("finish", ["eos", "eos_token", "end", "end_turn", "stop_sequence", "STOP", "", None])
def test_whole_text_is_an_answer_whatever_the_server_calls_its_end(finish, tmp_path):
    assert ask("openai", [chat(SEVEN, finish)], tmp_path)[0]["status"] == "ok"


def test_a_thought_in_a_field_of_its_own_is_kept_and_not_read(tmp_path):
    row, _ = ask("openai", [chat(None, "length", reasoning_content='first {"score": 3}')], tmp_path)
    assert (row["status"], row["reply"]) == ("length", '<think>first {"score": 3}</think>')
    row, _ = ask("openai", [chat(SEVEN, reasoning='first {"score": 3}')], tmp_path / "other")
    assert (row["value"], row["reply"]) == (7, f'<think>first {{"score": 3}}</think>{SEVEN}')


@pytest.mark.parametrize(("content", "status"), [(..., "empty"), ("\ud800", "unparsable"), ("[" * 3000, "unparsable")])
def test_what_is_no_answer_has_a_status_and_is_not_asked_again(content, status, tmp_path):
    row, server = ask("openai", [chat(content)], tmp_path)
    assert (row["value"], row["status"], len(server.prompts)) == (None, status, 1)


def test_an_empty_answer_is_asked_again_and_then_kept_as_one(tmp_path):
    row, server = ask("openai", [chat(""), chat(SEVEN)], tmp_path)
    assert (row["status"], len(server.prompts)) == ("ok", 2)
    row, server = ask("openai", [chat("")], tmp_path / "other")
    assert (row["status"], len(server.prompts)) == ("empty", 3)


def test_twenty_replies_that_can_t_be_read_end_the_run_with_the_first_of_them(tmp_path):
    prompts = [f"prompt {n}" for n in range(200)]
    with Loopback([chat("I can't grade.")]) as server, pytest.raises(StudyError, match=r"none of the first 20 .* can't grade"):
        calls.run_calls(card("openai"), prompts, SCHEMA, parse, tmp_path / "replies.sqlite", base_url=server.openai)
    assert 20 <= len(server.prompts) < 60  # those in flight end


def test_a_prompt_above_the_context_is_a_status_and_the_others_go_on(tmp_path):
    error = (400, {}, {"object": "error", "message": "This model's maximum context length is 2048 tokens.", "code": 400})
    with Loopback([error, "ok"]) as server:
        rows = calls.run_calls(card("openai"), ["long", "short"], SCHEMA, parse, tmp_path / "replies.sqlite", base_url=server.openai)
    assert [row["status"] for row in rows] == ["too_long", "ok"]


def test_a_routers_spelling_of_one_model_is_one_model_and_one_address_is_one_server(tmp_path):
    with Loopback([chat(SEVEN, model="org/M-7b"), chat(SEVEN, model="ORG/m-7B"), chat(SEVEN, model="m-7b")]) as server:
        rows = calls.run_calls(card("openai"), ["a", "b", "c"], SCHEMA, parse, tmp_path / "replies.sqlite", base_url=server.openai)
        for other in (f"{server.openai}/", server.openai.replace("127.0.0.1", "localhost")):
            assert calls.run_calls(card("openai"), ["a", "b", "c"], SCHEMA, parse, tmp_path / "replies.sqlite", base_url=other) == rows
        assert len(server.prompts) == 3


@pytest.mark.parametrize(
    ("script", "path", "sentence"),
    [
        ((404, {}, {"detail": "Not Found"}), "", r"does it end in /v1\?"),
        ((422, {}, {"detail": [{"msg": "field required"}]}), "/v1", r"HTTP 422: .*field required"),
    ],
)
def test_a_wrong_address_and_a_wrong_request_are_told_in_the_servers_words(script, path, sentence, tmp_path):
    with Loopback([script]) as server, pytest.raises(StudyError, match=sentence):
        calls.run_calls(card("openai"), ["a"], SCHEMA, parse, tmp_path / "replies.sqlite", base_url=server.root + path)


def test_a_server_that_is_loading_is_waited_for_with_its_words(tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "PATIENCE", 0.5)
    with Loopback([(200, {}, {"error": {"message": "model is loading"}})]) as server, pytest.raises(StudyError, match="model is loading"):
        calls.run_calls(card("openai", timeout=0.05), ["a"], SCHEMA, parse, tmp_path / "replies.sqlite", base_url=server.openai, backoff=0.01)


def test_no_proxy_stands_before_this_machine_and_one_that_can_t_be_used_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert ask("openai", "ok", tmp_path)[0]["status"] == "ok"
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(StudyError, match="ALL_PROXY"):
        clients.open_client(card("openai"), "http://judge.example/v1")


def test_a_server_with_a_list_of_models_alone_is_asked_for_it():
    from xlm_utils.run import checks

    with Loopback() as server:
        listed = {"object": "list", "data": [{"id": "org/Local-8B", "object": "model", "created": 1, "owned_by": "x"}]}
        server.gets = {"/v1/models/local-8b": (404, {}, {"detail": "Not Found"}), "/v1/models": (200, {}, listed)}
        there = card("openai", model="local-8b", base_url=server.openai)
        assert "answers" in checks.answers(there)
        server.gets |= {"/v1/models/other": (404, {}, {"detail": "Not Found"})}
        with pytest.raises(StudyError, match=r"no model other; it has org/Local-8B"):
            checks.answers(there.model_copy(update={"model": "other"}))
        for page in ((200, {}, {"error": "no such route"}), (200, {"Content-Type": "text/html"}, b"<html>hello</html>")):
            server.gets = {"/v1/models/local-8b": page}
            with pytest.raises(StudyError, match="no OpenAI-compatible server"):
                checks.answers(there)


def test_no_wait_at_all_is_no_retry_after():
    for headers in ({"retry-after": "0"}, {"retry-after-ms": "0"}, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}):
        assert servers._retry_after(headers, "") is None


def test_a_reply_that_drips_below_the_timeout_is_ended_and_asked_again(tmp_path):
    started = time.monotonic()
    row, server = ask("openai", ["drip", "ok"], tmp_path, timeout=0.3)
    assert (row["status"], len(server.prompts)) == ("ok", 2)
    assert 0.6 < time.monotonic() - started < 10  # the whole of it would take 15 s
    with Loopback("drip") as server, pytest.raises(Retry, match=r"drips: not whole after 0\.4 s"):
        open_client(card("openai", timeout=0.2), server.openai)("x", SCHEMA)


def test_names_that_a_card_calls_the_same_model_are_one_and_others_are_not(tmp_path):
    same = card("openai", model="m-7b", same_as=("M 7B Instruct", "vendor/m-7b-turbo"))
    assert same_model(same, "m 7b instruct", "M-7B-turbo")
    assert same_model(same, "ORG/other", "other")
    assert not same_model(same, "m-7b", "other")
    assert not same_model(card("openai", model="m-7b"), "m-7b", "m-7b-turbo")
    names = [chat(SEVEN, model="m-7b"), chat(SEVEN, model="M 7B Instruct"), chat(SEVEN, model="m-70b")]
    with Loopback(names) as server, pytest.raises(StudyError, match=r"m-70b answers, and m-7b did before.*; 2 of 3 calls"):
        calls.run_calls(same, ["a", "b", "c"], SCHEMA, parse, tmp_path / "replies.sqlite", base_url=server.openai)


def test_only_a_server_on_this_machine_is_asked_as_fast_as_it_answers():
    assert cards.rate(card("openai", requests_per_minute=None)) == 60
    assert cards.rate(card("openai", requests_per_minute=None), "https://example.org/v1") == 60
    assert cards.rate(card("openai", requests_per_minute=None, base_url="http://localhost:8000/v1")) == 10**6
    assert cards.rate(card("openai", requests_per_minute=7), "http://127.0.0.1:8000/v1") == 7
