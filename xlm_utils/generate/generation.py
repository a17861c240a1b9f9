"""Prompts → definitions: zero-shot, greedy, in whole batches that a killed run repeats; and the finished runs' files, read and counted.

Terms go longest prompt first (less padding, and memory that is too small shows at once). A batch is written in one piece and every row says how large
it was, so that a run which is killed and started again makes the same batches and, on the same machine, the same bytes.
"""

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock

from xlm_utils import models
from xlm_utils.draw.pages import as_text
from xlm_utils.generate import decoding
from xlm_utils.generate.languages import language_of
from xlm_utils.models.libraries import torch
from xlm_utils.study import PARAMS, Language, Progress, Step, Study, StudyError, append_jsonl, digest, read_jsonl, read_manifest, sha256, write_text

FINISHES = {"stop": "stopped", "loop": "looped", "length": "cut off", "empty": "empty"}
ENDINGS = {"empty": "empty", "loop": "loops", "length": "cut off"}  # finish → why such a row is no definition


@dataclass(frozen=True)
class Run:
    """One model asked for definitions of all terms in one language."""

    name: str
    model: str
    language: Language
    column: str  # of the terms table, that the prompts are made of: term (source language) or translation
    why: str


def runs(study: Study) -> list[Run]:
    """Every run of a study: the expert twice in the source language (as published), its control, the general model, the ancestor, the merges.

    Its second, scored prompt is ``generation.baseline_prompt`` where the study names one. A sweep leaves the baseline and the control out.
    """
    expert, general, source, target = study.by_role("expert"), study.by_role("general"), study.source, study.target
    scored = source.model_copy(update={"prompt": study.generation.baseline_prompt or source.prompt})
    first = [
        Run(f"{expert}.reference", expert, source, "term", "the reference definition that the judges see"),
        Run(expert, expert, scored, "term", "the scored baseline"),
        Run(f"{expert}.{target.code}", expert, target, "translation", f"control: what the expert knows when asked in {target.name}"),
        Run(general, general, target, "translation", "the general model, before merging")]  # fmt: skip
    why, ancestors = f"control: what was known before any fine-tuning, asked in {target.name}", [n for n in study.parents if n not in study.models]
    first += [Run(f"{name}.{target.code}", name, target, "translation", why) for name in ancestors]
    why = {"upper": "answer key: how far is far", "published": "a published model, beside the merges"}
    first += [Run(name, name, target, "translation", why[study.constituents[name].role]) for name in study.scored]
    if study.sweep_of:  # compares the merges with each other: all it needs beside them is the reference, and where they come from
        first = [first[0], first[3]]
    return first + [Run(method, method, target, "translation", "a merge") for method in study.methods]


def prompts(study: Study, run: Run, table: pd.DataFrame, tokenizer=None) -> list[str]:
    """The exact prompts of a run, one per term; inside the tokenizer's chat template if the study says so."""
    texts = [study.prompt(run.language, term) for term in table[run.column]]
    if not study.generation.chat_template:
        return texts
    if not tokenizer.chat_template:
        raise StudyError(f"generation.chat_template = true: the tokenizer of {run.model} has no template; take an instruct model, or false")
    return [models.chat(tokenizer, [{"role": "user", "content": text}], of=run.model) for text in texts]


def step_of(study: Study, run: Run, terms: Path) -> Step:
    """The resumable step behind one run: everything its definitions depend on."""
    how = study.generation.model_dump(exclude={"baseline_prompt"}) | ({"date": str(models.DATE)} if study.generation.chat_template else {})
    inputs = {"terms": digest(terms), "weights": digest(models.locate(study, run.model)), "prompt": sha256(PARAMS / "prompts" / run.language.prompt)}
    return Step(study.folder / "definitions" / f"{run.name}.jsonl", **inputs, language=run.language.code, **how, kind="definitions")


