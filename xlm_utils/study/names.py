"""What a method's name says, ``card[~parameter=value,…][@base][#seed]``, and the grids of such names in ``params/sweeps``."""

import itertools
import re
from typing import NamedTuple

import yaml

from xlm_utils.study.settings import PARAMS, StudyError

GRAMMAR = re.compile(r"(?P<card>[^~@#]+)(~(?P<values>[^@#]+))?(@(?P<base>[^#]+))?(#(?P<seed>.+))?")


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
    """A method's name → its parts.

    >>> parse("ties~density=0.3@ancestor")
    Name(card='ties', values={'density': 0.3}, base='ancestor', seed='')

    Raises:
        StudyError: it does not follow the grammar.
    """
    found = GRAMMAR.fullmatch(name)
    if not found:
        raise StudyError(f"method {name!r}: a name is card[~parameter=value,…][@base][#seed], such as ties~density=0.3@ancestor")
    values = {}
    for part in (found["values"] or "").split(",") if found["values"] else ():
        parameter, _, value = part.partition("=")
        try:
            values[parameter] = float(value)
        except ValueError:
            raise StudyError(f"method {name!r}: {part!r} must be parameter=number, as in ties~density=0.3") from None
    return Name(found["card"], values, found["base"] or "", found["seed"] or "")


def grids() -> list[str]:
    """Names of the cards that have a grid in ``params/sweeps``."""
    return sorted(path.stem for path in (PARAMS / "sweeps").glob("*.yaml"))


def grid(name: str) -> list[str]:
    """Every combination of the values in ``params/sweeps/<card>.yaml``, as names of methods.

    A value that is the card's default is left out of the name, so that the point of all defaults is
    the method itself, and its merge is not made twice.

    Args:
        name: of the method whose parameters vary, with its base and seed: ``ties@ancestor``.

    Raises:
        StudyError: one sentence naming the file, the parameter or value, and what is valid.
    """
    method = parse(name)
    if method.card not in grids():
        raise StudyError(f"sweep.grids: {method.card!r} has no file in params/sweeps; there are {', '.join(grids())}")
    file = f"params/sweeps/{method.card}.yaml"
    axes = yaml.safe_load((PARAMS / "sweeps" / f"{method.card}.yaml").read_text(encoding="utf-8"))
    card = yaml.safe_load((PARAMS / "methods" / f"{method.card}.yaml").read_text(encoding="utf-8"))["parameters"]
    for parameter, values in axes.items():
        if parameter not in card:
            raise StudyError(f"{file}: the card has no parameter {parameter!r}; it has {', '.join(card) or 'none'}")
        low, high = card[parameter]["range"]
        if wrong := [value for value in values if not isinstance(value, int | float) or not low <= value <= high]:
            raise StudyError(f"{file}: {parameter} = {wrong[0]!r} must be a number from {low} to {high}")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    moved = [{p: float(value) for p, value in point.items() if value != card[p].get("default")} for point in points]
    return [str(method._replace(values=method.values | values)) for values in moved]
