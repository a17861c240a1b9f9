"""Data frames as tables to read: HTML that stands alone, in a page of its own or in a notebook.

What matters is in plain tags (``<b>``, ``<u>``, ``<small>``), which GitHub keeps when it shows a notebook and drops all style; colours are the
reader's own, light or dark.
"""

from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

STYLE = "\n" + Path(__file__).with_name("tables.css").read_text(encoding="utf-8")
PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
P_VALUES = ("p", "p_holm", "counted_p_holm")
INTERVALS = {"mean": "low", "offset_off": "offset_off_low", "counted": "counted_low", "value": "low"}  # in small type under their value
BELOW = {"mean": "offset_off"}  # of a grouped table: in italics under the other, so that the table grows no wider
DIGITS = {"median": 1} | dict.fromkeys(("value", "published", *P_VALUES), 3)  # after the point; other columns have two
MARKED = ("median", "mean", "counted", "value", "published")  # columns whose best and worst are marked
HEADERS = {"cluster_low": "95 %, clusters", "rank_biserial": "rank-biserial", "value": "here", "published": "publ."}
for _same, _header in {("low", "counted_low"): "95 % interval", ("p_holm", "counted_p_holm"): "p (Holm)", ("seen_low", "unseen_low"): "95 %"}.items():
    HEADERS |= dict.fromkeys(_same, _header)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table for a CSV file that Excel may open: a text that begins like a formula gets an apostrophe before it."""

    def safe(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

    return table.map(safe).rename(index=safe, columns=safe)


def page(title: str, body: str, head: str = "") -> str:
    """A whole HTML page; ``title`` is text, ``head`` and ``body`` are HTML."""
    return PAGE.format(title=escape(title), head=head, body=body)


def number(value: object, column: str) -> str:
    """One cell's text: an integer whole, a float with the digits of its column, a missing value as a dash."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if column in P_VALUES and value < 0.0005:
        return "<.001"
    digits = DIGITS.get(column, 2)
    text = f"{value:.{digits}f}".replace("-", "−")
    return text.replace("0.", ".", 1) if digits == 3 and abs(value) < 1 else text  # .804, as the paper prints it


def _marks(values: pd.Series, column: str, ranked: np.ndarray) -> dict[str, str]:
    """Printed number → tag, for the best and the worst of the ranked rows; nothing where all print the same."""
    shown = {number(value, column): value for value, counts in zip(values, ranked, strict=True) if counts and pd.notna(value)}
    return {} if len(shown) < 2 else {max(shown, key=shown.__getitem__): "b", min(shown, key=shown.__getitem__): "u"}


def _cells(frame: pd.DataFrame, group: str, column: str, ranked: np.ndarray) -> list[str]:
    """HTML of one column's cells; an interval's ends share a cell; a star (p below .05) and an interval stand behind their value."""
    if column.endswith("low"):
        return _ends(frame, group, column, column)
    texts = [escape(number(value, column)) for value in frame[group, column]]
    if column in MARKED:
        marks = _marks(frame[group, column], column, ranked)
        texts = [f"<{marks[t]}>{t}</{marks[t]}>" if t in marks and counts else t for t, counts in zip(texts, ranked, strict=True)]
    if column == "value" and (group, "p_holm") in frame:
        texts = [f"{text}*" if p < 0.05 else text for text, p in zip(texts, frame[group, "p_holm"], strict=True)]
    if (low := INTERVALS.get(column)) and group and (group, low) in frame:
        under = _ends(frame, group, low, column)
        texts = [text if ends == "–" else f"{text}<br><small>{ends}</small>" for text, ends in zip(texts, under, strict=True)]
    if (below := BELOW.get(column)) and (group, below) in frame:
        texts = [f"{text}<br><i>{other}</i>" for text, other in zip(texts, _cells(frame, group, below, ranked), strict=True)]
    return texts


