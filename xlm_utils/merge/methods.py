"""Merge methods as cards: from a YAML file and a study to a MergeKit configuration.

A card (``params/methods/<card>.yaml``) describes one method and holds its MergeKit configuration as a template: models are named by role, ``$name``
stands for a parameter of the card. A method's name may carry arms: ``ties@ancestor`` (another base), ``dare_ties#3`` (another mask seed),
``ties~density=0.3`` (a point of a grid). Values that a card leaves to the study are written out: counts by layer, sizes of task vectors, or texts.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from xlm_utils.models.constituents import as_parent
from xlm_utils.models.weights import LAYER, Tensors, squared_distance
from xlm_utils.study import Study, StudyError
from xlm_utils.study.names import in_range, parse, placeholders, read_card
from xlm_utils.translate.translation import unreported

DTYPES = {"dtype": "float32", "out_dtype": "bfloat16"}  # of the arithmetic, of the result
RECIPE = {"mergekit": metadata.version("mergekit"), "tensors": "all that the parents store"}  # of the key of whatever is merged


class Method(NamedTuple):
    """A method's name resolved within a study."""

    name: str
    card: dict
    template: dict  # the card's MergeKit configuration with model names for roles, still with $parameters
    free: dict[str, tuple[float, float]]  # parameters that have an effect with this base and no value in the name, and their ranges
    fixed: dict[str, float]  # parameters that the name gives a value
    seed: int | None  # of the random mask, if the method draws one


def check_specification(template: dict, file: str = "") -> dict:
    """MergeKit's specifications by method; a StudyError if a card's template has a method or parameter that is not among them."""
    from mergekit.merge_methods.registry import registered_methods

    from xlm_utils.merge import own  # noqa: F401  (it registers its methods)

    specs = {method.spec.name: method.spec for method in registered_methods()}
    name = template["merge_method"]
    if name not in specs:
        raise StudyError(f"{file}MergeKit has no method {name[:80]!r}; valid are {', '.join(sorted(specs))}")
    given = [(template["parameters"], specs[name].shared_parameters)]
    given += [(entry.get("parameters", {}), specs[name].input_parameters) for entry in template["models"]]
    for found, known in given:
        if odd := set(found) ^ (names := {parameter.name for parameter in known}):
            wrong = "is missing" if min(odd) in names else "is unknown"
            raise StudyError(f"{file}MergeKit's {name}: the parameter {min(odd)} {wrong}; it has {', '.join(sorted(names)) or 'none'}")
    return specs


def _fill(part: object, values: Mapping[str, float | list[float]]) -> object:
    if isinstance(part, dict):
        return {key: _fill(item, values) for key, item in part.items()}
    if isinstance(part, list):
        return [_fill(item, values) for item in part]
    return values[part[1:]] if isinstance(part, str) and part.startswith("$") else part


def resolve(study: Study, name: str) -> Method:
    """Read ``card[~parameter=value,…][@base][#seed]`` against the study.

    A StudyError: no such card or base, a base or seed for a method that has none, or a value that ``render`` would refuse.
    """
    card_name, fixed, base, seed = parse(name)
    card = read_card(card_name)
    template = card["mergekit"]
    choosable, random = template["base_model"] == "base", card.get("random", False)
    bases = [n for n in study.parents if study.constituents[n].role != "expert"]
    if base and not choosable:
        raise StudyError(f"method {name}: the base of {card_name} is always the {template['base_model']} model, so there is no @{base}")
    if base and base not in bases:
        raise StudyError(f"method {name}: there is no base {base!r}; valid are {', '.join(bases)}")
    if seed and not (random and seed.isdecimal()):
        raise StudyError(f"method {name}: " + ("the seed must be a whole number" if random else f"{card_name} draws no random mask to seed"))
    base = (base or study.base) if choosable else study.by_role(template["base_model"])
    models = [_named(study, entry) for entry in template["models"]]  # the base's task vector is zero: MergeKit would ignore its values in silence
    models = [entry for entry in models if not choosable or entry["model"] != base]
    template = {**template, "base_model": base, "models": models, **DTYPES}
    live = placeholders(template)
    free = {p: tuple(about["range"]) for p, about in card["parameters"].items() if p in live}
    for parameter, value in fixed.items():
        _has_effect(name, card, template, free, parameter)
        in_range(f"method {name}: {parameter}", value, free[parameter])
    free = {p: bounds for p, bounds in free.items() if p not in fixed}
    return Method(name, card, template, free, fixed, int(seed or study.seed) if random else None)


def _named(study: Study, part: object) -> object:
    """A part of a template with models' names for the roles that ``model`` and ``larger`` give."""
    if isinstance(part, dict):
        return {key: study.by_role(item) if key in ("model", "larger") else _named(study, item) for key, item in part.items()}
    return [_named(study, item) for item in part] if isinstance(part, list) else part


def _has_effect(name: str, card: dict, template: dict, free: Mapping, parameter: str) -> None:
    valid = ", ".join(free) or "none"
    if parameter not in card["parameters"]:
        raise StudyError(f"method {name}: there is no parameter {parameter!r}; valid are {valid}")
    if parameter not in free:
        raise StudyError(f"method {name}: {parameter} has no effect with the base {template['base_model']}; valid are {valid}")


