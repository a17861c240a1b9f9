"""Methods: every key of ``params/methods/<card>.yaml``, checked as far as a study without MergeKit can; what a method's name says,
``card[~parameter=value,…][@base][#seed]``, and the grids of such names in ``params/sweeps``.
"""

import itertools
import math
import re
from functools import lru_cache
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
    axes = read_yaml(PARAMS / "sweeps" / f"{method.card}.yaml")
    card = read_card(method.card)["parameters"]
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
