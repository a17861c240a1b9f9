"""Methods: every key of ``params/methods/<card>.yaml``, checked as far as a study without MergeKit can; what a method's name says,
``card[~parameter=value,…][@base][#seed]``, and the grids of such names in ``params/sweeps``.
A study's name with single values of its preset changed for one run (``demo+limit=8``), as a notebook's parameters also do.
"""

import itertools
import math
import re
from collections.abc import Collection, Mapping
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, StrictBool

from xlm_utils.study.inputs import NAME, PARAMS, Number, Part, StudyError, Text, checked, listed, read_yaml, relative, short

Role = Literal["general", "expert", "ancestor", "base"]  # "base": whichever model the study or the arm says
GRAMMAR = re.compile(r"(?P<card>\w[\w.-]*)(~(?P<values>[\w.=,+-]+))?(@(?P<base>\w[\w.-]*))?(#(?P<seed>[\w.@-]+))?")
POINTS = 1000  # of a grid: each is a whole merge, generated with and judged


class _Parameter(Part):
    default: Number | None = None  # none: to be searched
    range: tuple[Number, Number]
    note: Text


class _Entry(Part):
    model: Role
    parameters: dict[str, Any] = Field({})


class _Template(Part):  # MergeKit's configuration; $name stands for a parameter of the card
    merge_method: Text
    base_model: Role
    models: list[_Entry] = Field(min_length=1)
    parameters: dict[str, Any]


class _Card(Part):
    label: Text
    concept: Text
    use: Text
    inputs: Text
    random: StrictBool = False
    parameters: dict[str, _Parameter]
    reference: Text
    mergekit: _Template


def read_card(name: str) -> dict:
    """A method card, checked; a StudyError names the file, what is wrong there, and what is valid."""
    if name not in listed("methods") or not NAME.fullmatch(name):
        raise StudyError(f"method {short(name)} has no card in params/methods, or can't be named so; there are {', '.join(listed('methods'))}")
    path = PARAMS / "methods" / f"{name}.yaml"
    return _read(path, path.stat().st_mtime_ns)


@lru_cache  # until the file changes
def _read(path: Path, _changed: int) -> dict:
    file = relative(path)
    card = checked(_Card, read_yaml(path), file).model_dump(exclude_unset=True)
    for parameter, about in card["parameters"].items():
        if about.get("default") is not None:
            in_range(f"{file}: parameters.{parameter}.default", about["default"], about["range"])
    if odd := placeholders(card["mergekit"]) ^ set(card["parameters"]):
        raise StudyError(f"{file}: {min(odd)} must stand both among the parameters and, as ${min(odd)}, in the template")
    return card


def placeholders(part: object) -> set[str]:
    """Names behind a ``$`` in a template."""
    if isinstance(part, (dict, list)):
        return set().union(*map(placeholders, part.values() if isinstance(part, dict) else part))
    return {part[1:]} if isinstance(part, str) and part.startswith("$") else set()


