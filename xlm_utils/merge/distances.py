"""Do the parents fit together, and how far from each of them is a merge?"""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xlm_utils.models.constituents import as_parent, locate
from xlm_utils.models.vocabularies import own_rows
from xlm_utils.models.weights import LAYER, Tensors, eos_ids, meaning, read_config, read_tokenizer, squared_distance
from xlm_utils.study import Step, Study, digest, fingerprint

ROWS = 64  # of each matrix, to estimate a distance without reading a model whole
SIBLINGS = 0.5  # further from its ancestor than this (relative L2), a model is not its fine-tune


def check_parents(study: Study) -> pd.DataFrame:
    """Compare the constituents before a merge, without reading their weights whole.

    A row per property: a column per constituent, ``same``, and ``what is done`` about a difference. Of long things it is their hash's first digits.
    """
    facts, tensors = {}, {}
    for name in study.parents:
        folder, tensors[name] = locate(study, name), Tensors(as_parent(study, name))
        facts[name] = facts_of(folder, Tensors(folder).shapes) | {"shapes": fingerprint(tensors[name].shapes)[:8]}
    table = pd.DataFrame(facts)
    table["same"] = [len(set(row)) == 1 for row in table.itertuples(index=False)]
    general = study.by_role("general")
    blocking = ("architecture", "shapes", "tied embeddings", "head size")
    done = {fact: "no merge is possible" if fact in blocking else f"the merge takes {general}'s" for fact in table.index[~table["same"]]}
    if own_rows([as_parent(study, name) for name in facts]):
        done["tokenizer"] = f"merged by token; what {general} alone has stays as it is"
    table["what is done"] = [done.get(fact, "") for fact in table.index]
    root = next((name for name, c in study.constituents.items() if c.role == "ancestor"), general)
    distances = {name: _distance(tensors[name], tensors[root]) for name in facts}
    strangers = [name for name, distance in distances.items() if not distance < SIBLINGS]
    warning = f"warning: {', '.join(strangers)} is no fine-tune of {root}; a merge will hardly work" if strangers else ""
    row = {name: f"{distance:.3f}" for name, distance in distances.items()}
    table.loc[f"distance to {root}"] = {**row, "same": not strangers, "what is done": warning}
    return table


def facts_of(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, object]:
    """What a model folder's config, tokenizer and generation config say, long things as the first digits of their hash; raises as their readers."""
    config, tokenizer = meaning(read_config(folder / "config.json", folder.name)), read_tokenizer(folder, folder.name)
    said = {"architecture": config["architectures"], "parameters": sum(map(math.prod, shapes.values())), "shapes": fingerprint(shapes)[:8]}
    said |= {"tied embeddings": config["tie_word_embeddings"], "head size": config["head_dim"]}
    said |= {fact: config[fact] for fact in ("RoPE", "sliding window", "norm epsilon")}
    said |= {"vocabulary": len(tokenizer), "tokenizer": fingerprint(tokenizer.get_vocab())[:8]}
    said |= {"special tokens": " ".join(sorted(map(str, tokenizer.all_special_tokens)))}
    said |= {"chat template": fingerprint(tokenizer.chat_template)[:8] if tokenizer.chat_template else "none"}
    return said | {"stops at tokens": " ".join(map(str, eos_ids(folder)))}


def _distance(tensors: Tensors, root: Tensors) -> float:
    """L2 distance over L2 norm, on the first rows of every matrix of the layers; NaN without a common one."""
    distance = norm = 0.0
    for name, shape in root.shapes.items():
        if len(shape) == 2 and LAYER.search(name) and tensors.shapes.get(name) == shape:
            ours, theirs = (of[name][:ROWS].double() for of in (tensors, root))  # the others are not read
            distance += float((ours - theirs).square().sum())
            norm += float(theirs.square().sum())
    return math.sqrt(distance / norm) if norm else math.nan


def l2_distances(study: Study, names: Sequence[str]) -> pd.DataFrame:
    """L2 distance of models from every parent and the ancestor, over all weights: a row per model, a column per parent; 0 is that parent.

    A fine-tune's distance from a base is the length of its task vector. Each row reads gigabytes, so it is kept beside the merges.
    """
    folders = {name: as_parent(study, name) for name in study.parents} | {name: locate(study, name) for name in names if name not in study.parents}
    rows = {}
    for name in names:
        models = {other: digest(folders[other]) for other in (name, *study.parents)}
        with Step(study.models_folder / f"{name}.distances.csv", models=models) as step:
            if not step.done:
                own, bases = Tensors(folders[name]), {other: Tensors(folders[other]) for other in study.parents}
                squares = {other: sum(squared_distance(own[tensor], base[tensor]) for tensor in base.shapes) for other, base in bases.items()}
                (pd.Series(squares) ** 0.5).to_csv(step.partial)
                step.finish()
            rows[name] = pd.read_csv(step.path, index_col=0).iloc[:, 0]
    return pd.DataFrame(rows).T
