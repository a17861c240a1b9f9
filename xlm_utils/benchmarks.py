"""Table 2: nine benchmark columns through the LM Evaluation Harness, one model load for all of them.

Data sets, prompts and requests are built once (``prepare``) and put to every model of a study
(``evaluate``); the same machinery, without the bookkeeping, is what a search optimises (``fitness``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pandas as pd

from xlm_utils import models
from xlm_utils.records import Step, digest, fingerprint, read_jsonl, read_manifest, write_json, write_text
from xlm_utils.study import Study, StudyError
from xlm_utils.tasks import data, scores
from xlm_utils.tasks.prepared import COLUMN_OF, COLUMNS, GENERATED, Prepared, load_task, make_task, pools, prepare, quiet_harness, spread

if TYPE_CHECKING:
    from datasets import DatasetDict
    from lm_eval.api.model import LM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from xlm_utils.tasks.harness import PreparedTask

__all__ = ["COLUMNS", "Prepared", "columns_table", "evaluate", "fitness", "fitness_rows", "prepare", "run"]


def evaluate(study: Study, prepared: Prepared, name: str, backend: str = "hf") -> dict:
    """All columns for one model, in the files ``benchmarks/<name>.json`` and ``<name>.samples.jsonl``.

    A finished result is read, not repeated, and a model whose weights are those of another model of
    the study takes over its result.

    Args:
        backend: ``hf``, or ``vllm`` where that package is installed.

    Returns:
        ``model``; ``datasets``: data set → column, metric, value, stderr, n, shots, truncated, version,
        of (rows there are), held_out; ``columns``: column → value, stderr, n, metric; ``unavailable``:
        data set → why. An undefined number is None.

    Raises:
        StudyError: the model, its chat template or the backend is not there.
    """
    made_from = {
        "weights": digest(models.locate(study, name)), "tasks": prepared.facts, "chat_template": study.benchmarks.chat_template,
        "dtype": study.generation.dtype, "quantization": study.generation.quantization, "backend": backend,
    }  # fmt: skip
    folder = study.folder / "benchmarks"
    result_step, item_step = Step(folder / f"{name}.json", **made_from), Step(folder / f"{name}.samples.jsonl", **made_from)
    with result_step, item_step:
        if result_step.done and item_step.done:
            print(f"{name}: the benchmarks are done")
            return json.loads(result_step.path.read_text(encoding="utf-8"))
        if twin := _twin(study, name, result_step.key):
            print(f"{name}: the same weights as {twin}, whose results are taken over")
            rows = [{**row, "model": name} for row in read_jsonl(folder / f"{twin}.samples.jsonl")]
            result = {**json.loads((folder / f"{twin}.json").read_text(encoding="utf-8")), "model": name}
        else:
            result, rows = run(_language_model(study, prepared, name, backend), prepared, name, study.benchmarks.chat_template)
        write_text(item_step.partial, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        item_step.finish()
        write_json(result_step.partial, result)
        result_step.finish()
    return result


def _twin(study: Study, name: str, key: str) -> str | None:
    """Another model of the study whose finished results were made from exactly the same things."""
    for other in study.models:
        files = [study.folder / "benchmarks" / f"{other}{ending}" for ending in (".json", ".samples.jsonl")]
        if other != name and all(file.exists() and (read_manifest(file) or {}).get("key") == key for file in files):
            return other
    return None


def _language_model(study: Study, prepared: Prepared, name: str, backend: str) -> LM:
    models.check_backend(study, backend)
    if backend == "vllm":
        from lm_eval.models.vllm_causallms import VLLM

        dtype, _ = models.pick_dtype(study, "cuda")
        quantization = models.VLLM_QUANTIZATION[study.generation.quantization]
        return VLLM(pretrained=str(models.locate(study, name)), batch_size="auto", dtype=dtype, quantization=quantization)
    model, tokenizer, how = models.load(study, name)
    from xlm_utils.tasks.harness import SharedPromptLM

    print(how)
    if study.benchmarks.chat_template and not tokenizer.chat_template:
        raise StudyError(f"chat_template: {name} has none")
    pairs = prepared.pairs.setdefault(fingerprint(tokenizer.backend_tokenizer.to_str()), {})
    with quiet_harness():
        return SharedPromptLM(model, tokenizer, study.benchmarks.batch_tokens, pairs)


def run(lm: LM, prepared: Prepared, name: str, chat_template: bool = False) -> tuple[dict, list[dict]]:
    """Put every prepared request to a harness language model; the result as ``evaluate`` returns it, and a row per item."""
    import numpy as np
    from lm_eval.evaluator import evaluate as harness_evaluate

    named = {task.task_name: dataset for dataset, task in prepared.tasks.items()}
    state = np.random.get_state()  # the harness's ROUGE draws from NumPy's global generator
    np.random.seed(0)
    try:
        with quiet_harness():
            output = harness_evaluate(
                lm, {"tasks": {task: prepared.tasks[dataset] for task, dataset in named.items()}}, bootstrap_iters=0,
                samples={task: prepared.items[dataset] for task, dataset in named.items() if _sampled(prepared, dataset)},
                apply_chat_template=chat_template, fewshot_as_multiturn=chat_template,
            )  # fmt: skip
    finally:
        np.random.set_state(state)
    truncated, datasets, rows = getattr(lm, "truncated", None), {}, []
    for task_name, dataset in named.items():
        task, facts = prepared.tasks[dataset], prepared.facts[dataset]
        own = [{"model": name, "dataset": dataset, **scores.item_row(task, sample, truncated)} for sample in output["samples"][task_name]]
        result = {"column": COLUMN_OF[dataset], **scores.dataset_result(own, output["results"][task_name]), "shots": task.config.num_fewshot}
        datasets[dataset] = result | {key: facts[key] for key in ("version", "of", "held_out")}
        if result["truncated"]:
            print(f"{name}, {dataset}: {result['truncated']} of {result['n']} prompts were longer than the model's context and lost their beginning")
        rows += own
    columns = {column: scores.column_result(sets, datasets) for column, sets in COLUMNS.items()}
    return {"model": name, "datasets": datasets, "columns": columns, "unavailable": prepared.unavailable}, rows


def _sampled(prepared: Prepared, dataset: str) -> bool:
    return len(prepared.items[dataset]) < prepared.facts[dataset]["of"]  # the harness is quadratic in the items named to it


def columns_table(study: Study) -> pd.DataFrame:
    """Finished results: one row per model in the tables' order, one column per benchmark; NaN where undefined."""
    files = {model: study.folder / "benchmarks" / f"{model}.json" for model in study.models}
    found = {model: json.loads(file.read_text(encoding="utf-8"))["columns"] for model, file in files.items() if read_manifest(file)}
    values = {model: [columns[column]["value"] for column in COLUMNS] for model, columns in found.items()}
    return pd.DataFrame.from_dict(values, orient="index", columns=list(COLUMNS), dtype=float).rename_axis("model")


