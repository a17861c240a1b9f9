"""People rate some terms, a judge all: what a mean is by people's measure, with an interval that holds however biased the judge is.

Prediction-powered inference (Angelopoulos et al. 2023, Science 382, 669–674) with power tuning (PPI++; Angelopoulos, Duchi &
Zrnic 2023, arXiv 2311.01453): the judge's mean over all terms, corrected by how far people and judge are apart where both rated.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from xlm_utils.stats.statistics import LEVEL, NAN


def prediction_powered(
    people: Sequence[float], judge: Sequence[float], clusters: Sequence | None = None, chances: Sequence[float] | None = None
) -> dict:
    """Mean of people's values over all terms: λ·mean(judge) over all + mean(people − λ·judge) over the rated ones.

    λ from 0 to 1 makes the cluster-robust variance smallest; a judge that tells nothing gets 0, and people's mean is left. The intervals
    are Student's with (rated clusters − 1) degrees of freedom.

    Args:
        people: shape (terms,), NaN where people did not rate; terms are drawn at random.
        judge: shape (terms,); a term where it is NaN is left out.
        clusters: shape (terms,), what each term belongs to; None: each is alone.
        chances: shape (terms,), each term's probability of being drawn, for inverse-probability weights; None: all the same.

    Returns:
        n, n_rated, difference (the mean; of paired differences, as a rule), low, high, p (that it is 0), lambda,
        classical_low and classical_high (from people's values alone), reason.
    """
    judge = np.asarray(judge, float)
    known = ~np.isnan(judge)
    judge, people = judge[known], np.asarray(people, float)[known]
    n, rated = len(judge), ~np.isnan(people)
    groups = np.unique(np.arange(n) if clusters is None else np.asarray(clusters, str)[known], return_inverse=True)[1]
    count = len(set(groups[rated]))
    found = {"n": n, "n_rated": int(rated.sum()), **dict.fromkeys(("difference", "low", "high", "p", "lambda", "classical_low", "classical_high"), NAN)}
    if count < 2:
        return found | {"reason": "fewer than two rated clusters"}
    weights = rated / (1 if chances is None else np.asarray(chances, float)[known])
    weights *= n / weights.sum()
    values = np.where(rated, people, 0)
    own, apart = weights @ values / n, judge.mean() - weights @ judge / n
    # what each cluster adds to the error of people's mean, and to that of the correction
    mean_part = np.bincount(groups, weights * (values - own))
    judge_part = np.bincount(groups, judge - judge.mean() - weights * (judge - weights @ judge / n))
    spread = judge_part @ judge_part
    tuned = float(np.clip(-(mean_part @ judge_part) / spread, 0, 1)) if spread > 1e-9 else 0.0  # all rated: nothing to predict
    found |= {"difference": float(own + tuned * apart), "lambda": tuned}
    error = {share: float(np.sqrt(((mean_part + share * judge_part) ** 2).sum() * count / (count - 1)) / n) for share in (0.0, tuned)}
    if error[tuned] < 1e-9:
        return found | {"reason": "no spread between clusters"}
    reach = stats.t.ppf((1 + LEVEL) / 2, count - 1)
    found |= {"p": float(2 * stats.t.sf(abs(found["difference"]) / error[tuned], count - 1))}
    for name, center, share in (("", found["difference"], tuned), ("classical_", own, 0.0)):
        found |= {f"{name}low": float(center - reach * error[share]), f"{name}high": float(center + reach * error[share])}
    return found | {"reason": ""}
