"""English terms translated by an LLM: a card of ``params/judges``, through the judges' runner."""

import json
import unicodedata

import pandas as pd

from xlm_utils.ask.calls import run_calls
from xlm_utils.ask.cards import OFFLINE, Card, load_card
from xlm_utils.ask.replies import mended
from xlm_utils.study import Study, StudyError
from xlm_utils.study.inputs import fill, read_prompt

SCHEMA = {
    "type": "object", "properties": {"translation": {"type": "string"}, "established": {"type": "boolean"}},
    "required": ["translation", "established"], "additionalProperties": False}  # fmt: skip


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


def translator_card(study: Study) -> Card:
    """The card of the study's translator, an LLM; a StudyError if it is a proxy's or people's."""
    card = load_card(study.translation.translator)
    if card.client in OFFLINE:
        raise StudyError(f"translation.translator: {card.name!r} is no LLM; use jmdict, hpo or an LLM's card of params/judges")
    return card


def prompts(study: Study, words: list[str]) -> list[str]:
    """The study's ``translation.prompt`` for each word; a word is data, so braces in it mean nothing."""
    about = {"source_language": study.source.name, "target_language": study.target.name, "domain": study.domain}
    template = read_prompt(file := study.translation.prompt, "term")
    return [fill(template, file, about | {"term": json.dumps(word, ensure_ascii=False)}) for word in words]


def by_llm(study: Study, words: list[str], base_url: str = "", now: bool = False) -> pd.DataFrame:
    """Translations by the LLM of a judge card, through the judges' runner: paced, stored, resumable, within ``max_cost_usd``.

    ``now``: not in batches, even where the card says so, because somebody waits.

    Returns:
        as ``official``, with kind ``established`` or ``coined`` (the LLM knows no established term),
        translator (the card), served_model (what answered) and status (of the reply; only ``ok`` has a translation).
    """
    card, limit = translator_card(study), study.judging.max_cost_usd
    card = card.model_copy(update={"batch": card.batch and not now})
    replies = run_calls(card, prompts(study, words), SCHEMA, parse, study.replies, base_url=base_url, max_cost_usd=limit)
    rows = []
    for word, reply in zip(words, replies, strict=True):
        value = reply["value"] or {"translation": None, "established": None}
        kind = {True: "established", False: "coined", None: None}[value["established"]]
        rows.append((word.lower(), value["translation"], kind, 1, card.name, reply["served_model"], reply["status"]))
    columns = ["term", "translation", "kind", "candidates", "translator", "served_model", "status"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates("term")