def check_columns(study: Study) -> None:
    """Stop if a search could not look at the columns that it is to look at.

    Raises:
        StudyError: a column is unknown or scored by generation.
    """
    valid = [column for column in COLUMNS if column not in GENERATED]
    for column in study.evolution.columns:
        if column not in valid:
            raise StudyError(f"evolution.columns: {column!r} has no choices to search on; there are {', '.join(valid)}")


def _searched(study: Study) -> Iterator[tuple[str, dict, DatasetDict, str, list[int], tuple[str, list[int]]]]:
    """Data set, its configuration and splits, the split and the items that a search looks at, and (split, rows) that are reported.

    Raises:
        StudyError: a column is unknown or scored by generation, or its data can't be used.
    """
    check_columns(study)
    for column in study.evolution.columns:
        for dataset in COLUMNS[column]:
            try:
                config, splits = load_task(study, dataset)
            except data.DataError as error:
                raise StudyError(str(error)) from None
            reported, (split, pool) = pools(study, dataset, config, splits)
            if not pool:
                raise StudyError(f"evolution.columns: {dataset} has too few rows to set some aside; take fitness: published or another column")
            yield dataset, config, splits, split, spread(pool, study.evolution.items, (study.seed, "search", dataset)), reported


def fitness_rows(study: Study) -> pd.DataFrame:
    """What a search looks at: a row per data set with its column, split, items searched on, rows left to be reported and how many are both.

    With ``fitness: published`` the last is not 0: the search is contaminated, and its reported scores are no test.
    """
    rows = []
    for dataset, _, _, split, items, (test, reported) in _searched(study):
        both = len(set(items) & set(reported)) if split == test else 0
        rows.append((COLUMN_OF[dataset], dataset, split, len(items), len(reported), both))
    return pd.DataFrame(rows, columns=["column", "data set", "split", "searched on", "left to report", "both"])


