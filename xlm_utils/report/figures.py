"""Figure 1 and its company: one function a figure, drawn from the files that a study already has, or from a notebook's data frame.

Every function returns a Plotly figure; ``save`` writes it. A figure with nothing to show says so on
the canvas. Proxy judges and control rows are named as such in every figure, as in the tables.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlm_utils.draw.canvas import BELOW, BLUE, GREY, INK, ORANGE, RED, SMALL, empty, finish
from xlm_utils.report import planned, results
from xlm_utils.report.results import BENCHMARKS, judge_label, load_scores, note, row_label, row_order
from xlm_utils.stats import statistics
from xlm_utils.study import Study


def _header(study: Study, judge: str, reference: str, what: str = "") -> str:
    return f"{judge}<br><span style='font-size:11px'>{what}against {results.reference_label(study, reference)}</span>"


def histograms(study: Study) -> go.Figure:
    """Figure 1: models × judges and references, one bin per score 0–10, the median marked; a proxy's scores are rounded to their bin.

    All panels share both axes; they fit the models, and a control's taller bar is cut off and says its height.
    """
    scores = load_scores(study)
    panels = list(scores[["judge", "reference"]].drop_duplicates().itertuples(index=False, name=None))
    runs = [run for run in row_order(study) if run in set(scores["run"])]
    height, tallest, lines, controls = 95 * len(runs), 1.0, [], []
    titles = [_header(study, judge_label(judge), reference) for judge, reference in panels]
    fig = make_subplots(len(runs), len(panels), shared_xaxes=True, shared_yaxes=True, column_titles=titles,
                        horizontal_spacing=0.03, vertical_spacing=22 / height)  # fmt: skip
    texts = [title.update(font_size=14, yshift=16) for title in fig.layout.annotations]
    for (run, judge, reference), block in scores.groupby(["run", "judge", "reference"], sort=False):
        row, column = runs.index(run), panels.index((judge, reference))
        axis = str(row * len(panels) + column + 1).removeprefix("1" if not row + column else "-")
        found = statistics.describe(block["score"], block["status"])
        counts = np.bincount(np.rint(block["score"].dropna()).astype(int), minlength=11)
        share = 100 * counts / max(found["n"], 1)
        if note(study, run):  # its bars may leave the shared axis, and then say how tall they are
            controls += [(axis, score, percent) for score, percent in enumerate(share)]
        else:
            tallest = max(tallest, share.max())
        color = GREY if note(study, run) else ORANGE if run == study.by_role("general") else BLUE
        fig.add_bar(x=list(range(11)), y=share, customdata=counts, marker_color=color, showlegend=False, name=row_label(study, run),
                    hovertemplate="score %{x}: %{customdata} terms (%{y:.0f} %)", row=row + 1, col=column + 1)  # fmt: skip
        domain, says = {"xref": f"x{axis} domain", "yref": f"y{axis} domain"}, f"n = {found['n']}"
        if found["n"]:
            middle = {"x0": found["median"], "x1": found["median"], "xref": f"x{axis}"}
            lines.append({"type": "line", **domain, **middle, "y0": 0, "y1": 1, "line": {"color": INK, "width": 2, "dash": "dot"}})
            says = f"median {found['median']:.1f}, {says}"
        says += f", {found['missing']} missing" if found["missing"] else ""
        texts.append({"text": says, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", **domain, "font_size": 11})
        if not column:
            label = row_label(study, run).replace(" (", "<br>(").replace(" with ", "<br>with ")
            label += "<br><sup>control</sup>" if note(study, run) else ""
            texts.append({"text": label, "x": 0, "xanchor": "right", "xshift": -42, "y": 0.5, "align": "right", **domain, "font_size": 13})
    for axis, score, percent in controls:
        if percent > 1.05 * tallest:
            side = {"xanchor": "right", "xshift": -13} if score > 4 else {"xanchor": "left", "xshift": 13}
            place = {"x": score, "xref": f"x{axis}", "y": 0.94, "yref": f"y{axis} domain", "yanchor": "top"}
            texts.append({"text": f"↑ {percent:.0f} %", **place, **side, "font_size": 11})
    fig.update_layout(annotations=texts, shapes=lines).update_annotations(showarrow=False)  # at once: one by one is slow
    fig.update_xaxes(dtick=1, range=[-0.6, 10.6], showgrid=False, tickfont_size=11)
    fig.update_yaxes(ticksuffix=" %", nticks=4, tickfont_size=10, range=[0, 1.05 * tallest])
    fig.update_xaxes(title={"text": "score", **SMALL, "standoff": 4}, row=len(runs))
    alt = f"Histograms of scores 0 to 10 for {len(runs)} models, as shares of the scored terms, with medians."
    size = {"width": max(800, 200 + 210 * len(panels)), "height": height + 170, "margin": {"l": 175, "t": 120, "b": 50}}
    return finish(fig, "Definition scores: share of terms per score", alt, study.proxy, bargap=0.12, **size)


def forest(study: Study) -> go.Figure:
    """The planned differences of every merge, a panel per judge, reference and what is subtracted; filled where it holds after Holm.

    The second row of dots counts output that is no definition as 0. Diamonds are the published differences: of the same judge if the
    paper has it, else of GPT-4o, and only where the reference and what is subtracted are the published ones.
    """
    found, general = planned.differences(study), study.label(study.by_role("general"))
    if found.empty:
        return empty(f"No merge and {general} were scored by the same judge.")
    panels = list(found.groupby(["judge", "reference", "minus"], sort=False))
    titles = [_header(study, judge, reference, f"minus {minus}, ") for (judge, reference, minus), _ in panels]
    columns, height = min(2, len(titles)), 52 * found["model"].nunique()  # pixels of a panel; 95 between two
    rows = -(-len(titles) // columns)
    whole = rows * height + 95 * (rows - 1)
    fig = make_subplots(rows, columns, shared_xaxes="all", shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.05,
                        vertical_spacing=95 / whole if rows > 1 else 0)  # fmt: skip
    fig.update_annotations(font_size=14).update_xaxes(zeroline=False, showticklabels=True)
    models, shown = list(dict.fromkeys(found["model"])), set()
    for number, ((_, reference, minus), block) in enumerate(panels):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        for value, low, high, p, name, color, shift in (
            ("difference", "low", "high", "p_holm", "mean of the scores", BLUE, -0.16),
            ("counted", "counted_low", "counted_high", "counted_p_holm", "no definition counts as 0", RED, 0.16),
        ):
            says = [f"{row.model}: {getattr(row, value):+.2f} [{getattr(row, low):.2f}, {getattr(row, high):.2f}], n = {row.n}"
                    f"<br>p by Holm {getattr(row, p):.3f}<br>{row.reason}" for row in block.itertuples()]  # fmt: skip
            for holds in (True, False):
                part, texts = block[(block[p] < 0.05) == holds], [text for text, own in zip(says, (block[p] < 0.05) == holds, strict=True) if own]
                label = f"{name}, {'holds after Holm' if holds else 'does not hold'}"
                marker = {"color": color, "size": 11, "symbol": "circle" if holds else "circle-open", "line": {"width": 2, "color": color}}
                bars = {"array": part[high] - part[value], "arrayminus": part[value] - part[low], "thickness": 2 if holds else 1, "width": 0}
                fig.add_scatter(x=part[value], y=[models.index(model) + shift for model in part["model"]], mode="markers", name=label,
                                legendgroup=label, showlegend=len(part) > 0 and label not in shown, marker=marker, text=texts, hoverinfo="text",
                                error_x=bars | {"color": color}, **place)  # fmt: skip
                shown |= {label} if len(part) else set()
        if study.repeats and reference == "expert" and minus == general:
            there = results.published_differences(study, results.published_scores()).reindex(study.methods).dropna()
            judge = block["judge"].iloc[0] if block["judge"].iloc[0] in there else there.columns[0]
            name = f"published ({judge})"
            rows = [(row_label(study, run), there[judge][run]) for run in there.index if row_label(study, run) in models]
            fig.add_scatter(x=[x for _, x in rows], y=[models.index(model) for model, _ in rows], mode="markers", name=name, legendgroup=name,
                            showlegend=name not in shown, text=[model for model, _ in rows], hovertemplate="%{text}: %{x:+.2f}",
                            marker={"color": ORANGE, "size": 10, "symbol": "diamond", "line": {"color": INK, "width": 1}}, **place)  # fmt: skip
            shown.add(name)
    unit = "points of 10, 95 % interval over terms" if "lambda" in found else "points of 10, 95 % BCa over terms"
    fig.add_vline(x=0, line={"color": INK, "width": 1}).update_xaxes(title={"text": unit, **SMALL, "standoff": 4})
    fig.update_yaxes(zeroline=False, showgrid=False, tickvals=list(range(len(models))), ticktext=models, range=[len(models) - 0.5, -0.5])
    title = f"The planned differences, paired by term (n = {'–'.join(map(str, sorted({found['n'].min(), found['n'].max()})))})"
    return finish(fig, title, f"Forest plot. {title}.", study.proxy, legend=BELOW, height=whole + 240, margin={"l": 130, "t": 115, "b": 130})


def benchmark_gaps(study: Study) -> go.Figure:
    """Heat map of benchmarks: every model minus each parent, and the published ones minus the published general model; the scores on hover.

    Blue above, red below. The published panel, where it is shown, sets the scale, so that the noise of small sets can't pale it.
    """
    here, there, general = results.measured(study), results.published_benchmarks(), study.by_role("general")
    panels = {f"minus {study.label(parent)}": (here.drop(index=parent) - here.loc[parent], here) for parent in (general, study.by_role("expert"))}
    known = results.published_differences(study, there)
    scored = there.loc[[results.kept_key(study, model) for model in known.index]].set_axis(known.index)
    panels |= {f"published: minus {study.label(general)}": (known, scored)} if study.repeats else {}
    scale = known if study.repeats else pd.concat([gap for gap, _ in panels.values()])
    limit, items = max(0.05, scale.abs().max(axis=None)), results.load_benchmarks(study)["n"].fillna(0).groupby("column").max()
    fig = make_subplots(len(panels), 1, subplot_titles=list(panels), vertical_spacing=0.09)
    for row, (title, (gap, scores)) in enumerate(panels.items(), 1):
        gap, scores = gap.reindex(columns=list(here)), scores.loc[gap.index].reindex(columns=list(here))
        texts = [["–" if np.isnan(d) else "0" if not round(d, 3) else f"{d:+.3f}".replace("0.", ".").replace("-", "−") for d in line]
                 for line in gap.to_numpy()]  # fmt: skip
        names = [BENCHMARKS.get(key, key) + f"<br>n = {items[key]:,.0f}" * (not title.startswith("published")) for key in here]
        fig.add_heatmap(z=gap, x=names, y=[study.label(model) for model in gap.index], zmin=-limit, zmax=limit, colorscale="RdBu", xgap=2, ygap=2,
                        text=texts, texttemplate="%{text}", textfont_size=12, customdata=scores,
                        hovertemplate="%{y}, %{x}: %{customdata:.3f} (%{z:+.3f})<extra></extra>", showscale=row == 1,
                        colorbar={"title": "difference", "thickness": 12, "tickformat": "+.2f"}, row=row, col=1)  # fmt: skip
    fig.update_annotations(font_size=14)
    fig.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=False, tickangle=0, tickfont_size=11)
    size = {"width": 880, "height": 210 + 40 * sum(len(gap) for gap, _ in panels.values())}
    under = study.proxy and study.proxy + "<br>(All but the numbers called published, which are the paper’s.)" * bool(study.repeats)
    alt, margin = f"Heat map of benchmark differences: {'; '.join(panels)}.", {"l": 185, "t": 112 if under else 75, "b": 45}
    return finish(fig, "Benchmarks: each model against its parents", alt, under, margin=margin, **size)


def funnel(counts: pd.DataFrame) -> go.Figure:
    """Rows of the vocabulary after each filter; ``counts`` has the columns step and rows."""
    first, *later = counts["rows"]
    texts = [f"{first:,}", *(f"{rows:,} ({100 * rows / first:.1f} %)" for rows in later)]
    bars = {"orientation": "h", "marker_color": BLUE, "text": texts, "textposition": "outside", "cliponaxis": False}
    fig = go.Figure(go.Bar(x=counts["rows"], y=counts["step"], **bars))
    fig.update_yaxes(autorange="reversed", ticksuffix="  ").update_xaxes(range=[0, 1.18 * first], visible=False)
    alt = "; ".join(f"{step}: {text}" for step, text in zip(counts["step"], texts, strict=True))
    return finish(fig, "The vocabulary after each filter", alt, height=110 + 42 * len(counts), margin={"l": 250, "t": 45, "b": 20})
