"""People as a judge: they rate a blind sheet, or the same as a page, of terms drawn at random; what comes back is read strictly.

A round is drawn once and never written again, so what was rated stays known. Its key, which raters are not given,
says what each row is. A rating belongs to a text: to every model that said it, and to none that says something else by now.
"""

import codecs
import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd

from xlm_utils.ask.cards import Card
from xlm_utils.draw.pages import as_text
from xlm_utils.study import Study, StudyError, relative
from xlm_utils.study.inputs import read_text, short
from xlm_utils.study.records import write_text
from xlm_utils.study.settings import project_path

COLUMNS = ["row", "term", "translation", "reference", "definition", "rating"]
KEY = ["row", "rater", "copy", "run", "term_id", "reference", "definition"]
CANT_SAY, NOT_DRAWN = "can't say", "not drawn"


def files(study: Study, card: Card) -> tuple[list[Path], list[Path]]:
    """The keys of all rounds, and the filled sheets; of written ratings, one list that is both."""
    folder, sheet = study.folder / card.name, [project_path(card.sheet)]
    return (sheet, sheet) if card.sheet else (sorted(folder.glob("*.key.csv")), sorted(folder.glob("filled/[!.~]*")))


def announce(study: Study, card: Card, asked: list[dict]) -> None:
    """Draw the card's round unless it is there (see ``draw``), and print where it is and how much of it is rated."""
    folder = study.folder / card.name
    if not card.sheet and not (folder / f"{card.round}.key.csv").exists():
        if not asked:
            print("  the sheet is drawn when all models have defined the terms (notebook 04)")
            return
        draw(study, card, asked)
    for rater, part in read(study, card).groupby("rater"):
        counts = {status: int((part["status"] == status).sum()) for status in ("ok", "cant_say", "not rated")}
        print(f"  rater {rater}, {len(part)} rows: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if not card.sheet:
        print(f"  give raters a page (.html) or sheet (.csv) of {folder}, no key; put what they send back into {folder / 'filled'}, run this again")


def draw(study: Study, card: Card, asked: list[dict]) -> None:
    """Write a round: ``<round>.csv`` and ``.html`` (of several raters, ``<round>-a`` …), then ``<round>.key.csv``.

    Concepts of no earlier round are drawn with the study's seed, all as likely; every text on their terms is one row, against the
    clinicians' definition where there is one. A tenth comes twice, of what one rater alone gets. Rows are shuffled.

    Args:
        asked: ``judging.questions`` of every run.

    Raises:
        StudyError: no term is left to draw, or there is no rubric.
    """
    folder, rubric = study.folder / card.name, project_path(card.rubric)
    before = {term for key in files(study, card)[0] for term in pd.read_csv(key, dtype=str)["term_id"]}
    left = pd.DataFrame([q for q in asked if q["reference_text"] and q["term_id"] not in before], columns=[*asked[0]])
    left = left[left["reference"] == left["reference"].min()]  # clinician comes before expert
    texts = left.drop_duplicates(["term_id", "definition"])
    if texts.empty or not rubric.is_file():
        what = f"round: no term is left to draw for {card.round}" if rubric.is_file() else f"rubric: there is no file {short(card.rubric)}"
        raise StudyError(f"{card.name}.yaml: {what}")
    concepts = np.random.default_rng(study.seed).permutation(texts["concept"].unique())
    concepts = concepts[: max(2, round(card.sample * len(concepts) / len(texts)))]
    both, keys, template = round(card.overlap * len(concepts)) if card.raters > 1 else 0, [], read_text(Path(__file__).with_name("people.html"))
    for number, rater in enumerate("abcdefghij"[: card.raters]):
        alone, shared = (texts[texts["concept"].isin(part)] for part in (concepts[both + number :: card.raters], concepts[:both]))
        twice = alone.sample(min(len(alone), math.ceil((len(alone) + len(shared)) / 10)), random_state=study.seed)
        rows = pd.concat([alone.assign(copy=1), shared.assign(copy=1), twice.assign(copy=2)]).sample(frac=1, random_state=study.seed + number)
        names = [f"{card.round}-{rater}{place:03}" for place in range(1, len(rows) + 1)]  # nothing that a spreadsheet takes for a number or date
        keys.append(rows.assign(row=names, rater=rater).drop(columns="run"))
        shown = rows.drop(columns="reference").rename(columns={"reference_text": "reference"}).assign(row=names, rating="")[COLUMNS]
        said = {"study": study.name, "round": card.round, "rater": rater, "rubric": read_text(rubric), "rows": shown.to_dict("records")}
        page = template.replace("{data}", json.dumps(said, ensure_ascii=False).replace("<", "\\u003c"))
        file = card.round if card.raters == 1 else f"{card.round}-{rater}"
        write_text(folder / f"{file}.html", page)
        write_text(folder / f"{file}.csv", "\ufeff" + as_text(shown).to_csv(index=False))  # without the mark, Excel guesses the encoding
    key = pd.concat(keys).merge(left[["term_id", "definition", "run"]], on=["term_id", "definition"])[KEY]
    write_text(folder / f"{card.round}.key.csv", key.to_csv(index=False))


def read(study: Study, card: Card) -> pd.DataFrame:
    """What people rated, a line per row of the rounds.

    Returns:
        row, rater, copy (2: the rater's second look at a text), term_id, reference, definition, rating (NaN unless rated) and
        status (``ok``, ``cant_say``, ``not rated``).

    Raises:
        StudyError: a line's row is unknown or was there before, its rating is none, or the file is no such table.
    """
    keys, sheets = files(study, card)
    frames = [pd.read_csv(path, keep_default_na=False) for path in keys]
    key, given = pd.concat([pd.DataFrame(columns=KEY), *frames], ignore_index=True).drop_duplicates("row"), {}
    for path in sheets:
        for line, cells in _lines(path):
            row, at = cells["row"].strip(), f"{relative(path)}, line {line}"
            if row in given or row not in set(key["row"]):
                raise StudyError(f"{at}: row {short(row)} {f'is there twice, as in {given[row][2]}' if row in given else 'is in no key of a round'}")
            given[row] = (*_rating(cells["rating"], at), at)
    found = [given.get(row, (math.nan, "not rated")) for row in key["row"]]
    return key.assign(rating=[one[0] for one in found], status=[one[1] for one in found])


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells of each line, in the forms that spreadsheets save: UTF-8 or UTF-16, with commas, semicolons or tabs."""
    raw = path.read_bytes()
    text = raw.decode("utf-16", "replace") if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else read_text(path)
    lines = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count), strict=True)
    header, start = [cell.strip().lower() for cell in next(lines, [])], 2
    if not {"row", "rating"} <= set(header):
        raise StudyError(f"{relative(path)}, line 1: the columns row and rating are needed; the sheet has {', '.join(COLUMNS)}")
    try:
        for cells in lines:
            if any(cells):
                yield start, dict(zip_longest(header, cells, fillvalue=""))
            start = lines.line_num + 1
    except csv.Error as error:
        raise StudyError(f"{relative(path)}, line {start}: no CSV ({error})") from None


def _rating(cell: str, at: str) -> tuple[float, str]:
    """``7``, ``7,0``, ``７`` or can't say → (rating, status)."""
    text = unicodedata.normalize("NFKC", cell).replace("’", "'").strip().casefold()
    if text in ("", CANT_SAY):
        return math.nan, "cant_say" if text else "not rated"
    if not (found := re.fullmatch(r"(10|\d)([.,]0*)?", text)):
        raise StudyError(f"{at}: rating = {short(cell)} is neither a whole number from 0 to 10 nor {CANT_SAY}")
    return float(found[1]), "ok"


def answers(given: pd.DataFrame, asked: list[dict], copy: int = 1) -> list[dict]:
    """For each question the mean of its raters' first (or second) looks, with a status, and in ``reply`` what each row got."""
    none, found = {"served_model": None, "tokens_in": 0, "tokens_out": 0, "score": None, "status": NOT_DRAWN, "reply": None}, {}
    for text, part in given[given["copy"] == copy].groupby(["term_id", "reference", "definition"]):
        ratings = dict(part.loc[part["status"] == "ok", ["row", "rating"]].itertuples(index=False))
        status = "ok" if ratings else min(part["status"])  # cant_say comes before not rated
        found[text] = {"score": round(sum(ratings.values()) / len(ratings), 2) if ratings else None, "status": status, "reply": json.dumps(ratings)}
    return [none | found.get((q["term_id"], q["reference"], q["definition"]), {}) for q in asked]
