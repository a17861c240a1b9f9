"""What nobody planned to compare: which terms moved most, one term through all runs, one run against another."""

import pandas as pd

from xlm_utils.generate import definitions
from xlm_utils.report.results import judge_label, load_scores, row_label
from xlm_utils.stats import statistics
from xlm_utils.study import Study, StudyError


def extremes(study: Study, run: str, judge: str = "") -> pd.DataFrame:
    """The three terms that gained and the three that lost most against the general model: term, translation, score before and after, both texts.

    By the study's first reference, and its first judge, if none is named; a term that lacks a score is left out. A StudyError: the judge has
    not scored both.
    """
    scores, models = load_scores(study), [study.by_role("general"), run]
    judge = judge or scores["judge"].iloc[0]
    block = scores[(scores["judge"] == judge) & (scores["reference"] == scores["reference"].iloc[0])]
    if missing := set(models) - set(block["run"]):
        raise StudyError(f"{judge} has not scored {', '.join(sorted(missing))}; it has scored {', '.join(block['run'].unique()) or 'nothing'}")
    pairs = block.pivot(index="term_id", columns="run", values="score")[models].dropna().set_axis(["before", "after"], axis=1)
    table = block.drop_duplicates("term_id").set_index("term_id")[["term", "translation"]].join(pairs, how="inner")
    gain = (table["after"] - table["before"]).sort_values(ascending=False, kind="stable")
    picked = table.loc[[*gain.index[gain > 0][:3], *gain.index[gain < 0][-3:]]]
    texts = definitions.rows(study, models).pivot(index="term_id", columns="run", values="definition").rename(index=str)
    return picked.join(texts[models].rename(columns=lambda model: row_label(study, model))).reset_index(drop=True)


def one_term(study: Study, term: str) -> pd.DataFrame:
    """One term, in either language, by the first judge: index model; definition, a score per reference, and why it is no definition, if it is none.

    A StudyError: the study does not run the term.
    """
    scores = load_scores(study)
    block = scores[(scores["judge"] == scores["judge"].iloc[0]) & ((scores["term"] == term) | (scores["translation"] == term))]
    if block.empty:
        raise StudyError(f"{term!r} is none of the study's terms; there are {', '.join(scores['translation'].unique()[:8])} and more")
    table = block.pivot(index="run", columns="reference", values="score").reindex(block["run"].unique())
    texts = definitions.rows(study, list(table.index)).astype({"term_id": str})
    said = texts[texts["term_id"] == block["term_id"].iloc[0]].set_index("run")["definition"] if len(texts) else {}
    table.insert(0, "definition", table.index.map(said))
    table["no definition"] = block.drop_duplicates("run").set_index("run")["unusable"]
    return table.rename(index=lambda run: row_label(study, run)).rename_axis(index="model", columns=None)


def versus(study: Study, a: str, b: str) -> pd.DataFrame:
    """Any run minus any other, paired by term, per judge and reference: n, difference, low, high, p (not adjusted: nobody planned it)."""
    rows = []
    for (judge, reference), block in load_scores(study).groupby(["judge", "reference"], sort=False):
        table = block.pivot(index="term_id", columns="run", values="score")
        found = statistics.compare(table[a], table[b], seed=study.seed)
        named = {"judge": judge_label(judge), "reference": reference, "model": row_label(study, a), "minus": row_label(study, b)}
        rows.append(named | {key: found[key] for key in ("n", "difference", "low", "high", "p", "reason")})
    return pd.DataFrame(rows)
