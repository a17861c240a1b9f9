"""Do the parents fit together, and where did a merge land between them?"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from xlm_utils.merge.methods import resolve
from xlm_utils.models.configs import meaning, read_config, read_tokenizer
from xlm_utils.models.constituents import locate
from xlm_utils.models.weights import CHUNK, EMBEDDINGS, LAYER, Tensors, eos_ids, squared_distance
from xlm_utils.study import Study
from xlm_utils.study.records import Step, digest, fingerprint

if TYPE_CHECKING:
    import torch

ROWS = 64  # of each matrix, to estimate a distance without reading a model whole
SIBLINGS = 0.5  # further from its ancestor than this (relative L2), a model is not its fine-tune


def check_parents(study: Study) -> pd.DataFrame:
    """Compare the constituents before a merge, without reading their weights whole.

    Returns:
        a row per property: a column per constituent, ``same``, and ``what is done`` about a difference.
        Long things (tokenizer, chat template) are shown as the first digits of their hash.
    """
    facts, tensors = {}, {}
    for name in study.constituents:
        folder = locate(study, name)
        tensors[name] = Tensors(folder)
        facts[name] = _facts(folder, tensors[name].shapes)
    table = pd.DataFrame(facts)
    table["same"] = [len(set(row)) == 1 for row in table.itertuples(index=False)]
    general = study.by_role("general")
    blocking = ("architecture", "parameters", "shapes", "tied embeddings", "head size")
    table["what is done"] = [
        "" if same else "no merge is possible" if fact in blocking else f"the merge takes {general}'s"
        for fact, same in table["same"].items()]  # fmt: skip
    root = next((name for name, c in study.constituents.items() if c.role == "ancestor"), general)
    distances = {name: _distance(tensors[name], tensors[root]) for name in facts}
    strangers = [name for name, distance in distances.items() if not distance < SIBLINGS]
    warning = f"warning: {', '.join(strangers)} is no fine-tune of {root}; a merge will hardly work" if strangers else ""
    row = {name: f"{distance:.3f}" for name, distance in distances.items()}
    table.loc[f"distance to {root}"] = {**row, "same": not strangers, "what is done": warning}
    return table


def _facts(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, object]:
    config, tokenizer = meaning(read_config(folder / "config.json", folder.name)), read_tokenizer(folder, folder.name)
    return {
        "architecture": config["architectures"],
        "parameters": sum(map(math.prod, shapes.values())),
        "shapes": fingerprint(shapes)[:8],
        "tied embeddings": config["tie_word_embeddings"],
        "head size": config["head_dim"],
        **{fact: config[fact] for fact in ("RoPE", "sliding window", "norm epsilon")},
        "vocabulary": len(tokenizer),
        "tokenizer": fingerprint(tokenizer.get_vocab())[:8],
        "special tokens": " ".join(sorted(map(str, tokenizer.all_special_tokens))),
        "chat template": fingerprint(tokenizer.chat_template)[:8] if tokenizer.chat_template else "none",
        "stops at tokens": " ".join(map(str, eos_ids(folder))),
    }


def _distance(tensors: Tensors, root: Tensors) -> float:
    """L2 distance over L2 norm, on the first rows of every matrix of the layers; NaN without a common one."""
    distance = norm = 0.0
    for name, shape in root.shapes.items():
        if len(shape) == 2 and LAYER.search(name) and tensors.shapes.get(name) == shape:
            ours, theirs = (of[name][:ROWS].double() for of in (tensors, root))  # the others are not read
            distance += float((ours - theirs).square().sum())
            norm += float(theirs.square().sum())
    return math.sqrt(distance / norm) if norm else math.nan


def task_vectors(study: Study) -> pd.DataFrame:
    """L2 norm of each fine-tune's task vector (model − base) over all weights: a row per model, a column per possible base."""
    folders = {name: locate(study, name) for name in study.constituents}
    tuned = [name for name, constituent in study.constituents.items() if constituent.role != "ancestor"]
    bases = [name for name, constituent in study.constituents.items() if constituent.role != "expert"]

    def norms() -> pd.DataFrame:
        models = {name: Tensors(folder) for name, folder in folders.items()}
        return pd.DataFrame({f"base {base}": {name: _length(models[name], models[base]) for name in tuned} for base in bases})

    return _kept(study.models_folder / "task_vectors.csv", norms, bases=bases, models={name: digest(folder) for name, folder in folders.items()})


def _kept(file: Path, make: Callable[[], pd.DataFrame], **made_from: object) -> pd.DataFrame:
    """A table that reads gigabytes of weights: made once, and from its file afterwards."""
    with Step(file, **made_from) as step:
        if not step.done:
            make().to_csv(step.partial)
            step.finish()
        return pd.read_csv(step.path, index_col=0).rename(index=str)


def _length(model: Tensors, base: Tensors) -> float:
    return math.sqrt(sum(squared_distance(model[name], base[name]) for name in base.shapes))


