"""Table 1 and what stands around it: data frames, and files a person can open.

Every table keeps numbers as numbers; only ``save_table`` turns them into text. Columns are grouped:
``(judge and reference, statistic)``. A proxy judge says so in its column header, published numbers
have columns of their own, and a control row says what it is a control for.
"""

from __future__ import annotations

import itertools

import pandas as pd

from xlm_utils.draw.pages import page, table_html
from xlm_utils.generate import definitions
from xlm_utils.judge import controls
from xlm_utils.report.results import (
    PUBLISHED,
    group_label,
    judge_label,
    load_scores,
    note,
    published_key,
    row_label,
    row_order,
    summary,
)  # fmt: skip
from xlm_utils.stats import association, statistics
from xlm_utils.study import Study
from xlm_utils.study.records import read_jsonl, write_text

INTERVAL = f"Intervals: 95 % BCa bootstrap over terms, {statistics.RESAMPLES:,} resamples."


def _grouped(study: Study, parts: dict[str, pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Parts (indexed by run) side by side under their headers, one row per run of the study and any extra ones."""
    runs = list(dict.fromkeys([*row_order(study), *itertools.chain.from_iterable(part.index for part in parts.values())]))
    frame = {("", "note"): [note(study, run) for run in runs]}
    for header, part in parts.items():
        frame |= {(header, column): _whole(part[column]).reindex(runs).array for column in columns if column in part}
    return pd.DataFrame(frame, index=pd.Index([row_label(study, run) for run in runs], name="model"))


def _whole(counts: pd.Series) -> pd.Series:
    """Counts stay whole numbers when a row has none; other columns as they are."""
    return counts.astype("Int64") if counts.dtype.kind == "i" else counts


def table1(study: Study) -> pd.DataFrame:
    """Definition scores in the paper's layout, with n, missing and interval, beside the published ones.

    Index: model labels. Columns: ``("", "note")``, then per judge and reference median, mean, low, high,
    std, n, missing, then ``("definitions", "in language")``, the share in the language that was asked
    for, then ``("published: GPT-4o", …)`` median, mean, std.
    """
    found = summary(study)
    parts = {group_label(*key): part.set_index("run") for key, part in found.groupby(["judge", "reference"], sort=False)}
    parts["definitions"] = answers(study).filter(["in language"])
    published = pd.read_csv(PUBLISHED / "table1.csv")
    keys = {run: published_key(study, run) for run in row_order(study)}
    for judge, part in published.groupby("judge", sort=False):
        rows = part.set_index("model").reindex([key or "" for key in keys.values()])
        parts[f"published: {judge}"] = rows.set_axis(list(keys))
    frame = _grouped(study, parts, ["median", "mean", "low", "high", "std", "n", "missing", "in language"])
    frame.attrs["title"] = "Table 1. Accuracy of definitions, 0–10"
    gaps = [f"{row.model} ({row.judge}, {row.reference}): {row.reason}" for row in found.itertuples() if row.reason]
    frame.attrs["caption"] = (
        f"{INTERVAL} std with ddof 1. n: terms with a score; missing scores are left out, not counted as 0. "
        "Best in bold, worst underlined, controls left out. "
        "In language: share of the definitions in the language asked for. Published: 1,782 SNOMED CT terms, other models, "
        "judged against the expert’s definition; its merges have the general model as base."
        + (f" No interval: {'; '.join(gaps)}." if gaps else "")
    )
    return frame


def answers(study: Study) -> pd.DataFrame:
    """What the models wrote, whatever a judge makes of it, by run: ``definitions.summary``, and the share ``in language``, not empty."""
    found = definitions.summary(study, [run for run in row_order(study) if (study.folder / "definitions" / f"{run}.jsonl").exists()])
    if found.empty:
        return found
    return found.assign(**{"in language": 1 - (found["other language"] + found["empty"]) / found["n"]}).set_index("run")


def controls_table(study: Study) -> pd.DataFrame:
    """Each judge's controls with what was expected of them, and in words whether it passed; empty without ``controls.jsonl``."""
    rows, folder = [], study.folder / "scores"
    for judge in dict.fromkeys([*study.judges, *sorted(path.parent.name for path in folder.glob("*/controls.jsonl"))]):
        if asked := read_jsonl(folder / judge / "controls.jsonl"):
            found = controls.verdicts(asked)
            rows.append(found.assign(judge=judge_label(judge), verdict=found["passed"].map({True: "passed", False: "FAILED"})))
    columns = ["judge", "control", "expected", "n", "missing", "median", "mean", "below_reference", "verdict"]
    frame = pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)
    frame.attrs["title"] = "Controls: questions with known answers"
    frame.attrs["caption"] = (
        "Graded against the expert’s definition: the same text, the most similar one of another concept, any other concept’s, a commonplace, "
        "nothing, and a wrong text that asks for a 10. Below reference: share of terms on which the control scores less than the same text does. "
        "A judge that fails a control can’t be believed where that control’s mistake matters."
    )
    return frame


def missing_table(study: Study) -> pd.DataFrame:
    """Missing scores by status, and the means if all of them were 0 or 10; grouped like Table 1."""
    found = summary(study)
    counts = pd.DataFrame(found["statuses"].tolist(), index=found.index).fillna(0).astype(int)
    found = found.join(counts).rename(columns={"mean_low": "mean, all 0", "mean_high": "mean, all 10"})
    parts = {group_label(*key): part.set_index("run") for key, part in found.groupby(["judge", "reference"], sort=False)}
    frame = _grouped(study, parts, ["n", *sorted(counts), "mean, all 0", "mean, all 10"]).drop(columns=("", "note"))
    frame.attrs["title"] = "Missing scores"
    frame.attrs["caption"] = "By status, and the range in which the mean over all terms must lie: every missing score 0, or 10."
    return frame


def seen_unseen(study: Study) -> pd.DataFrame:
    """Mean scores apart for terms whose concept the expert saw in training and for the others; grouped like Table 1."""
    parts = {}
    for key, part in summary(study, ("seen",)).groupby(["judge", "reference"], sort=False):
        for seen, which in ((True, "seen in training"), (False, "unseen")):
            if (part["seen"] == seen).any():
                parts[f"{group_label(*key)}: {which}"] = part[part["seen"] == seen].set_index("run")
    frame = _grouped(study, parts, ["mean", "low", "high", "n", "missing"])
    frame.attrs["title"] = "Terms the expert saw in training, and the others"
    frame.attrs["caption"] = INTERVAL + ("" if any(name.endswith("seen in training") for name in parts) else " No term is known to have been seen.")
    return frame


def differences(study: Study) -> pd.DataFrame:
    """Every merge against the general model, paired by term: the planned comparisons, a Holm family per judge and reference.

    Returns:
        judge, reference, model, then what ``statistics.compare`` gives, with ``p_holm``; the general model is subtracted.
    """
    general, rows = study.by_role("general"), []
    for (judge, reference), block in load_scores(study).groupby(["judge", "reference"], sort=False):
        table = block.pivot(index="term_id", columns="run", values="score")
        parents = block.drop_duplicates("term_id").set_index("term_id")["parent"].reindex(table.index)
        merges = [run for run in study.methods if run in table and general in table]
        found = pd.DataFrame([statistics.compare(table[run], table[general], parents, study.seed) for run in merges])
        if merges:
            named = {"judge": judge_label(judge), "reference": reference, "model": [row_label(study, run) for run in merges]}
            rows.append(found.assign(**named, p_holm=statistics.holm(found["p"])))
    columns = ["judge", "reference", "model", "n", "ties", "difference", "low", "high", "p", "p_holm", "rank_biserial"]
    columns += ["cluster_low", "cluster_high", "clusters", "detectable", "reason"]
    frame = pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)
    frame.attrs["title"] = f"Paired differences from {study.label(general)}"
    frame.attrs["caption"] = (
        f"{INTERVAL} p: Wilcoxon signed ranks (Pratt), then adjusted by Holm for the merges of one judge and reference. Cluster interval: terms that "
        "share a parent in the ontology count as one cluster. Detectable: the true difference found with 80 % power at this n and spread, before "
        "Holm’s adjustment."
    )
    return frame


