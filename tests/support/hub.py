"""A loopback model hub: the part of the hub's HTTP interface that ``huggingface_hub`` and ``datasets`` use.

    with Hub() as hub:
        hub.add("someone/model", {"config.json": b"{}"})
        os.environ["HF_ENDPOINT"] = hub.url             # before huggingface_hub is imported

Files are served with their commit, etag and size; large formats go through a redirect and answer
ranges, as on the hub. A gated repository tells everyone what it holds and gives its files only to ``TOKEN``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopback"
LARGE = (".safetensors", ".parquet")  # what the hub stores apart from the repository


@dataclass
class Repository:
    """One model or data set at one commit."""

    id: str
    files: dict[str, bytes]
    gated: bool = False
    commit: str = ""
    etags: dict[str, str] = field(default_factory=dict)
    card: dict = field(default_factory=dict)

    def __post_init__(self):
        self.etags = {path: hashlib.sha256(data).hexdigest() for path, data in self.files.items()}
        self.commit = hashlib.sha1(json.dumps(self.etags, sort_keys=True).encode()).hexdigest()

    def entry(self, path: str) -> dict:
        """A file as a listing shows it."""
        size, large = len(self.files[path]), path.endswith(LARGE)
        entry = {"type": "file", "path": path, "oid": self.etags[path][:40], "size": size}
        return entry | ({"lfs": {"oid": self.etags[path], "size": size, "pointerSize": 130}} if large else {})

    def tree(self, folder: str, recursive: bool) -> list[dict]:
        """The entries below a folder; without ``recursive``, its own."""
        inside = f"{folder}/" if folder else ""
        below = {path: path.removeprefix(inside) for path in self.files if path.startswith(inside)}
        folders = {rest.split("/")[0] for rest in below.values() if "/" in rest}
        listed = [{"type": "directory", "path": inside + name, "oid": self.commit, "size": 0} for name in sorted(folders)]
        return listed + [self.entry(path) for path, rest in below.items() if recursive or "/" not in rest]

    def info(self) -> dict:
        """What the hub tells about a repository without its files."""
        siblings = []
        for path in self.files:
            entry = self.entry(path)
            lfs = {"lfs": {"sha256": self.etags[path], "size": entry["size"], "pointerSize": 130}} if "lfs" in entry else {}
            siblings.append({"rfilename": path, "size": entry["size"], "blobId": entry["oid"], **lfs})
        facts = {
            "_id": self.commit[:24], "id": self.id, "modelId": self.id, "author": self.id.split("/")[0], "sha": self.commit, "private": False,
            "disabled": False, "gated": "manual" if self.gated else False, "lastModified": "2024-04-18T00:00:00.000Z", "tags": [],
            "downloads": 0, "likes": 0, "siblings": siblings,
        }  # fmt: skip
        counted = self._parameters()
        facts |= {"cardData": self.card} if self.card else {}
        return facts | ({"safetensors": {"parameters": {"BF16": counted}, "total": counted}} if counted else {})

    def _parameters(self) -> int:
        total = 0
        for path, data in self.files.items():
            if path.endswith(".safetensors"):
                header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
                total += sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        return total


class Hub:
    """A server on 127.0.0.1; ``requests`` lists what was asked for (method, path)."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[tuple[str, str]] = []

    def add(self, id: str, files: dict[str, bytes], *, kind: str = "models", gated: bool = False) -> Repository:
        """Put a repository there, or another state of it; kind is ``models`` or ``datasets``."""
        repository = self.repositories[kind, id] = Repository(id, files, gated)
        return repository

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def _answer(self, body: str = "") -> None:
        address = urlsplit(self.path)
        self.state.requests.append((self.command, address.path))
        kind, rest = self._kind(address.path)
        repository = self.state.repositories.get((kind, "/".join(rest[:2])))
        if repository is None:
            return self._error(401 if "Authorization" not in self.headers else 404, "RepoNotFound", "Repository Not Found")
        action, revision, path = (*rest[2:4], "/".join(rest[4:])) if len(rest) > 3 else ("revision", "main", "")
        if revision not in ("main", repository.commit):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if action == "revision":
            return self._json(repository.info(), repository)
        if action == "tree":
            return self._json(repository.tree(path, "recursive=true" in address.query.lower()), repository)
        if action == "paths-info":
            return self._json(self._paths(repository, parse_qs(body)["paths"] if "=" in body else json.loads(body)["paths"]), repository)
        return self._file(repository, path, direct=action == "storage")

    def _kind(self, path: str) -> tuple[str, list[str]]:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "api":
            return parts[1], parts[2:]
        return ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)

    def _paths(self, repository: Repository, paths: list[str]) -> list[dict]:
        folders = [path for path in paths if path not in repository.files and repository.tree(path, True)]
        there = [repository.entry(path) for path in paths if path in repository.files]
        return there + [{"type": "directory", "path": path, "oid": repository.commit, "size": 0} for path in folders]

    def _file(self, repository: Repository, path: str, direct: bool) -> None:
        if repository.gated and not direct and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 403 if "Authorization" in self.headers else 401
            return self._error(status, "GatedRepo", f"Access to model {repository.id} is restricted.", repository)
        if path not in repository.files:
            return self._error(404, "EntryNotFound", "Entry not found", repository)
        data, etag = repository.files[path], f'"{repository.etags[path]}"'
        if path.endswith(LARGE) and not direct:
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": etag}
            where = self.path.split("?")[0].replace("/resolve/", "/storage/", 1)
            return self._send(302, b"", {"Location": self.state.url + where, **linked}, repository)
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if wanted := self.headers.get("Range", "").removeprefix("bytes="):
            first, last = (int(end) if end else None for end in wanted.split("-"))
            first = len(data) - last if first is None else first
            last = min(len(data) - 1 if last is None or wanted.startswith("-") else last, len(data) - 1)
            return self._send(206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}, repository)
        return self._send(200, data, headers, repository)

    def _json(self, value: object, repository: Repository | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"}, repository)

    def _error(self, status: int, code: str, message: str, repository: Repository | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        self._send(status, json.dumps({"error": message}).encode(), headers, repository)

    def _send(self, status: int, data: bytes, headers: dict, repository: Repository | None) -> None:
        self.send_response(status)
        commit = {"X-Repo-Commit": repository.commit} if repository else {}
        for name, value in {**headers, **commit, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
