"""What hyper-parameters and random masks do to the scores, beside what the choice of the method does.

A group is a set of merges scored on the same terms: the points of one method's grid, one method under
several mask seeds, or several methods as their cards have them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy import stats

from xlm_utils.draw.canvas import BLUE, GREY, INK, ORANGE, SMALL, empty, finish
from xlm_utils.report.results import NOT_RUNS, REFERENCES, judge_label, load_scores, row_label
from xlm_utils.stats import statistics
from xlm_utils.study import Study
from xlm_utils.study.names import parse

COLORS = {"settings": BLUE, "mask seeds": ORANGE, "methods": GREY}


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
    frame.attrs["title"] = "Spread within a method, and between methods"
    frame.attrs["caption"] = (
        "Mean scores, 0 to 10. n: terms that every one of them has a score on. range: highest mean minus lowest, with the 95 % BCa interval of that "
        "paired difference; the two are picked because they are extreme, so even merges that do not differ lie some way apart, the more of them "
        "and the fewer terms the farther: compare ranges with as many points on the same terms. sd: of the means. p: that none differs from the "
        "others (Friedman; Wilcoxon for two), not adjusted. A sweep’s terms are none of this study’s, and a proxy "
        "judge sets its scale by the terms at hand."
    )
    return frame


def spread_plot(study: Study) -> go.Figure:
    """The mean score of every merge of every group with its interval, a panel per judge and reference; a band spans each group's means."""
    found = list(groups(study))
    if not any(group.differ_in != "methods" for group in found):
        return empty("No sweep and no further mask seeds have been scored.")
    panels = list(dict.fromkeys((group.judge, group.reference) for group in found))
    titles = [f"{judge_label(judge)}<br><span style='font-size:11px'>against {REFERENCES[reference]}</span>" for judge, reference in panels]
    fig = make_subplots(1, len(panels), shared_xaxes="all", shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03)
    fig.update_annotations(font_size=14)
    ticks: dict[float, str] = {}
    for column, panel in enumerate(panels, 1):
        place, row = {"row": 1, "col": column}, 0.0
        for group in (group for group in found if (group.judge, group.reference) == panel):
            means, color = group.scores.mean(), COLORS[group.differ_in]
            ticks[row] = f"<b>{group.of}</b> (n = {len(group.scores)})"
            rows = [row + 1 + i for i in range(len(means))]
            ticks |= dict(zip(rows, means.index, strict=True))
            ends = [statistics.mean_interval(group.scores[model], study.seed) for model in means.index]
            says = [f"{model}: {mean:.2f} [{end.low:.2f}, {end.high:.2f}]" for model, mean, end in zip(means.index, means, ends, strict=True)]
            bars = {"array": [end.high - mean for end, mean in zip(ends, means, strict=True)], "thickness": 1.5, "width": 0, "color": color,
                    "arrayminus": [mean - end.low for end, mean in zip(ends, means, strict=True)]}  # fmt: skip
            if len(group.scores):
                fig.add_shape(type="rect", x0=means.min(), x1=means.max(), y0=row + 0.5, y1=rows[-1] + 0.5, fillcolor=color, opacity=0.18,
                              line_width=0, layer="below", **place)  # fmt: skip
            fig.add_scatter(x=means, y=rows, mode="markers", marker={"color": color, "size": 9, "line": {"color": INK, "width": 0.5}}, error_x=bars,
                            text=says, hoverinfo="text", showlegend=False, **place)  # fmt: skip
            row = rows[-1] + 1.6
    fig.update_yaxes(tickvals=list(ticks), ticktext=list(ticks.values()), tickfont_size=12, range=[max(ticks) + 0.8, -0.8])
    fig.update_yaxes(showgrid=False, zeroline=False)
    fig.update_xaxes(title={"text": "mean score", **SMALL}, zeroline=False)
    subtitle = {"text": "bars: 95 % BCa over terms; bands: from the lowest to the highest mean", "font_size": 13}
    title = {"text": "How far merges lie apart, within a method and between methods", "subtitle": subtitle}
    alt = "; ".join(f"{group.of}, by {group.differ_in}: {np.ptp(group.scores.mean()):.2f} points from lowest to highest mean" for group in found)
    return finish(fig, title, alt, width=max(800, 320 + 330 * len(panels)), height=int(170 + 26 * max(ticks)), margin={"l": 290, "t": 110})
