"""The batch modes of both protocols for ``loopback``: files come in, batches run for some looks, and answers lie in files, last request first."""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Callable, Sequence

Answer = tuple[int, dict, object]  # HTTP status, headers, JSON body
STATES = {"in_progress": "RUNNING", "completed": "SUCCEEDED", "expired": "EXPIRED", "cancelled": "CANCELLED", "failed": "FAILED"}


class Batches:
    """What the server holds. ``script`` says how the first, second, … batch ends; ``room`` tokens may be enqueued at once, by ``tokens_of``.

    Ends: ``completed``; ``expired`` and ``cancelled`` (the first half is answered); ``failed`` (refused as a whole); ``in_progress`` (never).
    """

    def __init__(self, script: str | Sequence[str] = "completed", looks: int = 1, room: float = 0, tokens_of: Callable[[str], float] = len):
        self.script = [script] if isinstance(script, str) else list(script)
        self.looks, self.room, self.tokens_of = looks, room, tokens_of
        self.files: dict[str, bytes] = {}
        self.made: dict[str, dict] = {}
        self.most = 0.0  # tokens that were enqueued at once

    def keep(self, data: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = data
        return name

    def create(self, name: str, file: str) -> dict:
        requests = [json.loads(line) for line in self.files[file].split(b"\n") if line]
        end = self.script[min(len(self.made) + 1, len(self.script)) - 1]
        one = {
            "id": f"batch_{len(self.made)}",
            "name": name,
            "file": file,
            "requests": requests,
            "end": end,
            "looks": self.looks,
            "state": "in_progress",
        }
        one["tokens"] = sum(self.tokens_of(prompt_of(request)) for request in requests)
        enqueued = one["tokens"] + sum(other["tokens"] for other in self.made.values() if other["state"] == "in_progress")
        self.most = max(self.most, enqueued)
        if self.room and enqueued > self.room:
            one |= {"end": "failed", "looks": 0, "words": f"Enqueued token limit reached. Limit: {self.room:,} enqueued tokens."}
        self.made[one["id"]] = one
        return one

    def look(self, batch_id: str, answer: Callable[[dict], Answer]) -> dict:
        """One look; at the last of them the requests are answered."""
        one = self.made[batch_id]
        one["looks"] -= 1
        if one["state"] == "in_progress" and one["looks"] < 0 and one["end"] != "in_progress":
            one["state"] = one["end"]
            if one["state"] != "failed":
                answered = len(one["requests"]) if one["state"] == "completed" else len(one["requests"]) // 2
                one["answers"] = [(request, answer(request) if n < answered else None) for n, request in enumerate(one["requests"])][::-1]
        return one


def prompt_of(request: dict) -> str:
    if "body" in request:
        return request["body"]["messages"][-1]["content"]
    return request["request"]["contents"][-1]["parts"][0]["text"]


def openai_route(batches: Batches, method: str, path: str, headers: dict, raw: bytes, answer: Callable[[dict], Answer]) -> Answer | None:
    """The answer of OpenAI's Files and Batch APIs; None for any other path."""
    path = path.partition("?")[0].partition("/v1")[2]
    if path == "/files":
        message = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + raw, policy=email.policy.HTTP)
        parts = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in message.iter_parts()}
        assert parts["purpose"] == b"batch"
        return 200, {}, {"id": batches.keep(parts["file"]), "object": "file", "bytes": len(parts["file"]), "purpose": "batch"}
    if path.startswith("/files/"):
        return 200, {"Content-Type": "application/octet-stream"}, batches.files[path.split("/")[2]]
    if path == "/batches" and method == "POST":
        body = json.loads(raw)
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        return 200, {}, _openai_batch(batches, batches.create(body["metadata"]["name"], body["input_file_id"]))
    if path == "/batches":
        data = [_openai_batch(batches, one) for one in batches.made.values()][::-1]
        return 200, {}, {"object": "list", "data": data, "has_more": False}
    if path.startswith("/batches/"):
        batch_id = path.split("/")[2]
        if batch_id not in batches.made:
            return 404, {}, {"error": {"message": f"No batch found with id '{batch_id}'.", "code": None}}
        return 200, {}, _openai_batch(batches, batches.look(batch_id, answer))
    return None


