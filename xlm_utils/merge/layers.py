"""Values that a card gives by layer, written out for the models at hand: counted from both ends, or by the sizes of task vectors."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from xlm_utils.models.weights import LAYER, Tensors, squared_distance
from xlm_utils.study import StudyError


def written_out(config: dict, folders: Mapping[str, Path]) -> dict:
    """A rendered configuration with a number for each layer (MergeKit's gradient with as many points) in the place of two kinds of values.

    ``{bottom: b, transition: t, top: p, inside: v}`` is 0 in the first b and the last p layers and v between them, v / 2 in the
    t layers on either side. ``{larger: name}``, under a filter, is 1 in the layers where that model's task vector in the filter's
    tensors, over its own mean of all layers, is the largest of the configuration's models, and 0 elsewhere.

    A StudyError: more layers are counted than there are.
    """
    sizes = cache(lambda where: {entry["model"]: _sizes(folders[entry["model"]], folders[config["base_model"]], where) for entry in config["models"]})

    def value(part: object, where: str = "") -> object:
        if isinstance(part, list):
            return [value(one, where) for one in part]
        if not isinstance(part, dict):
            return part
        if set(part) == {"bottom", "transition", "top", "inside"}:
            return _counted(**part, layers=Tensors(folders[config["base_model"]]).layers)
        if set(part) == {"larger"}:
            return (sizes(where)[part["larger"]] >= np.max(list(sizes(where).values()), axis=0)).astype(float).tolist()
        return {key: value(one, part.get("filter", where)) for key, one in part.items()}

    return {**config, "models": value(config["models"]), "parameters": value(config["parameters"])}


def _counted(bottom: float, transition: float, top: float, inside: float, layers: int) -> list[float]:
    bottom, transition, top = (round(count) for count in (bottom, transition, top))
    middle = layers - bottom - top - 2 * transition
    if middle < 0:
        raise StudyError(f"a merge by layer: bottom {bottom}, top {top} and twice the transition {transition} are more than the {layers} layers")
    return [0.0] * bottom + [inside / 2] * transition + [inside] * middle + [inside / 2] * transition + [0.0] * top


def _sizes(model: Path, base: Path, where: str) -> np.ndarray:
    """L2 norm of a task vector by layer, in the tensors whose name holds ``where``, over its mean; shape (layers,)."""
    ours, theirs = Tensors(model), Tensors(base)
    squares = np.zeros(theirs.layers)
    for name in theirs.shapes:
        if where in name and (found := LAYER.search(name)):
            squares[int(found[1])] += squared_distance(ours[name], theirs[name])
    return np.sqrt(squares) / max(np.sqrt(squares).mean(), 1e-30)
