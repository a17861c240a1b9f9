"""English terms in JMdict, the Japanese-English dictionary, offline: chosen automatically, or by a list that somebody has read one by one."""

import importlib.util
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd

from xlm_utils.curate.vocabulary import labels
from xlm_utils.study import Study, StudyError
from xlm_utils.study.settings import project_path

MEDICAL = {"medicine", "anatomy", "physiology", "pathology", "psychology, psychiatry"}  # fields of a sense, as JMdict names them
MARKED = {
    "archaism", "obsolete term", "obscure term", "rare", "dated term", "historical term",
    "abbreviation", "slang", "Internet slang", "manga slang", "sensitive", "derogatory", "colloquialism", "vulgar expression or word",
    "jocular, humorous term", "familiar language", "children's language", "onomatopoeic or mimetic word"}  # fmt: skip
KANA = "word usually written using kana alone"
BROAD = 4  # other glosses that make a sense, or entries that make a term, too broad, unless the sense is a medical one
ORDER = {"shared": False, "common": False, "vague": True, "medical": False, "first_sense": False, "entry": True}
COLUMNS = ("term_id", "term", "verdict", "entry", "form", "translation", "note")
FILLED = {"dictionary": ("entry", "form"), "written": ("translation", "note"), "dropped": ("note",)}  # what each verdict must say, and alone may
QUERY = """
select lower(g.text) as gloss, s.idseq as entry, s.ID as sense,
       s.ID = (select min(ID) from Sense where idseq = s.idseq) as first_sense,
       (select group_concat(text, ';') from field where sid = s.ID) as field,
       (select group_concat(text, ';') from misc where sid = s.ID) as misc,
       (select text from Kanji where idseq = s.idseq order by ID limit 1) as kanji,
       (select text from Kana where idseq = s.idseq order by ID limit 1) as kana,
       exists (select 1 from Kanji k join KJP p on p.kid = k.ID where k.idseq = s.idseq)
       or exists (select 1 from Kana k join KNP p on p.kid = k.ID where k.idseq = s.idseq) as common
from SenseGloss g join Sense s on s.ID = g.sid
where s.ID in (select sid from SenseGloss where lower(text) in (select value from json_each(?)))
"""


def jmdict_file() -> Path:
    """The JMdict database inside the ``jamdict-data`` package."""
    spec = importlib.util.find_spec("jamdict_data")
    if spec is None or not spec.submodule_search_locations:
        raise StudyError("translation.translator: jmdict needs the dictionary: pip install jamdict-data")
    return Path(spec.submodule_search_locations[0]) / "jamdict.db"


def query(sql: str, *parameters: object) -> pd.DataFrame:
    """Rows of the JMdict database."""
    with closing(sqlite3.connect(f"file:{jmdict_file()}?mode=ro", uri=True)) as database:
        return pd.read_sql_query(sql, database, params=parameters)


def jmdict(terms: list[str], concepts: list[str] | None = None) -> pd.DataFrame:
    """Dictionary entries whose English gloss *is* the term (no fuzzy match), best entry per term.

    Obsolete and sensitive words, slang and abbreviations translate nothing; nor does a sense of another field, one that is not medical and either not
    its entry's first or of many other glosses (``BROAD``), or a vague one of a term with as many entries; nor one with terms of two concepts among
    its glosses, or a word that is the best one for two. Of the others (``ORDER``): a sense that more terms of the concept find; a word that JMdict
    marks as common; a sense with at most one other gloss; a medical one; an entry's first. Words usually written in kana are given so. The order was
    chosen among some sixty by agreement with HPO's official Japanese labels (a test has the numbers), so that agreement is no independent measure;
    without the refusals a few more words would equal them.

    Args:
        terms: words, in any case.
        concepts: of each term, so that synonyms are known as such; None: each is its own.

    Returns:
        one row per translated term: term (lower case), translation (kanji where the entry has any),
        kind (``medical`` or ``general`` sense), candidates (entries to choose from).
    """
    wanted = pd.DataFrame({"term": [term.lower() for term in terms], "concept": concepts or terms}).drop_duplicates("term")
    rows = query(QUERY, json.dumps(wanted["term"].tolist()))
    misc, field = (rows[column].fillna("").str.split(";").map(set) for column in ("misc", "field"))
    rows["medical"] = field.map(lambda names: bool(names & MEDICAL))
    rows["translation"] = rows["kanji"].where(rows["kanji"].notna() & ~misc.map(lambda names: KANA in names), rows["kana"])
    usable = (rows["medical"] | (rows["field"].isna() & (rows["first_sense"] == 1))) & ~misc.map(lambda names: bool(names & MARKED))
    rows = rows.merge(wanted, left_on="gloss", right_on="term", how="left")
    sense = rows.groupby("sense")
    rows["shared"] = sense["term"].transform("nunique")
    others = sense["gloss"].transform("nunique") - rows["shared"]
    rows["vague"] = others > 1
    usable &= rows["medical"] | (others < BROAD)
    rows = rows[rows["term"].notna() & usable & (sense["concept"].transform("nunique") == 1)]
    rows = rows.assign(candidates=rows.groupby("term")["entry"].transform("nunique"))
    best = rows.sort_values(list(ORDER), ascending=list(ORDER.values()), kind="stable").drop_duplicates("term")
    best = best[best.groupby("translation")["concept"].transform("nunique") == 1]
    best = best[best["medical"] | ~best["vague"] | (best["candidates"] < BROAD)]
    best = best.assign(kind=best["medical"].map({True: "medical", False: "general"}))
    return best[["term", "translation", "kind", "candidates"]].sort_values("term", ignore_index=True)


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
