"""What nobody planned to compare: which terms moved most, one term through all runs, one run against another, how far settings spread the scores."""

from collections.abc import Iterator

import pandas as pd
from scipy import stats

from xlm_utils.generate import definitions
from xlm_utils.report.captions import captioned
from xlm_utils.report.results import judge_label, load_scores, row_label
from xlm_utils.stats import statistics
from xlm_utils.study import Study, StudyError
from xlm_utils.study.names import parse


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


def _groups(study: Study) -> Iterator[tuple[pd.DataFrame, str, str, list[str]]]:
    """The scores, what the merges have in common, what they differ in, and the merges: the study's own first, then its sweep's."""
    yield load_scores(study), "the merges, this study’s terms", "methods", list(study.methods)
    swept, points = study.swept() if study.sweep else None, {}
    if swept and {file.stem for file in (swept.folder / "scores").glob("*/*.jsonl")} & set(swept.methods):
        scores = load_scores(swept)
        for run in swept.methods:
            points.setdefault(str(parse(run)._replace(values={})), []).append(run)
        yield scores, "the swept methods, the sweep’s terms", "methods", [method for method in points if method in swept.methods]
        yield from ((scores, f"{study.label(method)}, the sweep’s terms", "settings", runs) for method, runs in points.items())


def spread_table(study: Study) -> pd.DataFrame:
    """How far merges lie apart that were scored on the same terms: the points of one method's grid, or methods as their cards have them.

    Returns:
        a row per judge, reference and group of at least two merges with scores: judge, reference, of, differ_in, then what ``spread`` gives.
    """
    rows = []
    for scores, of, differ_in, runs in _groups(study):
        for (judge, reference), block in scores[scores["run"].isin(runs)].groupby(["judge", "reference"], sort=False):
            table = block.pivot(index="term_id", columns="run", values="score").dropna()
            if table.shape[1] > 1:
                table = table[[run for run in runs if run in table]]
                rows.append({"judge": judge_label(judge), "reference": reference, "of": of, "differ_in": differ_in} | spread(table, study.seed))
    columns = ["judge", "reference", "of", "differ_in", "points", "n", "lowest", "highest", "range", "low", "high", "sd", "p", "reason"]
    frame = pd.DataFrame(rows, columns=columns).sort_values(["judge", "reference"], kind="stable", ignore_index=True)
    return captioned(frame, "spreads")


def spread(scores: pd.DataFrame, seed: int = 0) -> dict:
    """How far the means of several models lie apart on the same terms; ``scores`` has shape (terms, models), no score missing.

    Returns:
        points (models), n (terms), lowest and highest (their means), range, low and high (BCa interval of the
        paired difference of these two), sd (of the means, ddof 1), p (no model differs: Friedman 1937,
        J. Am. Stat. Assoc. 32, 675–701; Wilcoxon's signed ranks for two models), reason.
    """
    found = {"points": scores.shape[1], "n": len(scores)}
    if scores.empty:
        return found | {"reason": "no term that all of them have a score on"}
    means = scores.mean()
    tested = statistics.compare(scores[means.idxmax()], scores[means.idxmin()], seed=seed)
    p, reason = tested["p"], tested["reason"]
    if len(scores) < 2 or (scores.nunique(axis=1) == 1).all():
        p, reason = float("nan"), "fewer than two terms" if len(scores) < 2 else "all of them have the same scores"
    elif scores.shape[1] > 2:
        p = float(stats.friedmanchisquare(*(scores[model] for model in scores)).pvalue)
    return found | {"lowest": means.min(), "highest": means.max(), "range": means.max() - means.min(), "low": tested["low"],
                    "high": tested["high"], "sd": means.std(ddof=1), "p": p, "reason": reason}  # fmt: skip
