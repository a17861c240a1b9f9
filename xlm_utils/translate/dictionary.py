"""English terms in JMdict, the Japanese-English dictionary, offline: its words as a list chooses them that somebody has read one by one."""

import importlib.util
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd

from xlm_utils.curate.vocabulary import labels
from xlm_utils.study import Study, StudyError, project_path

COLUMNS = ("term_id", "term", "verdict", "entry", "form", "translation", "note")
FILLED = {"dictionary": ("entry", "form"), "written": ("translation", "note"), "dropped": ("note",)}  # what each verdict must say, and alone may


def query(sql: str, *parameters: object) -> pd.DataFrame:
    """Rows of the JMdict database inside the ``jamdict-data`` package. A StudyError: it is not installed."""
    spec = importlib.util.find_spec("jamdict_data")
    if spec is None or not spec.submodule_search_locations:
        raise StudyError("translation.translator: jmdict needs the dictionary: pip install jamdict-data")
    with closing(sqlite3.connect(f"file:{spec.submodule_search_locations[0]}/jamdict.db?mode=ro", uri=True)) as database:
        return pd.read_sql_query(sql, database, params=parameters)


def read_list(file: Path) -> pd.DataFrame:
    """The list, all text, with its translations: a row a term with ``COLUMNS``.

    ``dictionary`` takes a form of a JMdict entry (k0 its first way to write it in kanji, r0 its first
    reading), looked up in the dictionary on this machine; ``written`` the list's own translation;
    ``dropped`` none, for the reason in the note. A StudyError: with the line and what is wrong in it.
    """
    try:
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise StudyError(f"{file.name}: not a CSV file in UTF-8 ({error})") from None
    if tuple(rows.columns) != COLUMNS:
        raise StudyError(f"{file.name}, line 1: the columns are {', '.join(rows.columns)}, not {', '.join(COLUMNS)}")
    forms, glosses = _entries(rows["entry"])
    seen: dict[str, int] = {}
    for number, row in enumerate(rows.itertuples(), 2):
        place = f"{file.name}, line {number} ({row.term_id})"
        if row.verdict not in FILLED:
            raise StudyError(f"{place}: verdict is {row.verdict!r}; valid are {', '.join(FILLED)}")
        for column in ("entry", "form", "translation", "note"):
            if (getattr(row, column) == "") == (column in FILLED[row.verdict]) and (column != "note" or row.verdict != "dictionary"):
                raise StudyError(f"{place}: a term with verdict {row.verdict} {'needs' if column in FILLED[row.verdict] else 'has no'} {column}")
        if seen.setdefault(row.term_id, number) != number:
            raise StudyError(f"{place}: the term is on line {seen[row.term_id]} already")
        if row.verdict != "dictionary":
            continue
        if row.term.lower() not in glosses.get(row.entry, ()):
            raise StudyError(f"{place}: JMdict has no entry {row.entry} with the gloss {row.term!r}")
        if (word := forms.get((row.entry, row.form))) is None:
            raise StudyError(f"{place}: entry {row.entry} has no form {row.form!r}; k0, k1 … are its kanji and r0, r1 … its readings")
        rows.loc[row.Index, "translation"] = word
    return rows


def _entries(entries: pd.Series) -> tuple[dict[tuple[str, str], str], dict[str, set[str]]]:
    """JMdict's words by entry and form (k0, k1 … and r0, r1 … in the dictionary's order), and its glosses by entry."""
    asked, number = json.dumps(entries.tolist()), "row_number() over (partition by idseq order by ID) - 1"
    within = "where idseq in (select cast(value as integer) from json_each(?))"
    words = [query(f"select idseq, '{kind}' || ({number}) as form, text from {table} {within}", asked)
             for kind, table in (("k", "Kanji"), ("r", "Kana"))]  # fmt: skip
    forms = {(str(row.idseq), row.form): row.text for row in pd.concat(words).itertuples()}
    glosses = query(f"select idseq, lower(g.text) as gloss from SenseGloss g join Sense s on s.ID = g.sid {within}", asked)
    return forms, {str(entry): set(texts) for entry, texts in glosses.groupby("idseq")["gloss"]}


def reviewed(study: Study, vocabulary: pd.DataFrame) -> pd.DataFrame:
    """The list's word on each term of the vocabulary: term (lower case), translation, kind (the verdict), candidates, note.

    Terms of the list that the vocabulary lacks are not run, terms that the list lacks are not translated; a line counts both.

    A StudyError: the list is broken, or a term of it is no label of the study's terminology.
    """
    file = project_path(study.translation.reviewed)
    rows = read_list(file)
    all_labels = labels(study)
    known = set(all_labels["concept"] + ":" + all_labels["term"].str.lower())
    if unknown := [term for term in rows["term_id"] if term not in known]:
        raise StudyError(f"{file.name}: {len(unknown)} of its terms are no labels of the study's terminology, such as {unknown[0]}")
    here = rows[rows["term_id"].isin(vocabulary["term_id"])]
    counts = here["verdict"].value_counts()
    print(
        f"{file.name}: {', '.join(f'{counts.get(verdict, 0)} {verdict}' for verdict in FILLED)}; {len(rows) - len(here)} of its"
        f" terms are not in the vocabulary, {len(vocabulary) - len(here):,} terms of the vocabulary are not in the list and stay untranslated"
    )
    kind = here["verdict"].replace("dropped", "")
    return here.assign(term=here["term"].str.lower(), kind=kind, candidates=1)[["term", "translation", "kind", "candidates", "note"]]
