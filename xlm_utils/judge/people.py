"""People as a judge: they rate a blind sheet, or the same as a page, of concepts drawn at random; what comes back is read strictly.

A round is drawn once and never written again. Its key, which raters are not given, says what each row is. A rating belongs to a
text: to every model that said it, and to none that says something else by now.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from xlm_utils.ask.cards import Card
from xlm_utils.draw.pages import as_text
from xlm_utils.study import Study, StudyError, project_path, read_text, relative, short, write_text

COLUMNS = ["row", "term", "translation", "reference", "definition", "rating"]
KEY, CANT_SAY, NOT_DRAWN = ["row", "rater", "copy", "run", "term_id", "reference", "definition"], "can't say", "not drawn"


def files(study: Study, card: Card) -> tuple[list[Path], list[Path]]:
    """Keys of the rounds, and filled sheets; of written ratings, one list that is both."""
    folder, sheet = study.folder / card.name, [project_path(card.sheet)]
    if card.sheet and not sheet[0].is_file():
        raise StudyError(f"{card.name}.yaml: sheet: there is no file {short(card.sheet)}")
    return (sheet, sheet) if card.sheet else (sorted(folder.glob("*.key.csv")), sorted(folder.glob("filled/[!.~]*")))


def announce(study: Study, card: Card, asked: list[dict]) -> None:
    """Draw the card's round unless it is there (see ``draw``; ``asked`` is empty before all models are done), and print what is to be done."""
    folder = study.folder / card.name
    if not card.sheet and asked and not (folder / f"{card.round}.key.csv").exists():
        draw(study, card, asked)
    counts = [f"rater {rater}: {n} {status}" for (rater, status), n in read(study, card).groupby(["rater", "status"]).size().items()]
    print("  " + ("; ".join(counts) or "the sheet is drawn when all models have defined the terms"))
    if counts and not card.sheet:
        print(f"  give each rater a page (.html) or sheet (.csv) of {folder}, no key; put what comes back into {folder / 'filled'}, run this again")


