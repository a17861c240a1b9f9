"""Does a model tie a definition to its term? A measure that needs no judge.

For a term and its clinicians' definition d: log p(d | the term's prompt) minus the mean log p of the same d behind the prompts of
other terms of its group (in the HPO, its organ system), per token. Style, language and length of d cancel; mean log p alone would
rank by who writes the language of the definitions.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xlm_utils import models
from xlm_utils.benchmark.benchmarks import language_model
from xlm_utils.study import Step, Study, StudyError, digest, fingerprint, read_jsonl, write_text

CONTROLS = {"unrelated": "behind other terms’ prompts: chance", "echo": "behind prompts that hold the definition: 1"}  # of the expert; what is due


def draw(table: pd.DataFrame, groups: Mapping[str, str], rivals: int, terms: int, seed: int) -> list[tuple[int, list[int]]]:
    """Terms that are asked about, and the rivals of each: positions of rows with a definition, rivals of other concepts.

    ``table``: terms with the columns concept, definition; ``groups``: concept → group; rivals are of the own group where it has so many, else of all;
    ``terms``: how many, drawn with the seed, 0: all. A StudyError: fewer concepts with a definition than ``rivals`` + 1.
    """
    generator, defined = np.random.default_rng(seed), np.flatnonzero(table["definition"] != "")
    concepts = table["concept"].to_numpy()
    group = np.array([groups.get(concept, "") for concept in concepts])
    if len(set(concepts[defined])) <= rivals:
        raise StudyError(f"transfer needs definitions of more than {rivals} concepts, and the study has them of {len(set(concepts[defined]))}")
    found = []
    for row in np.sort(generator.permutation(defined)[: terms or None]):
        once = {concepts[number]: number for number in generator.permutation(defined)}  # a concept one of its terms
        others = np.array([number for concept, number in once.items() if concept != concepts[row]])
        found.append((int(row), others[np.argsort(group[others] != group[row], kind="stable")][:rivals].tolist()))
    return found


def ask_transfer(study: Study, table: pd.DataFrame, run: Any, groups: Mapping[str, str], loaded: dict, control: str = "") -> Path | None:
    """``transfer/<run>.jsonl``: a row a term with margin (nats a token), correct (the own prompt is the likeliest), logp (nats a token), tokens.

    ``table``: the study's terms; ``run``: one of ``generate.runs``; ``loaded``: a dict that carries the model from run to run; ``control``: one of
    ``CONTROLS``, asked in the place of the run itself: ``transfer/<run>.<control>.jsonl``. With too few definitions nothing is asked, as a line says.
    """
    try:
        asked = draw(table, groups, study.transfer.rivals, study.transfer.terms, study.seed)
    except StudyError as error:  # such a terminology stops the margin, not the benchmarks
        print(f"{run.name}: not asked, as {error}")
        return None
    name, prompts = f"{run.name}.{control}" if control else run.name, [study.prompt(run.language, term) for term in table[run.column]]
    if control == "unrelated":  # all of them by half a table, so that own and rivals are alike
        prompts = [*prompts[len(prompts) // 2 :], *prompts[: len(prompts) // 2]]
    if control == "echo":
        prompts = [f"{definition}\n{prompt}" for definition, prompt in zip(table["definition"], prompts, strict=True)]
    how = study.generation.model_dump(include={"dtype", "quantization", "chat_template"})
    texts = fingerprint([[prompts[row], table["definition"].iloc[row], [prompts[other] for other in others]] for row, others in asked])
    with Step(study.folder / "transfer" / f"{name}.jsonl", asked=texts, weights=digest(models.locate(study, run.model)), **how) as step:
        if step.done:
            print(f"transfer of {name}: done before, kept")
            return step.path
        rows = score(language_model(study, run.model, {}, loaded), study, table, prompts, asked)
        write_text(step.partial, "".join(json.dumps({"run": name, **row}, ensure_ascii=False) + "\n" for row in rows))
        step.finish()
    return step.path


def score(lm: object, study: Study, table: pd.DataFrame, prompts: list[str], asked: list[tuple[int, list[int]]]) -> list[dict]:
    """Rows as ``ask_transfer`` writes them, for prompts of all terms and what is asked about (``draw``); every prompt is read once."""
    if study.generation.chat_template:
        prompts = [models.chat(lm.tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
    pairs = [(prompts[number], f" {table['definition'].iloc[row]}") for row, others in asked for number in (row, *others)]
    answers, rows = iter(lm.likelihoods(pairs)), []
    for row, others in asked:
        (total, tokens), *rest = [next(answers) for _ in range(1 + len(others))]
        behind = [other / tokens for other, _ in rest]
        found = {"margin": round(total / tokens - float(np.mean(behind)), 6), "correct": total / tokens > max(behind)}
        rows.append({"term_id": str(table["term_id"].iloc[row]), **found, "logp": round(total / tokens, 6), "tokens": tokens})
    return rows


def transfer_rows(study: Study, runs: list[str]) -> pd.DataFrame:
    """The rows of those runs that are there: run, term_id, margin, correct, logp, tokens."""
    columns = ["run", "term_id", "margin", "correct", "logp", "tokens"]
    return pd.DataFrame([row for run in runs for row in read_jsonl(study.folder / "transfer" / f"{run}.jsonl")], columns=columns)
