"""English terms → the target language: JMdict by a reviewed list, HPO's official translations, or an LLM (a judge card) online.

A term without a translation stays in the table, marked; the terms a study runs are drawn from the translated ones.
"""

import json
import unicodedata
from importlib import metadata
from pathlib import Path

import pandas as pd

from xlm_utils.ask import cards
from xlm_utils.ask.calls import announce, run_calls
from xlm_utils.ask.replies import identity, mended
from xlm_utils.curate.vocabulary import curate, read_terms
from xlm_utils.study import Step, Study, StudyError, digest, fingerprint, project_path, sha256
from xlm_utils.study.inputs import fill, read_prompt
from xlm_utils.study.settings import OFFLINE
from xlm_utils.translate.offline import SLIPS, babelon_file, official, reviewed

FIELDS = {"translation": {"type": "string"}, "established": {"type": "boolean"}}
SCHEMA = {"type": "object", "properties": FIELDS, "required": [*FIELDS], "additionalProperties": False}


def plan(study: Study, base_url: str = "") -> dict:
    """What translating the vocabulary would take, printed before anything is spent (see ``calls.announce``)."""
    translator, (own, words) = study.translation.translator, _words(study)
    if words and translator not in OFFLINE:
        return announce(study, translator_card(study), [(prompt, 0) for prompt in prompts(study, words)], SCHEMA, base_url)
    given, how = f"{own:,} given, " * bool(own), "are not run, as no translator is named" if translator == "none" else "to look up"
    told = f"{OFFLINE[translator]}: {given}{len(words):,} terms {how}" if words else "the vocabulary brings its own translations"
    print(f"{told}, no calls and no cost")
    return {"calls": 0, "usd": 0.0}


def preview(study: Study, n: int = 1, base_url: str = "") -> pd.DataFrame:
    """The first ``n`` of a seeded order of the terms, translated, to be read before paying for all; replies are kept and not asked for again."""
    words = pd.Series(_words(study)[1], dtype=object).sample(frac=1, random_state=study.seed).tolist()[:n]
    return _look_up(study, read_terms(study.folder / "vocabulary.csv"), words, base_url, now=True)


def _words(study: Study) -> tuple[int, list[str]]:
    """How many terms bring a translation of their own, and those that don't. A StudyError: none does, and nobody is to translate them."""
    table = read_terms(study.folder / "vocabulary.csv")
    words = table.loc[table.get("translation", pd.Series("", table.index)) == "", "term"].tolist()
    if len(words) == len(table) and study.translation.translator == "none":
        others = [*list(OFFLINE)[:-1], "an LLM's card of params/judges"]
        raise StudyError(f"translation.translator: no term has a translation of its own; add a column 'translation', or name {', '.join(others)}")
    return len(table) - len(words), words


def _look_up(study: Study, vocabulary: pd.DataFrame, words: list[str], base_url: str, now: bool = False) -> pd.DataFrame:
    """Translations of some words of the vocabulary."""
    translator = study.translation.translator
    if translator in OFFLINE:
        by = {"jmdict": reviewed, "hpo": official, "none": lambda *_: pd.DataFrame(columns=["term", "translation", "kind"])}
        found = by[translator](study, vocabulary).assign(translator=translator)
        return found[found["term"].isin([word.lower() for word in words])].reset_index(drop=True)
    if study.translation.reviewed:
        print(f"translation.reviewed: the list is of JMdict's words, so it has no say where {translator} translates")
    return by_llm(study, words, base_url, now)


def parse(text: str) -> tuple[dict | None, str]:
    """An LLM's whole reply → ({translation, established}, status); an empty translation is no translation."""
    try:
        reply = json.loads(text)
        translation, established = unicodedata.normalize("NFC", mended(reply["translation"]).strip()), reply["established"]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None, "unparsable"
    if not translation or not isinstance(established, bool):
        return None, "unparsable"
    return {"translation": translation, "established": established}, "ok"


def translator_card(study: Study) -> cards.Card:
    """The card of the study's translator, an LLM; a StudyError if it is a proxy's or people's."""
    card = cards.load_card(study.translation.translator)
    if card.client in cards.OFFLINE:
        raise StudyError(f"translation.translator: {card.name!r} is no LLM; use jmdict, hpo or an LLM's card of params/judges")
    return card


def prompts(study: Study, words: list[str]) -> list[str]:
    """The study's ``translation.prompt`` for each word; a word is data, so braces in it mean nothing."""
    about = {"source_language": study.source.name, "target_language": study.target.name, "domain": study.domain}
    template = read_prompt(file := study.translation.prompt, "term")
    return [fill(template, file, about | {"term": json.dumps(word, ensure_ascii=False)}) for word in words]