def draw(study: Study, card: Card, asked: list[dict]) -> None:
    """Write a round: ``<round>.csv`` and ``.html`` (of several raters, ``<round>-a`` …), then ``<round>.key.csv``.

    Concepts of no earlier round are drawn with the study's seed, all as likely; every text on their terms is one row, against the
    vocabulary's definition where there is one. A tenth comes twice, of what one rater alone gets. Rows are shuffled. ``asked``:
    ``judging.questions`` of every run. A StudyError: no term is left to draw, or there is no rubric.
    """
    folder, rubric = study.folder / card.name, project_path(card.rubric)
    before = {term for key in files(study, card)[0] for term in pd.read_csv(key, dtype=str)["term_id"]}
    left = pd.DataFrame([q for q in asked if q["reference_text"] and q["term_id"] not in before], columns=[*asked[0]])
    left = left[(left["reference"] != "expert") | (left["reference"] == "expert").all()]
    texts = left.drop_duplicates(["term_id", "definition"])
    if texts.empty or not rubric.is_file():
        what = f"round: no term is left to draw for {card.round}" if rubric.is_file() else f"rubric: there is no file {short(card.rubric)}"
        raise StudyError(f"{card.name}.yaml: {what}")
    concepts = np.random.default_rng(study.seed).permutation(texts["concept"].unique())
    concepts = concepts[: max(3, round(card.sample * len(concepts) / len(texts)))]
    words = read_text(rubric).replace("{target}", study.target.name).replace("{domain}", study.domain).replace("{by}", study.definitions_by)
    both, keys, template = round(card.overlap * len(concepts)) if card.raters > 1 else 0, [], read_text(Path(__file__).with_name("people.html"))
    for number, rater in enumerate("abcdefghij"[: card.raters]):
        alone, shared = (texts[texts["concept"].isin(part)] for part in (concepts[both + number :: card.raters], concepts[:both]))
        twice = alone.sample(min(len(alone), -(-(len(alone) + len(shared)) // 10)), random_state=study.seed)
        rows = pd.concat([alone.assign(copy=1), shared.assign(copy=1), twice.assign(copy=2)]).sample(frac=1, random_state=study.seed + number)
        names = [f"{card.round}-{rater}{place:03}" for place in range(1, len(rows) + 1)]  # nothing that a spreadsheet takes for a number or date
        keys.append(rows.assign(row=names, rater=rater).drop(columns="run"))
        shown = rows.assign(row=names, reference=rows["reference_text"], rating="")[COLUMNS]
        said = {"study": study.name, "round": card.round, "rater": rater, "rubric": words, "rows": shown.to_dict("records")}
        file = folder / (card.round if card.raters == 1 else f"{card.round}-{rater}")
        write_text(file.with_suffix(".html"), template.replace("{data}", json.dumps(said, ensure_ascii=False).replace("<", "\\u003c")))
        write_text(file.with_suffix(".csv"), "\ufeff" + as_text(shown).to_csv(index=False))  # without the mark, Excel guesses the encoding
    key = pd.concat(keys).merge(left[["term_id", "definition", "run"]], on=["term_id", "definition"])[KEY]
    write_text(folder / f"{card.round}.key.csv", key.to_csv(index=False))


def read(study: Study, card: Card) -> pd.DataFrame:
    """Every row of the rounds: the key's columns but run (copy 2: a second look), rating (or NaN), status (``ok``, ``cant_say``, ``not rated``).

    A StudyError: a line's row is unknown or was there before, its rating is none, or the file is no such table.
    """
    keys, sheets = files(study, card)
    key = pd.concat([pd.DataFrame(columns=KEY), *(pd.read_csv(path, keep_default_na=False) for path in keys)], ignore_index=True)
    key = key.drop(columns="run").drop_duplicates("row")
    given = {row: (np.nan, "not rated", "") for row in key["row"]}
    for at, row, cell in (line for path in sheets for line in _lines(path)):
        if row not in given or given[row][2]:
            raise StudyError(f"{at}: row {short(row)} is {f'there twice, as in {given[row][2]}' if row in given else 'in no key of a round'}")
        text = unicodedata.normalize("NFKC", cell).replace("’", "'").strip().casefold()
        found = re.fullmatch(r"(10|\d)([.,]0*)?", text)  # 7, 7,0 and ７
        if not found and text not in ("", CANT_SAY):
            raise StudyError(f"{at}: rating = {short(cell)} is neither a whole number from 0 to 10 nor {CANT_SAY}")
        given[row] = (float(found[1]) if found else np.nan, "ok" if found else "cant_say" if text else "not rated", at)
    return key.assign(rating=[one[0] for one in given.values()], status=[one[1] for one in given.values()])


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place, row and rating of each line, in the forms that spreadsheets save: UTF-8 or UTF-16, with commas, semicolons or tabs."""
    raw, at, line = path.read_bytes(), f"{relative(path)}, line", 2
    text = raw.decode("utf-16", "replace") if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else read_text(path)
    lines = csv.DictReader(io.StringIO(text), restval="", delimiter=max(",;\t", key=text.partition("\n")[0].count), strict=True)
    try:
        if not {"row", "rating"} <= set(lines.fieldnames or ()):
            raise StudyError(f"{at} 1: the columns row and rating are needed; the sheet has {', '.join(COLUMNS)}")
        for cells in lines:
            if any(cells.values()):
                yield f"{at} {line}", cells["row"].strip(), cells["rating"]
            line = lines.line_num + 1
    except csv.Error as error:
        raise StudyError(f"{at} {line}: no CSV ({error})") from None


def answers(study: Study, card: Card, asked: list[dict], base_url: str = "") -> tuple[list[dict], dict]:
    """For each question its raters' mean, status and, in ``reply``, what each row got; with ``repeat`` 1 of second looks, each text once."""
    none, found = {"served_model": None, "tokens_in": 0, "tokens_out": 0, "score": None, "status": NOT_DRAWN, "reply": None}, {}
    given, repeat = read(study, card), asked[0].get("repeat", 0) if asked else 0
    for text, part in given[given["copy"] == repeat + 1].groupby(["term_id", "reference", "definition"]):
        ratings = dict(part.loc[part["status"] == "ok", ["row", "rating"]].itertuples(index=False))
        mean, status = (round(sum(ratings.values()) / len(ratings), 2), "ok") if ratings else (None, min(part["status"]))  # cant_say before not rated
        found[text] = {"score": mean, "status": status, "reply": json.dumps(ratings)}
    return [none | (found.pop if repeat else found.get)((q["term_id"], q["reference"], q["definition"]), {}) for q in asked], {}
