"""Which terms a merge defines better or worse than the general model."""

import pandas as pd

from xlm_utils.generate import definitions
from xlm_utils.report.results import load_scores, row_label
from xlm_utils.study import Study, StudyError


def gains(study: Study, run: str, judge: str | None = None, reference: str | None = None) -> pd.DataFrame:
    """Every term's score under the general model (``before``) and under ``run`` (``after``), and ``gain``, their difference.

    Terms that lack one of the scores are left out. By default: the study's first judge, its first reference.

    Returns:
        a row per term, with the columns of ``terms.csv``.

    Raises:
        StudyError: the judge has not scored both.
    """
    scores, general = load_scores(study), study.by_role("general")
    judge, reference = judge or scores["judge"].iloc[0], reference or scores["reference"].iloc[0]
    block = scores[(scores["judge"] == judge) & (scores["reference"] == reference)]
    if missing := {general, run} - set(block["run"]):
        raise StudyError(f"{judge} has not scored {', '.join(sorted(missing))}; it has scored {', '.join(block['run'].unique()) or 'nothing'}")
    pairs = block.pivot(index="term_id", columns="run", values="score")[[general, run]].dropna().set_axis(["before", "after"], axis=1)
    facts = block[block["run"] == run].drop(columns=["score", "status", "run", "judge", "reference", "reply"], errors="ignore")
    return facts.merge(pairs.assign(gain=pairs["after"] - pairs["before"]), left_on="term_id", right_index=True).reset_index(drop=True)


def one_term(study: Study, term: str, judge: str | None = None) -> pd.DataFrame:
    """One term, in either language, through all runs: index model; definition, a score per reference, and why it is no definition, if it is none.

    A StudyError: the study does not run the term.
    """
    scores = load_scores(study)
    block = scores[(scores["judge"] == (judge or scores["judge"].iloc[0])) & ((scores["term"] == term) | (scores["translation"] == term))]
    if block.empty:
        raise StudyError(f"{term!r} is none of the study's terms; there are {', '.join(scores['translation'].unique()[:8])} and more")
    table = block.pivot(index="run", columns="reference", values="score").reindex(block["run"].unique())
    texts = definitions.rows(study, list(table.index)).astype({"term_id": str})
    said = texts[texts["term_id"] == block["term_id"].iloc[0]].set_index("run")["definition"] if len(texts) else {}
    table.insert(0, "definition", table.index.map(said))
    table["no definition"] = block.drop_duplicates("run").set_index("run")["unusable"]
    return table.rename(index=lambda run: row_label(study, run)).rename_axis(index="model", columns=None)


def extremes(study: Study, run: str, n: int = 3, **which: str) -> pd.DataFrame:
    """The ``n`` terms gained and the ``n`` lost most, with both models' definitions: term, translation, before, after, and the two texts."""
    table, general = gains(study, run, **which), study.by_role("general")
    texts = definitions.rows(study, [general, run]).pivot(index="term_id", columns="run", values="definition").rename(index=str)
    ordered = table.sort_values("gain", ascending=False, kind="stable")
    picked = pd.concat([ordered[ordered["gain"] > 0].head(n), ordered[ordered["gain"] < 0].tail(n)])
    for model in (general, run):
        picked[row_label(study, model)] = texts[model].reindex(picked["term_id"].astype(str)).to_numpy()
    return picked[["term", "translation", "before", "after", row_label(study, general), row_label(study, run)]].reset_index(drop=True)