def _ends(frame: pd.DataFrame, group: str, low: str, column: str) -> list[str]:
    """Intervals, with the digits of a column."""
    pairs = zip(frame[group, low], frame[group, f"{low.removesuffix('low')}high"], strict=True)
    return ["–" if pd.isna(a) and pd.isna(b) else f"[{number(a, column)}, {number(b, column)}]" for a, b in pairs]


def table_html(frame: pd.DataFrame, remark: str = "") -> str:
    """A frame as an HTML figure with its caption.

    ``frame``: flat or ``(group, column)`` columns; ``attrs`` may hold title and caption. A column ``("", "note")`` goes under the row's label, and
    rows with a note are not ranked. ``remark``: a sentence that stands before the caption, in bold.
    """
    flat = not isinstance(frame.columns, pd.MultiIndex)
    grouped = frame.set_axis(pd.MultiIndex.from_product([[""], frame.columns]), axis=1) if flat else frame
    notes = list(grouped["", "note"]) if ("", "note") in grouped else [""] * len(grouped)
    ranked = np.array([not text for text in notes], dtype=bool)
    labels = [] if isinstance(frame.index, pd.RangeIndex) else [str(label) for label in frame.index]
    inside = [key for key in grouped.columns if key[1] == "note" or key[1].endswith("high") or (grouped[key] == "").all()]
    inside += [(group, column) for group, own in grouped.columns if own == "chance" for column in ("n", "chance", "p_holm")]
    under = [*INTERVALS.items(), *BELOW.items()]
    inside += [(group, other) for value, other in under for group, own in grouped.columns if own == value and group]
    inside += [key for key in grouped.columns if key[0] and key[1] == "missing" and not grouped[key].fillna(0).any()]
    counts = {group: grouped[group, "n"].dropna() for group, own in grouped.columns if group and own == "n"}
    same = {group: own.iloc[0] for group, own in counts.items() if own.nunique() == 1 and (group, "mean") in grouped}
    inside += [(group, "n") for group in same]  # said in the header
    shown = [key for key in grouped.columns if key not in inside]
    head, sub = ["<th></th>"] if labels else [], [f'<th class="text">{escape(str(frame.index.name or ""))}</th>'] if labels else []
    under = [f"<br><small>{escape(text)}</small>" if text else "" for text in notes]
    cells = [[f'<th class="text">{escape(label)}{text}</th>' for label, text in zip(labels, under, strict=True)]] if labels else []
    previous = None
    for group, column in shown:
        kind = "published" if "published" in f"{group} {column}" else ""
        kind += " text" if grouped[group, column].map(lambda value: isinstance(value, str)).any() else ""
        if group != previous:
            span, of = sum(g == group for g, _ in shown), counts.get(group, ()) if (group, "chance") in grouped or group in same else ()
            chance = grouped[group, "chance"].max() if (group, "chance") in grouped else float("nan")
            level = "" if pd.isna(chance) else f", chance {number(chance, 'value')}"
            n = f"<br><small>n = {'–'.join(f'{x:,.0f}' for x in sorted({min(of), max(of)}))}{level}</small>" if len(of) else ""
            head.append(f'<th class="group start {kind if group.startswith("published") else ""}" colspan="{span}">{escape(group)}{n}</th>')
        kind += " start" if group != previous and not flat else ""
        name = "<br>".join(escape(HEADERS.get(own, own.replace("_", " "))) for own in (column, BELOW.get(column)) if (group, own) in grouped)
        sub.append(f'<th class="{kind.strip()}">{name}</th>')
        cells.append([f'<td class="{kind.strip()}">{cell}</td>' for cell in _cells(grouped, group, column, ranked)])
        previous = group
    top = "" if flat else f"<tr>{''.join(head)}</tr>\n"
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    title, caption = frame.attrs.get("title", ""), frame.attrs.get("caption", "")
    said = " ".join(f"<b>{escape(text)}</b>" for text in (title and f"{title.rstrip('.')}.", remark) if text)
    table = f"<table>\n<thead>\n{top}<tr>{''.join(sub)}</tr>\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<style>{STYLE}</style>\n<figure class="xlm">\n{table}\n<figcaption>{said} {escape(caption)}</figcaption>\n</figure>'
