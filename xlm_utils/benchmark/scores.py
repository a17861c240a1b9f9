"""From the harness's output to rows per item, results per data set and columns of Table 2."""

import math
from unicodedata import normalize

import neologdn
import pandas as pd
import scipy  # loads its parts when they are used

from xlm_utils.benchmark.prepared import PreparedTask
from xlm_utils.stats import statistics


def gold_index(task: PreparedTask, doc: dict) -> int:
    """Position of the gold answer among the choices (some tasks name it by its text)."""
    gold = task.doc_to_target(doc)
    return gold if isinstance(gold, int) else task.doc_to_choice(doc).index(gold)


def choice_scores(task: PreparedTask, doc: dict, likelihoods: list[float]) -> tuple[float, bool]:
    """Log-probability of the gold choice, and whether it is the likeliest (the first of equals)."""
    gold = gold_index(task, doc)
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


def item_row(task: PreparedTask, sample: dict, truncated: set[str] | None) -> dict:
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
        likelihoods = [likelihood for likelihood, _ in answers]
        choices = task.doc_to_choice(doc)
        row |= {"gold": choices[gold_index(task, doc)], "prediction": choices[likelihoods.index(max(likelihoods))]}
        row["gold_logprob"], _ = choice_scores(task, doc, likelihoods)
        row["logprobs"] = {choice: round(float(value), 4) for choice, value in zip(choices, scipy.special.log_softmax(likelihoods), strict=True)}
        return row | ({"score": float(sample["acc"]), "options": len(choices)} if "acc" in sample else {})
    row |= {"gold": sample["target"], "prediction": answers[0], "gold_logprob": None}
    if "rouge2" in sample:
        return row | {"score": rouge2(sample["target"], answers[0])}
    return row | {"score": float(sample["exact_match"]), "normalised_em": normalised_em(answers[0], doc["answers"]["text"])}


def dataset_result(rows: list[dict], results: dict) -> dict:
    """metric, value, low, high, stderr, n, chance (and normalised_em), truncated of one data set.

    The value is the harness's. Intervals (95 %): Wilson's of a share (1927, of some width where none or all are right), Fisher's of
    Pearson's r, else BCa. Standard errors: of the mean over items; for r, sqrt((1 − r²) / (n − 2)). Chance: mean over items of 1 / options,
    0 for free answers, none for r, which no constant answer has. An undefined number is None.
    """
    from statsmodels.stats.proportion import proportion_confint

    key = next(key for key in results if "," in key and "_stderr" not in key)  # "acc,none": metric, filter
    metric, n, value = key.partition(",")[0], len(rows), float(results[key])
    error, ends, chance = None, statistics.Interval(math.nan, math.nan), None if metric == "pearson" else 0.0
    if math.isnan(value):
        value = None
    elif metric == "pearson":
        error = math.sqrt(max(0.0, 1 - value**2) / (n - 2)) if n > 2 else None
        ends = statistics.correlation_interval(value, n)
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
