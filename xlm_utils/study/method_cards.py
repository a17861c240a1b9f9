"""Method cards: every key of ``params/methods/<card>.yaml``, checked as far as a study without MergeKit can."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictBool

from xlm_utils.study.inputs import NAME, PARAMS, Number, Part, StudyError, Text, checked, listed, read_yaml, relative, short

Role = Literal["general", "expert", "ancestor", "base"]  # "base": whichever model the study or the arm says


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
