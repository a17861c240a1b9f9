"""Table 2: nine benchmark columns through the LM Evaluation Harness, one model load for all of them.

Data sets, prompts and requests are built once (``prepare``) and put to every model of a study (``evaluate``), whose rows an item become results.
"""

import json
import math
from collections.abc import Iterable
from unicodedata import normalize

import neologdn
import pandas as pd
import scipy  # loads its parts when they are used

from xlm_utils import models
from xlm_utils.benchmark.prepared import COLUMN_OF, Prepared
from xlm_utils.models.libraries import LM, ConfigurableTask
from xlm_utils.stats import statistics
from xlm_utils.study import Step, Study, StudyError, digest, fingerprint, read_manifest, write_json, write_text

AT_ONCE = 500  # items that are answered between two writes: enough to fill batches, few to lose


def evaluate(study: Study, prepared: Prepared, name: str, loaded: dict | None = None) -> dict:
    """All columns for one model, in the files ``benchmarks/<name>.json`` and ``<name>.samples.jsonl``.

    What is there is read, not repeated: a finished result, and in ``benchmarks/parts`` every data set that the same weights have answered, for
    another model, for another selection of data sets, or before a kill. ``loaded``: see ``language_model``.

    Returns ``model``; ``datasets``: data set → column, metric, value, low and high (95 %), stderr, n, chance, shots, truncated, version, of (rows
    there are), held_out; ``columns``: column → value, low, high, stderr, n, chance, metric, sets; ``unavailable``: data set → why. An undefined
    number is None. A StudyError: the model or its chat template is not there.
    """
    how = study.generation.model_dump(include={"dtype", "quantization"}) | {"weights": digest(models.locate(study, name))}
    how |= {"chat_template": (chat := study.benchmarks.chat_template)} | ({"date": models.DATE.isoformat()} if chat else {})
    folder = study.benchmarks_folder
    steps = [Step(folder / f"{name}{ending}", tasks=prepared.facts, columns=prepared.columns, **how) for ending in (".json", ".samples.jsonl")]
    with steps[0] as result_step, steps[1] as item_step:
        if result_step.done and item_step.done:
            print(f"{name}: the benchmarks are done")
            return json.loads(result_step.path.read_text(encoding="utf-8"))
        files = {dataset: folder / "parts" / f"{dataset}.{fingerprint(how | facts)}.json" for dataset, facts in prepared.facts.items()}
        parts = {dataset: json.loads(file.read_text(encoding="utf-8")) for dataset, file in files.items() if file.exists()}
        if parts:
            by = ", ".join(sorted({part["model"] for part in parts.values()}))
            print(f"{name}: {len(parts)} of {len(files)} data sets are answered already, by the same weights ({by})")
        if asked := [dataset for dataset in files if dataset not in parts]:
            lm = language_model(study, name, prepared.pairs, loaded)
            if study.benchmarks.chat_template and not lm.tokenizer.chat_template:
                raise StudyError(f"chat_template: {name} has none")
            group: list[str] = []  # consecutive data sets of at least ``AT_ONCE`` items together
            for dataset in asked:
                group.append(dataset)
                if dataset == asked[-1] or sum(len(prepared.items[one]) for one in group) >= AT_ONCE:
                    for one, part in answer(lm, prepared, group, study.benchmarks.chat_template).items():
                        parts[one] = part
                        write_json(files[one], {"model": name, **part})
                    group = []
            texts = {"".join(part for part in i.args if isinstance(part, str)) for dataset in asked for i in prepared.tasks[dataset].instances}
            models.report_bytes(lm.tokenizer, sorted(texts), f"{name}, benchmarks")
        result, rows = compose(prepared, name, parts)
        write_text(item_step.partial, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        item_step.finish()
        write_json(result_step.partial, result)
        result_step.finish()
    return result


def language_model(study: Study, name: str, pairs: dict[str, dict], loaded: dict | None = None) -> LM:
    """A model of the study for the harness: the one that ``loaded`` carries, or loaded now in its place, saying how; ``pairs``: see ``Prepared``."""
    loaded = {} if loaded is None else loaded
    if loaded.get("name") != name:
        loaded.clear()  # the model before goes first: two may not fit
        model, tokenizer, how = models.load(study, name)
        from xlm_utils.benchmark.harness import SharedPromptLM

        print(how)
        own = pairs.setdefault(fingerprint(tokenizer.backend_tokenizer.to_str()), {})
        loaded.update(name=name, lm=SharedPromptLM(model, tokenizer, study.benchmarks.batch_tokens, own))
    return loaded["lm"]


def answer(lm: LM, prepared: Prepared, datasets: Iterable[str], chat_template: bool = False) -> dict[str, dict]:
    """Put the requests of some data sets to a harness language model; data set → its ``result`` and ``rows``, one an item."""
    import numpy as np
    from lm_eval.evaluator import evaluate as harness_evaluate

    named = {prepared.tasks[dataset].task_name: dataset for dataset in datasets}
    # only where not every row is asked, as the harness is quadratic in the items named to it
    sampled = {task: dataset for task, dataset in named.items() if len(prepared.items[dataset]) < prepared.facts[dataset]["of"]}
    state = np.random.get_state()  # the harness's ROUGE draws from NumPy's global generator
    np.random.seed(0)
    try:
        output = harness_evaluate(
            lm, {"tasks": {task: prepared.tasks[dataset] for task, dataset in named.items()}}, bootstrap_iters=0,
            samples={task: prepared.items[dataset] for task, dataset in sampled.items()},
            apply_chat_template=chat_template, fewshot_as_multiturn=chat_template)  # fmt: skip
    finally:
        np.random.set_state(state)
    truncated, parts = getattr(lm, "truncated", None), {}
    for task_name, dataset in named.items():
        task, facts = prepared.tasks[dataset], prepared.facts[dataset]
        key, value = next(pair for pair in output["results"][task_name].items() if "," in pair[0] and "_stderr" not in pair[0])  # "acc,none"
        samples = [sample for sample in output["samples"][task_name] if sample["filter"] == key.partition(",")[2]]
        rows = [{"dataset": dataset, **item_row(task, sample, key.partition(",")[0], truncated)} for sample in samples]
        result = {"column": COLUMN_OF.get(dataset, dataset), **dataset_result(rows, {key: value}), "shots": task.config.num_fewshot}
        parts[dataset] = {"result": result | {key: facts[key] for key in ("version", "of", "held_out")}, "rows": rows}
    return parts


def compose(prepared: Prepared, name: str, parts: dict[str, dict]) -> tuple[dict, list[dict]]:
    """From each data set's answers, in the order of the columns: the result as ``evaluate`` returns it, and a row an item."""
    datasets = {dataset: parts[dataset]["result"] for dataset in prepared.tasks}
    for dataset, result in datasets.items():
        if result["truncated"]:
            print(f"{name}, {dataset}: {result['truncated']} of {result['n']} prompts were longer than the model's context and lost their beginning")
    columns = {column: column_result(sets, datasets) for column, sets in prepared.columns.items()}
    rows = [{"model": name, **row} for dataset in datasets for row in parts[dataset]["rows"]]
    return {"model": name, "datasets": datasets, "columns": columns, "unavailable": prepared.unavailable}, rows


def datasets_table(study: Study, names: list[str]) -> pd.DataFrame:
    """Finished results, one row per model and data set: column, metric, value and its interval, n, of, chance, shots, truncated, normalised_em."""
    files = {model: study.benchmarks_folder / f"{model}.json" for model in names}
    found = {model: json.loads(file.read_text(encoding="utf-8"))["datasets"] for model, file in files.items() if read_manifest(file)}
    rows = [{"model": model, "data set": name + study.benchmarks.ending, **result}
            for model, datasets in found.items() for name, result in datasets.items()]  # fmt: skip
    columns = ["model", "column", "data set", "metric", "value", "low", "high", "stderr", "n", "of", "chance", "shots", "truncated", "normalised_em"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(("value", "low", "high", "stderr", "chance", "normalised_em"), float))


def choice_scores(task: ConfigurableTask, doc: dict, likelihoods: list[float]) -> tuple[float, bool]:
    """Log-probability of the gold choice, and whether it is the likeliest (the first of equals)."""
    gold = task.gold_index(doc)
    return float(scipy.special.log_softmax(likelihoods)[gold]), likelihoods.index(max(likelihoods)) == gold


def normalised_em(answer: str, golds: list[str]) -> float:
    """1.0 if the answer's first line equals any gold after NFKC (㎎ is mg) and neologdn normalisation, tildes kept (3〜5mg is not 35mg)."""
    first, *others = (neologdn.normalize(normalize("NFKC", text), tilde="normalize") for text in (answer.strip().split("\n")[0], *golds))
    return float(first in others)


def rouge2(gold: str, answer: str) -> float:
    """ROUGE-2 F1 of one summary, tokenised by the harness's own MeCab tokenizer."""
    from lm_eval.tasks.japanese_leaderboard.ja_leaderboard_xlsum import MecabTokenizer
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rouge2"], tokenizer=MecabTokenizer()).score(gold, answer)["rouge2"].fmeasure


def item_row(task: ConfigurableTask, sample: dict, metric: str, truncated: set[str] | None) -> dict:
    """One harness sample → item (row number in the reported split), score, gold, prediction, gold_logprob, logprobs, options, truncated.

    ``score`` is None for similarity, which is scored over all items; extractive answers also have
    ``normalised_em``. ``truncated`` is None where the language model does not tell.
    """
    doc, answers = sample["doc"], sample["filtered_resps"]
    row = {"item": sample["doc_id"], "score": None, "truncated": None if truncated is None else sample["arguments"][0][0] in truncated}
    if task.multiple_input:  # similarity by likelihood
        prediction, gold = sample["pearson"]
        return row | {"gold": gold, "prediction": prediction, "gold_logprob": None}
    if task.OUTPUT_TYPE == "multiple_choice":
        likelihoods, choices = [likelihood for likelihood, _ in answers], task.doc_to_choice(doc)
        row |= {"gold": choices[task.gold_index(doc)], "prediction": choices[likelihoods.index(max(likelihoods))]}
        row["gold_logprob"], _ = choice_scores(task, doc, likelihoods)
        row["logprobs"] = {choice: round(float(value), 4) for choice, value in zip(choices, scipy.special.log_softmax(likelihoods), strict=True)}
        return row if metric == "pearson" else row | {"score": float(sample[metric]), "options": len(choices)}
    row |= {"gold": sample["target"], "prediction": answers[0], "gold_logprob": None}
    if metric == "rouge2":
        return row | {"score": rouge2(sample["target"], answers[0])}
    golds = (known := doc.get("answers")) and isinstance(known, dict) and known.get("text")
    return row | {"score": float(sample[metric])} | ({"normalised_em": normalised_em(answers[0], golds)} if isinstance(golds, list) else {})


def dataset_result(rows: list[dict], results: dict) -> dict:
    """metric, value, low, high, stderr, n, chance (and normalised_em), truncated of one data set.

    The value is the harness's. Intervals (95 %): Wilson's of a share (1927, of some width where none or all are right), Fisher's of
    Pearson's r, else BCa. Standard errors: of the mean over items; for r, sqrt((1 − r²) / (n − 2)). Chance: mean over items of 1 / options,
    0 for free answers, none for r, which no constant answer has. An undefined number is None.
    """
    from statsmodels.stats.proportion import proportion_confint

    ((key, value),) = results.items()  # "acc,none": metric, filter
    metric, n, value = key.partition(",")[0], len(rows), float(value)
    error, ends, chance = None, statistics.Interval(math.nan, math.nan), None if metric == "pearson" else 0.0
    if math.isnan(value):
        value = None
    elif metric == "pearson":
        error = math.sqrt(max(0.0, 1 - value**2) / (n - 2)) if n > 2 else None
        if n > 3 and abs(value) < 1 - 1e-9:  # else no interval, or one that would claim certainty
            ends = scipy.stats.pearsonr(*zip(*((row["prediction"], row["gold"]) for row in rows), strict=True)).confidence_interval(statistics.LEVEL)
    else:
        points = pd.Series([row["score"] for row in rows])
        error = float(points.sem()) if n > 1 else None
        ends = proportion_confint(int(points.sum()), n, method="wilson") if points.isin((0, 1)).all() else statistics.mean_interval(points)
    if "options" in rows[0]:
        chance = sum(1 / row["options"] for row in rows) / n
    extra = {"normalised_em": sum(row["normalised_em"] for row in rows) / n} if "normalised_em" in rows[0] else {}
    cut = None if rows[0]["truncated"] is None else sum(row["truncated"] for row in rows)
    low, high = (None if math.isnan(end) else float(end) for end in ends[:2])
    return {"metric": metric, "value": value, "low": low, "high": high, "stderr": error, "n": n, "chance": chance, **extra, "truncated": cut}


def column_result(sets: tuple[str, ...], datasets: dict[str, dict]) -> dict:
    """Unweighted mean over a column's data sets; None while one of them is missing or undefined.

    Its interval has for half width the root of the summed squares of its data sets' own, on either side (Zou & Donner
    2008, Statistics in Medicine 27, 1693–1702).
    """
    found = [datasets[dataset] for dataset in sets if dataset in datasets]
    values, errors = [d["value"] for d in found], [d["stderr"] for d in found]
    complete = len(found) == len(sets) and None not in values
    mean = sum(values) / len(sets) if complete else None
    ends = {}
    for end, side in (("low", -1), ("high", 1)):
        known = complete and all(d[end] is not None for d in found)
        ends[end] = mean + side * math.hypot(*(d[end] - d["value"] for d in found)) / len(sets) if known else None
    chances = [d["chance"] for d in found]
    stderr = math.sqrt(sum(e**2 for e in errors)) / len(sets) if complete and None not in errors else None
    chance = sum(chances) / len(chances) if chances and None not in chances else None
    metric, n = found[0]["metric"] if found else None, sum(d["n"] for d in found)
    return {"value": mean, **ends, "stderr": stderr, "n": n, "chance": chance, "metric": metric, "sets": list(sets)}
