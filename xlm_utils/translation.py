"""English terms → the target language: JMdict offline, or an LLM (a judge card) online.

A term without a translation stays in the table, marked; the terms a study runs are drawn from the
translated ones.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from contextlib import closing
from importlib import metadata
from pathlib import Path

import pandas as pd

from xlm_utils.calls import announce, run_calls
from xlm_utils.judges import Card, load_card
from xlm_utils.records import Step, digest, fingerprint
from xlm_utils.replies import identity
from xlm_utils.study import PARAMS, Study, StudyError

MEDICAL_FIELDS = ("medicine", "anatomy", "physiology", "pathology")
DATED = ("archaism", "obsolete term", "obscure term", "rare", "dated term")
ORDER = ["dated", "medical", "common", "first_sense", "entry"]  # of entries that translate one term
QUERY = """
select lower(g.text) as term, s.idseq as entry,
       s.ID = (select min(ID) from Sense where idseq = s.idseq) as first_sense,
       (select group_concat(text, ';') from field where sid = s.ID) as field,
       (select group_concat(text, ';') from misc where sid = s.ID) as misc,
       (select text from Kanji where idseq = s.idseq order by ID limit 1) as kanji,
       (select text from Kana where idseq = s.idseq order by ID limit 1) as kana,
       exists (select 1 from Kanji k join KJP p on p.kid = k.ID where k.idseq = s.idseq) as common
from SenseGloss g join Sense s on s.ID = g.sid
where lower(g.text) in (select value from json_each(?))
"""


def jmdict_file() -> Path:
    """The JMdict database inside the ``jamdict-data`` package."""
    spec = importlib.util.find_spec("jamdict_data")
    if spec is None or not spec.submodule_search_locations:
        raise StudyError("translation.translator: jmdict needs the dictionary: pip install jamdict-data")
    return Path(spec.submodule_search_locations[0]) / "jamdict.db"


def jmdict(terms: list[str]) -> pd.DataFrame:
    """Dictionary entries whose English gloss *is* the term (no fuzzy match), best entry per term.

    A current word comes before an obsolete one, a medical sense before a general one, a word that
    JMdict marks as common before others, and an entry's first sense before a later one. (Of the orders
    tried, this one agreed most often with the official Japanese labels of HPO: 57 % of 325 names.)

    Returns:
        one row per translated term: term (lower case), translation (kanji where the entry has any),
        kind (``medical`` or ``general`` sense), candidates (entries to choose from).
    """
    wanted = json.dumps([term.lower() for term in terms])
    with closing(sqlite3.connect(f"file:{jmdict_file()}?mode=ro", uri=True)) as database:
        rows = pd.read_sql_query(QUERY, database, params=(wanted,))
    rows["translation"] = rows["kanji"].fillna(rows["kana"])
    rows["medical"] = rows["field"].fillna("").map(lambda text: any(f in text for f in MEDICAL_FIELDS))
    rows["dated"] = rows["misc"].fillna("").map(lambda text: any(m in text.split(";") for m in DATED))
    rows["candidates"] = rows.groupby("term")["entry"].transform("nunique")
    best = rows.sort_values(ORDER, ascending=[True, False, False, False, True]).drop_duplicates("term")
    best = best.assign(kind=best["medical"].map({True: "medical", False: "general"}))
    return best[["term", "translation", "kind", "candidates"]].sort_values("term", ignore_index=True)


SCHEMA = {
    "type": "object", "properties": {"translation": {"type": "string"}, "established": {"type": "boolean"}},
    "required": ["translation", "established"], "additionalProperties": False,
}  # fmt: skip


def parse(text: str) -> tuple[dict | None, str]:
    """An LLM's whole reply → ({translation, established}, status); an empty translation is no translation."""
    try:
        reply = json.loads(text)
        translation, established = reply["translation"].strip(), reply["established"]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None, "unparsable"
    if not translation or not isinstance(established, bool):
        return None, "unparsable"
    return {"translation": translation, "established": established}, "ok"


