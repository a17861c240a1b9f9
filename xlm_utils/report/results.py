"""What a study's folder holds, as data frames, and the names that tables and figures print for it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pandas as pd

from xlm_utils.ask.cards import load_card
from xlm_utils.merge.methods import read_card
from xlm_utils.stats import statistics
from xlm_utils.study import ROOT, Study, StudyError, relative
from xlm_utils.study.names import parse
from xlm_utils.study.records import read_jsonl
from xlm_utils.translate.drawing import terms

PUBLISHED = ROOT / "data" / "published"
BENCHMARKS = {
    "pubmedqa": "PubMedQA", "jaqket_v2": "JAQKET v2", "jcommonsenseqa": "JComQA", "jsquad": "JSQuAD", "xwinograd_ja": "XWinograd",
    "xlsum_ja": "XL-Sum", "mcqa": "MCQA", "dc": "DC", "sts": "STS",
}  # fmt: skip
REFERENCES = {"expert": "the expert’s definition", "clinician": "the clinicians’ definition"}
NOT_RUNS = ("controls", "retest")  # files beside the scores that are about the judge, not about a model


def control_run(study: Study) -> str:
    """Name of the control run: the expert given terms in the target language."""
    return f"{study.by_role('expert')}.{study.target.code}"


def row_order(study: Study) -> list[str]:
    """Runs in the order of Table 1: baseline, its control, the general model, the merges."""
    expert, *others = study.models
    return [expert, control_run(study), *others]


def row_label(study: Study, run: str) -> str:
    """Name of a run as the tables print it."""
    return f"Expert with {study.target.name} terms" if run == control_run(study) else study.label(run)


def judge_label(judge: str) -> str:
    """Name of a judge as the tables print it; a proxy never goes without that word."""
    card = load_card(judge)
    return f"Proxy: {card.label}" if card.proxy and not card.label.lower().startswith("proxy") else card.label


def group_label(judge: str, reference: str) -> str:
    """Header over one judge's numbers against one reference."""
    return f"{judge_label(judge)}, against {REFERENCES[reference]}"


def note(study: Study, run: str) -> str:
    """What a row is a control for; empty for a model whose scores are a result."""
    if run == study.by_role("expert") and "expert" in study.judging.references:
        others = len(study.judging.references) > 1
        return "control: judged against itself" + (f" under {REFERENCES['expert']}" if others else "")
    return f"control: the expert, asked in {study.target.name}" if run == control_run(study) else ""


def published_key(study: Study, run: str) -> str | None:
    """Row of ``data/published/*.csv`` that a run repeats: its role, or its method with the published base."""
    if run in study.constituents:
        return study.constituents[run].role
    if run == control_run(study) or (method := parse(run)).values:  # the paper prints no values, so no point of a grid repeats it
        return None
    choosable = read_card(method.card)["mergekit"]["base_model"] == "base"
    return method.card if not choosable or (method.base or study.base) == study.by_role("general") else None


def is_twin(study: Study, run: str) -> bool:
    """Whether a run is a method of the study with another mask seed that the study does not name: part of a spread, no row of a table."""
    return run not in study.methods and str(parse(run)._replace(seed="")) in study.methods


def load_scores(study: Study, twins: bool = False) -> pd.DataFrame:
    """All scores of a study, one row per judge, reference, run and term, with the columns of ``terms.csv``.

    ``score`` is NaN wherever ``status`` is not ``ok``; a term without a row gets status ``not judged``.
    With ``twins``, those of the further mask seeds (``dare_seeds``), too.

    Raises:
        StudyError: there are no scores, or a file is not of this study's terms.
    """
    folder = study.folder / "scores"
    there = [p for p in sorted(folder.glob("*/*.jsonl")) if p.stem not in NOT_RUNS]
    of_the_study = set(row_order(study))
    known = {p.stem for p in there if p.stem in of_the_study or is_twin(study, p.stem)}
    if strangers := sorted({p.stem for p in there} - known):
        print(f"{relative(folder)}: scores of {', '.join(strangers)} are left out: the study has no such model (any more)")
    files = [p for p in there if p.stem in known and (twins or not is_twin(study, p.stem))]
    rows = [row for path in files for row in _checked(path, path.stat().st_mtime_ns)]
    if not rows:
        raise StudyError(f"no scores in {relative(folder)}; run 05_judge.ipynb with {study.options()}")
    table = terms(study).astype({"term_id": str})
    scores = pd.DataFrame(rows)
    scores["score"] = scores["score"].astype(float).where(scores["status"] == "ok")
    if unknown := set(scores["term_id"]) - set(table["term_id"]):
        raise StudyError(f"{relative(folder)}: {len(unknown)} scored terms, such as {min(unknown)}, are not in terms.csv; run 05_judge.ipynb again")
    key = ["judge", "reference", "run", "term_id"]
    if scores.duplicated(key).any():
        raise StudyError(f"{relative(folder)}: {dict(scores.loc[scores.duplicated(key), key].iloc[0])} is scored twice; delete one of the rows")
    order = {
        "judge": [*study.judging.judges, *sorted(set(scores["judge"]) - set(study.judging.judges))],
        "reference": [*study.judging.references, *sorted(set(scores["reference"]) - set(study.judging.references))],
        "run": [*row_order(study), *sorted(set(scores["run"]) - set(row_order(study)))],
    }
    found = scores[key[:3]].drop_duplicates().sort_values(key[:3], key=lambda column: column.map(order[str(column.name)].index))
    whole = found.merge(table[["term_id"]], how="cross").merge(scores, on=key, how="left")
    own = [column for column in table if column == "term_id" or column not in whole]  # a translation by an LLM has a status of its own
    return whole.assign(status=whole["status"].fillna("not judged")).merge(table[own], on="term_id")


@lru_cache(maxsize=512)  # every table and figure asks for the same files
def _checked(path: Path, changed: int) -> list[dict]:
    rows = read_jsonl(path)
    if wrong := [row for row in rows if (row["judge"], row["run"]) != (path.parent.name, path.stem)]:
        raise StudyError(f"{relative(path)}: holds a row of judge {wrong[0]['judge']!r} and run {wrong[0]['run']!r}")
    return rows


def summary(study: Study, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """One row per judge, reference, run (and value of the ``by`` columns of the terms) with all of ``statistics.describe``.

    Returns:
        judge, reference, run, model (label), *by, n, missing, statuses, median, mean, std (ddof 1), low, high,
        mean_low, mean_high, reason.
    """
    scores, rows = load_scores(study), []
    labels = {run: row_label(study, run) for run in scores["run"].unique()}
    for key, group in scores.groupby(["judge", "reference", "run", *by], sort=False):
        found = statistics.describe(group["score"], group["status"])
        interval = statistics.mean_interval(group["score"], study.seed)
        named = dict(zip(["judge", "reference", "run", *by], key, strict=True))
        rows.append(named | {"model": labels[named["run"]]} | found | interval._asdict() | {"reason": found["reason"] or interval.reason})
    return pd.DataFrame(rows)


def load_benchmarks(study: Study) -> dict[str, dict[str, dict]]:
    """Benchmark columns of every model of the study: ``{model: {column: {value, stderr, n, metric}}}``, empty where not run.

    Raises:
        StudyError: no model has any.
    """
    files = {model: study.benchmarks_folder / f"{model}.json" for model in study.models}
    found = {model: json.loads(path.read_text(encoding="utf-8"))["columns"] if path.exists() else {} for model, path in files.items()}
    if not any(found.values()):
        raise StudyError(f"no benchmark results in {relative(study.folder / 'benchmarks')}; run 06_benchmark.ipynb with {study.options()}")
    return found
