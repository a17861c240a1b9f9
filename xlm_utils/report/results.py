"""What a study's folder holds, as data frames, and the names that tables and figures print for it."""

import json
from functools import lru_cache
from pathlib import Path

import pandas as pd
import yaml

from xlm_utils.ask.cards import load_card
from xlm_utils.benchmark.prepared import columns
from xlm_utils.generate import usable
from xlm_utils.judge.controls import AGAIN
from xlm_utils.stats import statistics
from xlm_utils.study import ROOT, Study, StudyError, parse, read_card, read_jsonl, relative
from xlm_utils.translate.translation import terms

PUBLISHED = ROOT / "data" / "results" / "published"
BENCHMARKS = {
    "pubmedqa": "PubMedQA", "jaqket_v2": "JAQKET v2", "jcommonsenseqa": "JComQA", "jsquad": "JSQuAD", "xwinograd_ja": "XWinograd",
    "xlsum_ja": "XL-Sum", "mcqa": "MCQA", "dc": "DC", "sts": "STS"}  # fmt: skip
TEXTS = yaml.safe_load(Path(__file__).with_name("captions.yaml").read_text(encoding="utf-8"))  # titles and captions of tables


def text(name: str, part: str = "caption", **blanks: object) -> str:
    """One of a table's texts."""
    return TEXTS[name][part].format(**blanks)


def captioned(frame: pd.DataFrame, name: str, **blanks: object) -> pd.DataFrame:
    """The table with its title and caption."""
    frame.attrs |= {part: text(name, part, **blanks) for part in ("title", "caption")}
    return frame


def control_run(study: Study) -> str:
    """Name of the control run: the expert given terms in the target language."""
    return f"{study.by_role('expert')}.{study.target.code}"


def controls(study: Study) -> dict[str, str]:
    """Control runs: the expert given terms in the target language, and the ancestor where a study has one; run → whom it asks."""
    ancestors = {f"{name}.{study.target.code}": "the common ancestor" for name, c in study.constituents.items() if c.role == "ancestor"}
    return {control_run(study): "the expert"} | ancestors


def row_order(study: Study) -> list[str]:
    """Runs in the order of Table 1: baseline, its control, the ancestor, the general model, the merges."""
    expert, *others = study.models
    return [expert, *controls(study), *others]


def row_label(study: Study, run: str) -> str:
    """Name of a run as the tables print it."""
    whom = controls(study).get(run, "").split()
    return f"{whom[-1].capitalize()} with {study.target.name} terms" if whom else study.label(run)


def judge_label(judge: str) -> str:
    """Name of a judge as the tables print it; a proxy never goes without that word."""
    card = load_card(judge)
    return f"Proxy: {card.label}" if card.proxy and not card.label.lower().startswith("proxy") else card.label


def reference_label(study: Study, reference: str = "") -> str:
    """Name of a reference as the tables print it; of the vocabulary's definition, if none is named."""
    by = {"expert": "expert", "translated": "translators"}.get(reference, study.definitions_by)
    return f"the {by}’{'s' * (not by.endswith('s'))} definition"


def group_label(study: Study, judge: str, reference: str) -> str:
    """Header over one judge's numbers against one reference."""
    return f"{judge_label(judge)}, against {reference_label(study, reference)}"


def note(study: Study, run: str) -> str:
    """What a row is a control for; empty for a model whose scores are a result."""
    if run == study.by_role("expert") and "expert" in study.judging.references:
        return "control: judged against itself" + (f" under {reference_label(study, 'expert')}" if len(study.judging.references) > 1 else "")
    if run in study.scored and study.constituents[run].role == "upper":
        return "answer key, no merge"
    whom = controls(study).get(run)
    return f"control: {whom}, asked in {study.target.name}" if whom else ""


def kept_key(study: Study, run: str) -> str:
    """Row of a table of ``data/results`` that a run repeats: its role, or its method, behind which the role of a base stands that is not general."""
    if run in (known := study.constituents) or run in controls(study):
        return known[run].role if run in study.parents else run
    name = parse(run)
    base = known[name.base or study.base].role if read_card(name.card)["mergekit"]["base_model"] == "base" else "general"
    return str(name._replace(base="" if base == "general" else base, seed=""))


def published_scores() -> pd.DataFrame:
    """Published Table 1's means: a row per model (its role or method), a column per judge."""
    return pd.read_csv(PUBLISHED / "table1.csv").pivot(index="model", columns="judge", values="mean")[["GPT-4o", "Gemini 1.5 Pro"]]


def published_benchmarks() -> pd.DataFrame:
    """Published Table 2: a row per model (its role or method), a column per benchmark, named as in ``BENCHMARKS``."""
    return pd.read_csv(PUBLISHED / "table2.csv", index_col="model")


