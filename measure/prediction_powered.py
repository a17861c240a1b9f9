"""Coverage and width of 95 % intervals of a paired difference: a judge's on all terms, people's on some, and both together.

A table: rated concepts × the judge's bias and noise. True differences vary by concept and term; concepts are drawn to be rated.
"""

import argparse

import numpy as np

from xlm_utils.stats.statistics import cluster_interval, prediction_powered

TRUTH, CONCEPTS, TERMS = 0.4, 200, 2  # points; two terms a concept


def simulated(draw: np.random.Generator, rated: int, bias: float, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences by people (NaN where not rated) and by the judge, and each term's concept, shape (400,) each."""
    concepts = np.repeat(np.arange(CONCEPTS), TERMS)
    true = TRUTH + draw.normal(0, 1, CONCEPTS)[concepts] + draw.normal(0, 1.5, len(concepts))
    judge = true + bias + draw.normal(0, noise, len(concepts))
    return np.where(np.isin(concepts, draw.permutation(CONCEPTS)[:rated]), true, np.nan), judge, concepts


def coverage(studies: int, rated: int, bias: float, noise: float, seed: int = 0) -> dict[str, float]:
    """Share of simulated studies whose interval holds the truth, and mean width: of judge, people, and powered."""
    draw, found = np.random.default_rng(seed), {"judge": [], "people": [], "powered": []}
    for _ in range(studies):
        people, judge, concepts = simulated(draw, rated, bias, noise)
        both = prediction_powered(people, judge, concepts)
        found["judge"].append(cluster_interval(judge, concepts)[0][:2])
        found["people"].append((both["classical_low"], both["classical_high"]))
        found["powered"].append((both["low"], both["high"]))
    ends = {name: np.array(part).T for name, part in found.items()}
    shares = {name: float(((low <= TRUTH) & (high >= TRUTH)).mean()) for name, (low, high) in ends.items()}
    return shares | {f"{name}_width": float((high - low).mean()) for name, (low, high) in ends.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    studies = parser.parse_args().studies
    print(f"{studies} studies of {CONCEPTS} concepts; coverage (width in points)\nrated  bias  noise  judge only   people only  prediction-powered")
    for rated in (10, 20, 40, 100):
        for bias, noise in ((0.0, 1.0), (0.5, 1.0), (0.5, 3.0)):
            found = coverage(studies, rated, bias, noise)
            cells = "  ".join(f"{100 * found[name]:4.0f} % ({found[f'{name}_width']:.2f})" for name in ("judge", "people", "powered"))
            print(f"{rated:5}  {bias:4.1f}  {noise:5.1f}  {cells}", flush=True)


if __name__ == "__main__":
    main()
