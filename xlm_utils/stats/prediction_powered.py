"""People rate some terms, a judge all: what a mean is by people's measure, with an interval that holds however biased the judge is.

Prediction-powered inference (Angelopoulos et al. 2023, Science 382, 669–674), tuned as in PPI++ (Angelopoulos, Duchi & Zrnic 2023, arXiv 2311.01453).
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from xlm_utils.stats.statistics import LEVEL, NAN


def prediction_powered(
    people: Sequence[float], judge: Sequence[float], clusters: Sequence | None = None, chances: Sequence[float] | None = None
) -> dict:
    """Mean of people's values over all terms: λ·mean(judge) over all + mean(people − λ·judge) over the rated ones; arrays of shape (terms,).

    λ from 0 to 1 makes the cluster-robust variance smallest; a judge that tells nothing gets 0, which leaves people's mean. Intervals are
    Student's, with as many degrees of freedom as clusters are rated, less what is estimated (the mean, λ).

    Args:
        people, judge: of two models, the paired differences; NaN where people did not rate, at random. Without the judge's, a term is left out.
        clusters, chances: what each term belongs to, and how likely it was to be rated (weights are the inverse); None: alone, all as likely.

    Returns:
        n, n_rated, difference (the mean), low, high, p (that it is 0), lambda, classical_low and classical_high (people alone), reason.
    """
    judge = np.asarray(judge, float)
    known = ~np.isnan(judge)
    judge, people, n = judge[known], np.asarray(people, float)[known], int(known.sum())
    groups, rated = np.unique(np.arange(n) if clusters is None else np.asarray(clusters)[known], return_inverse=True)[1], ~np.isnan(people)
    found = dict.fromkeys(("difference", "low", "high", "p", "lambda", "classical_low", "classical_high"), NAN)
    found |= {"n": n, "n_rated": int(rated.sum()), "reason": ""}
    if (count := len(set(groups[rated]))) < 3:
        return found | {"reason": "fewer than three rated clusters"}
    weights = rated / (1 if chances is None else np.asarray(chances, float)[known])
    weights, values = weights * n / weights.sum(), np.where(rated, people, 0)
    mean, seen = weights @ values / n, weights @ judge / n
    # by cluster: errors of people's mean, and of what λ times the judge adds to it
    own, added = np.bincount(groups, weights * (values - mean)), np.bincount(groups, judge - judge.mean() - weights * (judge - seen))
    tuned = float(np.clip(-(own @ added) / (added @ added), 0, 1)) if added @ added > 1e-9 else 0.0  # all rated: nothing is added
    for name, share in (("classical_", 0.0), ("", tuned)):
        center, free = float(mean + share * (judge.mean() - seen)), count - 1 - (share > 0)
        if (error := float(np.sqrt(((own + share * added) ** 2).sum() * count / free) / n)) < 1e-9:
            return found | {"difference": center, "lambda": tuned, "reason": "no spread between clusters"}
        reach = float(stats.t.ppf((1 + LEVEL) / 2, free)) * error
        found |= {f"{name}low": center - reach, f"{name}high": center + reach}
    return found | {"difference": center, "lambda": tuned, "p": float(2 * stats.t.sf(abs(center) / error, free))}