def by_llm(study: Study, words: list[str], base_url: str = "", now: bool = False) -> pd.DataFrame:
    """Translations by the LLM of a judge card, through the judges' runner: paced, stored, resumable, within ``max_cost_usd``.

    ``now``: not in batches, even where the card says so, because somebody waits. Returns as ``official``, with kind ``established`` or ``coined``
    (the LLM knows no established term), translator (the card), served_model (what answered) and status (of the reply; only ``ok`` has a translation).
    """
    card, limit = translator_card(study), study.judging.max_cost_usd
    card = card.model_copy(update={"batch": card.batch and not now})
    replies = run_calls(card, prompts(study, words), SCHEMA, parse, study.replies, base_url=base_url, max_cost_usd=limit)
    rows = []
    for word, reply in zip(words, replies, strict=True):
        value = reply["value"] or {"translation": None, "established": None}
        kind = {True: "established", False: "coined", None: None}[value["established"]]
        rows.append((word.lower(), value["translation"], kind, card.name, reply["served_model"], reply["status"]))
    return pd.DataFrame(rows, columns=["term", "translation", "kind", "translator", "served_model", "status"]).drop_duplicates("term")


def translate(study: Study, base_url: str = "") -> Path:
    """``vocabulary.csv`` → ``translated.csv``: the same rows with translation, kind and translator.

    See ``reviewed``, ``official`` and ``by_llm``. A vocabulary's own translations are kept; only terms without one are looked up. Does nothing if the
    file is there. A StudyError if an LLM can't go on, or nobody is to translate.
    """
    source, translator = study.folder / "vocabulary.csv", study.translation.translator
    made_from: dict = {}
    if translator == "jmdict":
        made_from = {"dictionary": f"jamdict-data {metadata.version('jamdict-data')}", "reviewed": sha256(project_path(study.translation.reviewed))}
    elif translator == "hpo":
        made_from = {"official": sha256(babelon_file(study)), "slips": sha256(SLIPS), "status": study.translation.status}
    elif translator not in OFFLINE:
        made_from = {"llm": identity(translator_card(study), SCHEMA, base_url), "prompt": fingerprint(prompts(study, ["term"]))}
    step = Step(study.folder / "translated.csv", vocabulary=digest(source), translator=translator, **made_from)
    with step:
        if step.done:
            print("translated.csv: done before, kept")
            return step.path
        table, (_, words) = read_terms(source), _words(study)
        own = table.pop("translation") if "translation" in table else pd.Series("", table.index)
        found = _look_up(study, table, words, base_url).rename(columns={"term": "lower"})
        table = table.assign(lower=table["term"].str.lower()).merge(found, on="lower", how="left").drop(columns="lower")
        given = {"translation": own, "kind": "given", "translator": "the vocabulary itself"}
        table = table.assign(**{column: table[column].mask(own != "", value) for column, value in given.items()})
        table.to_csv(step.partial, index=False)
        step.finish(rows=len(table), translated=int((table["translation"].fillna("") != "").sum()))
    return step.path


def draw_terms(study: Study) -> Path:
    """``translated.csv`` → ``terms.csv``: the terms this study runs.

    All translated terms, or ``vocabulary.sample`` of them drawn with the study's seed, half seen by the expert in training and half unseen where the
    vocabulary knows that; one term a concept. A sweep runs ``sweep.terms`` others, drawn alike from the study's translated terms: no concept and no
    translation is in both. A study that runs all terms leaves the sweep's out.
    """
    source = (study.sweep_of or study).folder / "translated.csv"
    size, swept = study.vocabulary.sample, study.sweep.terms if study.sweep else 0
    apart = {"sweep": swept} if study.sweep_of or (swept and not size) else {}
    step = Step(study.folder / "terms.csv", translated=digest(source), sample=size, seed=study.seed, **apart)
    with step:
        if step.done:
            return step.path
        table = read_terms(source)
        table = table[table["translation"] != ""]
        single = table.sample(frac=1, random_state=study.seed).drop_duplicates("concept").drop_duplicates("translation")
        own = _halves(single, size, "vocabulary.sample") if size else table.head(0)
        validation = _halves(without(single, own), swept, "sweep.terms") if study.sweep_of or not size else table.head(0)
        rest = without(table, validation)
        if not study.sweep_of and not size and len(rest) < len(table):
            print(f"terms.csv: {len(table) - len(rest)} of {len(table)} terms are set aside for the sweep and not run by the study itself")
        table = validation if study.sweep_of else own if size else rest
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


def without(table: pd.DataFrame, taken: pd.DataFrame) -> pd.DataFrame:
    """The terms that share neither concept nor translation with those taken."""
    return table[~table["concept"].isin(taken["concept"]) & ~table["translation"].isin(taken["translation"])]


def unreported(study: Study) -> pd.DataFrame:
    """Translated terms whose concepts and translations the study does not run, so that no table reports them; one a concept."""
    own, translated = terms(study), read_terms(study.folder / "translated.csv")
    return without(translated[translated["translation"] != ""], own).drop_duplicates("concept").reset_index(drop=True)


def terms(study: Study) -> pd.DataFrame:
    """The terms this study runs; makes vocabulary, translation and sample first where they are missing and cheap."""
    file = study.folder / "terms.csv"
    if study.sweep_of:
        terms(study.sweep_of)  # translates the vocabulary, if need be
    elif not (study.folder / "translated.csv").exists():
        if file.exists():
            return read_terms(file)
        if study.translation.translator not in OFFLINE:
            raise StudyError(f"no terms yet; run 01_curate.ipynb and 02_translate.ipynb with {study.options()}")
        print("no terms.csv yet: curating and translating the vocabulary first (seconds)")
        curate(study)
        translate(study)
    return read_terms(draw_terms(study))  # drawn anew if the seed or the sample has changed
