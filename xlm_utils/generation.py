"""Prompts → definitions: zero-shot, greedy, in batches that are fixed by the study and resume whole.

Terms are sorted by prompt length before batching (less padding), and a batch is written in one
piece, so that a killed run repeats the same batches and, on the same machine, the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from xlm_utils import models
from xlm_utils.records import Step, append_jsonl, digest, read_jsonl, read_manifest, sha256
from xlm_utils.settings import Language
from xlm_utils.study import PARAMS, Study

KANA = re.compile(r"[\u3041-\u30ff]")
KANJI = re.compile(r"[\u3400-\u9fff]")
LATIN = re.compile(r"[A-Za-z]")


@dataclass(frozen=True)
class Run:
    """One model asked for definitions of all terms in one language."""

    name: str
    model: str
    language: Language
    column: str  # of the terms table, that the prompts are made of: term (source language) or translation
    why: str


def runs(study: Study) -> list[Run]:
    """Every run of a study: the expert twice in the source language (as published), the control, then the others.

    A sweep leaves the baseline and the control out.
    """
    expert, general = study.by_role("expert"), study.by_role("general")
    source, target = study.source, study.target
    first = [
        Run(f"{expert}.reference", expert, source, "term", "the reference definition that the judges see"),
        Run(expert, expert, source, "term", "the scored baseline"),
        Run(f"{expert}.{target.code}", expert, target, "translation", f"control: what the expert knows when asked in {target.name}"),
        Run(general, general, target, "translation", "the general model, before merging"),
    ]
    if study.sweep_of:  # compares the merges with each other: all it needs beside them is the reference, and where they come from
        first = [first[0], first[3]]
    return first + [Run(method, method, target, "translation", "a merge") for method in study.merges]


def language_of(text: str) -> str:
    """``ja``, ``en`` or ``other``, from the scripts of a text.

    A kanji or kana carries about as much as three Latin letters, so a Japanese sentence that quotes
    an English term stays Japanese. Chinese characters without any kana are not Japanese.
    """
    kana, kanji, latin = (len(script.findall(text)) for script in (KANA, KANJI, LATIN))
    if kana and 3 * (kana + kanji) >= latin:
        return "ja"
    return "en" if latin > 3 * (kana + kanji) else "other"


def prompts(study: Study, run: Run, table: pd.DataFrame, tokenizer=None) -> list[str]:
    """The exact prompts of a run, one per term; inside the tokenizer's chat template if the study says so."""
    texts = [study.prompt(run.language, term) for term in table[run.column]]
    if not study.generation.chat_template:
        return texts
    return [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in texts
    ]


def pick_batch_size(study: Study, device: str) -> tuple[int, str]:
    """Batch size and the reason for it."""
    if study.generation.batch_size:
        return study.generation.batch_size, "set by the study"
    return (64, "a GPU is fed best by many rows") if device == "cuda" else (8, "two CPU cores gain little beyond that")


def batches(texts: list[str], size: int) -> list[list[int]]:
    """Row numbers of ``texts`` in batches of ``size``, texts of similar length together; a fixed partition."""
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def complete(model, tokenizer, texts: list[str], max_new_tokens: int, templated: bool = False) -> list[dict]:
    """Greedy continuations of one batch.

    Returns:
        one dict a text: definition (stripped), tokens (generated, without padding),
        finish (``stop``, ``length`` or ``empty``).
    """
    import torch

    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not templated).to(model.device)
    with torch.inference_mode():
        output = model.generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops)
    rows = []
    for tokens in output[:, batch["input_ids"].shape[1] :].tolist():
        end = next((i for i, token in enumerate(tokens) if token in stops), None)
        kept = tokens if end is None else tokens[:end]
        text = tokenizer.decode(kept, skip_special_tokens=True).strip()
        finish = "length" if end is None else "stop"
        rows.append({"definition": text, "tokens": len(kept), "finish": finish if text else "empty"})
    return rows


