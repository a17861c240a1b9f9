"""Single values of a preset changed for one run: by a notebook's parameters, or in the run's name (``demo+limit=8``)."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from xlm_utils.study.inputs import NAME, StudyError, short

# notebook parameter → where it lands in the preset; its "as the study says" value is 0 or ""
OVERRIDES = {
    "limit": ("vocabulary", "sample"), "translator": ("translation", "translator"), "items": ("benchmarks", "items"),
    "data_dir": ("benchmarks", "data_dir"), "chat_template": ("benchmarks", "chat_template"), "max_new_tokens": ("generation", "max_new_tokens"),
    "evaluations": ("evolution", "evaluations"), "seed": ("seed",), "base": ("base",),
    "apart": ("why", "apart"), "block": ("why", "block")}  # fmt: skip
MERGING = ("evaluations", "seed", "smoke")  # these change merges without changing their names
BENCHMARKING = (*MERGING, "base", "items", "data_dir", "chat_template")  # all that a benchmark's result depends on
ADDING = ("apart", "block")  # these add results and change none, so they need no folder of their own
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
SMOKE = {"limit": 4, "items": 1, "max_new_tokens": 12, "evaluations": 2, "apart": 4, "block": 9}  # XLM_SMOKE=1: the size of the tests


def split_name(study: str) -> tuple[str, dict[str, object]]:
    """``demo+limit=8`` → the preset (or its file's path) and the overrides, ``demo`` and ``{"limit": 8}``; a StudyError if one is unknown."""
    preset, *named = re.split(r"\+(?=\w+=)", str(study))
    if not NAME.fullmatch(Path(preset).stem if is_file(preset) else preset):  # it names the run's folder
        raise StudyError(f"study {short(preset)}: must be the name of a file in params, or the path of a .yaml file, of letters, digits, _ - and .")
    overrides = dict(pair.split("=", 1) for pair in named)
    if len(overrides) < len(named):
        raise StudyError(f"study {short(study)}: one of its parameters is there twice")
    for name in overrides:
        if name not in OVERRIDES:
            raise StudyError(f"study {study!r}: {name!r} is not one of {', '.join(OVERRIDES)}")
    return preset, given(overrides)


def is_file(preset: str) -> bool:
    """Whether a preset is named by its file, and not by its name in ``params/``."""
    return preset.endswith((".yaml", ".yml"))


def given(overrides: Mapping[str, object]) -> dict[str, object]:
    """Those overrides that say something, as Python would write them: ``8`` and ``"8.0"``, ``yes`` and ``True`` are one run."""
    found = {}
    for name, value in overrides.items():
        text = re.sub(r"^(\d+)\.0*$", r"\1", str(value).strip().lower()[:100])
        typed = int(text) if text.isdecimal() else TRUTH.get(text, value)
        if typed not in (0, "", None):
            found[name] = typed
    return found


def apply(preset: dict, changed: Mapping[str, object]) -> None:
    """Write overrides into a preset as read from its file; a part that is no mapping is left for the settings to refuse."""
    for name, value in changed.items():
        *parts, last = OVERRIDES[name]
        target = preset
        for part in parts:
            target = target.setdefault(part, {})
        if isinstance(target, dict):
            target[last] = value


def suffix(changed: Mapping[str, object], of: Collection[str]) -> str:
    """What those overrides of a kind add to the name of a run's folder."""
    return "".join(f"+{key}={Path(str(value)).name}" for key, value in sorted(changed.items()) if key in of)