def in_range(where: str, value: object, bounds: tuple[float, float]) -> float | list[float]:
    """A number, or a list of them (MergeKit's gradient over the layers), as floats; a StudyError if one is not within the bounds."""
    if isinstance(value, list):
        return [in_range(where, item, bounds) for item in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not bounds[0] <= value <= bounds[1]:
        raise StudyError(f"{where} = {short(value)}: must be a number from {bounds[0]:g} to {bounds[1]:g}")
    return float(value)


class Name(NamedTuple):
    """A method's name in its parts; ``str`` puts them together again."""

    card: str
    values: dict[str, float]  # parameters that the name fixes: {"density": 0.3}
    base: str  # "": as the study says
    seed: str  # of the random mask; "": the study's

    def __str__(self) -> str:
        values = ",".join(f"{parameter}={value:.12g}" for parameter, value in self.values.items())
        return "".join(mark + part for mark, part in (("", self.card), ("~", values), ("@", self.base), ("#", self.seed)) if part)


def parse(name: str) -> Name:
    """A method's name → its parts; a StudyError if it does not follow the grammar.

    >>> parse("ties~density=0.3@ancestor") Name(card='ties', values={'density': 0.3}, base='ancestor', seed='')
    """
    found = GRAMMAR.fullmatch(name)
    if not found or len(name) > 150:  # it names files
        raise StudyError(f"method {short(name)}: a name is card[~parameter=value,…][@base][#seed], such as ties~density=0.3@ancestor")
    parts = [part.partition("=") for part in (found["values"] or "").split(",") if found["values"]]
    try:
        values = {parameter: float(value) for parameter, _, value in parts}
    except ValueError:
        raise StudyError(f"method {name!r}: {found['values']!r} must be parameter=number, as in ties~density=0.3") from None
    return Name(found["card"], values, found["base"] or "", str(int(found["seed"])) if (found["seed"] or "").isdecimal() else found["seed"] or "")


def grid(name: str) -> list[str]:
    """Every combination of the values in ``params/sweeps/<card>.yaml``, as names of methods; a StudyError says what is wrong there.

    A value that is the card's default is left out of the name, so that the point of all defaults is the method itself, and its merge is not made
    twice. ``name``: of the method whose parameters vary, with its base and seed: ``ties@ancestor``.
    """
    method = parse(name)
    if method.card not in listed("sweeps"):
        raise StudyError(f"sweep.grids: {short(method.card)} has no file in params/sweeps; there are {', '.join(listed('sweeps'))}")
    file = f"params/sweeps/{method.card}.yaml"
    axes, card = read_yaml(PARAMS / "sweeps" / f"{method.card}.yaml"), read_card(method.card)["parameters"]
    for parameter, values in axes.items():
        if parameter not in card:
            raise StudyError(f"{file}: the card has no parameter {parameter!r}; it has {', '.join(card) or 'none'}")
        if not isinstance(values, list) or not values:
            raise StudyError(f"{file}: {parameter} = {short(values)}: must be a list of numbers, such as [0.3, 0.7]")
        for number, value in enumerate(values):
            in_range(f"{file}: {parameter}", None if isinstance(value, list) else value, card[parameter]["range"])
            if value in values[:number]:
                raise StudyError(f"{file}: {parameter} has {value} twice")
    if (size := math.prod(map(len, axes.values()))) > POINTS:
        raise StudyError(f"{file}: {size:,} combinations, each a whole merge to judge; at most {POINTS:,} are made")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    moved = [{p: float(value) for p, value in point.items() if value != card[p].get("default")} for point in points]
    return [str(method._replace(values=method.values | values)) for values in moved]


# notebook parameter → where it lands in the preset; its "as the study says" value is 0 or ""
OVERRIDES = {"limit": ("vocabulary", "sample"), "translator": ("translation", "translator"), "max_new_tokens": ("generation", "max_new_tokens")}
OVERRIDES |= {key: ("benchmarks", key) for key in ("items", "data_dir", "chat_template")} | {key: ("why", key) for key in ("apart", "block")}
OVERRIDES |= {"evaluations": ("evolution", "evaluations"), "seed": ("seed",), "base": ("base",)}
MERGING = ("evaluations", "seed", "smoke")  # these change merges without changing their names
BENCHMARKING = (*MERGING, "base", "items", "data_dir", "chat_template")  # all that a benchmark's result depends on
ADDING = ("apart", "block")  # these add results and change none, so they need no folder of their own
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
SMOKE = {"limit": 4, "items": 1, "max_new_tokens": 12, "evaluations": 2, "apart": 2, "block": 9}  # XLM_SMOKE=1: the size of the tests


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
        target = reduce(lambda part, key: part.setdefault(key, {}), parts, preset)
        if isinstance(target, dict):
            target[last] = value


def suffix(changed: Mapping[str, object], of: Collection[str]) -> str:
    """What those overrides of a kind add to the name of a run's folder."""
    return "".join(f"+{key}={Path(str(value)).name}" for key, value in sorted(changed.items()) if key in of)
