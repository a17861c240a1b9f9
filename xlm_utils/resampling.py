"""Is a difference between two models in one benchmark column larger than noise? Paired by item.

A column is the unweighted mean over its data sets of a mean score, or a correlation. Two models answer
the same items, so an item's two answers stay together: the interval resamples items within each data
set, and the test swaps the two models' answers item by item (approximate randomisation; Noreen 1989,
Computer-Intensive Methods for Testing Hypotheses). For right-or-wrong answers to one data set the test
is McNemar's. Items with equal answers are alike, so that only their counts are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 9999
NAN = float("nan")


def compare_means(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> dict:
    """Difference of two models' column means.

    Args:
        pairs: for each data set the two models' item scores, shape (items,) each; pairs with a NaN are left out.

    Returns:
        n (pairs), difference (mean over data sets of the mean of a − b), low and high (95 % percentile
        bootstrap, items drawn within their data set), p (two-sided, paired randomisation), reason.
    """
    draw, sets = np.random.default_rng(seed), []
    for a, b in pairs:
        gaps = np.round(np.asarray(a, float) - np.asarray(b, float), 9)
        sets.append(gaps[~np.isnan(gaps)])
    n = sum(map(len, sets))
    if not sets or not all(map(len, sets)):
        return _missing(n, "no items with both scores")
    resampled, swapped = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for gaps in sets:
        values, counts = np.unique(gaps, return_counts=True)
        resampled += draw.multinomial(len(gaps), counts / len(gaps), RESAMPLES) @ values / len(gaps)
        swapped += _signs(draw, counts) @ values / len(gaps)
    found = sum(gaps.mean() for gaps in sets) / len(sets)
    return _result(n, found, resampled / len(sets), swapped / len(sets))


def compare_correlations(a: Sequence[float], b: Sequence[float], gold: Sequence[float], seed: int = 0) -> dict:
    """Difference of two models' Pearson correlations with the gold values, shape (items,) each.

    Returns:
        as ``compare_means``; everything is NaN where one of the two correlations is undefined. A resample
        in which one is undefined is left out of the interval and counts against a difference in the test.
    """
    items = np.column_stack([np.asarray(column, float) for column in (a, b, gold)])
    items = items[~np.isnan(items).any(axis=1)]
    kinds, counts = np.unique(items, axis=0, return_counts=True)
    first, second, truth = kinds.T if len(kinds) else np.empty((3, 0))
    both = np.concatenate([first, second]), np.concatenate([truth, truth])
    kept = np.concatenate([counts, np.zeros_like(counts)])[None]  # how often an item's first and second answer is the first model's
    found = float((_pearson(kept, *both) - _pearson(np.roll(kept, len(counts), 1), *both))[0])
    if np.isnan(found):
        return _missing(len(items), "a correlation is undefined: one side is constant")
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(len(items), counts / len(items), RESAMPLES)
    resampled = _pearson(weights, first, truth) - _pearson(weights, second, truth)
    swaps = draw.binomial(counts, 0.5, (RESAMPLES, len(counts)))
    mixed = np.hstack([counts - swaps, swaps])
    return _result(len(items), found, resampled, _pearson(mixed, *both) - _pearson(np.hstack([swaps, counts - swaps]), *both))


def _signs(draw: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """Sums of so many random signs, shape (resamples, counts)."""
    return 2 * draw.binomial(counts, 0.5, (RESAMPLES, len(counts))) - counts


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
    low, high = np.nanpercentile(resampled, [2.5, 97.5]) if not np.isnan(resampled).all() else (NAN, NAN)
    beyond = np.sum(~(np.abs(swapped) < abs(found) - 1e-9))  # undefined ones too
    return {"n": n, "difference": float(found), "low": float(low), "high": float(high), "p": float((beyond + 1) / (RESAMPLES + 1)), "reason": ""}