def step_of(study: Study, run: Run, terms: Path) -> Step:
    """The resumable step behind one run: everything its definitions depend on."""
    return Step(
        study.folder / "definitions" / f"{run.name}.jsonl",
        terms=digest(terms), weights=digest(models.locate(study, run.model)), language=run.language.code,
        prompt=sha256(PARAMS / "prompts" / run.language.prompt), **study.generation.model_dump(), kind="definitions",
    )  # fmt: skip


def define(study: Study, run: Run, table: pd.DataFrame, loaded: dict | None = None) -> Iterator[list[dict]]:
    """Generate a run's definitions, yielding each batch of rows as it is written.

    Finished batches of an earlier, killed run are kept; a finished run yields nothing. Two runs of
    one study whose weights, prompts and settings are the same (greedy decoding: the expert's reference
    and baseline; two merges with identical weights) are generated once and copied, saying so.

    Args:
        loaded: a dict that carries the loaded model from run to run, so that one model is loaded once.

    Yields:
        rows: term_id, run, language, prompt, definition, tokens, finish, output_language, batch.
    """
    step = step_of(study, run, study.folder / "terms.csv")
    with step:
        if step.done:
            print(f"{run.name}: done before, kept")
            return
        if twin := _twin(step):
            print(f"{run.name}: same weights, prompts and settings as {twin.stem}, and decoding is greedy: copied")
            append_jsonl(step.partial, [{**row, "run": run.name} for row in read_jsonl(twin)])
            step.finish(same_as=twin.stem)
            return
        if loaded is None:
            loaded = {}
        if loaded.get("name") != run.model:
            loaded.clear()
            model, tokenizer, how = models.load(study, run.model)
            print(how)
            loaded.update(name=run.model, model=model, tokenizer=tokenizer)
        model, tokenizer = loaded["model"], loaded["tokenizer"]
        texts = prompts(study, run, table, tokenizer)
        size, reason = pick_batch_size(study, model.device.type)
        done = {row["batch"] for row in read_jsonl(step.partial)}
        print(f"{run.name}: {len(texts)} terms in batches of {size} ({reason})" + (f", {len(done)} batches done before" if done else ""))
        for number, members in enumerate(batches(texts, size)):
            if number in done:
                continue
            results = complete(model, tokenizer, [texts[i] for i in members], study.generation.max_new_tokens, study.generation.chat_template)
            rows = [
                {"term_id": table["term_id"].iloc[i], "run": run.name, "language": run.language.code, "prompt": texts[i],
                 **result, "output_language": language_of(result["definition"]), "batch": number}
                for i, result in zip(members, results, strict=True)
            ]  # fmt: skip
            append_jsonl(step.partial, rows)
            yield rows
        step.finish(batch_size=size)


def _twin(step: Step) -> Path | None:
    """A finished file in the same folder that was made from the very same things."""
    for sidecar in sorted(step.path.parent.glob("*.manifest.json")):
        other = sidecar.with_name(sidecar.name.removesuffix(".manifest.json"))
        manifest = read_manifest(other)
        if other != step.path and other.exists() and manifest["key"] == step.key:
            return other
    return None


def definitions(study: Study, names: list[str]) -> pd.DataFrame:
    """The rows of several finished runs (see ``define``), one below the other."""
    rows = [row for name in names for row in read_jsonl(study.folder / "definitions" / f"{name}.jsonl")]
    return pd.DataFrame(rows)


def summary(study: Study, names: list[str]) -> pd.DataFrame:
    """Per finished run: n, share of rows in the asked-for language, stopped by itself, cut off, empty, median tokens."""
    rows = []
    for name in names:
        table = definitions(study, [name])
        if table.empty:
            continue
        finish = table["finish"].value_counts()
        rows.append({
            "run": name, "n": len(table), "in the asked-for language": (table["output_language"] == table["language"]).mean(),
            "stopped": finish.get("stop", 0), "cut off": finish.get("length", 0), "empty": finish.get("empty", 0),
            "median tokens": table["tokens"].median(),
        })  # fmt: skip
    return pd.DataFrame(rows)
