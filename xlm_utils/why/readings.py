"""What the layers of the study's models say of its terms, kept on disk: a row a reading and term or text."""

import json

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from xlm_utils import models
from xlm_utils.study import Step, Study, digest, fingerprint, read_jsonl, write_text
from xlm_utils.study.settings import Language
from xlm_utils.why import layers


def up_to(study: Study, language: Language, term: str) -> str:
    """The prompt for a term as far as the term's last letter."""
    return study.prompt(language, "\0").partition("\0")[0] + term


def first_tokens(tokenizer: PreTrainedTokenizerBase, word: str) -> set[int]:
    """Ids that a word may begin with, behind a space or not, in small letters or capitalised; none that is part of a letter, or no text."""
    forms = {space + form for space in ("", " ") for form in (word, word.lower(), word.capitalize())}
    ids = {tokenizer(form, add_special_tokens=False)["input_ids"][0] for form in forms}
    return {number for number in ids if (text := tokenizer.decode([number]).strip()) and "\ufffd" not in text}


def read(study: Study, names: list[str], table: pd.DataFrame, texts: dict[str, list[str]]) -> pd.DataFrame:
    """Readings of some models, kept as ``why/<model>.jsonl``; a model is loaded only where they are not there.

    ``table``: terms, with the columns term_id, term and translation; ``texts``: code of the source and of the target language → texts.

    Returns model, reading, item, layer (from 1), value. Readings, with the languages' codes: ``lens ja en``: at the last token of the term asked in
    Japanese, the probability of the English name's first token; no rows for a term without first tokens of its own in both languages. ``meet``: 1
    where the two names are each other's nearest neighbours, else 0. ``from <parent>``: distance from the expert's states of a text in the source
    language, from the general model's of one in the target language. A StudyError: a model is not there, or its layers can't be read.
    """
    parents = {study.by_role("expert"): study.source.code, study.by_role("general"): study.target.code}
    words = {study.source.code: list(table["term"]), study.target.code: list(table["translation"])}
    prompts = {language.code: [up_to(study, language, word) for word in words[language.code]] for language in (study.source, study.target)}
    asked = fingerprint([prompts, texts, study.generation.model_dump(include={"dtype", "quantization"})])
    known: dict[str, tuple[list[tuple], dict]] = {}
    weights = {name: [digest(models.locate(study, one)) for one in (name, *parents)] for name in names}
    for name in names:
        with Step(study.folder / "why" / f"{name}.jsonl", asked=asked, weights=weights[name]) as step:
            if step.done:
                continue
            for one in (*parents, name):
                known[one] = known.get(one) or _listen(study, one, list(table["term_id"]), words, prompts, texts)
            rows, own = known[name] if name in parents else known.pop(name)
            for parent, code in parents.items():
                pairs = enumerate(zip(own[code], known[parent][1][code], strict=True))
                rows = rows + [(f"from {parent}", str(number), layers.distance(*pair)) for number, pair in pairs]
            lines = [json.dumps([name, reading, item, [float(f"{value:.4g}") for value in values.tolist()]]) for reading, item, values in rows]
            write_text(step.partial, "".join(f"{line}\n" for line in lines))
            step.finish()
    rows = [row for name in names for row in read_jsonl(study.folder / "why" / f"{name}.jsonl")]
    found = [(*about, layer, value) for *about, values in rows for layer, value in enumerate(values, 1)]
    return pd.DataFrame(found, columns=["model", "reading", "item", "layer", "value"])


def _listen(study: Study, name: str, items: list[str], words: dict, prompts: dict, texts: dict) -> tuple[list[tuple], dict]:
    """A model's own readings, as (reading, item, values by layer), and its states of the texts."""
    model, tokenizer, how = models.load(study, name)
    print(how)
    gold = {code: [first_tokens(tokenizer, word) for word in own] for code, own in words.items()}
    apart = [bool(ours and theirs and not ours & theirs) for ours, theirs in zip(*gold.values(), strict=True)]
    last = {code: torch.stack([one[:, -1] for one in layers.states(model, tokenizer, own)], 1) for code, own in prompts.items()}
    rows = [("meet", item, met.float()) for item, met in zip(items, layers.meeting(*last.values()).T, strict=True)]
    for asked, hidden in last.items():
        for code, chances in zip(gold, layers.lens(model, hidden, *gold.values()), strict=True):
            rows += [(f"lens {asked} {code}", item, own) for item, own, counts in zip(items, chances.T, apart, strict=True) if counts]
    return rows, {code: layers.states(model, tokenizer, own) for code, own in texts.items()}