def _openai_batch(batches: Batches, one: dict) -> dict:
    batch = {
        "id": one["id"], "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h", "created_at": 1,
        "input_file_id": one["file"], "status": one["state"], "metadata": {"name": one["name"]}}  # fmt: skip
    if one["state"] == "failed":
        words = one.get("words", "Duplicate custom_id in line 2.")
        batch["errors"] = {"object": "list", "data": [{"code": "invalid", "message": words, "line": 2}]}
    if "answers" in one and "output" not in one:
        good, bad = [], []
        for request, got in one["answers"]:
            line = {"id": "x", "custom_id": request["custom_id"], "response": None, "error": None}
            if got is None:
                code = f"batch_{one['state']}"
                bad.append(line | {"error": {"code": code, "message": "This request could not be executed in time."}})
            else:
                (good if got[0] == 200 else bad).append(line | {"response": {"status_code": got[0], "request_id": "x", "body": got[2]}})
        one["output"] = [batches.keep(_jsonl(lines)) if lines else None for lines in (good, bad)]
    return batch | dict(zip(("output_file_id", "error_file_id"), one.get("output", (None, None)), strict=True))


def gemini_route(batches: Batches, method: str, path: str, headers: dict, raw: bytes, answer: Callable[[dict], Answer]) -> Answer | None:
    """The answer of Gemini's files and batches; None for any other path."""
    path = path.partition("?")[0]
    if path == "/upload/v1beta/files":
        return 200, {"X-Goog-Upload-URL": f"http://{headers['Host']}/uploading", "X-Goog-Upload-Status": "active"}, {}
    if path == "/uploading":
        name = batches.keep(raw)
        return 200, {"X-Goog-Upload-Status": "final"}, {"file": {"name": f"files/{name}", "sizeBytes": str(len(raw)), "state": "ACTIVE"}}
    if path.startswith("/v1beta/files/") and path.endswith(":download"):
        return 200, {"Content-Type": "application/octet-stream"}, batches.files[path[len("/v1beta/files/") : -len(":download")]]
    if path.endswith(":batchGenerateContent"):
        batch = json.loads(raw)["batch"]
        return 200, {}, _gemini_batch(batches, batches.create(batch["displayName"], batch["inputConfig"]["fileName"].partition("/")[2]))
    if path == "/v1beta/batches":
        return 200, {}, {"operations": [_gemini_batch(batches, one) for one in batches.made.values()]}
    if path.startswith("/v1beta/batches/"):
        return 200, {}, _gemini_batch(batches, batches.look(path.split("/")[3], answer))
    return None


def _gemini_batch(batches: Batches, one: dict) -> dict:
    if "answers" in one and "output" not in one:
        lines = []
        for request, got in one["answers"]:
            if got is not None and got[0] == 200:
                lines.append({"key": request["key"], "response": got[2] | {"newField": {"of": "next year"}}})
            elif got is not None:
                lines.append({"key": request["key"], "error": {"code": 13 if got[0] >= 429 else 3, "message": got[2]["error"]["message"]}})
        one["output"] = batches.keep(_jsonl(lines))
    output = {"output": {"responsesFile": f"files/{one['output']}"}} if "output" in one else {}
    metadata = {"displayName": one["name"], "state": f"BATCH_STATE_{STATES[one['state']]}", "model": "models/m", **output}
    failed = {"error": {"code": 3, "message": one.get("words", "Line 2 is no request.")}} if one["state"] == "failed" else {}
    return {"name": f"batches/{one['id']}", "metadata": metadata, "done": one["state"] != "in_progress", **failed}


def _jsonl(lines: list[dict]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