def geometry(study: Study, name: str) -> pd.DataFrame:
    """Where a merge landed, from the stored weights: whole, and by layer.

    Returns:
        rows ``whole``, ``embeddings``, ``0``, ``1`` …, ``head``; columns
        ``to_general``, ``to_expert``, ``to_ancestor``: L2 distance, in units of the distance between the two parents;
        ``general_size``, ``expert_size``: length of a parent's task vector (parent − ancestor), same unit;
        ``cosine_general``, ``cosine_expert``: of the merge's task vector with a parent's; ``cosine_parents``: of theirs;
        ``sign_conflicts``: share of the weights that the parents changed in opposite directions;
        ``equals_general``, ``equals_expert``: share of the weights that are exactly that parent's;
        ``kept``: of the weights that a parent changed from the method's base, the share that the merge changed, too
        (TIES and DARE: about their density; less where a change is lost in bfloat16's rounding).
        Without an ancestor in the study, the columns that need one are left out. The table is kept beside the merge.
    """
    roles = {constituent.role: key for key, constituent in study.constituents.items()}
    folders = [locate(study, key) for key in (name, *(roles[role] for role in ("general", "expert", "ancestor") if role in roles))]
    on_general = resolve(study, name).template["base_model"] == roles["general"]
    made_from = {"weights": [digest(folder) for folder in folders], "on_general": on_general}
    return _kept(study.models_folder / f"{name}.geometry.csv", lambda: _geometry(on_general, *map(Tensors, folders)), **made_from)


def _geometry(on_general: bool, merged: Tensors, *parents: Tensors) -> pd.DataFrame:
    sums: dict[str, torch.Tensor] = {}
    for tensor in merged.shapes:
        counted = _count(on_general, *(model[tensor] for model in (merged, *parents)))
        for key in ("whole", _part(tensor)):
            sums[key] = sums[key] + counted if key in sums else counted
    places = {"whole": -2, "embeddings": -1, "head": math.inf}
    order = sorted(sums, key=lambda key: places[key] if key in places else int(key))
    return pd.DataFrame({key: _landing(sums[key], len(parents) > 2) for key in order}).T


def _part(tensor: str) -> str:
    layer = LAYER.search(tensor)
    return layer[1] if layer else "embeddings" if EMBEDDINGS.search(tensor) else "head"


def _count(on_general: bool, *tensors: "torch.Tensor") -> "torch.Tensor":  # of the merge, the general model, the expert and, if any, the ancestor
    """Sums over a tensor, which add up over tensors: the products of six differences (6 × 6), then six counts, in float64."""
    import torch

    flat = [tensor.reshape(-1) for tensor in (*tensors, tensors[1])[:4]]  # without an ancestor, the general model is the root
    sums = torch.zeros(42, dtype=torch.float64)
    if all(torch.equal(flat[0], other) for other in flat[1:]):  # an adapter leaves most of a small model as it was
        sums[37:40] = len(flat[0])
        return sums
    for start in range(0, len(flat[0]), CHUNK):
        merged, general, expert, root = (tensor[start : start + CHUNK].float() for tensor in flat)
        between = torch.stack([merged - general, merged - expert, general - expert, merged - root, general - root, expert - root])
        moved = (between[2:3] if on_general else between[4:]).any(dim=0)  # by a parent, from the base
        kept = moved & (between[0 if on_general else 3] != 0)
        counts = [(between[4] * between[5] < 0).sum(), (between[0] == 0).sum(), (between[1] == 0).sum(), len(merged), moved.sum(), kept.sum()]
        sums += torch.cat([(between @ between.T).double().reshape(-1), torch.tensor([float(count) for count in counts]).double()])
    return sums


def _landing(sums: "torch.Tensor", has_ancestor: bool) -> dict[str, float]:
    products, (conflicts, equals_general, equals_expert, n, moved, kept) = sums[:36].reshape(6, 6).numpy(), sums[36:].tolist()
    length = [math.sqrt(products[i, i]) for i in range(6)]

    def over(value: float, unit: float) -> float:
        return value / unit if unit else math.nan

    landing = {
        "to_general": over(length[0], length[2]), "to_expert": over(length[1], length[2]),
        "equals_general": equals_general / n, "equals_expert": equals_expert / n, "kept": over(kept, moved)}  # fmt: skip
    if not has_ancestor:
        return landing
    cosine = {f"{i}{j}": over(products[i, j], length[i] * length[j]) for i in (3, 4) for j in (4, 5)}
    return {
        **dict(list(landing.items())[:2]), "to_ancestor": over(length[3], length[2]),
        "general_size": over(length[4], length[2]), "expert_size": over(length[5], length[2]),
        "cosine_general": cosine["34"], "cosine_expert": cosine["35"], "cosine_parents": cosine["45"],
        "sign_conflicts": conflicts / n, **dict(list(landing.items())[2:])}  # fmt: skip
