"""Is a difference between two models in one benchmark column larger than noise? Paired by item.

A column is the unweighted mean over its data sets of a mean score, or a correlation. Two models answer the same items, so an item's two answers stay
together: the interval resamples items within each data set, and the test swaps the two models' answers item by item (approximate randomisation;
Noreen 1989, Computer-Intensive Methods for Testing Hypotheses). For right-or-wrong answers to one data set that is McNemar's test. Items with equal
answers are alike, so that only their counts are drawn. Where the signs of all differences can be counted through (right-or-wrong answers, or few
items), the test is exact.
"""

from collections.abc import Sequence

import numpy as np
import scipy

from xlm_utils.stats.statistics import NAN, RESAMPLES

COUNTED = 300_000  # sums of signed differences that are counted through; with more, signs are drawn


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
    return result if (exact := _exact(sets, abs(found))) is None else result | {"p": exact}


def _exact(sets: list[np.ndarray], found: float) -> float | None:
    """Share of all ways to sign the differences whose column mean lies as far from 0 as the one ``found``; None if they are too many."""
    sums, shares = np.zeros(1), np.ones(1)
    for gaps in sets:
        sizes, counts = np.unique(np.abs(gaps[gaps != 0]), return_counts=True)
        for size, count in zip(sizes, counts, strict=True):
            if len(sums) * (count + 1) > COUNTED:
                return None
            ups = np.arange(count + 1)
            sums = np.add.outer(sums, size * (2 * ups - count) / len(gaps) / len(sets)).ravel()
            shares = np.multiply.outer(shares, scipy.stats.binom.pmf(ups, count, 0.5)).ravel()
    return min(1.0, float(shares[np.abs(sums) >= found - 1e-9].sum()))


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
