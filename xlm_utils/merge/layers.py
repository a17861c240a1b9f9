"""Values that a card leaves to the study, written out for it: counted by layer, by the sizes of task vectors, or texts that models are to read."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from xlm_utils.models.weights import LAYER, Tensors, squared_distance
from xlm_utils.study import Study, StudyError
from xlm_utils.translate.translation import unreported


def written_out(study: Study, config: dict, folders: Mapping[str, Path]) -> dict:
    """A rendered configuration with MergeKit's values in the place of three kinds of others; by layer they are gradients with as many points.

    ``{bottom: b, transition: t, top: p, inside: v}`` is 0 in the first b and the last p layers and v between them, v / 2 in the
    t layers on either side. A count below 1 is that share of the layers, rounded down; a list v is a value for each of as many
    groups of layers, nearly equal in size. ``{larger: name}``, under a filter, is 1 in the layers where that model's task vector in
    the filter's tensors, over its own mean of all layers, is the largest of the configuration's models, and 0 elsewhere.
    ``{language: source or target, terms: n}`` is a JSON list of the texts of n terms (``_texts``).

    A StudyError: more layers are counted than there are, a count is a list, or there are no texts.
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
