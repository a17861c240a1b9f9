"""English terms translated offline, by JMdict (the Japanese-English dictionary) or by HPO's official translations.

JMdict's words are taken as a list chooses them that somebody has read one by one. A babelon file of the HPO Internationalisation Effort says for each
concept its name in another language, and who stands behind it; a study whose terms they translate can't be measured against them.
"""

import importlib.util
import io
import json
import sqlite3
import unicodedata
import urllib.request
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

import pandas as pd

from xlm_utils.curate.vocabulary import labels
from xlm_utils.study import ROOT, Study, StudyError, project_path, read_text, write_text
from xlm_utils.study.records import cache_folder

COLUMNS = ("term_id", "term", "verdict", "entry", "form", "translation", "note")
FILLED = {"dictionary": ("entry", "form"), "written": ("translation", "note"), "dropped": ("note",)}  # what each verdict must say, and alone may
ADDRESS = "https://raw.githubusercontent.com/obophenotype/hpo-translations/main/babelon/hp-{code}.babelon.tsv"
NAME, DEFINITION = "rdfs:label", "IAO:0000115"  # predicates of what is translated
NEEDED = ("subject_id", "translation_value", "translation_status")
SLIPS = ROOT / "data" / "hpo" / "slips.csv"  # known ones, with the right word, or none


def query(sql: str, *parameters: object) -> pd.DataFrame:
    """Rows of the JMdict database inside the ``jamdict-data`` package. A StudyError: it is not installed."""
    spec = importlib.util.find_spec("jamdict_data")
    if spec is None or not spec.submodule_search_locations:
        raise StudyError("translation.translator: jmdict needs the dictionary: pip install jamdict-data")
    with closing(sqlite3.connect(f"file:{spec.submodule_search_locations[0]}/jamdict.db?mode=ro", uri=True)) as database:
        return pd.read_sql_query(sql, database, params=parameters)


