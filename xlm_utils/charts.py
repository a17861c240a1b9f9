"""Figures of the way there, each drawn from one data frame: the vocabulary's funnel, the training, where merges land."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlm_utils import statistics
from xlm_utils.canvas import BELOW, BLUE, GREY, INK, MODELS, ORANGE, SMALL, SYMBOLS, finish


def funnel(counts: pd.DataFrame) -> go.Figure:
    """Rows of the vocabulary after each filter; ``counts`` has the columns step and rows."""
    first, *later = counts["rows"]
    texts = [f"{first:,}", *(f"{rows:,} ({100 * rows / first:.1f} %)" for rows in later)]
    bars = {"orientation": "h", "marker_color": BLUE, "text": texts, "textposition": "outside", "cliponaxis": False}
    fig = go.Figure(go.Bar(x=counts["rows"], y=counts["step"], **bars))
    fig.update_yaxes(autorange="reversed", ticksuffix="  ").update_xaxes(range=[0, 1.18 * first], visible=False)
    alt = "; ".join(f"{step}: {text}" for step, text in zip(counts["step"], texts, strict=True))
    return finish(fig, "The vocabulary after each filter", alt, height=110 + 42 * len(counts), margin={"l": 250, "t": 45, "b": 20})


def losses(logs: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Training and held-out loss by step, a panel per adapter; frames have the index step and columns train and held_out."""
    fig = make_subplots(1, len(logs), subplot_titles=list(logs), horizontal_spacing=0.08)
    for column, log in enumerate(logs.values(), 1):
        for name, color, dash in (("train", GREY, "dot"), ("held_out", BLUE, "solid")):
            known = log[name].dropna()
            fig.add_scatter(x=known.index, y=known, mode="lines+markers", name=name.replace("_", " "), legendgroup=name, showlegend=column == 1,
                            line={"color": color, "dash": dash}, row=1, col=column)  # fmt: skip
    fig.update_xaxes(title={"text": "step", **SMALL}).update_yaxes(title={"text": "nats a token", **SMALL}, col=1)
    title = "Loss on the definitions’ tokens"
    return finish(fig, title, "Training and held-out loss by step.", height=400, legend=BELOW, margin={"b": 80})


