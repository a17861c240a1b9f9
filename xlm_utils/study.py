"""A study: one preset YAML plus overrides → one validated, frozen object with its folders.

Everything that a run depends on is in the preset (``params/<study>.yaml``); a notebook's
parameters override single values, and a run with overrides gets a folder of its own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from xlm_utils import __version__
from xlm_utils.notebook import hush_kernel, parameter_cells
from xlm_utils.settings import PARAMS, ROOT, Language, Settings, StudyError, validate

# notebook parameter → where it lands in the preset; its "as the study says" value is 0 or ""
OVERRIDES = {
    "limit": ("vocabulary", "sample"),
    "translator": ("translation", "translator"),
    "items": ("benchmarks", "items"),
    "data_dir": ("benchmarks", "data_dir"),
    "chat_template": ("benchmarks", "chat_template"),
    "max_new_tokens": ("generation", "max_new_tokens"),
    "evaluations": ("evolution", "evaluations"),
    "seed": ("seed",),
    "base": ("base",),
}
MERGE_OVERRIDES = ("evaluations", "seed")  # these change merges without changing their names
SMOKE = {"limit": 4, "items": 2, "max_new_tokens": 12, "evaluations": 2}  # XLM_SMOKE=1: the size of the tests


class Study:
    """A validated preset with overrides applied; its parts are attributes (``study.generation``)."""

    def __init__(self, name: str, settings: Settings, changed: Mapping[str, object], method: str, judge: str):
        self.name, self.settings, self.changed = name, settings, dict(changed)
        home = Path(os.environ.get("XLM_HOME", ROOT))
        suffix = _suffix(self.changed)
        self.folder = home / "data" / "runs" / f"{name}{suffix}"
        merging = {key: value for key, value in self.changed.items() if key in MERGE_OVERRIDES}
        self.models_folder = home / "data" / "runs" / f"{name}{_suffix(merging)}" / "models"
        self.figures = home / "figures" / f"{name}{suffix}"
        self.method, self.judge = method, judge

    def __getattr__(self, part: str) -> Any:
        if part.startswith("_") or part not in Settings.model_fields:
            raise AttributeError(f"a study has no {part!r}; it has {', '.join(Settings.model_fields)}")
        return getattr(self.settings, part)

    def by_role(self, role: str) -> str:
        """Name of the constituent with this role (``general``, ``expert`` or ``ancestor``)."""
        for name, constituent in self.constituents.items():
            if constituent.role == role:
                return name
        raise StudyError(f"study {self.name}: no constituent has the role {role!r}, and this step needs one")

    @property
    def models(self) -> list[str]:
        """Models in the order of the tables: expert, general model, then every merge."""
        return [self.by_role("expert"), self.by_role("general"), *self.methods]

    @property
    def judges(self) -> list[str]:
        """Judge cards to run: those of the study, or the one named by the ``judge`` parameter."""
        return list(self.judging.judges) if self.judge == "all" else [self.judge]

    def label(self, model: str) -> str:
        """Name of a model as the tables print it."""
        if model in self.constituents:
            return self.constituents[model].label
        rest, _, seed = model.partition("#")
        name, _, arm = rest.partition("@")
        label = _card(name)["label"]
        details = [f"base: {arm}"] * bool(arm) + [f"seed: {seed}"] * bool(seed)
        return f"{label} ({', '.join(details)})" if details else label

    def prompt(self, language: Language, term: str) -> str:
        """The prompt for one term; the term is data, so braces in it mean nothing."""
        return (PARAMS / "prompts" / language.prompt).read_text(encoding="utf-8").replace("{term}", term)

    def show(self, device: bool = False) -> None:
        """Print every resolved value, the versions and the commit; with ``device``, where it runs and why."""
        from xlm_utils.records import versions

        changed = "".join(f", {key}={value}" for key, value in self.changed.items())
        rows = {"study": f"{self.name} ({self.title}){changed}", "files": relative(self.folder)}
        for part, value in self.settings.model_dump(exclude_none=True).items():
            if part == "constituents":
                rows |= {name: f"{c['role']}: {c['weights']}{' + ' + c['adapter'] if 'adapter' in c else ''}" for name, c in value.items()}
            elif isinstance(value, dict):
                rows[part] = ", ".join(f"{key}={_plain(item)}" for key, item in value.items())
            elif part != "title" and value != "":
                rows[part] = _plain(value)
        if device:
            rows["device"] = "{}: {}".format(*pick_device())
        rows["versions"] = ", ".join(f"{name} {version}" for name, version in versions().items())
        rows["commit"] = commit()
        width = max(map(len, rows))
        print("\n".join(f"{key:<{width}}  {value}" for key, value in rows.items()))


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def relative(path: Path) -> str:
    """A path as a person would type it from the repository root."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def presets() -> list[str]:
    """Names of the studies in ``params/``."""
    return sorted(p.stem for p in PARAMS.glob("*.yaml"))