def published_differences(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Each model of the study that has a published counterpart, minus the published general model; of one of the published tables.

    Levels of scores differ between judges, vocabularies and item sets; differences can be compared.
    """
    keys = {model: kept_key(study, model) for model in study.models if model != study.by_role("general")}
    return pd.DataFrame({model: table.loc[key] - table.loc["general"] for model, key in keys.items() if key in table.index}, index=table.columns).T


def load_scores(study: Study) -> pd.DataFrame:
    """All scores of a study, one row per judge, reference, run and term, with the columns of ``terms.csv``.

    ``score`` is NaN wherever ``status`` is not ``ok``; a term without a row gets status ``not judged``. ``unusable`` says why an output is no
    definition (``generate.usable``; "" where it is one, or not there to look at); ``counted`` is the score with those at 0 where they were judged;
    ``written`` its language ("" where not known). A StudyError: there are no scores, or a file is not of this study's terms.
    """
    folder = study.folder / "scores"
    there, known = sorted(folder.glob("*/*.jsonl")), row_order(study)
    if strangers := sorted({p.stem for p in there} - {*known, "controls", *AGAIN}):  # the last two are about the judge, not about a model
        print(f"{relative(folder)}: scores of {', '.join(strangers)} are left out: the study has no such model (any more)")
    rows = []
    for path in there:
        own = _rows(path, path.stat().st_mtime_ns) if path.stem in known else []
        if wrong := [row for row in own if (row["judge"], row["run"]) != (path.parent.name, path.stem)]:
            raise StudyError(f"{relative(path)}: holds a row of judge {wrong[0]['judge']!r} and run {wrong[0]['run']!r}")
        rows += own
    if not rows:
        raise StudyError(f"no scores in {relative(folder)}; run 05_judge.ipynb with {study.options()}")
    table, scores = terms(study).astype({"term_id": str}), pd.DataFrame(rows)
    scores["score"] = scores["score"].astype(float).where(scores["status"] == "ok")
    if unknown := set(scores["term_id"]) - set(table["term_id"]):
        raise StudyError(f"{relative(folder)}: {len(unknown)} scored terms, such as {min(unknown)}, are not in terms.csv; run 05_judge.ipynb again")
    key = ["judge", "reference", "run", "term_id"]
    first = {"judge": study.judging.judges, "reference": study.judging.references, "run": known}
    order = {column: [*names, *sorted(set(scores[column]) - set(names))] for column, names in first.items()}
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
    return [row for file in files if file.exists() for row in _rows(file, file.stat().st_mtime_ns) if "finish" in row]


@lru_cache(maxsize=512)  # every table and figure asks for the same files
def _rows(path: Path, changed: int) -> list[dict]:
    return read_jsonl(path)


def summary(study: Study) -> pd.DataFrame:
    """One row per judge, reference and run with all of ``statistics.describe``.

    Returns judge, reference, run, model (label), n, missing, statuses, median, mean, std (ddof 1), low, high, counted (the mean with output that is
    no definition at 0), counted_low, counted_high, mean_low, mean_high, in_target (share of the scored texts that are in the target language; NaN
    where that is not known), reason.
    """
    scores, rows = load_scores(study), []
    for (judge, reference, run), group in scores.groupby(["judge", "reference", "run"], sort=False):
        found = statistics.describe(group["score"], group["status"])
        interval, counted = (statistics.mean_interval(group[values], study.seed) for values in ("score", "counted"))
        written = group.loc[group["score"].notna(), "written"]
        found |= {"in_target": float((written == study.target.code).mean()) if written.all() else float("nan")}
        found |= {"counted": float(group["counted"].mean()), "counted_low": counted.low, "counted_high": counted.high}
        named = {"judge": judge, "reference": reference, "run": run, "model": row_label(study, run)}
        rows.append(named | found | interval._asdict() | {"reason": found["reason"] or interval.reason})
    return pd.DataFrame(rows).astype({"n": "Int64", "missing": "Int64"})  # which stay whole where a table has no such run


def means(study: Study) -> pd.DataFrame:
    """Mean definition score per model (row) under each judge and reference (column ``(judge, reference)``), without controls."""
    table = load_scores(study)
    table = table[[not note(study, run) for run in table["run"]]]
    return table.pivot_table(index="run", columns=["judge", "reference"], values="score", sort=False)


def load_benchmarks(study: Study) -> pd.DataFrame:
    """Every model's benchmark columns: index (model, column); value, low, high, n, chance, metric, NaN where not run or undefined.

    A StudyError: no model has any.
    """
    files = [study.benchmarks_folder / f"{model}.json" for model in study.models]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    rows = [{"model": one["model"], "column": column} | about for one in found for column, about in one["columns"].items()]
    if not rows:
        raise StudyError(f"no benchmark results in {relative(study.folder / 'benchmarks')}; run 06_benchmark.ipynb with {study.options()}")
    numbers = ["value", "low", "high", "n", "chance"]
    table = pd.DataFrame(rows, columns=["model", "column", *numbers, "metric"]).astype(dict.fromkeys(numbers, float)).set_index(["model", "column"])
    return table.reindex(pd.MultiIndex.from_product([study.models, columns(study)], names=table.index.names))


def measured(study: Study) -> pd.DataFrame:
    """Benchmark values per model (row) and column, NaN where not run or undefined."""
    return load_benchmarks(study)["value"].unstack().loc[study.models, list(columns(study))]
