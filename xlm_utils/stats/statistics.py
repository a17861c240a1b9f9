"""What a mean, a difference or an agreement is worth: arrays in, plain numbers out.

Scores are arrays of numbers with NaN where a score is missing; two arrays of one comparison hold the same terms in the same order. Nothing here warns
or fails on small or constant data: a number that can't be had is NaN, and ``reason`` says why. Intervals are two-sided 95 %.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used

LEVEL, RESAMPLES = 0.95, 9999
SCALE = range(11)  # judges give whole numbers from 0 to 10
NAN = float("nan")
COUNTED = 300_000  # sums of signed differences that are counted through; with more, signs are drawn, or their sum is taken for normal


class Interval(NamedTuple):
    """Ends of an interval, both NaN where ``reason`` says why there is none."""

    low: float
    high: float
    reason: str = ""


def describe(scores: Sequence[float], status: Sequence[str] | None = None) -> dict:
    """Summary of one model's scores, shape (terms,), NaN where missing; ``status``, shape (terms,): why a score is missing, "missing" if not given.

    Returns n (scored), missing, statuses (counts of the missing, by status), median, mean, std (of the sample, ddof 1), mean_low and mean_high (the
    mean if every missing score were 0, or 10), reason.
    """
    scores = np.asarray(scores, float)
    absent = np.isnan(scores)
    known, total = scores[~absent], len(scores)
    statuses = dict(Counter(s for s, gone in zip(["missing"] * total if status is None else status, absent, strict=True) if gone).most_common())
    low, high = (known.sum() / total, (known.sum() + 10 * absent.sum()) / total) if total else (NAN, NAN)
    return {
        "n": len(known), "missing": int(absent.sum()), "statuses": statuses,
        "median": float(np.median(known)) if len(known) else NAN, "mean": float(known.mean()) if len(known) else NAN,
        "std": float(known.std(ddof=1)) if len(known) > 1 else NAN, "mean_low": float(low), "mean_high": float(high),
        "reason": {0: "no score", 1: "one score has no spread"}.get(len(known), "")}  # fmt: skip


def too_little(values: np.ndarray, what: str) -> str:
    """Why no interval or test can be had from these values, or an empty string."""
    return f"fewer than two {what}s" if len(values) < 2 else f"all {len(values)} {what}s are equal" if np.ptp(values) == 0 else ""


def mean_interval(values: Sequence[float], seed: int = 0, what: str = "score") -> Interval:
    """BCa bootstrap interval of the mean (Efron 1987, JASA 82, 171–185), missing values left out.

    ``values``: shape (terms,), scores or paired differences; ``seed``: of the resampling, the same seed gives the same interval; ``what``: name of a
    value in ``reason``.
    """
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if reason := too_little(values, what):
        return Interval(NAN, NAN, reason)
    low, high = _bootstrap(seed, values.tobytes())
    return Interval(low, high) if np.isfinite(low) else Interval(NAN, NAN, f"no BCa interval from {len(values)} {what}s like these")


@lru_cache(maxsize=4096)  # a table and its figure ask for the same intervals
def _bootstrap(seed: int, *groups: bytes) -> tuple[float, float]:
    """BCa ends of a mean, or of the difference of two groups' means, each resampled by itself; both NaN where there are none."""

    def statistic(first: np.ndarray, *second: np.ndarray, axis: int) -> np.ndarray:
        return first.mean(axis=axis) - sum(values.mean(axis=axis) for values in second)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate resamples give NaN, which the caller gives a reason for
        low, high = scipy.stats.bootstrap(
            tuple(map(np.frombuffer, groups)), statistic, n_resamples=RESAMPLES, confidence_level=LEVEL, method="BCa", batch=100,
            rng=np.random.default_rng(seed)).confidence_interval  # fmt: skip
    return (float(low), float(high)) if np.isfinite([low, high]).all() else (NAN, NAN)