def agreements(study: Study) -> pd.DataFrame:
    """Every pair of judges on the same answers, and each judge asked twice where ``retest.jsonl`` is there.

    Returns:
        reference, first, second, then what ``association.agreement`` gives, ``tau`` of the models' order and ``models``.
    """
    scores, rows = load_scores(study), []
    controls = [run for run in scores["run"].unique() if note(study, run)]
    for reference, block in scores[~scores["run"].isin(controls)].groupby("reference", sort=False):
        table = block.pivot(index=["run", "term_id"], columns="judge", values="score")
        means = table.groupby("run").mean()
        for first, second in itertools.combinations(block["judge"].unique(), 2):
            order = association.same_order(means[first], means[second])
            named = {"reference": reference, "first": judge_label(first), "second": judge_label(second)}
            rows.append(named | association.agreement(table[first], table[second]) | {"tau": order["tau"], "models": order["models"]})
    for judge in scores["judge"].unique():
        again = pd.DataFrame(read_jsonl(study.folder / "scores" / judge / "retest.jsonl"))
        if len(again):
            both = again.merge(scores[scores["judge"] == judge], on=["run", "reference", "term_id"], suffixes=("_again", ""))
            found = association.agreement(both["score_again"].astype(float), both["score"])
            rows.append({"reference": again["reference"][0], "first": judge_label(judge), "second": "itself, asked again"} | found)
    frame = pd.DataFrame(rows, columns=["reference", "first", "second", "n", "kappa", "alpha", "spearman", "bias", "tau", "models", "reason"])
    frame["models"] = frame["models"].astype("Int64")
    frame.attrs["title"] = "Agreement between judges"
    frame.attrs["caption"] = (
        "kappa: quadratic weights over all of 0–10; alpha: Krippendorff’s, ordinal; bias: mean of first minus second; "
        "tau: Kendall’s, over the models’ means. n: answers that both scored. Controls are left out: their extreme scores are easy to agree on."
    )
    return frame



def save_table(study: Study, frame: pd.DataFrame, name: str):
    """Write ``figures/<study>/<name>.csv`` (all numbers) and ``.html`` (to read); returns the table for a notebook to show.

    The page stands alone, and says the study's ``proxy`` sentence where it has one.
    """
    from IPython.display import HTML

    flat = frame.copy()
    if isinstance(frame.columns, pd.MultiIndex):
        flat.columns = [": ".join(filter(None, pair)) for pair in frame.columns]
    html = table_html(frame, study.proxy)
    write_text(study.figures / f"{name}.csv", flat.to_csv(index=not isinstance(frame.index, pd.RangeIndex), float_format="%.6g", lineterminator="\n"))
    write_text(study.figures / f"{name}.html", page(frame.attrs.get("title", name), html))
    return HTML(html)
