"""Figures of the way there, each drawn from data frames: the vocabulary's funnel, and a search."""

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from xlm_utils.draw.canvas import BELOW, BLUE, ORANGE, finish


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
    columns, arms = list(candidates.columns), {"cma": "CMA-ES", "random": "random search"}
    shown = ["objective", *columns[columns.index("evaluation") + 1 : columns.index("objective")]]
    table = candidates.assign(candidate=candidates["evaluation"] + 1, search=candidates["arm"].map(arms)).melt(["candidate", "search"], shown)
    fig = px.scatter(table, "candidate", "value", "search", "search", facet_row="variable", color_discrete_sequence=[BLUE, ORANGE])
    for (_, part), color in zip(candidates.groupby("arm", sort=False), (BLUE, ORANGE), strict=False):
        fig.add_scatter(x=part["evaluation"] + 1, y=part["objective"].cummax(), mode="lines", line={"color": color, "shape": "hv", "width": 1.5},
                        showlegend=False, hoverinfo="skip", row=len(shown), col=1)  # fmt: skip
    fig.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2].replace("_", " ")))
    fig.update_traces(marker_size=9, selector={"mode": "markers"}).update_yaxes(matches=None, title="", zeroline=False).update_xaxes(tickformat="d")
    best = candidates.groupby("arm")["objective"].max()
    alt = f"Candidates by objective and parameters; best objective {', '.join(f'{arm} {value:.3f}' for arm, value in best.items())}."
    under = "objective: mean log-probability of the gold answer, the line its best so far"
    title, height = f"{label}: the search, candidate by candidate", 150 + 150 * len(shown)
    return finish(fig, title, alt, under, height=height, legend=BELOW | {"title": ""}, margin={"t": 90, "b": 90})
