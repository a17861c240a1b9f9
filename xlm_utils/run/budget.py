"""Judges before a study pays them: does each answer, and what will the study cost in dollars and hours?"""

import math
from collections.abc import Collection

from xlm_utils.ask.calls import estimate, price
from xlm_utils.ask.cards import OFFLINE, Card, address, find_key, load_card
from xlm_utils.ask.clients import open_client
from xlm_utils.ask.replies import spent
from xlm_utils.ask.servers import served
from xlm_utils.curate import vocabulary
from xlm_utils.generate.generation import runs
from xlm_utils.judge import controls, judging
from xlm_utils.study import Study, StudyError, settings, shown
from xlm_utils.translate import translation

DEFINITION = "x" * 240  # of usual length, for the estimate
# An A100's arithmetic, not measured: half of its memory bandwidth when decoding, 40 % of its peak when reading prompts, both in bfloat16
DECODE, READ = 1e12, 1.25e14  # bytes a second, operations a second
ROWS_AT_ONCE, TABLE2_TOKENS, ITEM_TOKENS = 64, 1e7, 600  # of a batch, of all of Table 2's items, of one item


def cards(study: Study, stages: Collection[str]) -> list[str]:
    """Judge cards to look at: the translator's, if it is an LLM, and the judges'."""
    translator = [study.translation.translator] if "02_translate" in stages and study.translation.translator not in settings.OFFLINE else []
    return list(dict.fromkeys(translator + (study.judges if "05_judge" in stages else [])))


def answers(card: Card, base_url: str = "") -> str:
    """Ask a judge's server, unpaid, whether it serves the model; what to print where it does. A StudyError: no key, no server, no such model."""
    if card.client == "people":
        return f"judge {card.name}: people, who rate a sheet that notebook 05 writes"
    if card.proxy:
        from xlm_utils.judge.proxy import open_encoder

        open_encoder(card.model)
        return f"judge {card.name}: its encoder is installed"
    url = address(card, base_url)
    key = find_key(card, url)
    at = f" at {shown(url)}" if url else ""
    open_client(card, base_url)  # its SDK knows the card's parameters
    until = served(card, key, url)
    warning = f"; warning: to be shut down on {until}" if until[:1].isdigit() else ""
    return f"judge {card.name}: {card.model} answers{at}{warning}"


def cost(study: Study, stages: Collection[str], parameters: float) -> str:
    """Hours and dollars of the coming stages, for which the terminology may be curated; a StudyError above ``judging.max_cost_usd``."""
    paid = [load_card(name) for name in cards(study, stages) if load_card(name).client not in OFFLINE]
    terms, counted = _terms(study) if paid else (study.vocabulary.sample, "")
    asked, needed = len(runs(study)), []
    for card in paid:
        if card.name == study.translation.translator and "02_translate" in stages:
            needed.append(estimate(card, translation.prompts(study, ["x" * 12]) * terms, translation.SCHEMA))
        if card.name in study.judges and "05_judge" in stages:
            row = {"term": "x" * 12, "translation": "あ" * 5, "reference_text": DEFINITION, "definition": DEFINITION}
            calls = (asked - 1) * terms * len(study.judging.references) + controls.MOST
            needed.append(estimate(card, [judging.prompt_for(study, row)] * calls, judging.SCHEMA))
    usd = sum(part["usd"] for part in needed)
    before, limit = spent(study.replies), study.judging.max_cost_usd
    if needed and max(usd, before) > limit:
        raise StudyError(f"cost: about {usd:.2f} USD for {terms:,} terms ({before:.2f} spent), above judging.max_cost_usd = {limit:g}")
    calls = f"{terms:,} terms{counted}, about {price(needed)}" if needed else "no call to pay for"
    return f"cost: {calls}{_gpu_hours(study, terms or vocabulary.PAPER_TERMS, asked, parameters)}"


def _terms(study: Study) -> tuple[int, str]:
    """How many terms will be run, at most, and a remark if that is a guess, because the check of the terminology could make none."""
    file = next((file for file in (study.folder / "terms.csv", study.folder / "vocabulary.csv") if file.exists()), None)
    if study.vocabulary.sample or file:
        return study.vocabulary.sample or len(vocabulary.read_terms(file)), ""
    return vocabulary.PAPER_TERMS, " (as many as the paper's)"


def _gpu_hours(study: Study, terms: int, asked: int, parameters: float) -> str:
    """An A100's hours by arithmetic, for models of so many parameters."""
    if not parameters:
        return ""
    steps = asked * math.ceil(terms / ROWS_AT_ONCE) * study.generation.max_new_tokens
    tokens = len(study.models) * (17 * study.benchmarks.items * ITEM_TOKENS or TABLE2_TOKENS) * (study.benchmarks.columns != ())
    search = study.evolution
    tokens += any(method.startswith("evo_") for method in study.methods) * search.evaluations * search.items * len(search.columns) * ITEM_TOKENS
    hours = (steps * 2 * parameters / DECODE + tokens * 2 * parameters / READ) / 3600
    return f", about {hours:.1f} h on an A100 (arithmetic, not measured; merging not counted)"
