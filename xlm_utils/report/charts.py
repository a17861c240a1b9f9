"""Figures of the way there, each drawn from data frames: the vocabulary's funnel, and a search."""

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from xlm_utils.draw.canvas import BLUE, finish


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
    """Objective and parameters of every candidate of a search, in order of evaluation.

    Args:
        candidates: rows as ``evolution.search`` gives them; the line is the best objective so far.
        label: of the searched method, as the tables print it.
    """
    columns = list(candidates.columns)
    shown = ["objective", *columns[columns.index("evaluation") + 1 : columns.index("objective")]]
    number, best = candidates["evaluation"] + 1, candidates["objective"].cummax()
    fig = px.scatter(candidates.assign(candidate=number).melt("candidate", shown), "candidate", "value", facet_row="variable")
    fig.add_scatter(x=number, y=best, mode="lines", line={"color": BLUE, "shape": "hv", "width": 1.5}, hoverinfo="skip", row=len(shown), col=1)
    fig.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2].replace("_", " ")))
    fig.update_traces(marker={"size": 9, "color": BLUE}, selector={"mode": "markers"})
    fig.update_yaxes(matches=None, title="", zeroline=False).update_xaxes(tickformat="d")
    alt = f"Candidates by objective and parameters; best objective {best.max():.3f}."
    under = "objective: mean log-probability of the gold answer, the line its best so far"
    title, height = f"{label}: the search, candidate by candidate", 150 + 150 * len(shown)
    return finish(fig, title, alt, under, height=height, showlegend=False, margin={"t": 90, "b": 90})
