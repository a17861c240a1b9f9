"""The model hub: what it says of a repository, whether a whole copy is here, and fetching one."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import huggingface_hub  # loads its parts when they are used
from huggingface_hub import errors

from xlm_utils.study import StudyError, project_path

FILES = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt", "*.tiktoken")  # of a model's repository; the rest is other formats of the same
ADAPTER = ("adapter_model.safetensors", "*.json", "*.model", "*.jinja", "*.txt")  # of an adapter's
OTHERS = ("consolidated*.safetensors", "adapter_*", "*/*.safetensors")  # the same weights again, or an adapter left there


def is_on_hub(weights: str) -> bool:
    """Whether weights are a hub repository: neither a wheel nor a folder. A StudyError: a path (``/``, ``./``, ``~``, a/b/c) to no folder."""
    if weights.startswith("wheel:") or project_path(weights).is_dir():
        return False
    if weights.startswith(("/", ".", "~")) or weights.count("/") > 1:
        raise StudyError(f"{weights}: no such folder")
    return True


def _patterns(files: tuple[str, ...]) -> dict[str, list[str]]:
    return {"allow_patterns": list(files), "ignore_patterns": [] if files == ADAPTER else list(OTHERS)}


def whole_copy(repository: str, revision: str | None, files: tuple[str, ...] = FILES) -> Path | None:
    """The local copy of a hub repository, if all its weights are there; the hub is not asked."""
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True, **_patterns(files)))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):  # IncompleteSnapshotError is one; and some folder's name is no repository's
        return None
    if files == ADAPTER:
        return folder if all((folder / file).exists() for file in ("adapter_config.json", ADAPTER[0])) else None
    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.exists() else ["model.safetensors"]
    return folder if all((folder / file).exists() for file in {"config.json", *shards}) else None  # an older hub client doesn't check


@cache
def from_hub(repository: str, revision: str | None, files: tuple[str, ...] = FILES) -> Path:
    """A snapshot of a hub repository: the local copy where there is a whole one, so that a study keeps to one commit.

    ``files``: patterns of those to fetch, a model's or ``ADAPTER``. A StudyError: gated, unknown, or out of reach.
    """
    if folder := whole_copy(repository, revision, files):
        return folder
    print(f"downloading {repository} from the hub (once)")
    try:
        with _told(repository, revision):
            return Path(huggingface_hub.snapshot_download(repository, revision=revision, **_patterns(files)))
    except errors.LocalEntryNotFoundError:
        raise StudyError(f"model {repository}: not in the local hub cache, and the hub can't be reached") from None


@contextmanager
def _told(repository: str, revision: str | None) -> Iterator[None]:
    """The hub's refusals, each one sentence."""
    try:
        yield
    except errors.GatedRepoError:
        how = "your token has no access to it" if huggingface_hub.get_token() else "it is gated and there is no token"
        raise StudyError(f"model {repository}: {how}; accept its licence on the hub and set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise StudyError(f"model {repository}: the hub knows no revision {revision!r} of it") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise StudyError(f"model {repository}: neither a folder nor a repository that the hub knows") from None


def about(repository: str, revision: str | None) -> dict:
    """What the hub says of a repository without its weights: config (its file), parameters, to_download (bytes), commit, license, base_model.

    A StudyError: gated, unknown, out of reach, or without weights that can be merged.
    """
    try:
        with _told(repository, revision):
            info = huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
            names = {file.rfilename for file in info.siblings}
            if "adapter_config.json" in names and "config.json" not in names:
                raise StudyError(f"model {repository}: an adapter, not a model: give it as adapter: beside the weights of its base")
            config = Path(huggingface_hub.hf_hub_download(repository, "config.json", revision=info.sha))
    except (errors.HfHubHTTPError, OSError) as error:
        raise StudyError(f"model {repository}: the hub can't say what it is ({type(error).__name__})") from None
    wanted = {name for name in names if any(fnmatch(name, pattern) for pattern in FILES) and not any(fnmatch(name, other) for other in OTHERS)}
    sizes = {file.rfilename: file.size or 0 for file in info.siblings if file.rfilename in wanted}
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    if not weights:
        raise StudyError(f"model {repository}: it has no safetensors files, and no other format can be merged")
    twice = any(name.endswith(".safetensors") for name in names - wanted)  # what the hub counts holds them, too
    counted = info.safetensors.total if info.safetensors and not twice else weights / 2
    card = {key: (info.card_data or {}).get(key) for key in ("license", "base_model")}
    return {"config": config, "parameters": counted, "to_download": sum(sizes.values()), "commit": info.sha, **card}


def check_reachable(needed: list[str]) -> str:
    """A line that says the hub answers. A StudyError: it does not; with what was ``needed`` from it."""
    from huggingface_hub import constants

    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=20).close()
    except urllib.error.HTTPError:
        pass  # it answers, if not with a page
    except OSError as error:
        raise StudyError(f"the model hub {constants.ENDPOINT} can't be reached ({error}); the study needs from it: {', '.join(needed)}") from None
    return f"the model hub {constants.ENDPOINT} answers"
