"""The published tables beside a study's own: how far each merge moves from the general model.

Levels of scores differ between judges, vocabularies and item sets, so what is compared with the published study is
*differences from the general model*.
"""

import pandas as pd

from xlm_utils.report.results import BENCHMARKS, PUBLISHED, load_benchmarks, load_scores, note, published_key
from xlm_utils.stats import association, statistics
from xlm_utils.study import Study


def scores(statistic: str = "mean") -> pd.DataFrame:
    """Published Table 1: a row per model (its role or method), a column per judge; ``statistic``: median, mean or std."""
    return pd.read_csv(PUBLISHED / "table1.csv").pivot(index="model", columns="judge", values=statistic)[["GPT-4o", "Gemini 1.5 Pro"]]


def benchmarks() -> pd.DataFrame:
    """Published Table 2: a row per model (its role or method), a column per benchmark, named as in ``results.BENCHMARKS``."""
    return pd.read_csv(PUBLISHED / "table2.csv", index_col="model")


def differences(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Each model of the study that has a published counterpart, minus the published general model; from ``scores()`` or ``benchmarks()``."""
    keys = {model: published_key(study, model) for model in study.models if model != study.by_role("general")}
    found = {model: table.loc[key] - table.loc["general"] for model, key in keys.items() if key in table.index}
    return pd.DataFrame(found, index=table.columns).T


def means(study: Study) -> pd.DataFrame:
    """Mean definition score per model (row) under each judge and reference (column ``(judge, reference)``), without controls."""
    table = load_scores(study)
    table = table[[not note(study, run) for run in table["run"]]]
    return table.pivot_table(index="run", columns=["judge", "reference"], values="score", sort=False)


def measured(study: Study) -> pd.DataFrame:
    """Benchmark values per model (row) and column, NaN where not run or undefined."""
    found = load_benchmarks(study)
    return pd.DataFrame({model: {key: columns.get(key, {}).get("value") for key in BENCHMARKS} for model, columns in found.items()}, dtype=float).T


def gaps(study: Study) -> tuple[dict[str, tuple[pd.DataFrame, pd.DataFrame]], dict[str, int]]:
    """Benchmarks of every model minus each parent's, and the published ones minus the published general model.

    Returns:
        title → (differences, scores), a row per model (its label), a column per benchmark (its name); and benchmark → items.
    """
    here, there, general = measured(study), benchmarks(), study.by_role("general")
    found = {f"minus {study.label(parent)}": (here.drop(index=parent) - here.loc[parent], here) for parent in (general, study.by_role("expert"))}
    known = differences(study, there)
    scored = there.loc[[published_key(study, model) for model in known.index]].set_axis(known.index)
    found[f"published: minus {study.label(general)}"] = (known, scored)
    named = {
        title: tuple(table.loc[gap.index, list(BENCHMARKS)].rename(index=study.label, columns=BENCHMARKS) for table in (gap, scores))
        for title, (gap, scores) in found.items()
    }
    counts = {name: max(columns.get(key, {}).get("n") or 0 for columns in load_benchmarks(study).values()) for key, name in BENCHMARKS.items()}
    return named, counts


def remark() -> str:
    """What the published tables allow to be said of scores and benchmarks over seven models: a sentence with both judges and Holm over nine."""
    parts = []
    for judge, values in scores().items():
        table = benchmarks().join(values.rename("score")).drop(index="expert")
        found = pd.DataFrame([association.correlate(table[key], table["score"]) for key in BENCHMARKS], list(BENCHMARKS), ["rho", "p"])
        firm = [BENCHMARKS[key] for key in found.index[statistics.holm(found["p"]) < 0.05]]
        rho = f"{found.loc['pubmedqa', 'rho']:.2f}".replace("-", "−")
        parts.append(f"by {judge} ρ = {rho} with PubMedQA, and {', '.join(firm) or 'no column'} below .05 after Holm over nine")
    return f"Published definition scores against benchmarks, n = {len(table)} models: {'; '.join(parts)}."
