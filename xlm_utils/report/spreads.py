"""What hyper-parameters do to the scores, beside what the choice of the method does.

A group is a set of merges scored on the same terms: the points of one method's grid, or several methods as their cards have them.
"""

from collections.abc import Iterator

import pandas as pd
from scipy import stats

from xlm_utils.report.captions import captioned
from xlm_utils.report.results import judge_label, load_scores, row_label
from xlm_utils.stats import statistics
from xlm_utils.study import Study
from xlm_utils.study.names import parse


def _groups(study: Study) -> Iterator[tuple[Study, pd.DataFrame, str, str, list[str]]]:
    """Whose terms and scores, what the merges have in common, what they differ in, and the merges: the study's own first, then its sweep's."""
    yield study, load_scores(study), "the merges, this study’s terms", "methods", list(study.methods)
    swept = study.swept() if study.sweep else None
    if swept and {file.stem for file in (swept.folder / "scores").glob("*/*.jsonl")} & set(swept.methods):
        found, points = load_scores(swept), {}
        for run in swept.methods:
            points.setdefault(str(parse(run)._replace(values={})), []).append(run)
        yield swept, found, "the swept methods, the sweep’s terms", "methods", [method for method in points if method in swept.methods]
        for method, runs in points.items():
            yield swept, found, f"{study.label(method)}, the sweep’s terms", "settings", runs


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


def spread_table(study: Study) -> pd.DataFrame:
    """A row per judge, reference and group of at least two merges with scores: judge, reference, of, differ_in, then what ``spread`` gives."""
    rows = []
    for whose, scores, of, differ_in, runs in _groups(study):
        for (judge, reference), block in scores[scores["run"].isin(runs)].groupby(["judge", "reference"], sort=False):
            table = block.pivot(index="term_id", columns="run", values="score")
            table = table[[run for run in runs if run in table]].dropna().rename(columns=lambda run, of=whose: row_label(of, run))
            if table.shape[1] > 1:
                rows.append({"judge": judge_label(judge), "reference": reference, "of": of, "differ_in": differ_in} | spread(table, study.seed))
    columns = ["judge", "reference", "of", "differ_in", "points", "n", "lowest", "highest", "range", "low", "high", "sd", "p", "reason"]
    frame = pd.DataFrame(rows, columns=columns).sort_values(["judge", "reference"], kind="stable", ignore_index=True)
    return captioned(frame, "spreads")