def plan(study: Study, base_url: str = "") -> dict:
    """What translating the vocabulary would take, printed before anything is spent (see ``calls.announce``)."""
    translator, words = study.translation.translator, _words(study)
    if not words:
        print("the vocabulary brings its own translations: no calls and no cost")
    elif translator == "jmdict":
        print(f"JMdict, a dictionary on this machine: {len(words):,} terms to look up, no calls and no cost")
    else:
        return announce(study, _llm(study), [(prompt, 0) for prompt in _prompts(study, words)], SCHEMA, base_url)
    return {"calls": 0, "usd": 0.0}


def preview(study: Study, n: int = 1, base_url: str = "") -> pd.DataFrame:
    """The first ``n`` of a seeded order of the terms, translated, to be read before paying for all; replies are kept and not asked for again."""
    words = pd.Series(_words(study)).sample(frac=1, random_state=study.seed).tolist()[:n]
    return _look_up(study, words, base_url)


def _words(study: Study) -> list[str]:
    """Terms to translate: none where the vocabulary brings its own translations."""
    table = pd.read_csv(study.folder / "vocabulary.csv", keep_default_na=False)
    return [] if "translation" in table else table["term"].tolist()


def _llm(study: Study) -> Card:
    card = load_card(study.translation.translator)
    if card.proxy:
        raise StudyError(f"translation.translator: {card.name!r} is no LLM; use jmdict or an LLM's card of params/judges")
    return card


def _look_up(study: Study, words: list[str], base_url: str) -> pd.DataFrame:
    if study.translation.translator == "jmdict":
        if words and study.target.code != "ja":
            raise StudyError(
                f"translation.translator = 'jmdict': the dictionary knows Japanese only, and the target is {study.target.name};"
                " bring a column translation in the vocabulary, or name the card of an LLM in params/judges"
            )
        return jmdict(words).assign(translator="jmdict")
    return by_llm(study, words, base_url)


def _prompts(study: Study, words: list[str]) -> list[str]:
    template = (PARAMS / "prompts" / "translate.txt").read_text(encoding="utf-8")
    template = template.replace("{source_language}", study.source.name).replace("{target_language}", study.target.name)
    return [template.replace("{term}", json.dumps(word, ensure_ascii=False)) for word in words]