def read_list(file: Path) -> pd.DataFrame:
    """The list, all text, with its translations: a row a term with ``COLUMNS``.

    ``dictionary`` takes a form of a JMdict entry (k0 its first way to write it in kanji, r0 its first reading), looked up in the dictionary on this
    machine; ``written`` the list's own translation; ``dropped`` none, for the reason in the note. A StudyError: the line, and what is wrong in it.
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
    """The list's word on each term of the vocabulary: term (lower case), translation, kind (the verdict), note.

    Terms of the list that the vocabulary lacks are not run, terms that the list lacks are not translated; a line counts both. A StudyError: the list
    is broken, or a term of it is no label of the study's terminology.
    """
    file = project_path(study.translation.reviewed)
    rows, all_labels = read_list(file), labels(study)
    known = set(all_labels["concept"] + ":" + all_labels["term"].str.lower())
    if unknown := [term for term in rows["term_id"] if term not in known]:
        raise StudyError(f"{file.name}: {len(unknown)} of its terms are no labels of the study's terminology, such as {unknown[0]}")
    here = rows[rows["term_id"].isin(vocabulary["term_id"])]
    counts = here["verdict"].value_counts()
    told = f"{len(vocabulary) - len(here):,} terms of the vocabulary are not in the list and stay untranslated"
    verdicts = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in FILLED)
    print(f"{file.name}: {verdicts}; {len(rows) - len(here)} of its terms are not in the vocabulary, {told}")
    return here.assign(term=here["term"].str.lower(), kind=here["verdict"].replace("dropped", ""))[["term", "translation", "kind", "note"]]


def babelon_file(study: Study) -> Path:
    """The study's ``translation.path``, or the target language's file, fetched once into the cache. A StudyError: there is none, or no network."""
    if path := study.translation.path:
        if not (found := project_path(path)).is_file():
            raise StudyError(f"translation.path = {path!r}: there is no such file; a babelon TSV of HPO's translations is needed")
        return found
    url = ADDRESS.format(code=study.target.code)
    file = cache_folder() / url.rpartition("/")[2]
    if not file.exists():
        print(f"fetching {url} (once)")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                write_text(file, answer.read().decode("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"translator: {url} can't be had ({error}); give a file as translation.path, or name an LLM's card") from None
    return file


def read_names(file: Path, language: str, allowed: Collection[str], predicate: str = NAME) -> pd.DataFrame:
    """Names (or what the predicate says) of concepts in a language: concept, translation, status, granted (an allowed status, which comes first).

    A StudyError: not a babelon file, or none of its rows is a name.
    """
    try:
        table = pd.read_csv(io.StringIO(read_text(file)), sep="\t", dtype=str, keep_default_na=False, quoting=3)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise StudyError(f"{file.name}: not a table with tabs ({str(error).strip()})") from None
    if absent := [column for column in NEEDED if column not in table]:
        raise StudyError(f"{file.name}, line 1: no column {absent[0]!r}; a babelon file has {', '.join(NEEDED)}")
    for column, value in (("predicate_id", predicate), ("translation_language", language)):
        table = table[table[column] == value] if column in table else table[: 0 if value == DEFINITION else None]
    values = table["translation_value"].map(lambda text: unicodedata.normalize("NFC", text.strip()))
    names = pd.DataFrame({"concept": table["subject_id"], "translation": values, "status": table["translation_status"]})
    names = names[names["translation"] != ""].assign(granted=names["status"].isin(allowed))
    if names.empty and predicate == NAME:
        raise StudyError(f"{file.name}: no row is a name in the language {language!r}")
    return names.sort_values("granted", ascending=False, kind="stable").drop_duplicates("concept")


def official(study: Study, vocabulary: pd.DataFrame) -> pd.DataFrame:
    """Translations of the vocabulary's terms that are their concept's preferred label; synonyms have none of their own.

    A name that two concepts share is dropped, a known slip (``SLIPS``) replaced. Counts, of concepts, are printed.
    Returns one row a translated term: term (lower case), translation, kind (the status, such as ``official``), definition_target ("" where the file
    has none with an allowed status). A StudyError: it has none at all, and the judges are to have them.
    """
    file, code, allowed, all_labels = babelon_file(study), study.target.code, study.translation.status, labels(study)
    preferred = all_labels[all_labels["is_name"]].set_index("concept")["term"]
    names, slips = read_names(file, code, allowed), pd.read_csv(SLIPS, keep_default_na=False)
    names = names[names["concept"].isin(preferred.index)]  # an obsolete concept's name makes no other ambiguous
    right = slips[slips["language"] == code].set_index(["concept", "slip"])["right"].to_dict()
    keys = list(zip(names["concept"], names["translation"], strict=True))
    names = names.assign(translation=[right.get(key, key[1]) for key in keys], slip=[key in right for key in keys])
    usable = names[names["granted"]]
    shared = usable.loc[usable.duplicated("translation", keep=False), "concept"]
    own = vocabulary[vocabulary["concept"].map(preferred) == vocabulary["term"]].merge(names, on="concept")
    granted, single = own["granted"], ~own["concept"].isin(shared)
    found = own[granted & single & (own["translation"] != "")]
    status = f"{granted.sum() / max(1, len(own)):.0%} with status {' or '.join(allowed)}; {(granted & ~single).sum()} share their translation"
    there = f"{len(own):,} are in the file and have their preferred label in the vocabulary, {status} with another concept: dropped"
    counts = f"{len(found):,} of {vocabulary['concept'].nunique():,} concepts have a translation"
    print(f"{file.name}: {counts}; {there}; {own['slip'].sum()} known slips mended or dropped")
    said = read_names(file, code, allowed, DEFINITION).query("granted").set_index("concept")["translation"].to_dict()
    if not said and "translated" in study.judging.references:
        raise StudyError(f"{file.name}: no definition with status {' or '.join(allowed)}, and judging.references names translated")
    said = [said.get(concept, "") for concept in found["concept"]]
    found = found.assign(term=found["term"].str.lower(), kind=found["status"].str.lower(), definition_target=said)
    return found[["term", "translation", "kind", "definition_target"]]
