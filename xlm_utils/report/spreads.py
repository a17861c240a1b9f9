"""What hyper-parameters and random masks do to the scores, beside what the choice of the method does.

A group is a set of merges scored on the same terms: the points of one method's grid, one method under
several mask seeds, or several methods as their cards have them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
from scipy import stats

from xlm_utils.report.captions import captioned
from xlm_utils.report.results import NOT_RUNS, judge_label, load_scores, row_label
from xlm_utils.stats import statistics
from xlm_utils.study import Study
from xlm_utils.study.names import parse


class Group(NamedTuple):
    """Merges whose scores are compared with each other, by one judge against one reference."""

    judge: str
    reference: str
    of: str  # what they have in common
    differ_in: str  # settings, mask seeds or methods
    scores: pd.DataFrame  # index: terms scored for all of them; columns: their labels


def groups(study: Study) -> Iterator[Group]:
    """Every group that the study has scores of: its own terms first, then the sweep's."""
    own = load_scores(study, twins=True)
    scored = list(own["run"].unique())
    yield from _blocks(study, own, "the merges, this study’s terms", "methods", [run for run in study.methods if run in scored])
    for method in study.methods:
        seeds = [run for run in scored if str(parse(run)._replace(seed="")) == method]
        yield from _blocks(study, own, f"{study.label(method)}, this study’s terms", "mask seeds", seeds)
    if study.sweep and any(p.stem not in NOT_RUNS for p in (study.swept().folder / "scores").glob("*/*.jsonl")):
        swept = study.swept()
        found, points = load_scores(swept), {}
        for run in swept.methods:
            points.setdefault(str(parse(run)._replace(values={})), []).append(run)
        defaults = [method for method in points if method in swept.methods]
        yield from _blocks(swept, found, "the swept methods, the sweep’s terms", "methods", defaults)
        for method, runs in points.items():
            yield from _blocks(swept, found, f"{study.label(method)}, the sweep’s terms", "settings", runs)


def _blocks(study: Study, scores: pd.DataFrame, of: str, differ_in: str, runs: list[str]) -> Iterator[Group]:
    """A group per judge and reference, where at least two of the runs have scores."""
    for (judge, reference), block in scores[scores["run"].isin(runs)].groupby(["judge", "reference"], sort=False):
        table = block.pivot(index="term_id", columns="run", values="score")
        table = table[[run for run in runs if run in table]].dropna()
        if table.shape[1] > 1:
            yield Group(judge, reference, of, differ_in, table.set_axis([row_label(study, run) for run in table], axis=1))


def spread(scores: pd.DataFrame, seed: int = 0) -> dict:
    """How far the means of several models lie apart on the same terms.

    Args:
        scores: shape (terms, models), no score missing.

    Returns:
        points (models), n (terms), lowest and highest (their means), range, low and high (BCa interval of the
        paired difference of these two), sd (of the means, ddof 1), p (no model differs: Friedman 1937,
        J. Am. Stat. Assoc. 32, 675–701; Wilcoxon's signed ranks for two models), reason.
    """
    if scores.empty:
        nothing = dict.fromkeys(("lowest", "highest", "range", "low", "high", "sd", "p"), float("nan"))
        return {"points": scores.shape[1], "n": 0} | nothing | {"reason": "no term that all of them have a score on"}
    means = scores.mean()
    found = statistics.compare(scores[means.idxmax()], scores[means.idxmin()], seed=seed)
    p, reason = found["p"], found["reason"]
    if len(scores) < 2 or (scores.nunique(axis=1) == 1).all():
        p, reason = float("nan"), "fewer than two terms" if len(scores) < 2 else "all of them have the same scores"
    elif scores.shape[1] > 2:
        p = float(stats.friedmanchisquare(*(scores[model] for model in scores)).pvalue)
    return {
        "points": scores.shape[1], "n": len(scores), "lowest": means.min(), "highest": means.max(), "range": means.max() - means.min(),
        "low": found["low"], "high": found["high"], "sd": means.std(ddof=1), "p": p, "reason": reason}  # fmt: skip


def spread_table(study: Study) -> pd.DataFrame:
    """A row per group: judge, reference, of, differ_in, then what ``spread`` gives."""
    rows = [
        {"judge": judge_label(group.judge), "reference": group.reference, "of": group.of, "differ_in": group.differ_in}
        | spread(group.scores, study.seed)
        for group in groups(study)]  # fmt: skip
    columns = ["judge", "reference", "of", "differ_in", "points", "n", "lowest", "highest", "range", "low", "high", "sd", "p", "reason"]
    frame = pd.DataFrame(rows, columns=columns).sort_values(["judge", "reference"], kind="stable", ignore_index=True)
    return captioned(frame, "spreads")
