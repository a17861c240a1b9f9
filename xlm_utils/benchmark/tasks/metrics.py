"""What the similarity task needs beside the harness's own metrics."""

from __future__ import annotations


def similarity_pair(doc: dict, results: list[tuple[float, bool]]) -> dict:
    """The similarity the model finds likeliest, 0–5, beside the gold one."""
    likelihoods = [likelihood for likelihood, _ in results]
    return {"pearson": (float(likelihoods.index(max(likelihoods))), float(doc["label"]))}


def pearson(pairs: list[tuple[float, float]]) -> float:
    """Pearson's r of (prediction, gold) pairs; NaN where it is undefined (fewer than two, or one side constant)."""
    from statistics import StatisticsError, correlation

    try:
        return correlation(*zip(*pairs, strict=True))
    except StatisticsError:
        return float("nan")