def _suffix(changed: Mapping[str, object]) -> str:
    return "".join(f"+{key}={Path(str(value)).name}" for key, value in sorted(changed.items()))


def open_study(
    study: str = "demo", method: str = "all", judge: str = "all", judge_base_url: str = "", backend: str = "hf", **overrides: object
) -> Study:
    """Read ``params/<study>.yaml`` (or a YAML file by path), apply overrides, validate everything.

    ``method``, ``judge``, ``judge_base_url`` and ``backend`` choose what to run and where; every other
    parameter is one of ``OVERRIDES`` and gets a run folder of its own. Called in a notebook, it also
    looks at the parameters cells just above: a name injected there that the notebook does not have
    (``-p methd ties``) is an error here, not a silent default.

    Raises:
        StudyError: one sentence that names the value and what is valid.
    """
    hush_kernel()
    if backend not in ("hf", "vllm"):
        raise StudyError(f"backend {backend!r} is not one of hf, vllm")
    if cells := parameter_cells():
        declared = cells[-1]
        for name in sorted(set().union(*cells) - declared):
            raise StudyError(f"this notebook has no parameter {name!r}; it has {', '.join(sorted(declared))}")
    path = Path(study) if str(study).endswith((".yaml", ".yml")) else PARAMS / f"{study}.yaml"
    if not path.is_file():
        raise StudyError(f"study {study!r} is not one of {', '.join(presets())}, nor a YAML file")
    preset = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(preset, dict):
        raise StudyError(f"{path.name}: not a mapping of settings")
    smoke = os.environ.get("XLM_SMOKE") == "1"
    changed = {name: value for name, value in overrides.items() if value not in (0, "", None)}
    for name, value in ((SMOKE if smoke else {}) | changed).items():
        *parts, last = OVERRIDES[name]
        target = preset
        for part in parts:
            target = target.setdefault(part, {})
        target[last] = value
    if smoke:
        preset["methods"] = preset["methods"][::2][:2]
    settings = validate(preset, path, {OVERRIDES[name]: name for name in changed})
    if "base" in changed:
        settings = settings.model_copy(update={"methods": tuple(_arm(method, settings.base) for method in settings.methods)})
    result = Study(path.stem, settings, ({"smoke": 1} if smoke else {}) | changed, method, judge)
    valid = list(dict.fromkeys(["all", *result.models, *settings.constituents]))
    if method not in valid:
        raise StudyError(f"method {method!r} is not one of {', '.join(valid)}")
    cards = sorted(p.stem for p in (PARAMS / "judges").glob("*.yaml"))
    for name in result.judges:
        if name not in cards:
            raise StudyError(f"judge {name!r} is not one of all, {', '.join(cards)}")
    return result


def _arm(method: str, base: str) -> str:
    """The method with another base, if its card lets one be chosen: ``ties`` → ``ties@ancestor``."""
    card, seed, number = method.partition("#")
    return f"{card}@{base}{seed}{number}" if "@" not in card and _card(card)["mergekit"]["base_model"] == "base" else method


@cache
def _card(name: str) -> dict:
    return yaml.safe_load((PARAMS / "methods" / f"{name}.yaml").read_text(encoding="utf-8"))


def pick_device() -> tuple[str, str]:
    """Device for the models and the reason for it."""
    import torch

    if torch.cuda.is_available():
        return "cuda", f"{torch.cuda.get_device_name(0)} is visible to PyTorch"
    return "cpu", "no CUDA device is visible to PyTorch"


def commit() -> str:
    """Short hash of the code's commit, marked if files differ from it."""
    try:
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"none (git can't tell), version {__version__}"
