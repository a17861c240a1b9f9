"""Judges before a study pays them: does each answer, and what will the study cost in dollars and hours?"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection
from importlib.util import find_spec

from xlm_utils import judging, translation
from xlm_utils.calls import estimate, replies_file, spent
from xlm_utils.generation import runs
from xlm_utils.judges import Card, address, find_key, load_card, shutdown_date
from xlm_utils.study import Study, StudyError

PAPER_TERMS = 1782
CONTROLS = 6 * 24
DEFINITION = "x" * 240  # of usual length, for the estimate
# An A100's arithmetic, not measured: half of its memory bandwidth when decoding, 40 % of its peak when reading prompts, both in bfloat16
DECODE, READ = 1e12, 1.25e14  # bytes a second, operations a second
ROWS_AT_ONCE, TABLE2_TOKENS, ITEM_TOKENS = 64, 1e7, 600  # of a batch, of all of Table 2's items, of one item


def cards(study: Study, stages: Collection[str]) -> list[str]:
    """Judge cards to look at: the translator's, if it is an LLM, and the judges'."""
    translator = [study.translation.translator] if "02_translate" in stages and study.translation.translator != "jmdict" else []
    return list(dict.fromkeys(translator + (study.judges if "05_judge" in stages else [])))


def answers(card: Card) -> str:
    if card.proxy:
        from xlm_utils.proxy import open_encoder

        open_encoder(card.model)
        return f"judge {card.name}: its encoder is installed"
    url = address(card)
    key = find_key(card, url)
    at = f" at {url}" if url else ""
    (_openai_knows if card.client == "openai" else _gemini_knows)(card, key, url)
    until = shutdown_date(card)
    warning = f"; warning: to be shut down on {until}" if until[:1].isdigit() else ""
    return f"judge {card.name}: {card.model} answers{at}{warning}"


def _openai_knows(card: Card, key: str, url: str) -> None:
    import openai

    try:
        openai.OpenAI(api_key=key, base_url=url or None, max_retries=1, timeout=20).models.retrieve(card.model)
    except openai.APIStatusError as error:
        raise _refusal(card, error.status_code) from None
    except openai.APIConnectionError:
        raise StudyError(f"judge {card.name}: no server answers at {url or 'its usual address'}") from None


def _gemini_knows(card: Card, key: str, url: str) -> None:
    """Both Google clients speak to the same server; the living one asks."""
    from google import genai
    from google.genai import errors, types

    client = genai.Client(api_key=key, http_options=types.HttpOptions(base_url=url or None, api_version="v1beta", timeout=20_000))
    transport = tuple(importlib.import_module(name).HTTPError for name in ("httpx", "httpx2") if find_spec(name))  # the SDK moved to the fork
    try:
        client.models.get(model=card.model)
    except errors.APIError as error:
        raise _refusal(card, error.code) from None
    except transport:
        raise StudyError(f"judge {card.name}: no server answers at {url or 'its usual address'}") from None


def _refusal(card: Card, status: int) -> StudyError:
    keys = " or ".join(card.key_env)
    reason = {
        400: f"the server refuses the key in {keys}", 401: f"the server refuses the key in {keys}",
        403: f"the key in {keys} may not use {card.model}", 404: f"the server has no model {card.model} ({card.note})",
    }  # fmt: skip
    return StudyError(f"judge {card.name}: {reason.get(status, 'the server is in trouble')} (HTTP {status})")


def cost(study: Study, stages: Collection[str], parameters: float) -> str:
    """Hours and dollars, from the list of terms if there is one."""
    files = [study.folder / name for name in ("terms.csv", "vocabulary.csv")]
    file = next((file for file in files if file.exists()), None)
    terms = study.vocabulary.sample or (len(file.read_text(encoding="utf-8").splitlines()) - 1 if file else PAPER_TERMS)
    asked, usd, minutes = len(runs(study)), 0.0, 0.0
    for name in cards(study, stages):
        card, needed = load_card(name), []
        if card.proxy:
            continue
        if name == study.translation.translator and "02_translate" in stages:
            needed.append(estimate(card, [translation._template()] * terms, translation.SCHEMA))
        if name in study.judges and "05_judge" in stages:
            row = {"term": "x" * 12, "translation": "あ" * 5, "reference_text": DEFINITION, "definition": DEFINITION}
            calls = (asked - 1) * terms * len(study.judging.references) + CONTROLS
            needed.append(estimate(card, [judging.prompt_for(study, row)] * calls, judging.SCHEMA))
        usd, minutes = usd + sum(n["usd"] for n in needed), minutes + sum(n["minutes"] for n in needed)
    paid, limit = spent(replies_file(study)), study.judging.max_cost_usd
    if max(usd, paid) > limit:
        raise StudyError(f"cost: about {usd:.2f} USD for {terms:,} terms ({paid:.2f} spent), above judging.max_cost_usd = {limit:g}")
    counted = "" if file or study.vocabulary.sample else " (as many as the paper's; curation will tell)"
    return f"cost for {terms:,} terms{counted}: about {usd:.2f} USD and {minutes / 60:.1f} h of calls" + _gpu_hours(study, terms, asked, parameters)


def _gpu_hours(study: Study, terms: int, asked: int, parameters: float) -> str:
    """An A100's hours by arithmetic, for models of so many parameters."""
    if not parameters:
        return ""
    steps = (asked - 1) * math.ceil(terms / ROWS_AT_ONCE) * study.generation.max_new_tokens
    tokens = len(study.models) * (17 * study.benchmarks.items * ITEM_TOKENS or TABLE2_TOKENS)
    search = study.evolution
    tokens += any(method.startswith("evo_") for method in study.methods) * search.evaluations * search.items * len(search.columns) * ITEM_TOKENS
    hours = (steps * 2 * parameters / DECODE + tokens * 2 * parameters / READ) / 3600
    return f", about {hours:.1f} h on an A100 (arithmetic, not measured; merging not counted)"
