"""Figures that set a study beside the published one and its models beside each other, each drawn from data frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlm_utils.draw.canvas import BELOW, BLUE, INK, ORANGE, RED, SMALL, finish
from xlm_utils.stats import association


def _here(note: str) -> str:
    """A note on this study's numbers, for a figure that holds published ones, too."""
    return note and f"{note}<br>(All but the numbers called published, which are the paper’s.)"


def benchmark_gaps(gaps: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], counts: Mapping[str, int], note: str = "") -> go.Figure:
    """Heat map of benchmark differences, a panel each: blue above, red below; the score itself on hover.

    Args:
        gaps: title → differences and scores, a row per model (index: its label), a column per benchmark (its name).
        counts: benchmark → items, shown where the title does not start with ``published``.
        note: what the reader must know of the numbers, such as that they are a proxy's.
    """
    scale = [gap for title, (gap, _) in gaps.items() if title.startswith("published")] or [gap for gap, _ in gaps.values()]
    limit = max([0.05, *(gap.abs().max().max() for gap in scale if gap.notna().any(axis=None))])  # small sets' noise must not pale it
    fig = make_subplots(len(gaps), 1, subplot_titles=list(gaps), vertical_spacing=0.09)
    for row, (title, (gap, scores)) in enumerate(gaps.items(), 1):
        texts = [["–" if np.isnan(d) else "0" if not round(d, 3) else f"{d:+.3f}".replace("0.", ".").replace("-", "−") for d in line]
                 for line in gap.to_numpy()]  # fmt: skip
        names = [name if title.startswith("published") else f"{name}<br>n = {counts[name]:,}" for name in gap.columns]
        fig.add_heatmap(z=gap, x=names, y=gap.index, zmin=-limit, zmax=limit, colorscale="RdBu", xgap=2, ygap=2,
                        text=texts, texttemplate="%{text}", textfont_size=12, customdata=scores,
                        hovertemplate="%{y}, %{x}: %{customdata:.3f} (%{z:+.3f})<extra></extra>", showscale=row == 1,
                        colorbar={"title": "difference", "thickness": 12, "tickformat": "+.2f"}, row=row, col=1)  # fmt: skip
    fig.update_annotations(font_size=14)
    fig.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=False, tickangle=0, tickfont_size=11)
    size = {"width": 880, "height": 210 + 40 * sum(len(gap) for gap, _ in gaps.values()), "margin": {"l": 185, "t": 112 if note else 75, "b": 45}}
    return finish(fig, "Benchmarks: each model against its parents", f"Heat map of benchmark differences: {'; '.join(gaps)}.", _here(note), **size)


def _correlated(name: str, a: pd.Series, b: pd.Series) -> str:
    found = association.correlate(a, b)
    if np.isnan(found["rho"]):
        return f"{name}<br>{found['reason']}"
    return f"{name}<br>ρ = {found['rho']:z.2f} [{found['low']:z.2f}, {found['high']:z.2f}], n = {found['n']}"


def correlations_plot(frame: pd.DataFrame, note: str = "") -> go.Figure:
    """Correlations with their intervals as rows of dots: index the rows' names, columns ``(source, rho | low | high | n)``."""
    fig = go.Figure()
    for source, color, shift in zip(dict.fromkeys(frame.columns.get_level_values(0)), (BLUE, ORANGE, RED), (-0.2, 0, 0.2), strict=True):
        part = frame[source]
        says = [f"{name}, {source}: {row.rho:.2f} [{row.low:.2f}, {row.high:.2f}], n = {row.n:.0f}" for name, row in part.iterrows()]
        bars = {"array": part["high"] - part["rho"], "arrayminus": part["rho"] - part["low"], "thickness": 2.5, "width": 0}
        name = f"{source}, n = {part['n'].max():.0f} models"
        fig.add_scatter(x=part["rho"], y=np.arange(len(part)) + shift, mode="markers", name=name, text=says, hoverinfo="text", error_x=bars,
                        marker={"size": 10, "color": color, "symbol": {BLUE: "circle", ORANGE: "diamond", RED: "square"}[color]})  # fmt: skip
    fig.add_vline(x=0, line={"color": INK, "width": 1})
    rho = frame.xs("rho", axis=1, level=1)
    absent = [f"undefined, {source}: {', '.join(rho.index[rho[source].isna()])}" for source in rho if rho[source].isna().any()]
    fig.update_yaxes(tickvals=list(range(len(frame))), ticktext=list(frame.index), range=[len(frame) - 0.5, -0.5], zeroline=False)
    says = "<br>".join(["Spearman’s ρ over models", *absent])
    fig.update_xaxes(title={"text": says, **SMALL}, range=[-1.05, 1.05], dtick=0.5, zeroline=False)
    title = "Do definition scores and benchmarks move together?"
    alt = f"{title} {says.replace('<br>', '; ')}."
    return finish(fig, title, alt, _here(note), height=200 + 44 * len(frame), legend=BELOW, margin={"l": 110, "t": 92 if note else 55, "b": 115})