def by_llm(study: Study, words: list[str], base_url: str = "") -> pd.DataFrame:
    """Translations by the LLM of a judge card, through the judges' runner: paced, stored, resumable, within ``max_cost_usd``.

    Returns:
        as ``jmdict``, with kind ``established`` or ``coined`` (the LLM knows no established term),
        translator (the card), served_model (what answered) and status (of the reply; only ``ok`` has a translation).
    """
    card, limit = _llm(study), study.judging.max_cost_usd
    replies = run_calls(card, _prompts(study, words), SCHEMA, parse, study.replies, base_url=base_url, max_cost_usd=limit)
    rows = []
    for word, reply in zip(words, replies, strict=True):
        value = reply["value"] or {"translation": None, "established": None}
        kind = {True: "established", False: "coined", None: None}[value["established"]]
        rows.append((word.lower(), value["translation"], kind, 1, card.name, reply["served_model"], reply["status"]))
    columns = ["term", "translation", "kind", "candidates", "translator", "served_model", "status"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates("term")


def translate(study: Study, base_url: str = "") -> Path:
    """``vocabulary.csv`` → ``translated.csv``: the same rows with translation, kind, candidates and translator (see ``jmdict`` and ``by_llm``).

    A vocabulary that brings its own translations keeps them. Does nothing if the file is there.

    Raises:
        StudyError: the translator is neither ``jmdict`` nor an LLM's card, or the LLM can't go on.
    """
    source = study.folder / "vocabulary.csv"
    translator = study.translation.translator
    if translator == "jmdict":
        made_from: dict = {"dictionary": f"jamdict-data {metadata.version('jamdict-data')}", "order": ORDER}
    else:
        made_from = {"llm": identity(_llm(study), SCHEMA, base_url), "prompt": fingerprint(_prompts(study, ["term"]))}
    step = Step(study.folder / "translated.csv", vocabulary=digest(source), translator=translator, **made_from)
    with step:
        if step.done:
            print("translated.csv: done before, kept")
            return step.path
        table = pd.read_csv(source, keep_default_na=False)
        if "translation" in table:
            kind = table["translation"].map(lambda text: "given" if text else "")
            table = table.assign(kind=kind, candidates=1, translator="the vocabulary itself")
        else:
            found = _look_up(study, table["term"].tolist(), base_url).rename(columns={"term": "lower"})
            table = table.assign(lower=table["term"].str.lower()).merge(found, on="lower", how="left").drop(columns="lower")
        table.to_csv(step.partial, index=False)
        step.finish(rows=len(table), translated=int((table["translation"].fillna("") != "").sum()))
    return step.path


def draw_terms(study: Study) -> Path:
    """``translated.csv`` → ``terms.csv``: the terms this study runs.

    All translated terms, or ``vocabulary.sample`` of them drawn with the study's seed, half seen by
    the expert in training and half unseen where the vocabulary knows that; one term a concept. A sweep
    runs ``sweep.terms`` others, drawn alike from the study's translated terms: no concept and no
    translation is in both. A study that runs all terms leaves the sweep's out.
    """
    source = (study.sweep_of or study).folder / "translated.csv"
    size, swept = study.vocabulary.sample, study.sweep.terms if study.sweep else 0
    apart = {"sweep": swept} if study.sweep_of or (swept and not size) else {}
    step = Step(study.folder / "terms.csv", translated=digest(source), sample=size, seed=study.seed, **apart)
    with step:
        if step.done:
            return step.path
        table = pd.read_csv(source, keep_default_na=False)
        table = table[table["translation"] != ""]
        single = table.sample(frac=1, random_state=study.seed).drop_duplicates("concept").drop_duplicates("translation")
        own = _halves(single, size, "vocabulary.sample") if size else table.head(0)
        validation = _halves(_without(single, own), swept, "sweep.terms") if apart else table.head(0)
        if study.sweep_of:
            table = validation
        elif size:
            table = own
        elif len(rest := _without(table, validation)) < len(table):
            print(f"terms.csv: {len(table) - len(rest)} of {len(table)} terms are set aside for the sweep and not run by the study itself")
            table = rest
        table.to_csv(step.partial, index=False)
        step.finish(rows=len(table))
    return step.path


def _halves(single: pd.DataFrame, size: int, key: str) -> pd.DataFrame:
    """The first ``size`` rows in their shuffled order, half of them seen and half unseen, back in the vocabulary's order."""
    seen = single[single["seen"]].head((size + 1) // 2)
    found = pd.concat([seen, single[~single["seen"]].head(size - len(seen))]).sort_index()
    if len(found) < size:
        raise StudyError(f"{key} = {size}: only {len(found)} translated terms can be drawn")
    return found


def _without(table: pd.DataFrame, taken: pd.DataFrame) -> pd.DataFrame:
    """The terms that share neither concept nor translation with those taken."""
    return table[~table["concept"].isin(taken["concept"]) & ~table["translation"].isin(taken["translation"])]


def terms(study: Study) -> pd.DataFrame:
    """The terms this study runs; makes vocabulary, translation and sample first where they are missing and cheap."""
    from xlm_utils.vocabulary import curate

    file = study.folder / "terms.csv"
    if study.sweep_of:
        terms(study.sweep_of)  # translates the vocabulary, if need be
        draw_terms(study)
    elif (study.folder / "translated.csv").exists():  # drawn anew if the seed or the sample has changed
        draw_terms(study)
    if not file.exists():
        if study.translation.translator != "jmdict":
            raise StudyError(f"no terms yet; run 01_curate.ipynb and 02_translate.ipynb with {study.options()}")
        print("no terms.csv yet: curating and translating the vocabulary first (seconds)")
        curate(study)
        translate(study)
        draw_terms(study)
    return pd.read_csv(file, keep_default_na=False, dtype={"term_id": str})
