"""Texts whose truth is known, written for this repository: the same content in two languages, right definitions beside wrong ones.

They ask about concepts of the vocabulary, whose clinicians' definitions are the reference.
"""

import pandas as pd

from xlm_utils.study import ROOT, Study, read_jsonl
from xlm_utils.translate.translation import terms

FOLDER = ROOT / "data" / "demo" / "judge"
LANGUAGES = {"language_source": "en", "language_target": "ja"}  # control → column of its text


def _asked(study: Study, file: str, texts: dict[str, str]) -> list[list[dict]]:
    """Per row of a file its questions: control → the column that holds its text; none for other languages or without definitions."""
    if (study.source.code, study.target.code) != ("en", "ja"):
        return []
    vocabulary = (study.sweep_of or study).folder / "vocabulary.csv"
    table = pd.read_csv(vocabulary, keep_default_na=False) if vocabulary.exists() else terms(study)
    given = dict(zip(table["concept"], table["definition"], strict=True))
    found = []
    for number, row in enumerate(read_jsonl(FOLDER / file)):
        if reference := given.get(row["concept"]):
            same = {"term_id": f"{file} {number}", "concept": row["concept"], "term": row["term_en"], "translation": row["term_ja"]}
            same |= {"reference_text": reference, "reference": "clinician"}
            found.append([same | {"definition": row[column], "control": control} for control, column in texts.items()])
    return found


def language_pairs(study: Study, held_out: bool = False) -> list[dict]:
    """One content in both languages, twice a question; ``held_out``: only the pairs that are not ``setting_pairs``."""
    pairs = _asked(study, "language_pairs.jsonl", LANGUAGES)
    return [question for pair in (pairs[1::2] if held_out else pairs) for question in pair]


def setting_pairs(study: Study) -> list[dict]:
    """Every other pair: right definitions in either language, by which the proxy's 10 is set."""
    return [question for pair in _asked(study, "language_pairs.jsonl", LANGUAGES)[::2] for question in pair]


def details(study: Study) -> list[dict]:
    """A right definition and the same with a wrong number, side or degree."""
    return [question for pair in _asked(study, "details.jsonl", {"detail_right": "right", "detail_wrong": "wrong"}) for question in pair]
