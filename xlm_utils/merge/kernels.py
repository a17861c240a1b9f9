"""Loops over pieces of tensors, compiled: one pass for what would be many operations of torch, to the same bits, all in float32.

Weights come as the bits of float32 (uint32) or bfloat16 (uint16). Numba reorders and contracts nothing, so no result depends on the CPU's units.
"""

import numpy as np
from numba import config, njit

from xlm_utils.study.records import cache_folder

ZERO, ONE, TINY = np.float32(0), np.float32(1), np.float32(1e-8)
config.CACHE_DIR = config.CACHE_DIR or str(cache_folder() / "numba")  # a package's own folder may be read-only, and its user without a home
compiled = njit(nogil=True, cache=True)


@compiled
def wide(weights, j):
    """A weight as a number; bfloat16 is the upper half of float32."""
    return np.uint32(np.uint32(weights[j]) << np.uint32(32 - 8 * weights.itemsize)).view(np.float32)


@compiled
def averaged(models, weights, total):
    """Sums of the weights of a tuple of models, each times its model's number and rounded once, as PyTorch's addcmul does; over ``total``."""
    made = np.empty(len(models[0]), np.float32)
    for j in range(len(made)):
        found = ZERO
        for i in range(len(models)):
            found = np.float32(np.float64(found) + np.float64(wide(models[i], j)) * np.float64(weights[i]))
        made[j] = found / total
    return made


@compiled
def changes(model, base, mask, scale):
    """The task vector where ``mask`` keeps it, times ``scale``, else 0."""
    kept = np.empty(len(base), np.float32)
    for j in range(len(base)):
        kept[j] = (wide(model, j) - wide(base, j) if mask[j] else ZERO) * scale
    return kept


@compiled
def counted(sizes):
    """How many sizes, as bits, share their upper 16, shape (2 ** 16,)."""
    counts = np.zeros(1 << 16, np.int64)
    for size in sizes:
        counts[size >> 15] += 1
    return counts


@compiled
def added(changes, weights, scale, base, elect, normalize, least):
    """``base`` and the weighted ``changes``, a tuple of arrays, times ``scale``.

    ``elect``: only changes with the sign of their sum; ``normalize``: divided by the weights of what is added, or by ``least`` if they are less.
    """
    merged = np.empty(len(base), np.float32)
    for j in range(len(base)):
        total = found = divisor = ZERO
        for i in range(len(changes)):
            total += changes[i][j] * weights[i]
        sign = -ONE if elect and total < ZERO else ONE
        for i in range(len(changes)):
            agreed = changes[i][j] * weights[i] * sign
            agreed = ZERO if elect and agreed < ZERO else agreed  # NaN stays, for the check of the result
            divisor += weights[i] if agreed > ZERO or not elect else ZERO
            found += agreed
        divisor = max(divisor, least) if normalize else ONE
        merged[j] = found / (ONE if abs(divisor) < TINY else divisor) * sign * scale + wide(base, j)
    return merged


@compiled
def paired(ones, others, one, other, products):
    """Of two models' weights the products, each divided by its model's number, or else the sums, each times its model's number."""
    made = np.empty(len(ones), np.float32)
    for j in range(len(ones)):
        made[j] = (wide(ones, j) / one) * (wide(others, j) / other) if products else wide(ones, j) * one + wide(others, j) * other
    return made
