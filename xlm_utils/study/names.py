"""What a method's name says, ``card[~parameter=value,…][@base][#seed]``, and the grids of such names in ``params/sweeps``."""

import itertools
import math
import re
from typing import NamedTuple

from xlm_utils.study.inputs import PARAMS, StudyError, listed, read_yaml, short
from xlm_utils.study.method_cards import in_range, read_card

GRAMMAR = re.compile(r"(?P<card>\w[\w.-]*)(~(?P<values>[\w.=,+-]+))?(@(?P<base>\w[\w.-]*))?(#(?P<seed>[\w.@-]+))?")
POINTS = 1000  # of a grid: each is a whole merge, generated with and judged


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

    >>> parse("ties~density=0.3@ancestor")
    Name(card='ties', values={'density': 0.3}, base='ancestor', seed='')
    """
    found = GRAMMAR.fullmatch(name)
    if not found or len(name) > 150:  # it names files
        raise StudyError(f"method {short(name)}: a name is card[~parameter=value,…][@base][#seed], such as ties~density=0.3@ancestor")
    values = {}
    for part in (found["values"] or "").split(",") if found["values"] else ():
        parameter, _, value = part.partition("=")
        try:
            values[parameter] = float(value)
        except ValueError:
            raise StudyError(f"method {name!r}: {part!r} must be parameter=number, as in ties~density=0.3") from None
    return Name(found["card"], values, found["base"] or "", str(int(found["seed"])) if (found["seed"] or "").isdecimal() else found["seed"] or "")


def grid(name: str) -> list[str]:
    """Every combination of the values in ``params/sweeps/<card>.yaml``, as names of methods; a StudyError says what is wrong there.

    A value that is the card's default is left out of the name, so that the point of all defaults is
    the method itself, and its merge is not made twice.

    Args:
        name: of the method whose parameters vary, with its base and seed: ``ties@ancestor``.
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