def landing(geometry: pd.DataFrame) -> go.Figure:
    """Where merges lie: to scale along and away from the straight line between the parents.

    Args:
        geometry: a row per merge (index: its name), distances in units of the parents' distance:
            to_general and to_expert, and general_size and expert_size for the ancestor, where there is one.
    """
    points = {"general model": (0.0, 1.0), "expert": (1.0, 0.0)}
    if "general_size" in geometry:
        points["ancestor"] = tuple(geometry[["general_size", "expert_size"]].iloc[0])
    parents = set(points)
    points |= {str(row.Index): (row.to_general, row.to_expert) for row in geometry.itertuples()}
    places: dict[tuple[float, float], list[str]] = {}
    for name, (general, expert) in points.items():
        along = (1 + general**2 - expert**2) / 2  # the top of a triangle, from its base and two sides
        places.setdefault((round(along, 2), round(max(general**2 - along**2, 0) ** 0.5, 2)), []).append(name)
    fig = go.Figure(go.Scatter(x=[0, 1], y=[0, 0], mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip"))
    for index, ((along, away), names) in enumerate(sorted(places.items())):
        given = bool(parents & set(names))
        fig.add_scatter(x=[along], y=[away], mode="markers+text", text=["<br>".join(names)], textposition=f"{('top', 'bottom')[index % 2]} center",
                        marker={"size": 13, "color": ORANGE if given else BLUE, "symbol": "square" if given else "circle"}, cliponaxis=False,
                        hovertemplate=f"{', '.join(names)}: {along:.2f} along, {away:.2f} away<extra></extra>")  # fmt: skip
    highest = max(away for _, away in places)
    fig.update_xaxes(title="along the line from the general model to the expert", zeroline=False, range=[-0.15, 1.15])
    fig.update_yaxes(title="away from it", zeroline=False, scaleanchor="x", range=[-0.16, highest + 0.12], dtick=0.2)
    alt = "; ".join(f"{', '.join(names)} at {along:.2f} along and {away:.2f} away" for (along, away), names in sorted(places.items()))
    return finish(fig, "Where the merges lie between their parents", alt, showlegend=False, height=int(150 + 540 * (highest + 0.28)))


def search(candidates: pd.DataFrame, label: str) -> go.Figure:
    """Objective and parameters of every candidate of a search, and of a random search beside it, generation by generation.

    Args:
        candidates: rows as ``evolution.search`` gives them, one or two arms; the line is the best objective so far.
        label: of the searched method, as the tables print it.
    """
    columns = list(candidates.columns)
    parameters = columns[columns.index("evaluation") + 1 : columns.index("objective")]
    places = {"objective": (1, 1)} | {parameter: (2 + i // 2, 1 + i % 2) for i, parameter in enumerate(parameters)}
    rows = 1 + -(-len(parameters) // 2)
    titles = ["objective: mean log-probability of the gold answer", *(parameter.replace("_", " ") for parameter in parameters)]
    fig = make_subplots(rows, 2, specs=[[{"colspan": 2}, None]] + [[{}, {}]] * (rows - 1), subplot_titles=titles, shared_xaxes="all",
                        horizontal_spacing=0.1, vertical_spacing=0.32 / rows)  # fmt: skip
    for arm, (name, color, symbol) in {"cma": ("CMA-ES", BLUE, "circle"), "random": ("random search", ORANGE, "circle-open")}.items():
        part = candidates[candidates["arm"] == arm]
        number = part["evaluation"] + 1
        for column, (row, col) in places.items():
            fig.add_scatter(x=number, y=part[column], mode="markers", name=name, legendgroup=arm, showlegend=column == "objective" and len(part) > 0,
                            marker={"color": color, "symbol": symbol, "size": 9, "line": {"width": 2, "color": color}}, row=row, col=col)  # fmt: skip
        fig.add_scatter(x=number, y=part["objective"].cummax(), mode="lines", line={"color": color, "shape": "hv", "width": 1.5},
                        showlegend=False, hoverinfo="skip", row=1, col=1)  # fmt: skip
    for first in candidates.groupby("generation")["evaluation"].min().iloc[1:]:
        fig.add_vline(x=first + 0.5, line={"color": GREY, "width": 1, "dash": "dot"})
    fig.update_yaxes(zeroline=False)
    fig.update_annotations(font_size=13).update_xaxes(title={"text": "candidate", **SMALL, "standoff": 4}, showticklabels=True, tickformat="d",
                                                      range=[0.4, candidates["evaluation"].max() + 1.6])  # fmt: skip
    best = candidates.groupby("arm")["objective"].max()
    alt = f"Candidates by objective and parameters; best objective {', '.join(f'{arm} {value:.3f}' for arm, value in best.items())}."
    subtitle = {"text": "dotted lines: generations; solid: best so far", "font_size": 13}
    title = {"text": f"{label}: the search, candidate by candidate", "subtitle": subtitle}
    return finish(fig, title, alt, height=190 + 215 * rows, legend=BELOW, margin={"t": 105, "b": 95})


def benchmark_gaps(gaps: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], counts: Mapping[str, int]) -> go.Figure:
    """Heat map of benchmark differences, a panel each: blue above, red below; the score itself on hover.

    Args:
        gaps: title → differences and scores, a row per model (index: its label), a column per benchmark (its name).
        counts: benchmark → items, shown where the title does not start with ``published``.
    """
    limit = max([0.05, *(gap.abs().max().max() for gap, _ in gaps.values() if gap.notna().any(axis=None))])
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
    size = {"width": 880, "height": 210 + 40 * sum(len(gap) for gap, _ in gaps.values()), "margin": {"l": 185, "t": 75, "b": 45}}
    return finish(fig, "Benchmarks: each model against its parents", f"Heat map of benchmark differences: {'; '.join(gaps)}.", **size)


def together(tables: Mapping[str, pd.DataFrame], columns: Mapping[str, str]) -> go.Figure:
    """Definition scores against benchmarks, model by model: a row of panels per source, a panel per benchmark.

    Args:
        tables: source → a row per model (index: its label), a column ``score`` and one per benchmark; NaN where there is no value.
        columns: key of a benchmark → its name.
    """
    models = list(dict.fromkeys(model for table in tables.values() for model in table.index))
    titles = [_correlated(name, table[key], table["score"]) for table in tables.values() for key, name in columns.items()]
    fig = make_subplots(len(tables), len(columns), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04, vertical_spacing=0.26)
    for row, table in enumerate(tables.values(), 1):
        for column, key in enumerate(columns, 1):
            for number, model in enumerate(models):
                known = table.loc[table.index == model, [key, "score"]].dropna()
                marker = {"size": 11, "color": MODELS[number % len(MODELS)], "symbol": SYMBOLS[number % len(SYMBOLS)]}
                fig.add_scatter(x=known[key], y=known["score"], mode="markers", name=model, legendgroup=model, marker=marker, cliponaxis=False,
                                showlegend=row == column == 1, hovertemplate=f"{model}: %{{x:.3f}}, %{{y:.2f}}<extra></extra>",
                                row=row, col=column)  # fmt: skip
        fig.update_yaxes(title={"text": list(tables)[row - 1].replace(": ", ":<br>"), **SMALL}, row=row, col=1)
        for column, name in enumerate(columns.values(), 1):
            fig.update_xaxes(title={"text": name, **SMALL, "standoff": 6}, nticks=5, tickfont_size=11, row=row, col=column)
    fig.update_annotations(font_size=12)
    alt = "Scatter plots of mean definition score against benchmarks; " + "; ".join(title.replace("<br>", ", ") for title in titles)
    title = "Mean definition score against the Japanese medical benchmarks"
    return finish(fig, title, alt, height=150 + 260 * len(tables), legend=BELOW, margin={"t": 95, "b": 120, "l": 85})


def _correlated(name: str, a: pd.Series, b: pd.Series) -> str:
    found = statistics.correlate(a, b)
    if np.isnan(found["rho"]):
        return f"{name}<br>{found['reason']}"
    return f"{name}<br>ρ = {found['rho']:.2f} [{found['low']:.2f}, {found['high']:.2f}], n = {found['n']}"


def correlations(frame: pd.DataFrame) -> go.Figure:
    """Correlations with their intervals as rows of dots: index the rows' names, columns ``(source, rho | low | high | n)``."""
    fig = go.Figure()
    for source, color, shift in zip(dict.fromkeys(frame.columns.get_level_values(0)), (BLUE, ORANGE), (-0.13, 0.13), strict=True):
        part = frame[source]
        says = [f"{name}, {source}: {row.rho:.2f} [{row.low:.2f}, {row.high:.2f}], n = {row.n:.0f}" for name, row in part.iterrows()]
        bars = {"array": part["high"] - part["rho"], "arrayminus": part["rho"] - part["low"], "thickness": 2.5, "width": 0}
        fig.add_scatter(x=part["rho"], y=np.arange(len(part)) + shift, mode="markers", name=source, text=says, hoverinfo="text", error_x=bars,
                        marker={"size": 10, "color": color, "symbol": "circle" if color == BLUE else "diamond"})  # fmt: skip
    fig.add_vline(x=0, line={"color": INK, "width": 1})
    absent = [f"{name} ({', '.join(s for s in dict.fromkeys(frame.columns.get_level_values(0)) if np.isnan(frame.loc[name, (s, 'rho')]))})"
              for name in frame.index if frame.xs("rho", axis=1, level=1).loc[name].isna().any()]  # fmt: skip
    fig.update_yaxes(tickvals=list(range(len(frame))), ticktext=list(frame.index), range=[len(frame) - 0.5, -0.5], zeroline=False)
    says = f"Spearman’s ρ over models{'; undefined: ' + ', '.join(absent) if absent else ''}"
    fig.update_xaxes(title={"text": says, **SMALL}, range=[-1.05, 1.05], dtick=0.5, zeroline=False)
    title = "Do definition scores and benchmarks move together?"
    return finish(fig, title, f"{title} {says}.", height=150 + 38 * len(frame), legend=BELOW, margin={"l": 110, "t": 55, "b": 95})
