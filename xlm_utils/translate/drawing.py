"""The terms that a study runs, drawn from the translated ones."""

from pathlib import Path

import pandas as pd

from xlm_utils.curate.vocabulary import curate, read_terms
from xlm_utils.study import Study, StudyError
from xlm_utils.study.records import Step, digest
from xlm_utils.translate.translation import translate


def draw_terms(study: Study) -> Path:
    """``translated.csv`` → ``terms.csv``: the terms this study runs.

    All translated terms, or ``vocabulary.sample`` of them drawn with the study's seed, half seen by
    the expert in training and half unseen where the vocabulary knows that; one term a concept. A sweep
    runs ``sweep.terms`` others, drawn alike from the study's translated terms: no concept and no
    translation is in both. A study that runs all terms leaves the sweep's out.
    """
    source = (study.sweep_of or study).folder / "translated.csv"
    size, swept = study.vocabulary.sample, study.sweep.terms if study.sweep else 0
    apart = {"sweep": swept} if study.sweep_of or (swept and not size) else {}
    step = Step(study.folder / "terms.csv", translated=digest(source), sample=size, seed=study.seed, **apart)
    with step:
        if step.done:
            return step.path
        table = read_terms(source)
        table = table[table["translation"] != ""]
        single = table.sample(frac=1, random_state=study.seed).drop_duplicates("concept").drop_duplicates("translation")
        own = _halves(single, size, "vocabulary.sample") if size else table.head(0)
        drawn = study.sweep_of or study.sweeps or not size  # where the sweep is still to come, so that too few are told before anything is merged
        validation = _halves(without(single, own), swept, "sweep.terms") if drawn else table.head(0)
        rest = without(table, validation)
        if not study.sweep_of and not size and len(rest) < len(table):
            print(f"terms.csv: {len(table) - len(rest)} of {len(table)} terms are set aside for the sweep and not run by the study itself")
        table = validation if study.sweep_of else own if size else rest
        table.to_csv(step.partial, index=False)
        step.finish(rows=len(table))
    return step.path


def _halves(single: pd.DataFrame, size: int, key: str) -> pd.DataFrame:
    """The first ``size`` rows in their shuffled order, half of them seen and half unseen, back in the vocabulary's order."""
    seen = single[single["seen"]].head((size + 1) // 2)
    found = pd.concat([seen, single[~single["seen"]].head(size - len(seen))]).sort_index()
    if len(found) < size:
        raise StudyError(f"{key} = {size}: only {len(found)} translated terms can be drawn")
    return found


def without(table: pd.DataFrame, taken: pd.DataFrame) -> pd.DataFrame:
    """The terms that share neither concept nor translation with those taken."""
    return table[~table["concept"].isin(taken["concept"]) & ~table["translation"].isin(taken["translation"])]


def terms(study: Study) -> pd.DataFrame:
    """The terms this study runs; makes vocabulary, translation and sample first where they are missing and cheap."""
    file = study.folder / "terms.csv"
    if study.sweep_of:
        terms(study.sweep_of)  # translates the vocabulary, if need be
    elif not (study.folder / "translated.csv").exists():
        if file.exists():
            return read_terms(file)
        if study.translation.translator != "jmdict":
            raise StudyError(f"no terms yet; run 01_curate.ipynb and 02_translate.ipynb with {study.options()}")
        print("no terms.csv yet: curating and translating the vocabulary first (seconds)")
        curate(study)
        translate(study)
    return read_terms(draw_terms(study))  # drawn anew if the seed or the sample has changed
