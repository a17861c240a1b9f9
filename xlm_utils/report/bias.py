"""What a judge gives for the language, the length and the echo of a text, and for how it is asked: a bias that can be seen."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from xlm_utils.ask.cards import OFFLINE, load_card
from xlm_utils.draw.canvas import BLUE, SMALL, finish
from xlm_utils.generate import definitions
from xlm_utils.judge import controls
from xlm_utils.report.results import captioned, judge_label, load_scores
from xlm_utils.stats import association, statistics
from xlm_utils.study import Study, read_jsonl

WITHOUT = {"proxy": "an encoder: it has no prompt, and computes the same again", "people": "people read a sheet, not a prompt"}


def properties(study: Study) -> pd.DataFrame:
    """A row per judge and property (see the caption): judge, property, points, low, high, noise, n, remark (why there is no number)."""
    scores, rows = load_scores(study), []
    texts = definitions.rows(study, list(scores["run"].unique()))
    lengths = {(row.run, str(row.term_id)): np.log2(max(len(row.definition), 1)) for row in texts.itertuples()} if len(texts) else {}
    for judge, block in scores.groupby("judge", sort=False):
        asked = read_jsonl(study.folder / "scores" / judge / "controls.jsonl")
        for row in controls.verdicts(asked).query("control == 'language'").itertuples():
            rows.append({"judge": judge, "property": "language", "value": row.mean, "low": row.low, "high": row.high, "n": row.n})
        if echo := [row["score"] for row in asked if row["control"] == "echo_target" and row["score"] is not None]:
            ends = statistics.mean_interval(echo, study.seed)
            rows.append({"judge": judge, "property": "echo", "value": np.mean(echo), "low": ends.low, "high": ends.high, "n": len(echo)})
        block = block[block["reference"] == block["reference"].iloc[-1]]
        length = [lengths.get(key, np.nan) for key in zip(block["run"], block["term_id"], strict=True)]
        rows.append({"judge": judge, "property": "length"} | association.within_slope(length, block["score"], block["term_id"]))
        for file, name in {"retest": "asked again", "order": "order", "wording": "wording"}.items():
            again = pd.DataFrame(read_jsonl(study.folder / "scores" / judge / f"{file}.jsonl"))
            client = load_card(judge).client
            none = {"remark": WITHOUT[client] if client in OFFLINE else "not asked yet"}
            rows.append({"judge": judge, "property": name} | (none if again.empty else moved(again, scores[scores["judge"] == judge])))
    frame = pd.DataFrame(rows, columns=["judge", "property", "value", "low", "high", "noise", "n", "remark"]).fillna({"remark": ""})
    numbers = dict.fromkeys(("value", "low", "high", "noise"), float)
    frame = frame.assign(judge=frame["judge"].map(judge_label)).astype({**numbers, "n": "Int64"}).rename(columns={"value": "points"})
    return captioned(frame, "properties", target=study.target.name, source=study.source.name)


def moved(again: pd.DataFrame, first: pd.DataFrame) -> dict:
    """How far second judgements lie from the first: value (mean of second minus first), low, high, noise, n (both scored), remark.

    noise: standard deviation of one judgement, which is that of the differences over √2.
    """
    both = again.merge(first, on=["run", "reference", "term_id"], suffixes=("_again", ""))[["score_again", "score"]].astype(float)
    gaps = (both["score_again"] - both["score"]).dropna()
    ends = statistics.mean_interval(gaps, what="difference")
    return {"value": gaps.mean(), "low": ends.low, "high": ends.high, "noise": gaps.std(ddof=1) / np.sqrt(2), "n": len(gaps), "remark": ends.reason}


def properties_plot(study: Study) -> go.Figure:
    """The table of ``properties`` as points with their intervals, a row per judge and property."""
    found = properties(study).dropna(subset="points")
    rows = [f"{row.property}, {row.judge}" for row in found.itertuples()]
    ends = {"array": found["high"] - found["points"], "arrayminus": found["points"] - found["low"], "color": BLUE}
    fig = go.Figure(go.Scatter(x=found["points"], y=rows, mode="markers", marker={"size": 11, "color": BLUE}, error_x=ends, showlegend=False))
    fig.add_vline(x=0, line_width=1).update_yaxes(autorange="reversed").update_xaxes(title={"text": "points of 10, 95 %", **SMALL})
    alt = "; ".join(f"{name}: {value:+.2f}" for name, value in zip(rows, found["points"], strict=True))
    return finish(fig, "What a judge gives for other things than content", alt, study.proxy, height=190 + 45 * len(rows), margin={"l": 230, "t": 95})