def datasets_table(study: Study, names: list[str]) -> pd.DataFrame:
    """Finished results of these models, one row per model and data set: column, metric, value, stderr, n, of, shots, truncated, normalised_em."""
    files = {model: study.folder / "benchmarks" / f"{model}.json" for model in names}
    found = {model: json.loads(file.read_text(encoding="utf-8"))["datasets"] for model, file in files.items() if read_manifest(file)}
    rows = [{"model": model, "data set": name, **result} for model, datasets in found.items() for name, result in datasets.items()]
    columns = ["model", "column", "data set", "metric", "value", "stderr", "n", "of", "shots", "truncated", "normalised_em"]
    return pd.DataFrame(rows, columns=columns).astype({"value": float, "stderr": float, "normalised_em": float})


def fitness(study: Study) -> Callable[[PreTrainedModel, PreTrainedTokenizerBase], dict[str, float]]:
    """What a search maximises, on ``evolution.items`` items of each data set of ``evolution.columns``.

    Returns:
        a function of (model, tokenizer) → ``objective``: mean log-probability of the gold answer among
        the choices (smooth, where accuracies tie), and ``accuracy``; both are means over items, then over
        data sets, then over columns. Prompts are built and tokenised once, so all candidates must share
        one tokenizer.

    Raises:
        StudyError: a column is unknown or scored by generation, or its data can't be used.
    """
    tasks: dict[str, list[tuple[PreparedTask, list[int]]]] = {}
    for dataset, config, splits, split, items, _ in _searched(study):
        tasks.setdefault(COLUMN_OF[dataset], []).append((make_task(config, splits, test_split=split), items))
    every = [pair for own in tasks.values() for pair in own]
    pairs: dict = {}

    def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        from xlm_utils.tasks.harness import SharedPromptLM

        with quiet_harness():
            lm = SharedPromptLM(model, tokenizer, study.benchmarks.batch_tokens, pairs)
            chat = {"apply_chat_template": True, "chat_template": lm.apply_chat_template, "fewshot_as_multiturn": True}
            for task, items in every:
                task.build_all_requests(samples=items, **(chat if study.benchmarks.chat_template else {}))
        answers = iter(lm.loglikelihood([instance for task, _ in every for instance in task.instances]))
        found = {column: pd.DataFrame([_gold_scores(task, answers) for task, _ in own]).mean() for column, own in tasks.items()}
        return {key: float(value) for key, value in pd.DataFrame(found).mean(axis=1).items()}

    return score


def _gold_scores(task: PreparedTask, answers: Iterator[tuple[float, bool]]) -> dict[str, float]:
    """Means over a task's items, taking the task's share of the answers."""
    docs, likelihoods = {}, {}
    for instance in task.instances:
        docs[instance.doc_id] = instance.doc
        likelihoods.setdefault(instance.doc_id, []).append(next(answers)[0])
    found = [scores.choice_scores(task, docs[item], values) for item, values in likelihoods.items()]
    return pd.DataFrame(found, columns=["objective", "accuracy"]).mean().to_dict()
