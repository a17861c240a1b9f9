"""English terms in JMdict, the Japanese-English dictionary, offline."""

import importlib.util
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd

from xlm_utils.study import StudyError

MEDICAL = {"medicine", "anatomy", "physiology", "pathology", "psychology, psychiatry"}  # fields of a sense, as JMdict names them
MARKED = {
    "archaism", "obsolete term", "obscure term", "rare", "dated term", "historical term",
    "abbreviation", "slang", "Internet slang", "manga slang", "sensitive", "derogatory", "colloquialism", "vulgar expression or word",
    "jocular, humorous term", "familiar language", "children's language", "onomatopoeic or mimetic word"}  # fmt: skip
KANA = "word usually written using kana alone"
BROAD = 4  # other glosses that make a sense, or entries that make a term, too broad, unless the sense is a medical one
ORDER = {"shared": False, "common": False, "vague": True, "medical": False, "first_sense": False, "entry": True}
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

    Obsolete and sensitive words, slang and abbreviations translate nothing; nor does a sense of another
    field, one that is not medical and either not its entry's first or of many other glosses (``BROAD``), or
    a vague one of a term with as many entries; nor one with terms of two concepts among its glosses, or a
    word that is the best one for two. Of the others (``ORDER``): a sense that more terms of the concept
    find; a word that JMdict marks as common; a sense with at most one other gloss; a medical one; an
    entry's first. Words usually written in kana are given so. The order was chosen among some sixty by
    agreement with HPO's official Japanese labels (a test has the numbers), so that agreement is no
    independent measure; without the refusals a few more words would equal them.

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
