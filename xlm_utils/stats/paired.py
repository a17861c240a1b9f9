"""Two measurements of the same things: do they go together, and is their difference larger than noise?

Two judges on the same answers, two orders of models, two scores of each: arrays hold NaN where a value is missing; a number that can't be had is NaN,
and ``reason`` says why.

A benchmark column is the unweighted mean over its data sets of a mean score, or a correlation. Two models answer the same items, so an item's two
answers stay together: the interval resamples items within each data set, and the test swaps the two models' answers item by item (approximate
randomisation; Noreen 1989, Computer-Intensive Methods for Testing Hypotheses). For right-or-wrong answers to one data set that is McNemar's test.
Items with equal answers are alike, so that only their counts are drawn. Where the signs of all differences can be counted through (right-or-wrong
answers, or few items), the test is exact.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy

from xlm_utils.stats.statistics import NAN, RESAMPLES, SCALE, exact_p, slope


def agreement(a: Sequence[float], b: Sequence[float]) -> dict:
    """How far two judges agree on the same answers, shape (answers,) each, NaN where missing.

    Kappa and alpha are of whole scores: an encoder's scores are rounded for them. Returns n, kappa (quadratic weights over all of 0–10, whether or
    not a score occurs), alpha (Krippendorff's, ordinal), spearman, bias (mean of a − b), reason.
    """
    from sklearn.metrics import cohen_kappa_score

    a, b = _both(a, b)
    whole = np.rint([a, b]).astype(int)
    found = {"n": len(a), "kappa": NAN, "alpha": NAN, "spearman": NAN, "bias": float((a - b).mean()) if len(a) else NAN}
    if len(a) < 2:
        return found | {"reason": "fewer than two answers with both scores"}
    if np.ptp(whole) > 0:  # one score for everything, twice, is no evidence of agreement: 0/0
        found["kappa"] = float(cohen_kappa_score(*whole, labels=list(SCALE), weights="quadratic"))
        found["alpha"] = ordinal_alpha(whole)
    if np.ptp(a) > 0 and np.ptp(b) > 0:
        found["spearman"] = float(scipy.stats.spearmanr(a, b).statistic)
    constant = [name for name, scores in zip(("first", "second"), whole, strict=True) if np.ptp(scores) == 0]
    return found | {"reason": f"the {' and the '.join(constant)} judge gives one score to everything" if constant else ""}


def _both(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    """Of shape (2, things): those that have both values."""
    pairs = np.array([a, b], float)
    return pairs[:, ~np.isnan(pairs).any(axis=0)]


def ordinal_alpha(scores: Sequence[Sequence[float]]) -> float:
    """Krippendorff's alpha with the ordinal metric: 1 where all judges agree, 0 as by chance (Krippendorff 2011, Computing Alpha-Reliability).

    ``scores``: shape (judges, answers), NaN where missing; an answer with fewer than two does not count. NaN where none has two, or all are one: 0/0.
    """
    scores = np.asarray(scores, float)
    given = (scores == np.unique(scores[~np.isnan(scores)])[:, None, None]).sum(axis=1)  # how often, shape (values, answers)
    given = given[:, given.sum(axis=0) > 1]
    weighted = given / (given.sum(axis=0) - 1)
    together = weighted @ given.T - np.diag(weighted.sum(axis=1))  # pairs of two judges' values on one answer
    counts = together.sum(axis=0)
    ranks = np.cumsum(counts) - counts / 2
    apart = np.subtract.outer(ranks, ranks) ** 2
    expected = counts @ apart @ counts
    return float(1 - (counts.sum() - 1) * (together * apart).sum() / expected) if expected > 0 else NAN


def same_order(a: Sequence[float], b: Sequence[float]) -> dict:
    """Whether two judges put the models in the same order: Kendall's tau-b of their means, shape (models,) each; models (with both), tau."""
    a, b = _both(a, b)
    return {"models": len(a), "tau": float(scipy.stats.kendalltau(a, b).statistic) if len(a) > 1 else NAN}


def correlate(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Spearman's ρ of two measurements of the same few things, shape (things,) each, and its p: exact over all permutations of up to seven."""
    ranks = [side - side.mean() for side in (scipy.stats.rankdata(a), scipy.stats.rankdata(b))]  # ρ is the ranks' scalar product, up to a factor
    found = scipy.stats.permutation_test(ranks[:1], lambda x, axis: (x * ranks[1]).sum(axis=axis), permutation_type="pairings", vectorized=True)
    return float(scipy.stats.spearmanr(a, b).statistic), float(found.pvalue)


def within_slope(x: Sequence[float], y: Sequence[float], groups: Sequence) -> dict:
    """How much ``y`` rises with ``x`` inside groups: least squares after each group's means are taken off, errors clustered by group.

    Returns n (values of groups with two or more), value (the slope), low, high; NaN without spread in either.
    """
    table = pd.DataFrame({"x": x, "y": y, "group": groups}).dropna()
    table = table[table.groupby("group")["x"].transform("size") > 1]
    inside = table[["x", "y"]] - table.groupby("group")[["x", "y"]].transform("mean")
    if table["group"].nunique() < 2 or not inside.abs().sum().all():
        return {"n": len(table), "value": NAN, "low": NAN, "high": NAN}
    found = slope(inside["y"].to_numpy(), inside["x"].to_numpy(), pd.factorize(table["group"])[0])
    return {"n": len(table)} | dict(zip(("value", "low", "high"), found, strict=True))


def compare_means(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> dict:
    """Difference of two models' column means; ``pairs``: for each data set their item scores, shape (items,) each; pairs with a NaN are left out.

    Returns n (pairs), difference (mean over data sets of the mean of a − b), low and high (95 % percentile bootstrap, items drawn within their data
    set; NaN where all differences are equal), p (two-sided, paired randomisation), reason.
    """
    sets = []
    for a, b in pairs:
        gaps = np.round(np.asarray(a, float) - np.asarray(b, float), 9)
        sets.append(gaps[~np.isnan(gaps)])
    n = sum(map(len, sets))
    if not sets or not all(map(len, sets)):
        return _missing(n, "no items with both scores")
    draw, found, resampled, swapped = np.random.default_rng(seed), 0.0, np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for gaps in sets:
        values, counts = np.unique(gaps, return_counts=True)  # equal differences are alike: their counts say all
        signs = 2 * draw.binomial(counts, 0.5, (RESAMPLES, len(counts))) - counts
        found += gaps.mean() / len(sets)
        resampled += draw.multinomial(len(gaps), counts / len(gaps), RESAMPLES) @ values / len(gaps) / len(sets)
        swapped += signs @ values / len(gaps) / len(sets)
    result = _result(n, found, resampled, swapped)
    return result if (exact := exact_p(sets, abs(found))) is None else result | {"p": exact}


def compare_correlations(a: Sequence[float], b: Sequence[float], gold: Sequence[float], seed: int = 0) -> dict:
    """Difference of two models' Pearson correlations with the gold values, shape (items,) each.

    Returns as ``compare_means``; everything is NaN where one of the two correlations is undefined. A resample in which one is undefined is left out
    of the interval and counts against a difference in the test.
    """
    items = np.column_stack([np.asarray(column, float) for column in (a, b, gold)])
    items = items[~np.isnan(items).any(axis=1)]
    kinds, counts = np.unique(items, axis=0, return_counts=True)
    first, second, truth = kinds.T if len(kinds) else np.empty((3, 0))
    found = float((_pearson(counts[None], first, truth) - _pearson(counts[None], second, truth))[0])
    if np.isnan(found):
        return _missing(len(items), "a correlation is undefined: one side is constant")
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(len(items), counts / len(items), RESAMPLES)
    resampled = _pearson(weights, first, truth) - _pearson(weights, second, truth)
    swaps = draw.binomial(counts, 0.5, (RESAMPLES, len(counts)))  # of equal items, how many change hands
    both, truth = np.concatenate([first, second]), np.concatenate([truth, truth])
    swapped = _pearson(np.hstack([counts - swaps, swaps]), both, truth) - _pearson(np.hstack([swaps, counts - swaps]), both, truth)
    return _result(len(items), found, resampled, swapped)


def _pearson(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of weighted points, shape (rows,) for weights of shape (rows, points); NaN where undefined."""
    total = weights.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        x_mean, y_mean = weights @ x / total, weights @ y / total
        xy = weights @ (x * y) / total - x_mean * y_mean
        spread = (weights @ x**2 / total - x_mean**2) * (weights @ y**2 / total - y_mean**2)
        return np.where(spread > 1e-12, xy / np.sqrt(np.maximum(spread, 1e-12)), NAN)


def _missing(n: int, reason: str) -> dict:
    return {"n": n, "difference": NAN, "low": NAN, "high": NAN, "p": NAN, "reason": reason}


def _result(n: int, found: float, resampled: np.ndarray, swapped: np.ndarray) -> dict:
    alike = not np.nanmax(resampled, initial=-np.inf) - np.nanmin(resampled, initial=np.inf) > 1e-9  # a width of 0 would claim certainty
    low, high = (NAN, NAN) if alike else np.nanpercentile(resampled, [2.5, 97.5])
    beyond = np.sum(~(np.abs(swapped) < abs(found) - 1e-9))  # undefined ones too
    reason = "all differences are equal" if alike else ""
    return {"n": n, "difference": float(found), "low": float(low), "high": float(high), "p": float((beyond + 1) / (RESAMPLES + 1)), "reason": reason}
