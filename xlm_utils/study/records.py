"""Files as the only hand-over: JSONL in whole batches, manifests written last, steps that resume.

A step is one output (a file or a model folder) and what it is made from. Its manifest is written after everything else, so *a manifest means done*;
its key is a hash of what it was made from, so a changed parameter re-does exactly the steps that depend on it, and moves the old result to
``superseded/`` instead of overwriting it.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from xlm_utils import __version__
from xlm_utils.study.inputs import ROOT, StudyError

RECORDED_PACKAGES = ("torch", "transformers", "mergekit", "lm_eval", "tokenizers", "numpy")


def cache_folder() -> Path:
    """Where materialised constituents live, shared by all studies (``XLM_CACHE`` moves it)."""
    return Path(os.environ.get("XLM_CACHE", ROOT / "data" / "cache"))


def cached_step(name: str, **made_from: object) -> "Step":
    """A step in the cache whose folder says what it is made from: trainers call every adapter checkpoint-300."""
    return Step(cache_folder() / f"{name}-{Step(cache_folder(), **made_from).key[:8]}", **made_from)


def fingerprint(value: object) -> str:
    """First 12 hex digits of the SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()[:12]


def sha256(path: Path, known: Mapping[str, str] | None = None) -> str:
    """SHA-256 of a file, or of a folder's files (names and contents, sorted by name); ``known`` has that of files in the folder, by name."""
    path = Path(path)
    if path.is_dir():
        listing = [f"{(known or {}).get(p.name) or sha256(p)}  {p.relative_to(path).as_posix()}" for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256("\n".join(listing).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of an input: from its manifest where there is one, else of a file now, of a model folder when its files have changed.

    A folder's is remembered with its files' sizes and times of change: 16 GB of weights are read once, not in every notebook.
    """
    if manifest := read_manifest(path):
        return manifest["sha256"]
    if not path.is_dir():
        return sha256(path)
    stamps = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(path.rglob("*")) if p.is_file()]
    memory = cache_folder() / "digests" / fingerprint([str(path.resolve()), stamps])
    if not memory.exists():
        write_text(memory, sha256(path))
    return memory.read_text(encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a JSONL file; an empty list if there is no file.

    A last line without its newline is what a killed writer leaves and is dropped; any other line that is not JSON is an error naming file and line.
    """
    if not path.exists():
        return []
    rows = []
    *lines, _ = path.read_bytes().decode("utf-8").split("\n")  # splitlines would also end a line at U+2028 and U+0085, which JSON keeps as they are
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from None
    return rows


def append_jsonl(path: Path, rows: Iterable[Mapping]) -> None:
    """Append rows in one write and flush them to disk; a torn last line is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


@cache
def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a number, and of this one, which a bare runtime imports without installing."""
    return {name: metadata.version(name) for name in RECORDED_PACKAGES} | {"xlm-utils": __version__}


def commit() -> str:
    """Short hash of the code's commit, marked if files differ from it."""
    try:
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"none (git can't tell), version {__version__}"


def manifest_path(path: Path) -> Path:
    """Sidecar of an output: ``ties.jsonl`` → ``ties.jsonl.manifest.json``."""
    return path.with_name(path.name + ".manifest.json")


def read_manifest(path: Path) -> dict | None:
    """Manifest of a finished output, or None."""
    sidecar = manifest_path(path)
    try:
        return json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.exists() else None
    except ValueError:
        raise StudyError(f"{sidecar}: damaged; delete it, and what it belongs to is made again") from None


class Step:
    """One output and what it is made from: a context that locks, resumes and finishes it.

    ``made_from`` holds JSON values: parameters and digests of inputs. Inside the context write to ``partial`` (kept between runs, so that a killed
    run resumes), then call ``finish``.
    """

    def __init__(self, path: Path, **made_from: object):
        self.path = Path(path)
        self.made_from = json.loads(json.dumps(made_from, ensure_ascii=False, default=str))
        self.key = fingerprint(self.made_from)
        self.partial = self.path.with_name(f"{self.path.name}.{self.key}.partial")
        self._pending = self.path.with_name(f"{self.path.name}.{self.key}.pending")
        self._lock = FileLock(self.path.parent / ".locks" / self.path.name)

    def __enter__(self) -> "Step":
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def done(self) -> bool:
        """True if the output exists, unchanged since its manifest, and was made from the same things."""
        if self._pending.exists() and self.path.exists() and not self.partial.exists():
            os.replace(self._pending, manifest_path(self.path))  # killed between the last two renames
        manifest = read_manifest(self.path)
        if not manifest or manifest["key"] != self.key or not self.path.exists():
            return False
        return self.path.is_dir() or sha256(self.path) == manifest["sha256"]

    def finish(self, known: Mapping[str, str] | None = None, **notes: object) -> None:
        """Give ``partial`` its final name, then write the manifest; ``known`` has the SHA-256 of files in it that need not be read again."""
        manifest = {"key": self.key, "made_from": self.made_from, **notes, "sha256": sha256(self.partial, known), "versions": versions()}
        write_json(self._pending, manifest)
        self._set_aside()
        os.replace(self.partial, self.path)
        os.replace(self._pending, manifest_path(self.path))

    def _set_aside(self) -> None:
        if not self.path.exists():
            return
        old = read_manifest(self.path)
        attic = self.path.parent / "superseded" / (old["key"] if old else "without-manifest")
        attic.mkdir(parents=True, exist_ok=True)  # shared by results of the same inputs, such as two equal merges' definitions
        if (attic / self.path.name).is_dir():
            shutil.rmtree(attic / self.path.name)  # the same inputs gave this result before: one copy is enough
        for part in (self.path, manifest_path(self.path)):
            if part.exists():
                os.replace(part, attic / part.name)
        print(f"{self.path.name}: made from other inputs or parameters before; that result is kept in {attic.name}")
