"""The models that a merge is made of: where they are, whether they fit together, and what computes with them."""

import math
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path

from xlm_utils.models.configs import read_config
from xlm_utils.models.constituents import locate
from xlm_utils.models.weights import FLOATING, Tensors
from xlm_utils.study import Study, StudyError, pick_device

RECIPE = {"mergekit": metadata.version("mergekit"), "tensors": "all that the parents store"}  # of the key of whatever is merged
COPIES = 17  # float32 copies of one tensor that MergeKit holds at once on a GPU: TIES sorts it, in about eleven times its size


def parents(study: Study, config: dict) -> dict[str, Path]:
    """Folders of the models that a configuration names, and of the general model, which donates the tokenizer."""
    names = [study.by_role("general"), config["base_model"], *(entry["model"] for entry in config["models"])]
    return {name: locate(study, name) for name in dict.fromkeys(names)}


def math_device(folders: Mapping[str, Path]) -> tuple[str, str]:
    """Where to compute a merge, and the reason: a GPU that holds a model and MergeKit's copies of its largest tensor, or the CPU.

    It is asked of the GPU's whole memory, not of what is free, so that a search and the merge of what it found
    draw their random masks on the same device.
    """
    import torch

    device, reason = pick_device()
    if device == "cpu":
        return device, reason
    sizes = [math.prod(shape) for shape in Tensors(next(iter(folders.values()))).shapes.values()]
    needed, there = COPIES * 4 * max(sizes) + 2 * sum(sizes), torch.cuda.get_device_properties(0).total_memory
    if there < needed:
        return "cpu", f"merging on the GPU takes up to {needed / 2**30:.0f} GiB, and it has {there / 2**30:.0f}"
    return device, reason


def comparable(folders: Mapping[str, Path], merged: Collection[str]) -> None:
    """Stop before MergeKit starts if the parents don't fit: the same tensors of the same shapes, in floating point.

    Args:
        merged: the parents that must not be one and the same.

    Raises:
        StudyError: one sentence that names the first difference.
    """
    places: dict[Path, str] = {}
    for name, folder in folders.items():
        if name in merged and (other := places.setdefault(folder.resolve(), name)) != name:
            raise StudyError(f"{other} and {name} can't be merged: both are {folder}")
        read_config(folder / "config.json", name)
    tensors = [(name, Tensors(folder)) for name, folder in folders.items()]
    for name, theirs in tensors:
        if odd := next((tensor for tensor, dtype in theirs.dtypes.items() if dtype not in FLOATING), ""):
            raise StudyError(f"{name} can't be merged: its {odd} is {theirs.dtypes[odd]}, so quantised; take the model in 16 bits")
    for (first, parent), (name, theirs) in zip(tensors[:1] * len(tensors), tensors, strict=True):
        for tensor in sorted(parent.shapes.keys() | theirs.shapes.keys()):
            ours, other = (shapes.get(tensor, "none") for shapes in (parent.shapes, theirs.shapes))
            if ours != other:
                raise StudyError(f"{first} and {name} can't be merged: the shape of {tensor} is {ours} in one, {other} in the other")
