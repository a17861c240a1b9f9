"""Loopback servers that speak the OpenAI and the Gemini wire protocol, with faults on demand.

    with Loopback(["429_after", "ok"]) as server:      # first call, second call, and so on for the rest
        openai.OpenAI(base_url=server.openai, api_key="test")

A scenario is one of ``OPENAI`` or ``GEMINI``; ``answer`` makes the text of a good reply from the
prompt; ``limit`` starts in any sliding second are allowed, and what is above gets a 429. ``drip`` sends
a good reply byte by byte. Batches (``batch_modes``) answer each of their requests with the next scenario.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.batch_modes import Batches, gemini_route, openai_route, prompt_of

HTML = b"<!doctype html><html><head><title>Bad gateway</title></head><body><h1>Please log in</h1></body></html>"
SERVED = {"openai": "gpt-4o-2024-08-06", "gemini": "gemini-1.5-pro-002"}
TEXTS = {"malformed": "The score is {7", "eleven": '{"score": 11}', "string_seven": '{"score": "7"}', "length": '{"sco'}
Answer = tuple[int, dict, object]  # HTTP status, headers, JSON body


def _openai_error(status: int, code: str | None, message: str, headers: dict | None = None) -> Answer:
    return status, headers or {}, {"error": {"message": message, "type": "error", "param": None, "code": code}}


def _openai_chat(text: str | None, finish: str = "stop", refusal: str | None = None, model: str = SERVED["openai"]) -> Answer:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"index": 0, "finish_reason": finish, "logprobs": None, "message": message}
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    return 200, {}, {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}


OPENAI: dict[str, Callable[[str, str], Answer]] = {  # (text of a good reply, key as sent) → answer
    "ok": lambda text, key: _openai_chat(text),
    "429": lambda text, key: _openai_error(429, "rate_limit_exceeded", "Rate limit reached for requests"),
    "429_after": lambda text, key: _openai_error(429, "rate_limit_exceeded", "Rate limit reached", {"Retry-After": "1"}),
    "429_hour": lambda text, key: _openai_error(429, "rate_limit_exceeded", "Rate limit reached", {"Retry-After": "3600"}),
    "500": lambda text, key: _openai_error(500, None, "The server had an error"),
    "503": lambda text, key: _openai_error(503, None, "The engine is overloaded"),
    "malformed": lambda text, key: _openai_chat(TEXTS["malformed"]),
    "eleven": lambda text, key: _openai_chat(TEXTS["eleven"]),
    "string_seven": lambda text, key: _openai_chat(TEXTS["string_seven"]),
    "length": lambda text, key: _openai_chat(TEXTS["length"], finish="length"),
    "refusal": lambda text, key: _openai_chat(None, refusal="I can't help with that."),
    "safety": lambda text, key: _openai_chat(None, finish="content_filter"),
    "blocked_prompt": lambda text, key: _openai_error(400, "content_filter", "The prompt was filtered"),
    "bad_key": lambda text, key: _openai_error(401, "invalid_api_key", f"Incorrect API key provided: {key}."),
    "no_access": lambda text, key: _openai_error(403, "forbidden", f"The key {key} (sk-ab****yz) may not use this model"),
    "unknown_model": lambda text, key: _openai_error(404, "model_not_found", "The model does not exist"),
    "no_quota": lambda text, key: _openai_error(429, "insufficient_quota", "You exceeded your current quota", {"Retry-After": "1"}),
    "other_model": lambda text, key: _openai_chat(text, model="gpt-4o-2024-11-20"),
}


def _gemini_error(code: int, status: str, message: str, *details: dict) -> Answer:
    typed = [{"@type": f"type.googleapis.com/google.rpc.{detail.pop('type')}", **detail} for detail in details]
    return code, {}, {"error": {"code": code, "message": message, "status": status, "details": typed}}


def _gemini_answer(text: str | None, finish: str = "STOP", model: str = SERVED["gemini"]) -> Answer:
    candidate: dict = {"finishReason": finish, "index": 0}
    if text is not None:
        candidate["content"] = {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 5, "totalTokenCount": 105}
    return 200, {}, {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model}


def _gemini_quota(kind: str) -> dict:
    return {"type": "QuotaFailure", "violations": [{"quotaId": f"GenerateRequestsPer{kind}PerProjectPerModel"}]}


GEMINI: dict[str, Callable[[str, str], Answer]] = {
    "ok": lambda text, key: _gemini_answer(text),
    "429": lambda text, key: _gemini_error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted", _gemini_quota("Minute")),
    "429_after": lambda text, key: _gemini_error(
        429, "RESOURCE_EXHAUSTED", "Quota exceeded", _gemini_quota("Minute"), {"type": "RetryInfo", "retryDelay": "1s"}
    ),
    "429_hour": lambda text, key: _gemini_error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", {"type": "RetryInfo", "retryDelay": "3600s"}),
    "500": lambda text, key: _gemini_error(500, "INTERNAL", "An internal error has occurred"),
    "503": lambda text, key: _gemini_error(503, "UNAVAILABLE", "The model is overloaded"),
    "malformed": lambda text, key: _gemini_answer(TEXTS["malformed"]),
    "eleven": lambda text, key: _gemini_answer(TEXTS["eleven"]),
    "string_seven": lambda text, key: _gemini_answer(TEXTS["string_seven"]),
    "length": lambda text, key: _gemini_answer(TEXTS["length"], finish="MAX_TOKENS"),
    "safety": lambda text, key: _gemini_answer(None, finish="SAFETY"),
    "blocked_prompt": lambda text, key: (200, {}, {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": SERVED["gemini"],
        "usageMetadata": {"promptTokenCount": 100, "totalTokenCount": 100},
    }),
    "bad_key": lambda text, key: _gemini_error(
        400, "INVALID_ARGUMENT", f"API key not valid: {key}", {"type": "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
    ),
    "no_access": lambda text, key: _gemini_error(403, "PERMISSION_DENIED", f"The key {key} may not use this model"),
    "unknown_model": lambda text, key: _gemini_error(404, "NOT_FOUND", "models/x is not found for API version v1beta"),
    "no_quota": lambda text, key: _gemini_error(
        429, "RESOURCE_EXHAUSTED", "You exceeded your current quota", _gemini_quota("Day"), {"type": "RetryInfo", "retryDelay": "30s"}
    ),
    "other_model": lambda text, key: _gemini_answer(text, model="gemini-1.5-pro-001"),
}  # fmt: skip


class Loopback:
    """A server on 127.0.0.1; ``prompts``, ``bodies``, ``keys`` and ``times`` tell what was let in, ``refused`` how often the limit answered."""

    def __init__(
        self, script: str | Sequence[str] = "ok", *, answer: Callable[[str], str] = lambda prompt: '{"score": 7}',
        limit: int = 0, latency: float = 0.0, hang: float = 3.0, shutdown_date: str | None = None, batches: Batches | None = None,
    ):  # fmt: skip
        self.batches = batches or Batches()
        self.script = [script] if isinstance(script, str) else list(script)
        self.answer, self.limit, self.latency, self.hang, self.shutdown_date = answer, limit, latency, hang, shutdown_date
        self.gets: dict[str, Answer] = {}  # path → answer, for what is not to be the usual
        self.prompts: list[str] = []
        self.bodies: list[dict] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.refused = 0
        self._started: deque[float] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> Loopback:
        loopback = self

        class Handler(_Handler):
            server_state = loopback

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.openai = f"{self.root}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, client: str) -> str:
        """The ``base_url`` for a card's client."""
        return self.openai if client == "openai" else self.root

    def next_scenario(self, prompt: str, body: dict, key: str) -> str:
        """What to do with this request; one call at a time."""
        with self._lock:
            now = time.monotonic()
            while self._started and now - self._started[0] >= 1:
                self._started.popleft()
            if self.limit and len(self._started) >= self.limit:
                self.refused += 1
                return "429_after"
            self._started.append(now)
            self.prompts.append(prompt)
            self.bodies.append(body)
            self.keys.append(key)
            self.times.append(now)
            return self.script[min(len(self.prompts), len(self.script)) - 1]


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        """A client that was killed or timed out is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_state: Loopback

    def log_message(self, *_: object) -> None:
        pass

    def batched(self, raw: bytes = b"") -> bool:
        """Answer what concerns files and batches."""
        openai = self.path.startswith("/v1/")
        key, state = self.key(openai), self.server_state

        def answer(request: dict) -> Answer:
            prompt, body = prompt_of(request), request.get("body") or request["request"]
            return (OPENAI if openai else GEMINI)[state.next_scenario(prompt, body, key)](state.answer(prompt), key)

        found = (openai_route if openai else gemini_route)(state.batches, self.command, self.path, dict(self.headers), raw, answer)
        if found:
            self._send(*found)
        return found is not None

    def key(self, openai: bool) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") if openai else self.headers.get("x-goog-api-key", "")

    def do_GET(self) -> None:
        if found := self.server_state.gets.get(self.path):
            return self._send(*found)
        if self.batched():
            return None
        model = self.path.rpartition("/")[2]
        self._send(200, {}, {"id": model, "object": "model", "created": 1, "owned_by": "x", "shutdown_date": self.server_state.shutdown_date})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.batched(raw):
            return None
        body, openai = json.loads(raw), self.path.endswith("/chat/completions")
        prompt = body["messages"][-1]["content"] if openai else body["contents"][-1]["parts"][0]["text"]
        key, state = self.key(openai), self.server_state
        scenario = state.next_scenario(prompt, body, key)
        if scenario == "html":
            return self._send(200, {"Content-Type": "text/html"}, HTML)
        if scenario == "torn":
            return self._send(200, {}, b'{"choices": [{"mess')
        if scenario == "timeout":
            time.sleep(state.hang)
        elif state.latency and scenario != "429_after":
            time.sleep(state.latency)
        if isinstance(scenario, tuple):  # status, headers and body as they are
            return self._send(*scenario)
        make = (OPENAI if openai else GEMINI)["ok" if scenario in ("timeout", "drip") else scenario]
        if scenario == "drip":
            return self._drip(*make(state.answer(prompt), key))
        self._send(*make(state.answer(prompt), key))

    def _drip(self, status: int, headers: dict, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for byte in data:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def _send(self, status: int, headers: dict, body: object) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self._headers_buffer.append(b"\r\n" + data)  # one packet: two would wait for each other's acknowledgement
        self.flush_headers()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A judge that always says 7, for trials without a key.")
    parser.add_argument("--limit", type=int, default=0, help="starts allowed in any sliding second")
    parser.add_argument("--latency", type=float, default=0.3, help="seconds per reply")
    options = parser.parse_args()
    with Loopback(limit=options.limit, latency=options.latency) as server:
        print(f"OpenAI protocol: {server.openai}   Gemini protocol: {server.root}", flush=True)
        threading.Event().wait()