def render(study: Study, name: str, **values: float | list[float]) -> dict:
    """MergeKit configuration of a method: every parameter written out, models by their names in the study.

    A list instead of a number is MergeKit's gradient: values from the first to the last layer, those between interpolated.
    A StudyError: a parameter is unknown, missing, out of range or without effect.
    """
    method = resolve(study, name)
    for parameter in values:
        if parameter in method.fixed:
            raise StudyError(f"method {name}: its name already gives {parameter} a value")
        _has_effect(name, method.card, method.template, method.free, parameter)
    chosen = {p: values.get(p, method.card["parameters"][p].get("default")) for p in method.free}
    if missing := [p for p, value in chosen.items() if value is None]:
        raise StudyError(f"method {name}: {', '.join(missing)} must be given; 03_merge.ipynb searches them")
    return _fill(method.template, method.fixed | {p: in_range(f"method {name}: {p}", value, method.free[p]) for p, value in chosen.items()})


def config_yaml(study: Study, name: str, **values: float) -> str:
    """The rendered configuration as YAML, models by name; the file beside a merge has their folders instead."""
    return yaml.safe_dump(render(study, name, **values), sort_keys=False)


def parents(study: Study, config: dict) -> dict[str, Path]:
    """Folders of the models that a configuration names, with the general model's tokens; the first is its own, as it donates the tokenizer."""
    names = [study.by_role("general"), config["base_model"], *(entry["model"] for entry in config["models"])]
    return {name: as_parent(study, name) for name in dict.fromkeys(names)}


def written_out(study: Study, config: dict, folders: Mapping[str, Path]) -> dict:
    """A rendered configuration with MergeKit's values in the place of three kinds of others; by layer they are gradients with as many points.

    ``{bottom: b, transition: t, top: p, inside: v}`` is 0 in the first b and the last p layers and v between them, v / 2 in the t layers on either
    side. A count below 1 is that share of the layers, rounded down; a list v is a value for each of as many groups of layers, nearly equal in size.
    ``{larger: name}``, under a filter, is 1 in the layers where that model's task vector in the filter's tensors, over its own mean of all layers, is
    the largest of the configuration's models, and 0 elsewhere. ``{language: source or target, terms: n}`` is a JSON list of the texts of n terms
    (``_texts``). A StudyError: more layers are counted than there are, a count is a list, or there are no texts.
    """
    sizes = cache(lambda where: {entry["model"]: _sizes(folders[entry["model"]], folders[config["base_model"]], where) for entry in config["models"]})

    def value(part: object, where: str = "") -> object:
        if isinstance(part, list):
            return [value(one, where) for one in part]
        if not isinstance(part, dict):
            return part
        if counts := [key for key in ("bottom", "transition", "top", "terms") if isinstance(part.get(key), list)]:
            raise StudyError(f"{counts[0]} is counted, so it is one number and no list over the layers; search with evolution.layer_groups: 1")
        if set(part) == {"language", "terms"}:
            return _texts(study, part["language"], part["terms"])
        if set(part) == {"bottom", "transition", "top", "inside"}:
            return _counted(**part, layers=Tensors(folders[config["base_model"]]).layers)
        if set(part) == {"larger"}:
            return (sizes(where)[part["larger"]] >= np.max(list(sizes(where).values()), axis=0)).astype(float).tolist()
        return {key: value(one, part.get("filter", where)) for key, one in part.items()}

    return {**config, "models": value(config["models"]), "parameters": value(config["parameters"])}


def _texts(study: Study, language: str, count: float) -> str:
    """Of terms that no table reports, drawn with the study's seed: its prompts; the source language's with the clinicians' definition behind."""
    rows = unreported(study)
    if rows.empty:
        raise StudyError("no translated term is left that no table reports, and this merge reads such: set vocabulary.sample, or a sweep")
    drawn = rows.sample(min(round(count), len(rows)), random_state=study.seed)
    prompts = {"target": [study.prompt(study.target, word) for word in drawn["translation"]]}
    prompts["source"] = [f"{study.prompt(study.source, row.term)} {row.definition}".strip() for row in drawn.itertuples()]
    return json.dumps(prompts[language], ensure_ascii=False)


def _counted(bottom: float, transition: float, top: float, inside: float | list[float], layers: int) -> list[float]:
    bottom, transition, top = (int(count * layers) if count < 1 else round(count) for count in (bottom, transition, top))
    groups = inside if isinstance(inside, list) else [inside]
    middle = layers - bottom - top - 2 * transition
    if middle < 0:
        raise StudyError(f"a merge by layer: bottom {bottom}, top {top} and twice the transition {transition} are more than the {layers} layers")
    between = np.repeat(groups, [len(group) for group in np.array_split(range(middle), len(groups))]).tolist()
    return [0.0] * bottom + [groups[0] / 2] * transition + between + [groups[-1] / 2] * transition + [0.0] * top


def _sizes(model: Path, base: Path, where: str) -> np.ndarray:
    """L2 norm of a task vector by layer, in the tensors whose name holds ``where``, over its mean; shape (layers,)."""
    ours, theirs = Tensors(model), Tensors(base)
    squares = np.zeros(theirs.layers)
    for name in theirs.shapes:
        if where in name and (found := LAYER.search(name)):
            squares[int(found[1])] += squared_distance(ours[name], theirs[name])
    return np.sqrt(squares) / max(np.sqrt(squares).mean(), 1e-30)
