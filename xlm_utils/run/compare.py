"""Do two models differ on the tasks that both have answered, item by item? ``python -m xlm_utils.run.compare A B``.

A and B are folders of lm-eval's ``--log_samples``, or of inspect_ai's logs in JSON (``--log-format json``, or ``inspect log convert``).
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from xlm_utils import draw
from xlm_utils.draw.canvas import BLUE, INK, finish
from xlm_utils.draw.pages import as_text, page, table_html
from xlm_utils.report.results import text
from xlm_utils.stats import paired, statistics
from xlm_utils.study import StudyError, read_jsonl, write_text

SAMPLES = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl")  # lm-eval's: task, time
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # inspect_ai's: correct, partial, incorrect, no answer


def read_scores(folder: Path) -> pd.DataFrame:
    """Scores by item of the newest log of each task: columns task, metric (with lm-eval's filter, where it has one), item, document (a hash), score.

    An item's epochs (inspect_ai) are averaged; a metric of all items at once has no score for one, and no rows. A StudyError: no logs,
    logs of several models, one that can't be read, or no metric that is a number for each item.
    """
    files = {match: file for file in folder.rglob("samples_*.jsonl") if (match := SAMPLES.fullmatch(file.name))}
    newest = {match[1]: file for match, file in sorted(files.items(), key=lambda pair: pair[0][2])}
    logs = [] if newest else sorted(folder.rglob("*.json"))
    if len(homes := {file.parent for file in newest.values()}) > 1:
        raise StudyError(f"{folder}: logs of several models or runs; name one of {', '.join(sorted(map(str, homes)))}")
    found: dict[tuple, list] = defaultdict(list)
    try:
        for task, file in newest.items():
            for sample in read_jsonl(file):
                kind = f" ({sample['filter']})" if sample.get("filter", "none") != "none" else ""
                for metric in sample["metrics"]:
                    found[task, f"{metric}{kind}", str(sample["doc_id"]), sample["doc_hash"]].append(sample[metric])
        for log in (json.loads(file.read_text(encoding="utf-8")) for file in logs):
            for sample in log["samples"]:
                for scorer, score in (sample.get("scores") or {}).items():
                    grade = GRADES.get(str(score["value"]), score["value"])
                    found[log["eval"]["task"], scorer, str(sample["id"]), json.dumps(sample["input"])].append(grade)
    except (ValueError, KeyError, TypeError) as error:  # read_jsonl's names the file and line itself
        raise StudyError(f"{folder}: a log can't be read ({type(error).__name__}: {error})") from None
    rows = [(*key, np.mean(own)) for key, own in found.items() if all(isinstance(score, int | float) for score in own)]
    if not rows:
        what = "no metric in its logs is a number for each item" if newest or logs else "neither lm-eval's samples_*.jsonl nor inspect_ai's *.json"
        raise StudyError(f"{folder}: {what if folder.is_dir() else 'no such folder'}")
    return pd.DataFrame(rows, columns=["task", "metric", "item", "document", "score"])


def compare(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Every metric of every task that both have: task, metric, A and B (means of common items), what ``compare_means`` returns, and p_holm.

    A StudyError: nothing in common, or an item that is not the same document on both sides.
    """
    both = a.merge(b, on=["task", "metric", "item"], suffixes=("_a", "_b"))
    if both.empty:
        told = (", ".join(sorted(set(side["task"] + " " + side["metric"]))) or "none" for side in (a, b))
        raise StudyError("no item in common: A has {}, B has {}".format(*told))
    for row in both[both["document_a"] != both["document_b"]].itertuples():
        raise StudyError(f"task {row.task}: item {row.item} is another document in B; are both logs of one version of the task?")
    if alone := len(a) + len(b) - 2 * len(both):
        print(f"{alone} of {len(a) + len(b)} scores are of an item and metric that the other side lacks: left out")
    pairs = {key: (block["score_a"], block["score_b"]) for key, block in both.groupby(["task", "metric"])}
    table = pd.DataFrame([_row(*key, [pair]) for key, pair in pairs.items()]).assign(p_holm=lambda found: statistics.holm(found["p"]))
    of = {metric: [pair for (_, own), pair in pairs.items() if own == metric] for metric in table["metric"].unique()}
    joint = [_row(f"all {len(own)} tasks", metric, own) for metric, own in of.items() if len(own) > 1]
    return pd.concat([table, pd.DataFrame(joint)], ignore_index=True)


def _row(task: str, metric: str, pairs: list[tuple[pd.Series, pd.Series]]) -> dict:
    means = dict(zip("AB", np.mean([[side.mean() for side in pair] for pair in pairs], axis=0), strict=True))
    return {"task": task, "metric": metric, **means, **paired.compare_means(pairs)}


def forest(table: pd.DataFrame, title: str) -> go.Figure:
    """A row a task and metric, with its interval; filled where it holds after Holm."""
    names, rows = [f"{row.task}, {row.metric}" for row in table.itertuples()], list(range(len(table)))
    ends = {"array": table["high"] - table["difference"], "arrayminus": table["difference"] - table["low"], "color": BLUE, "width": 0}
    marker = {"size": 11, "color": BLUE, "line": {"width": 2}, "symbol": np.where(table["p_holm"] < 0.05, "circle", "circle-open")}
    fig = go.Figure(go.Scatter(x=table["difference"], y=rows, mode="markers", marker=marker, error_x=ends)).add_vline(0, line_color=INK)
    fig.update_yaxes(tickvals=rows, ticktext=names, range=[len(table) - 0.5, -0.5], showgrid=False, zeroline=False)
    alt = "; ".join(f"{name}: {row.difference:+.3f} [{row.low:.3f}, {row.high:.3f}]" for name, row in zip(names, table.itertuples(), strict=True))
    margin = {"l": 30 + 7 * max(map(len, names)), "t": 80, "b": 50}
    return finish(fig, title, alt, "95 % over items; filled: p < 0.05 after Holm", height=140 + 34 * len(table), margin=margin)


def main() -> None:
    """Command line: two folders; a table on the screen, and files."""
    parser = argparse.ArgumentParser(description="Paired differences of two models on logs of the same tasks.")
    for name in "ab":
        parser.add_argument(name, type=Path)
    parser.add_argument("--metric", nargs="+", help="only these, such as acc_norm; Holm then counts no others")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder for the table and the forest plot")
    asked = parser.parse_args()
    try:
        table = compare(*(side[side["metric"].isin(asked.metric)] if asked.metric else side for side in map(read_scores, (asked.a, asked.b))))
        table.attrs = {"title": f"A = {asked.a}, B = {asked.b}", "caption": text("compare", count=table["p_holm"].count())}
        print(table.drop(columns="reason").to_string(index=False, float_format="{:.3f}".format, na_rep="–"))
        print("\n{title}. {caption}".format(**table.attrs))
        write_text(asked.out / "comparison.csv", as_text(table).to_csv(index=False))
        write_text(asked.out / "comparison.html", page("comparison", table_html(table.set_index("task"))))
        draw.save(forest(table, f"{asked.a.name} minus {asked.b.name}"), "forest", asked.out / "forest")
    except (StudyError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
