"""Table 2 and what its differences are worth, item by item: data frames, as in ``tables``."""

import pandas as pd

from xlm_utils.benchmark.prepared import COLUMNS, columns
from xlm_utils.report import results
from xlm_utils.report.results import BENCHMARKS, captioned, row_label, text
from xlm_utils.stats import paired, statistics
from xlm_utils.study import Study, project_path, read_jsonl


def table2(study: Study) -> pd.DataFrame:
    """Benchmark scores in the paper's layout beside the published ones; a column that was not run is NaN.

    Index: model labels. Columns per benchmark: value, low, high (95 %), n, chance (what guessing gives), p_holm (of the
    difference from the general model, see ``column_differences``; the page marks those below .05 with a star), published.
    """
    published = results.published_benchmarks()
    found, tested = results.load_benchmarks(study), column_differences(study).set_index(["column", "model"])["p_holm"]
    frame = {}
    for key, name in ((key, BENCHMARKS[key]) for key in columns(study)):
        frame |= {(name, part): found.xs(key, level="column")[part].array for part in ("value", "low", "high", "n", "chance")}
        frame[name, "p_holm"] = [tested.get((name, row_label(study, run))) for run in study.models]
        if study.repeats:
            frame[name, "published"] = published[key].reindex([results.kept_key(study, run) for run in study.models]).to_numpy()
    before = _before(study, found)
    index = pd.Index([row_label(study, run) for run in study.models], name="model")
    table = pd.DataFrame(frame, index=index).astype(float)
    if len(before):
        table = pd.concat([table, before]).rename_axis("model")
        table.insert(0, ("", "note"), [""] * len(index) + ["control: an earlier adapter, which saw no answer format"] * len(before))
    metrics = found["metric"].dropna().groupby("column", sort=False).unique()
    measured = "; ".join(f"{BENCHMARKS[key]}: {', '.join(sorted(names))}" for key, names in metrics.items())
    shown = {column: ", ".join(name + study.benchmarks.ending for name in sets) for column, sets in columns(study).items() if sets != COLUMNS[column]}
    more = text("table2", "published") if study.repeats else ""
    if fewer := [f"{BENCHMARKS[column]}: mean of {names}" for column, names in shown.items()]:
        more += f" Columns of other data sets{' than published' * bool(study.repeats)}: {'; '.join(fewer)}."
    if study.evolution.fitness == "published":
        searched = ", ".join(BENCHMARKS[column] for column in study.evolution.columns)
        more += f" contaminated: parameters that were searched on the items reported here ({searched})."
    return captioned(table, "table2", measured=measured, general=study.label(study.by_role("general")), more=more)


def _before(study: Study, found: pd.DataFrame) -> pd.DataFrame:
    """Rows of Table 2 for the constituents before they were trained on the answer formats, where the data folder tells of the same items."""
    folder = study.benchmarks.data_dir  # asked at another time, perhaps, and gone meanwhile: that is no error of a table
    if not folder or not (file := project_path(folder) / "before_formats.csv").exists():
        return pd.DataFrame()
    rows = pd.read_csv(file)
    rows = rows[rows["column"].map(found["n"].groupby("column").last()) == rows["n"]]
    parts = rows.assign(column=rows["column"].map(BENCHMARKS)).pivot(index="model", columns="column", values=["value", "low", "high"])
    table = parts.swaplevel(axis=1)
    return table.set_axis([f"{study.label(model)}, before format training" for model in table.index])


def column_differences(study: Study) -> pd.DataFrame:
    """Every merge against the general model in every column, paired by item; a Holm family per column.

    Returns column (as printed), model, then what ``paired.compare_means`` gives (for similarity ``compare_correlations``), with ``p_holm``.
    A column that one of the two models lacks is left out.
    """
    general, items, rows = study.by_role("general"), _items(study), []
    for column, sets in columns(study).items() if len(items) else ():
        parts = [items[items["dataset"] == dataset].pivot(index="item", columns="model") for dataset in sets]
        for merge in study.methods:
            if not all({merge, general} <= set(part.columns.get_level_values("model")) for part in parts):
                continue
            if all(part["score"].isna().all(axis=None) for part in parts):  # similarity has no score per item
                answers, gold = parts[0]["prediction"].astype(float), parts[0]["gold", general].astype(float)
                found = paired.compare_correlations(answers[merge], answers[general], gold, study.seed)
            else:
                found = paired.compare_means([(part["score", merge], part["score", general]) for part in parts], study.seed)
            rows.append({"column": BENCHMARKS[column], "model": row_label(study, merge)} | found)
    frame = pd.DataFrame(rows, columns=["column", "model", "n", "difference", "low", "high", "p", "p_holm", "reason"])
    frame["p_holm"] = frame.groupby("column", sort=False)["p"].transform(statistics.holm)
    return captioned(frame, "column_differences", general=study.label(general), resamples=paired.RESAMPLES)


def one_item(study: Study, dataset: str, item: int) -> pd.DataFrame:
    """One item of a data set through every model that has answered it: index model; prediction, gold, score and the choices' log-probabilities."""
    rows = {}
    for model in study.models:
        for row in read_jsonl(study.benchmarks_folder / f"{model}.samples.jsonl"):
            if (row["dataset"], row["item"]) == (dataset, item):
                rows[row_label(study, model)] = {key: row[key] for key in ("prediction", "gold", "score")} | row.get("logprobs", {})
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _items(study: Study) -> pd.DataFrame:
    """One row per item of the general model and the merges: model, dataset, item, score, gold, prediction; empty without samples."""
    models = (study.by_role("general"), *study.methods)
    rows = [row for model in models for row in read_jsonl(study.benchmarks_folder / f"{model}.samples.jsonl")]
    return pd.DataFrame(rows, columns=["model", "dataset", "item", "score", "gold", "prediction"]).astype({"score": float})


def remark() -> str:
    """What the published tables allow to be said of scores and benchmarks over seven models: a sentence with both judges and Holm over nine."""
    parts = []
    for judge, values in results.published_scores().items():
        table = results.published_benchmarks().join(values.rename("score")).drop(index="expert")
        found = pd.DataFrame([paired.correlate(table[key], table["score"]) for key in BENCHMARKS], list(BENCHMARKS), ["rho", "p"])
        firm = [BENCHMARKS[key] for key in found.index[statistics.holm(found["p"]) < 0.05]]
        rho = f"{found.loc['pubmedqa', 'rho']:.2f}".replace("-", "−")
        parts.append(f"by {judge} ρ = {rho} with PubMedQA, and {', '.join(firm) or 'no column'} below .05 after Holm over nine")
    return f"Published definition scores against benchmarks, n = {len(table)} models: {'; '.join(parts)}."
