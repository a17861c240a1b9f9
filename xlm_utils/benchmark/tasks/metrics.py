"""What the similarity task needs beside the harness's own metrics."""

from statistics import StatisticsError, correlation


def similarity_pair(doc: dict, results: list[tuple[float, bool]]) -> dict:
    """The similarity the model finds likeliest, 0–5, beside the gold one."""
    likelihoods = [likelihood for likelihood, _ in results]
    return {"pearson": (float(likelihoods.index(max(likelihoods))), float(doc["label"]))}


def with_and_without_premise(doc: dict) -> list[str]:
    """The two contexts that the hypothesis is read in."""
    return [f"テキスト1：{doc['premise']}\nテキスト2：", "テキスト2："]


def likelihood_pair(doc: dict, results: list[tuple[float, bool]]) -> dict:
    """How much likelier the premise makes the hypothesis, log p(h | p) − log p(h) in nats, beside the gold similarity."""
    (given, _), (alone, _) = results
    return {"pearson": (given - alone, float(doc["label"]))}


def pearson(pairs: list[tuple[float, float]]) -> float:
    """Pearson's r of (prediction, gold) pairs; NaN where it is undefined (fewer than two, or one side constant)."""
    try:
        return correlation(*zip(*pairs, strict=True))
    except StatisticsError:
        return float("nan")
