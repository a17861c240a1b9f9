"""What each layer of the study's models says of its terms, by plain forward hooks; kept on disk, a row a reading and term or text.

And which layers carry it: two live models exchange a part of their layers, and the margin of either tells what it was worth.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from xlm_utils import models
from xlm_utils.benchmark import transfer
from xlm_utils.benchmark.benchmarks import language_model
from xlm_utils.merge.fitness import spare
from xlm_utils.models.weights import LAYER
from xlm_utils.study import Language, Step, Study, StudyError, append_jsonl, digest, fingerprint, read_jsonl, write_text

MODULES = {"attention": r"\.\w*(attn|attention)\.", "MLPs": r"\.\w*(mlp|feed_forward)\."}  # part → of its parameters' names


def stack(model: PreTrainedModel) -> nn.ModuleList:
    """The model's layers."""
    count = model.config.get_text_config().num_hidden_layers
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count)


def to_logits(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The model's final norm and head, which the logit lens puts behind every layer: (…, width) → (…, vocabulary)."""
    norms = [module for module in model.base_model.children() if "norm" in type(module).__name__.lower()]
    norm, head = norms[-1] if norms else nn.Identity(), model.get_output_embeddings()
    return lambda hidden: head(norm(hidden))


@torch.inference_mode()
def states(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Tensor]:
    """Hidden states behind each layer, a float32 tensor of shape (layers, tokens, width) a text.

    A StudyError: ``to_logits`` behind the last layer is not what the model itself says, so no layer could be read by it.
    """
    outputs, found = [], []
    hooks = [layer.register_forward_hook(lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out)) for layer in stack(model)]
    try:
        for start in range(0, len(texts), 32):
            inputs = tokenizer(texts[start : start + 32], return_tensors="pt", padding=True).to(model.device)
            mask = inputs["attention_mask"]
            outputs.clear()
            said = model(input_ids=inputs["input_ids"], attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1)
            if not torch.allclose(to_logits(model)(outputs[-1][:, -1]).softmax(-1), said.logits[:, -1].softmax(-1), atol=0.01):
                raise StudyError(f"{type(model).__name__}: its final norm and head are not found, so its layers can't be read")
            found += [torch.stack([layer[row, mask[row].bool()] for layer in outputs]).float() for row in range(len(mask))]
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.inference_mode()
def lens(model: PreTrainedModel, hidden: Tensor, *gold: list[set[int]]) -> Tensor:
    """Probability of each text's tokens behind each layer, for every list of ``gold``: states (layers, texts, width) → (lists, layers, texts).

    The logit lens (nostalgebraist 2020), by which languages are told apart (Wendler et al. 2024, arXiv 2402.10588).
    """
    behind = (to_logits(model)(layer.to(model.dtype)).float().softmax(-1) for layer in hidden)
    rows = [torch.stack([row[[*ids]].sum() for own in gold for row, ids in zip(chances, own, strict=True)]) for chances in behind]
    return torch.stack(rows).unflatten(1, (len(gold), -1)).transpose(0, 1)


def meeting(ours: Tensor, theirs: Tensor) -> Tensor:
    """Which texts and their translations are each other's only nearest neighbours, by cosine: (layers, texts, width) twice → (layers, texts).

    MEXA's alignment score is their share (Kargaran et al. 2024, arXiv 2410.05873); of n unrelated pairs, 1 in 2n − 1.
    """
    ours, theirs = nn.functional.normalize(ours, dim=-1), nn.functional.normalize(theirs, dim=-1)
    similar = ours @ theirs.mT
    own = similar.diagonal(dim1=1, dim2=2)
    return ((similar >= own[:, :, None]).sum(2) == 1) & ((similar >= own[:, None]).sum(1) == 1)


def distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """L2 distance of one model's states of a text from another's, over the L2 norm of theirs, mean over tokens; shape (layers,)."""
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).mean(-1)


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

    ``table``: terms, with the columns term_id, term and translation; ``texts``: code of the source and of the target language → texts. Returns model,
    reading, item, layer (from 1), value. Readings, with the languages' codes: ``lens ja en``: at the last token of the term asked in Japanese, the
    probability of the English name's first token; no rows for a term without first tokens of its own in both languages. ``meet``: 1 where the two
    names are each other's nearest neighbours, else 0. ``from <parent>``: distance from the expert's states of a text in the source language, from the
    general model's of one in the target language; at its last token alone where the parents' tokens differ. A StudyError: a model is not there, or
    its layers can't be read.
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
                rows = rows + [(f"from {parent}", str(number), distance(*pair)) for number, pair in pairs]
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
    last = {code: torch.stack([one[:, -1] for one in states(model, tokenizer, own)], 1) for code, own in prompts.items()}
    rows = [("meet", item, met.float()) for item, met in zip(items, meeting(*last.values()).T, strict=True)]
    for asked, hidden in last.items():
        for code, chances in zip(gold, lens(model, hidden, *gold.values()), strict=True):
            rows += [(f"lens {asked} {code}", item, own) for item, own, counts in zip(items, chances.T, apart, strict=True) if counts]
    expert = study.by_role("expert")
    tokens = slice(None) if models.as_parent(study, expert) == models.locate(study, expert) else slice(-1, None)
    return rows, {code: [one[:, tokens] for one in states(model, tokenizer, own)] for code, own in texts.items()}


def parts(names: list[str], block: int) -> dict[str, list[str]]:
    """What is exchanged → names of parameters: blocks of so many layers, all attention, all MLPs; a part without any is left out."""
    layer = {name: int(found[1]) for name in names if (found := LAYER.search(name))}
    found: dict[str, list[str]] = {}
    for name, number in sorted(layer.items(), key=lambda pair: pair[1]):
        first, last = number // block * block + 1, min(number // block * block + block, max(layer.values()) + 1)
        found.setdefault(f"layers {first}–{last}" if first < last else f"layer {first}", []).append(name)
    return found | {label: own for label, pattern in MODULES.items() if (own := [name for name in layer if re.search(pattern, name)])}


@contextmanager
def exchanged(one: nn.Module, other: nn.Module, names: list[str]) -> Iterator[None]:
    """Inside the context either model has the other's values of these parameters; nothing is copied."""
    pairs = [(one.get_parameter(name), other.get_parameter(name)) for name in names]

    def exchange() -> None:
        for ours, theirs in pairs:
            ours.data, theirs.data = theirs.data, ours.data

    exchange()
    try:
        yield
    finally:
        exchange()


def knock_out(study: Study) -> pd.DataFrame:
    """Margins of the general model and of the expert, asked in the target language, whole and with each part from the other: ``why/knockout.jsonl``.

    Returns model, part ("" where nothing is exchanged), term_id, margin, for ``why.apart`` terms that no table reports; empty, saying so, where too
    few definitions are left beside the study's own terms. A killed run goes on with the next part.
    """
    names, columns = [study.by_role(role) for role in ("general", "expert")], ["model", "part", "term_id", "margin"]
    try:
        table, asked = spare(study, study.why.apart)
    except StudyError as error:  # such a study has no terms to spare, and all other readings
        print(f"nothing is exchanged, as {error}")
        return pd.DataFrame(columns=columns)
    prompts = [study.prompt(study.target, term) for term in table["translation"]]
    texts = fingerprint([prompts, list(table["definition"]), asked, study.generation.model_dump()])
    weights = [digest(models.locate(study, name)) for name in names]
    with Step(study.folder / "why" / "knockout.jsonl", asked=texts, weights=weights, block=study.why.block) as step:
        if not step.done:
            lms, known = {name: language_model(study, name, {}) for name in names}, {row["part"] for row in read_jsonl(step.partial)}
            one, other = (lm.model for lm in lms.values())
            for part, own in {"": [], **parts([name for name, _ in one.named_parameters()], study.why.block)}.items():
                if part not in known:
                    with exchanged(one, other, own), torch.inference_mode():
                        rows = {name: transfer.score(lm, study, table, prompts, asked) for name, lm in lms.items()}
                    append_jsonl(step.partial, [{"part": part, **{name: {row["term_id"]: row["margin"] for row in rows[name]} for name in names}}])
            step.finish()
    rows = read_jsonl(step.path)
    return pd.DataFrame([(name, row["part"], *pair) for row in rows for name in names for pair in row[name].items()], columns=columns)
