"""Figures of the way there, each drawn from data frames: the vocabulary's funnel, and a search."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlm_utils.draw.canvas import BELOW, BLUE, GREY, ORANGE, SMALL, finish


def funnel(counts: pd.DataFrame) -> go.Figure:
    """Rows of the vocabulary after each filter; ``counts`` has the columns step and rows."""
    first, *later = counts["rows"]
    texts = [f"{first:,}", *(f"{rows:,} ({100 * rows / first:.1f} %)" for rows in later)]
    bars = {"orientation": "h", "marker_color": BLUE, "text": texts, "textposition": "outside", "cliponaxis": False}
    fig = go.Figure(go.Bar(x=counts["rows"], y=counts["step"], **bars))
    fig.update_yaxes(autorange="reversed", ticksuffix="  ").update_xaxes(range=[0, 1.18 * first], visible=False)
    alt = "; ".join(f"{step}: {text}" for step, text in zip(counts["step"], texts, strict=True))
    return finish(fig, "The vocabulary after each filter", alt, height=110 + 42 * len(counts), margin={"l": 250, "t": 45, "b": 20})


def search_plot(candidates: pd.DataFrame, label: str) -> go.Figure:
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
