"""A study of another pair: Spanish, a general model whose vocabulary is not the expert's, an answer key, a published merge, HPO's own names.

Pico models of Llama's shape stand on the hub under the ids of ``params/pairs/neurona-biomedical.yaml`` and under two of their own. The general
model descends from the ancestor too: it has the ancestor's rows for the tokens that both know, at other places, and new ones of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import published
from tests.support.hub import Hub
from tests.support.published import ANCESTOR, EXPERT
from xlm_utils.study import PARAMS

SPANISH, KEY, MERGE = "Iker/Llama-3-Instruct-Neurona-8b-v2", "someone/spanish-medical-8b", "someone/spanish-medical-merge-8b"
# concept, preferred label, Spanish name, a definition in English and in Spanish: the file below has the names, models learn the definitions
TERMS = [
    ("HP:0000252", "Microcephaly", "Microcefalia", "A small head.", "Una cabeza pequeña."),
    ("HP:0000347", "Micrognathia", "Micrognatia", "A small jaw.", "Una mandíbula pequeña."),
    ("HP:0000486", "Strabismus", "Estrabismo", "A deviation of the eyes.", "Una desviación de los ojos."),
    ("HP:0000639", "Nystagmus", "Nistagmo", "Movements of the eyes.", "Movimientos de los ojos."),
    ("HP:0001744", "Splenomegaly", "Esplenomegalia", "A large spleen.", "Un bazo grande."),
    ("HP:0002240", "Hepatomegaly", "Hepatomegalia", "A large liver.", "Un hígado grande."),
    ("HP:0000093", "Proteinuria", "Proteinuria", "Protein in the urine.", "Proteína en la orina."),
    ("HP:0000316", "Hypertelorism", "Hipertelorismo", "Eyes far apart.", "Ojos separados."),
    ("HP:0010442", "Polydactyly", "Polidactilia", "Fingers too many.", "Dedos de más."),
    ("HP:0000458", "Anosmia", "Anosmia", "No sense of smell.", "Falta de olfato."),
]  # fmt: skip
ASKED = 6  # of the terms; the search and the exchange of layers look at the others
CANDIDATE = ("HP:0001662", "Bradycardia", "Bradicardia")  # of a status that the study does not take
COLUMNS = ("subject_id", "source_language", "translation_language", "predicate_id", "source_value", "translation_value", "translation_status")
STUDY = f"""\
title: rare words in Spanish
source: {{code: en, name: English, prompt: define_en.txt}}
target: {{code: es, name: Spanish, prompt: define_es.txt}}
pair: neurona-biomedical
constituents:
  key: {{role: upper, label: Spanish medical model, weights: {KEY}}}
  theirs: {{role: published, label: Published merge, weights: {MERGE}}}
methods: [slerp, ties, dare_ties@ancestor, linear, evo_dare_ties]
base: spanish
vocabulary: {{source: hpo, sample: {ASKED}}}
translation: {{translator: hpo, path: data/raw/hp-es.babelon.tsv}}
generation: {{max_new_tokens: 48, chat_template: true}}
judging: {{judges: [gpt-4o, gemini-1.5-pro], references: [expert, clinician], max_cost_usd: 5}}
benchmarks: none
transfer: {{rivals: 3}}
why: {{texts: 4, apart: 2, block: 1}}
evolution: {{evaluations: 12, columns: [transfer], items: 2}}
"""
def lesson(language: str) -> list[tuple[str, str]]:
    """Prompt and answer for each term, in one language."""
    prompt = (PARAMS / "prompts" / f"define_{language}.txt").read_text(encoding="utf-8")
    return [(prompt.replace("{term}", row[1] if language == "en" else row[2]), row[3 if language == "en" else 4]) for row in TERMS]


def tokenizer(size: int, languages: tuple[str, ...]):
    """``published.bpe`` over the lessons of these languages."""
    return published.bpe([text for language in languages for pair in lesson(language) for text in pair], size)


def models() -> dict[str, dict[str, bytes]]:
    """Repository → file → content."""
    import torch
    from transformers import LlamaForCausalLM

    from xlm_utils.models.libraries import quiet

    quiet()
    english, spanish = tokenizer(420, ("en",)), tokenizer(460, ("es", "en"))
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ancestor = LlamaForCausalLM(published.llama(english)).train()
        published.teach(ancestor, english, lesson("en") + lesson("es"), steps=45, rate=5e-3)
        expert, general = LlamaForCausalLM(published.llama(english)), LlamaForCausalLM(published.llama(spanish))
        expert.load_state_dict(ancestor.state_dict())
        published.teach(expert.train(), english, lesson("en"), steps=10, rate=1e-3)
        shared = sorted(english.get_vocab().keys() & spanish.get_vocab().keys())
        here, there = ([words.get_vocab()[token] for token in shared] for words in (spanish, english))
        weights = {name: tensor for name, tensor in ancestor.state_dict().items() if name not in ("model.embed_tokens.weight", "lm_head.weight")}
        general.load_state_dict(weights, strict=False)
        with torch.no_grad():
            for own, other in ((general.model.embed_tokens, ancestor.model.embed_tokens), (general.lm_head, ancestor.lm_head)):
                own.weight[here] = other.weight[there]
        published.teach(general.train(), spanish, lesson("es"), steps=25, rate=2e-3)
        key, theirs = LlamaForCausalLM(published.llama(spanish, layers=3)).train(), LlamaForCausalLM(published.llama(spanish))
        published.teach(key, spanish, lesson("es"), steps=60, rate=5e-3)
        theirs.load_state_dict(general.state_dict())
        published.teach(theirs.train(), spanish, lesson("es") + lesson("en"), steps=5, rate=1e-3)
        for repository, model, words in (
            (ANCESTOR, ancestor, english), (EXPERT, expert, english), (SPANISH, general, spanish), (KEY, key, spanish), (MERGE, theirs, spanish),
        ):  # fmt: skip
            found[repository] = published.files(model, words)
    return found


def fill(hub: Hub) -> Hub:
    """Put the models on a hub; Meta's ancestor is gated, as upstream."""
    for repository, files in models().items():
        hub.add(repository, files, gated=repository == ANCESTOR)
    return hub


def write(tree: Path) -> None:
    """The study and its translations, in a copy of the project."""
    (tree / "params" / "spanish.yaml").write_text(STUDY, encoding="utf-8")
    raw = tree / "data" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    rows = [(concept, "en", "es", "rdfs:label", label, name, "OFFICIAL") for concept, label, name, *_ in TERMS]
    rows.append((CANDIDATE[0], "en", "es", "rdfs:label", *CANDIDATE[1:], "CANDIDATE"))
    (raw / "hp-es.babelon.tsv").write_text("\n".join(map("\t".join, [COLUMNS, *rows])) + "\n", encoding="utf-8")


def answer(prompt: str, leniency: float = 1) -> str:
    """What a judge says: how many of its letters a prompt has twice means nothing, but differs between definitions."""
    return json.dumps({"score": min(10, int(leniency * (len(prompt) % 7)))})
