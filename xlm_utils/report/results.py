"""What a study's folder holds, as data frames, and the names that tables and figures print for it."""

import json
from functools import lru_cache
from pathlib import Path

import pandas as pd

from xlm_utils.ask.cards import load_card
from xlm_utils.generate import usable
from xlm_utils.judge.controls import AGAIN
from xlm_utils.stats import statistics
from xlm_utils.study import ROOT, Study, StudyError, relative
from xlm_utils.study.method_cards import read_card
from xlm_utils.study.names import parse
from xlm_utils.study.records import read_jsonl
from xlm_utils.translate.drawing import terms

PUBLISHED = ROOT / "data" / "published"
BENCHMARKS = {
    "pubmedqa": "PubMedQA", "jaqket_v2": "JAQKET v2", "jcommonsenseqa": "JComQA", "jsquad": "JSQuAD", "xwinograd_ja": "XWinograd",
    "xlsum_ja": "XL-Sum", "mcqa": "MCQA", "dc": "DC", "sts": "STS"}  # fmt: skip
REFERENCES = {"expert": "the expert’s definition", "clinician": "the clinicians’ definition"}
NOT_RUNS = ("controls", *AGAIN)  # files beside the scores that are about the judge, not about a model


def control_run(study: Study) -> str:
    """Name of the control run: the expert given terms in the target language."""
    return f"{study.by_role('expert')}.{study.target.code}"


def ancestor_run(study: Study) -> str:
    """Name of the other control run: the common ancestor given terms in the target language; "" in a study without one."""
    return next((f"{name}.{study.target.code}" for name, c in study.constituents.items() if c.role == "ancestor"), "")


def row_order(study: Study) -> list[str]:
    """Runs in the order of Table 1: baseline, its control, the ancestor, the general model, the merges."""
    expert, *others = study.models
    return [expert, control_run(study), *filter(None, [ancestor_run(study)]), *others]


def row_label(study: Study, run: str) -> str:
    """Name of a run as the tables print it."""
    controls = {control_run(study): "Expert", ancestor_run(study): "Ancestor"}
    return f"{controls[run]} with {study.target.name} terms" if run in controls else study.label(run)


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
    controls = {control_run(study): "the expert", ancestor_run(study): "the common ancestor"}
    return f"control: {controls[run]}, asked in {study.target.name}" if run in controls else ""


def published_key(study: Study, run: str) -> str | None:
    """Row of ``data/published/*.csv`` that a run repeats: its role, or its method with the published base."""
    if run in study.constituents:
        return study.constituents[run].role
    if run in (control_run(study), ancestor_run(study)):
        return None
    if (method := parse(run)).values:  # the paper prints no values, so no point of a grid repeats it
        return None
    choosable = read_card(method.card)["mergekit"]["base_model"] == "base"
    return method.card if not choosable or (method.base or study.base) == study.by_role("general") else None


def is_twin(study: Study, run: str) -> bool:
    """Whether a run is a method of the study with another mask seed that the study does not name: part of a spread, no row of a table."""
    return run not in study.methods and str(parse(run)._replace(seed="")) in study.methods


def load_scores(study: Study, twins: bool = False) -> pd.DataFrame:
    """All scores of a study, one row per judge, reference, run and term, with the columns of ``terms.csv``.

    ``score`` is NaN wherever ``status`` is not ``ok``; a term without a row gets status ``not judged``. ``unusable`` says why
    an output is no definition (``generate.usable``; "" where it is one, or not there to look at); ``counted`` is the score with those at 0
    where they were judged; ``written`` its language ("" where not known). With ``twins``, those of the further mask seeds (``dare_seeds``), too.

    A StudyError: there are no scores, or a file is not of this study's terms.
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
    whole = whole.assign(status=whole["status"].fillna("not judged")).merge(table[own], on="term_id")
    reasons = unusable(study, list(whole["run"].unique()))
    why = [reasons.get(key, "") for key in zip(whole["run"], whole["term_id"], strict=True)]
    written = {(row["run"], str(row["term_id"])): row["output_language"] for row in _outputs(study, list(whole["run"].unique()))}
    whole = whole.assign(unusable=why, written=[written.get(key, "") for key in zip(whole["run"], whole["term_id"], strict=True)])
    lost = (whole["unusable"] != "") & ~whole["status"].isin(["not judged", "not rated"])  # a sample's zeros are no others than its scores
    return whole.assign(counted=whole["score"].mask(lost, 0.0))


def unusable(study: Study, runs: list[str]) -> dict[tuple[str, str], str]:
    """(run, term_id) → why that output is no definition in the language that was asked for; only such output, of finished runs."""
    found = {(row["run"], str(row["term_id"])): usable(row, row["language"])[1] for row in _outputs(study, runs)}
    return {key: reason for key, reason in found.items() if reason}


def _outputs(study: Study, runs: list[str]) -> list[dict]:
    files = [study.folder / "definitions" / f"{run}.jsonl" for run in runs]
    return [row for file in files if file.exists() for row in _definitions(file, file.stat().st_mtime_ns) if "finish" in row]


@lru_cache(maxsize=128)
def _definitions(path: Path, changed: int) -> list[dict]:
    return read_jsonl(path)


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
        counted (the mean with output that is no definition at 0), counted_low, counted_high, mean_low, mean_high,
        in_target (share of the scored texts that are in the target language; NaN where that is not known), reason.
    """
    scores, rows = load_scores(study), []
    labels = {run: row_label(study, run) for run in scores["run"].unique()}
    for key, group in scores.groupby(["judge", "reference", "run", *by], sort=False):
        found = statistics.describe(group["score"], group["status"])
        interval = statistics.mean_interval(group["score"], study.seed)
        named = dict(zip(["judge", "reference", "run", *by], key, strict=True))
        counted = statistics.mean_interval(group["counted"], study.seed)
        written = group.loc[group["score"].notna(), "written"]
        found |= {"in_target": float((written == study.target.code).mean()) if written.all() else float("nan")}
        found |= {"counted": float(group["counted"].mean()), "counted_low": counted.low, "counted_high": counted.high}
        rows.append(named | {"model": labels[named["run"]]} | found | interval._asdict() | {"reason": found["reason"] or interval.reason})
    return pd.DataFrame(rows)


def load_benchmarks(study: Study) -> dict[str, dict[str, dict]]:
    """Benchmark columns of every model of the study: ``{model: {column: {value, low, high, n, chance, metric}}}``, empty where not run.

    A StudyError: no model has any.
    """
    files = {model: study.benchmarks_folder / f"{model}.json" for model in study.models}
    found = {model: json.loads(path.read_text(encoding="utf-8"))["columns"] if path.exists() else {} for model, path in files.items()}
    if not any(found.values()):
        raise StudyError(f"no benchmark results in {relative(study.folder / 'benchmarks')}; run 06_benchmark.ipynb with {study.options()}")
    return found
