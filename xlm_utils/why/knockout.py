"""Which layers carry it? Two live models exchange a part of their layers, and the margin of either tells what it was worth."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from torch import nn

from xlm_utils import models
from xlm_utils.benchmark import transfer
from xlm_utils.benchmark.benchmarks import language_model
from xlm_utils.merge.fitness import spare
from xlm_utils.models.weights import LAYER
from xlm_utils.study import Step, Study, StudyError, append_jsonl, digest, fingerprint, read_jsonl

MODULES = {"attention": r"\.\w*(attn|attention)\.", "MLPs": r"\.\w*(mlp|feed_forward)\."}  # part → of its parameters' names


def parts(names: list[str], block: int) -> dict[str, list[str]]:
    """What is exchanged → names of parameters: blocks of so many layers, all attention, all MLPs; a part without any is left out."""
    layer = {name: int(found[1]) for name in names if (found := LAYER.search(name))}
    found: dict[str, list[str]] = {}
    for name, number in sorted(layer.items(), key=lambda pair: pair[1]):
        first, last = number // block * block + 1, min(number // block * block + block, max(layer.values()) + 1)
        found.setdefault(f"layers {first}–{last}" if first < last else f"layer {first}", []).append(name)
    return found | {label: own for label, pattern in MODULES.items() if (own := [name for name in layer if re.search(pattern, name)])}


@contextmanager
def exchanged(one: nn.Module, other: nn.Module, names: list[str]) -> Iterator[None]:
    """Inside the context either model has the other's values of these parameters; nothing is copied."""
    pairs = [(one.get_parameter(name), other.get_parameter(name)) for name in names]

    def exchange() -> None:
        for ours, theirs in pairs:
            ours.data, theirs.data = theirs.data, ours.data

    exchange()
    try:
        yield
    finally:
        exchange()


def knock_out(study: Study) -> pd.DataFrame:
    """Margins of the general model and of the expert, asked in the target language, whole and with each part from the other: ``why/knockout.jsonl``.

    Returns model, part ("" where nothing is exchanged), term_id, margin, for ``why.apart`` terms that no table reports; empty, saying so, where too
    few definitions are left beside the study's own terms. A killed run goes on with the next part.
    """
    names, columns = [study.by_role(role) for role in ("general", "expert")], ["model", "part", "term_id", "margin"]
    try:
        table, asked = spare(study, study.why.apart)
    except StudyError as error:  # such a study has no terms to spare, and all other readings
        print(f"nothing is exchanged, as {error}")
        return pd.DataFrame(columns=columns)
    prompts = [study.prompt(study.target, term) for term in table["translation"]]
    texts = fingerprint([prompts, list(table["definition"]), asked, study.generation.model_dump()])
    weights = [digest(models.locate(study, name)) for name in names]
    with Step(study.folder / "why" / "knockout.jsonl", asked=texts, weights=weights, block=study.why.block) as step:
        if not step.done:
            lms, known = {name: language_model(study, name, {}) for name in names}, {row["part"] for row in read_jsonl(step.partial)}
            one, other = (lm.model for lm in lms.values())
            for part, own in {"": [], **parts([name for name, _ in one.named_parameters()], study.why.block)}.items():
                if part not in known:
                    with exchanged(one, other, own), torch.inference_mode():
                        rows = {name: transfer.score(lm, study, table, prompts, asked) for name, lm in lms.items()}
                    append_jsonl(step.partial, [{"part": part, **{name: {row["term_id"]: row["margin"] for row in rows[name]} for name in names}}])
            step.finish()
    rows = read_jsonl(step.path)
    return pd.DataFrame([(name, row["part"], *pair) for row in rows for name in names for pair in row[name].items()], columns=columns)