def define(study: Study, run: Run, table: pd.DataFrame, loaded: dict | None = None) -> Iterator[list[dict]]:
    """Generate a run's definitions, yielding each batch of rows as it is written.

    Finished batches of an earlier, killed run are kept; a finished run yields nothing. Two merges of one study with identical weights are generated
    once and copied, saying so; the expert's reference and its baseline are not, since whether they are the same is asked. A batch that the memory
    does not hold is halved, and so are the ones after it, saying so. ``loaded``: a dict that carries the loaded model from run to run, so that one
    model is loaded once. Yields rows: term_id, run, language, prompt, definition, tokens, finish, output_language, batch, batch_size (rows the batch
    was meant to have), dtype. A StudyError: the backend or a chat template is missing, or one row alone is too large for the memory.
    """
    languages = (study.source.code, study.target.code)
    language_of("a", languages)  # one that can't be told is an error now, not after the first batch
    step = step_of(study, run, study.folder / "terms.csv")
    with step:
        if step.done:
            print(f"{run.name}: done before, kept")
            return
        if twin := _twin(step, besides=(run.model, f"{run.model}.reference")):
            print(f"{run.name}: same weights, prompts and settings as {twin.stem}, and decoding is greedy: copied")
            append_jsonl(step.partial, [{**row, "run": run.name} for row in read_jsonl(twin)])
            step.finish(same_as=twin.stem, made_by=read_manifest(twin)["made_by"])
            return
        writer = load(study, run.model, {} if loaded is None else loaded)
        texts = prompts(study, run, table, writer.tokenizer)
        models.report_bytes(writer.tokenizer, texts, run.name)
        order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
        rows = read_jsonl(step.partial)
        size, reason = (rows[-1]["batch_size"], "as it was begun") if rows else writer.batch_size(texts)
        print(f"{run.name}: {len(texts)} terms in batches of {size} ({reason})" + (f", {len(rows)} done before" if rows else ""))
        progress = Progress(run.name, len(texts), "definitions", done=len(rows))
        while members := order[len(rows) : len(rows) + size]:
            answers = _answers(writer, [texts[i] for i in members])
            if answers is None:
                if len(members) == 1:
                    raise StudyError(f"{run.name}: the memory does not hold one row; take a smaller max_new_tokens or quantization: nf4")
                size = len(members) // 2
                print(f"{run.name}: out of memory with {len(members)} rows; going on in batches of {size}")
                continue
            batch = [
                {"term_id": table["term_id"].iloc[i], "run": run.name, "language": run.language.code, "prompt": texts[i], **answer,
                 "output_language": language_of(answer["definition"], languages), "batch": rows[-1]["batch"] + 1 if rows else 0,
                 "batch_size": size, "dtype": writer.facts["dtype"]}
                for i, answer in zip(members, answers, strict=True)]  # fmt: skip
            append_jsonl(step.partial, batch)
            rows += batch
            progress.update(len(batch))
            yield batch
        step.finish(made_by=writer.facts | {key: sorted({row[key] for row in rows}) for key in ("batch_size", "dtype")})


def load(study: Study, model: str, loaded: dict) -> decoding.Writer:
    """The model, ready to write: the one in ``loaded``, or loaded now in its place, saying how."""
    if loaded.get("name") != model:
        loaded.clear()  # the model before goes first: two may not fit
        loaded.update(name=model, writer=decoding.writer(study, model))
        print(loaded["writer"].how)
    return loaded["writer"]


def _answers(writer: decoding.Writer, texts: list[str]) -> list[dict] | None:
    """The batch's answers, or None if memory ran out."""
    try:
        return writer.complete(texts)
    except (RuntimeError, MemoryError) as error:
        if not decoding.out_of_memory(error):
            raise
    gc.collect()  # outside the handler: the error holds the batch's tensors
    torch.cuda.empty_cache()  # nothing where no GPU was used
    return None


def _twin(step: Step, besides: tuple[str, ...]) -> Path | None:
    """A finished file in the same folder that was made from the very same things, by another model."""
    for sidecar in sorted(step.path.parent.glob("*.manifest.json")):
        other = sidecar.with_name(sidecar.name.removesuffix(".manifest.json"))
        if other != step.path and other.stem not in besides and other.exists() and read_manifest(other)["key"] == step.key:
            return other
    return None


def rows(study: Study, names: list[str]) -> pd.DataFrame:
    """The rows of several finished runs (see ``define``), one below the other."""
    return pd.DataFrame([row for name in names for row in read_jsonl(study.folder / "definitions" / f"{name}.jsonl")])


def side_by_side(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """One row a term: term_id, term, translation, the vocabulary's own definition (by whom it is), and one column a finished run.

    Written to ``definitions/side_by_side.csv`` as well, with a mark by which Excel knows UTF-8. Jobs that end at the same time take turns, so that
    the last one's table has every run.
    """
    folder = study.folder / "definitions"
    file = folder / "side_by_side.csv"
    with FileLock(folder / ".locks" / file.name):
        wide = table[["term_id", "term", "translation"]].assign(**{study.definitions_by: table["definition"]})
        for name in [run.name for run in runs(study) if read_manifest(folder / f"{run.name}.jsonl")]:
            wide[name] = wide["term_id"].map({row["term_id"]: row["definition"] for row in read_jsonl(folder / f"{name}.jsonl")})
        write_text(file, "\ufeff" + as_text(wide).to_csv(index=False))
    return wide


def usable(row: Mapping, language: str) -> tuple[bool, str]:
    """Whether a row (see ``define``) is a definition in a language, and if not, why: empty, loops, cut off or another language.

    What it says is another question. A row of a study that does not stop at loops is cut off where it loops.
    """
    elsewhere = "" if row["output_language"] == language else "another language"
    reason = (ENDINGS.get(row["finish"], "") or elsewhere) if row["definition"] else "empty"
    return not reason, reason


def summary(study: Study, names: list[str]) -> pd.DataFrame:
    """Per finished run: n, how it ended (stopped by itself, at a loop, cut off at the limit, empty), other language, usable, median tokens.

    The endings add up to n; ``other language`` counts among the rows that are not empty, ``usable`` as the function does.
    """
    found = []
    for name in names:
        if (table := rows(study, [name])).empty:
            continue
        ended = {told: int((table["finish"] == end).sum()) for end, told in FINISHES.items()}
        foreign = int(((table["output_language"] != table["language"]) & (table["finish"] != "empty")).sum())
        good = sum(usable(row, row["language"])[0] for row in table.to_dict("records"))
        found.append({"run": name, "n": len(table)} | ended | {"other language": foreign, "usable": good, "median tokens": table["tokens"].median()})
    return pd.DataFrame(found)
