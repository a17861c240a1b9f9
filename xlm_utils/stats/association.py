"""Do two measurements of the same things go together? Two judges on the same answers, two orders of models, two scores of each.

Arrays hold NaN where a value is missing; a number that can't be had is NaN, and ``reason`` says why.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy

from xlm_utils.stats.statistics import LEVEL, NAN, SCALE


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

    ``scores`` has shape (judges, answers), NaN where missing; an answer with fewer than two does not count. NaN is returned
    where none has two, or where all that count are the same: 0/0.
    """
    scores = np.asarray(scores, float)
    values = np.unique(scores[~np.isnan(scores)])
    given = (scores == values[:, None, None]).sum(axis=1)  # how often, shape (values, answers)
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
    from statsmodels.regression.linear_model import OLS

    table = pd.DataFrame({"x": x, "y": y, "group": groups}).dropna()
    table = table[table.groupby("group")["x"].transform("size") > 1]
    inside = table[["x", "y"]] - table.groupby("group")[["x", "y"]].transform("mean")
    if table["group"].nunique() < 2 or not inside.abs().sum().all():
        return {"n": len(table), "value": NAN, "low": NAN, "high": NAN}
    codes = table["group"].astype("category").cat.codes.to_numpy()
    fit = OLS(inside["y"].to_numpy(), inside["x"].to_numpy()).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    low, high = map(float, fit.conf_int(1 - LEVEL)[0])
    return {"n": len(table), "value": float(fit.params[0]), "low": low, "high": high}