def cluster_interval(values: Sequence[float], clusters: Sequence) -> tuple[Interval, int]:
    """Interval of a mean whose values belong together in clusters, and the number of clusters.

    A regression on a constant with cluster-robust errors and Student's t with (clusters − 1) degrees of freedom (Cameron & Miller 2015, J. Human
    Resources 50, 317–372). A value whose cluster is ``""``, None or NaN is a cluster of its own.
    """
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    codes = np.unique([str(c) if c == c and c not in ("", None) else f"alone {i}" for i, c in enumerate(clusters)], return_inverse=True)[1][known]
    values, count = values[known], len(set(codes))
    if reason := too_little(values, "difference") or ("" if count > 1 else "one cluster only"):
        return Interval(NAN, NAN, reason), count
    _, low, high = slope(values, np.ones(len(values)), codes)
    return (Interval(low, high) if high > low else Interval(NAN, NAN, "no spread between clusters")), count


def slope(y: np.ndarray, x: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Slope of a regression through the origin with the ends of its cluster-robust interval; all of shape (values,)."""
    from statsmodels.regression.linear_model import OLS

    fit = OLS(y, x).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    return float(fit.params[0]), *map(float, fit.conf_int(1 - LEVEL)[0])


def detectable_difference(differences: Sequence[float], power: float = 0.8) -> float:
    """Smallest true mean difference that a paired two-sided t-test would find with this power, from the spread seen here.

    The usual planning formula, solved by statsmodels; NaN below three pairs or without spread.
    """
    from statsmodels.stats.power import tt_solve_power

    differences = np.asarray(differences, float)
    differences = differences[~np.isnan(differences)]
    if len(differences) < 3 or np.ptp(differences) == 0:
        return NAN
    return float(tt_solve_power(nobs=len(differences), alpha=1 - LEVEL, power=power) * differences.std(ddof=1))


def exact_p(sets: list[np.ndarray], found: float) -> float | None:
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


def signed_ranks(differences: np.ndarray) -> np.ndarray:
    """Ranks of the sizes of paired differences, with their signs: zeros are ranked with the others, then left out (Pratt 1959)."""
    return (np.sign(differences) * scipy.stats.rankdata(np.abs(differences)))[differences != 0]


def rank_biserial(differences: Sequence[float]) -> float:
    """Matched-pairs rank-biserial correlation: (R₊ − R₋) / (R₊ + R₋), from −1 to 1 (Kerby 2014, Comprehensive Psychology 3)."""
    ranks = signed_ranks(np.asarray(differences, float))
    return float(ranks.sum() / np.abs(ranks).sum()) if len(ranks) else NAN


def compare(a: Sequence[float], b: Sequence[float], clusters: Sequence | None = None, seed: int = 0) -> dict:
    """Paired comparison of two models on the same terms: ``a − b`` over the terms where both have a score.

    All of shape (terms,): ``a``, ``b``, NaN where missing; ``clusters``, names of the clusters that the terms belong to.

    Returns n (pairs), ties, difference (mean), low and high (BCa), p (Wilcoxon's signed ranks, zeros by Pratt: exact where all signs can be counted
    through, or up to 50 pairs without ties; else normal approximation), rank_biserial, cluster_low, cluster_high, clusters, detectable, reason.
    """
    # rounding makes differences that are equal on paper equal here: .3 − .1 and .4 − .2
    differences = np.round(np.asarray(a, float) - np.asarray(b, float), 9)
    paired = ~np.isnan(differences)
    differences = differences[paired]
    groups = np.arange(len(paired)) if clusters is None else np.asarray(clusters, dtype=object)
    interval, (robust, count) = mean_interval(differences, seed, "difference"), cluster_interval(differences, groups[paired])
    ranks = signed_ranks(differences)
    exact = exact_p([ranks], abs(ranks.mean())) if len(ranks) else NAN
    return {
        "n": len(differences), "ties": int((differences == 0).sum()),
        "difference": float(differences.mean()) if len(differences) else NAN, "low": interval.low, "high": interval.high,
        "p": float(scipy.stats.wilcoxon(differences, zero_method="pratt").pvalue) if exact is None else exact,
        "rank_biserial": rank_biserial(differences), "cluster_low": robust.low, "cluster_high": robust.high, "clusters": count,
        "detectable": detectable_difference(differences), "reason": interval.reason or robust.reason}  # fmt: skip


def compare_groups(a: Sequence[float], b: Sequence[float], seed: int = 0) -> dict:
    """Difference of the means of two independent groups, ``mean(a) − mean(b)``, shapes (first,) and (second,), NaN where missing.

    Returns interaction (the difference), low and high (BCa, each group resampled by itself), p (Welch 1947, Biometrika 34, 28–35), reason.
    """
    groups = [values[~np.isnan(values)] for values in (np.asarray(a, float), np.asarray(b, float))]
    found = {"interaction": float(groups[0].mean() - groups[1].mean()) if all(map(len, groups)) else NAN}
    if reason := too_little(groups[0], "value") or too_little(groups[1], "value"):
        return found | {"low": NAN, "high": NAN, "p": NAN, "reason": reason}
    low, high = _bootstrap(seed, *(values.tobytes() for values in groups))
    return found | {"low": low, "high": high, "p": float(scipy.stats.ttest_ind(*groups, equal_var=False).pvalue), "reason": ""}


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for the planned comparisons (Holm 1979), same shape; one that can't be tested (NaN) stays so and counts as planned."""
    p_values = np.asarray(p_values, float)
    planned = np.where(np.isnan(p_values), 1, p_values)
    order = np.argsort(planned)  # by hand: statsmodels' Holm collects Python's garbage at every call, seconds beside a study's data
    planned[order] = np.maximum.accumulate(planned[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return np.where(np.isnan(p_values), NAN, planned)


def prediction_powered(people: Sequence[float], judge: Sequence[float], clusters: Sequence | None = None) -> dict:
    """Mean of people's values over all terms: λ·mean(judge) over all + mean(people − λ·judge) over the rated ones; arrays of shape (terms,).

    λ from 0 to 1 makes the cluster-robust variance smallest; a judge that tells nothing gets 0, which leaves people's mean. Intervals are Student's,
    with as many degrees of freedom as clusters are rated, less what is estimated (the mean, λ): they hold however biased the judge is (Angelopoulos
    et al. 2023, Science 382, 669–674, tuned as in PPI++: Angelopoulos, Duchi & Zrnic 2023, arXiv 2311.01453). ``people``, ``judge``: of two models,
    the paired differences; NaN where people did not rate, at random. Without the judge's, a term is left out. ``clusters``: what each term belongs
    to; None: alone. Returns n, n_rated, difference (the mean), low, high, p (that it is 0), lambda, classical_low and classical_high (people alone),
    reason.
    """
    judge = np.asarray(judge, float)
    known = ~np.isnan(judge)
    judge, people, n = judge[known], np.asarray(people, float)[known], int(known.sum())
    groups, rated = np.unique(np.arange(n) if clusters is None else np.asarray(clusters)[known], return_inverse=True)[1], ~np.isnan(people)
    found = dict.fromkeys(("difference", "low", "high", "p", "lambda", "classical_low", "classical_high"), NAN)
    found |= {"n": n, "n_rated": int(rated.sum()), "reason": ""}
    if (count := len(set(groups[rated]))) < 3:
        return found | {"reason": "fewer than three rated clusters"}
    weights, values = rated * n / rated.sum(), np.where(rated, people, 0)
    mean, seen = weights @ values / n, weights @ judge / n
    # by cluster: errors of people's mean, and of what λ times the judge adds to it
    own, added = np.bincount(groups, weights * (values - mean)), np.bincount(groups, judge - judge.mean() - weights * (judge - seen))
    tuned = float(np.clip(-(own @ added) / (added @ added), 0, 1)) if added @ added > 1e-9 else 0.0  # all rated: nothing is added
    for name, share in (("classical_", 0.0), ("", tuned)):
        center, free = float(mean + share * (judge.mean() - seen)), count - 1 - (share > 0)
        if (error := float(np.sqrt(((own + share * added) ** 2).sum() * count / free) / n)) < 1e-9:
            return found | {"difference": center, "lambda": tuned, "reason": "no spread between clusters"}
        reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, free)) * error
        found |= {f"{name}low": center - reach, f"{name}high": center + reach}
    return found | {"difference": center, "lambda": tuned, "p": float(2 * scipy.stats.t.sf(abs(center) / error, free))}
