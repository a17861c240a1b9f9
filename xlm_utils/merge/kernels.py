"""Loops over pieces of tensors, compiled: one pass for what would be many operations of torch, to the same bits, all in float32.

Weights come and go as the bits of float32 (uint32) or bfloat16 (uint16); ``made`` is what a loop fills. Numba reorders and contracts nothing, so
no result depends on the CPU's units.
"""

import numpy as np
from numba import config, njit
from numba.extending import intrinsic

from xlm_utils.study.records import cache_folder

ZERO, ONE, TINY = np.float32(0), np.float32(1), np.float32(1e-8)
SIZE = np.uint32(0x7FFFFFFF)  # all bits of a float32 but its sign: in the order of their sizes, NaN last
BLOCK = 1 << 12  # weights that stay in a core's own cache from one loop to the next
EVERY = np.ones(BLOCK, bool)
config.CACHE_DIR = config.CACHE_DIR or str(cache_folder() / "numba")  # a package's own folder may be read-only, and its user without a home
compiled = njit(nogil=True, cache=True)


@compiled
def wide(weights, j):
    """A weight as a number; bfloat16 is the upper half of float32."""
    return np.uint32(np.uint32(weights[j]) << np.uint32(32 - 8 * weights.itemsize)).view(np.float32)


@compiled
def put(made, j, value):
    """A number as a weight, to the nearest, halves to even."""
    bits = np.float32(value).view(np.uint32)
    rounded = made.itemsize == 2 and bits & SIZE <= np.uint32(0x7F800000)  # NaN stays one
    carry = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) if rounded else np.uint32(0)
    made[j] = np.uint32(bits + carry) >> np.uint32(32 - 8 * made.itemsize)


@intrinsic
def fused(context, weight, share, total):
    """``weight`` times ``share`` plus ``total``, rounded once, as PyTorch's addcmul does."""
    return total(weight, share, total), lambda context, builder, signature, values: builder.fma(*values)


@compiled
def averaged(made, models, weights, total):
    """Sums of the weights of a tuple of models, each times its model's number; over ``total``."""
    for j in range(len(made)):
        found = ZERO
        for i in range(len(models)):
            found = fused(wide(models[i], j), weights[i], found)
        put(made, j, found / total)


@compiled
def changed(made, model, base, mask, scale, least, tied):
    """The task vector times ``scale`` where ``mask`` keeps it and its size, as bits, is above ``least``, or that in the first ``tied``; else 0."""
    for j in range(len(base)):
        change = np.float32(wide(model, j) - wide(base, j))
        size = np.uint32((change.view(np.uint32) & SIZE) + np.uint32(np.uint32(j) < tied))
        made[j] = (change if mask[j] and size > least else ZERO) * scale


@compiled
def counted(model, base, upper):
    """How many changes have which upper 16 bits of their size's 31, shape (2 ** 16,); or, of those that have ``upper``, which lower 15."""
    counts, sizes = np.zeros(1 << 16, np.uint32), np.empty(BLOCK, np.float32)
    for start in range(0, len(base), BLOCK):
        own = base[start : start + BLOCK]
        changed(sizes, model[start : start + BLOCK], own, EVERY, ONE, np.uint32(0), np.uint32(BLOCK))
        for size in sizes[: len(own)].view(np.uint32):
            if upper < 0:
                counts[(size & SIZE) >> np.uint32(15)] += np.uint32(1)
            elif (size & SIZE) >> np.uint32(15) == upper:
                counts[size & np.uint32(0x7FFF)] += np.uint32(1)
    return counts


@compiled
def added(made, models, base, masks, rooms, scales, leasts, tied, weights, scale, elect, normalize, floor):
    """``base`` and what ``changed`` keeps of ``models``, a tuple, each times its own of ``weights``, times ``scale``; ``rooms`` are for a block each.

    ``elect``: only changes with the sign of their sum; ``normalize``: divided by the weights of what is added, or by ``floor`` if they are less.
    """
    for start in range(0, len(base), BLOCK):
        block = slice(start, min(len(base), start + BLOCK))
        for i in range(len(models)):
            first = np.uint32(min(max(tied[i] - start, 0), BLOCK))
            changed(rooms[i], models[i][block], base[block], masks[i][block], scales[i], leasts[i], first)
        elected(made[block], rooms, base[block], weights, scale, elect, normalize, floor)


@compiled
def elected(made, changes, base, weights, scale, elect, normalize, floor):
    """A block of ``added``; ``changes``: a tuple of arrays."""
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
        divisor = max(divisor, floor) if normalize else ONE
        put(made, j, found / (ONE if abs(divisor) < TINY else divisor) * sign * scale + wide(base, j))


@compiled
def paired(made, ones, others, one, other):
    """Sums of two models' weights, each times its model's number."""
    for j in range(len(ones)):
        put(made, j, wide(ones, j) * one + wide(others, j) * other)
