"""Loops over pieces of tensors, compiled: one pass for what would be many operations of torch, to the same bits, all in float32.

Weights come and go as the bits of float32 (uint32) or bfloat16 (uint16); ``made`` is what a loop fills. Numba reorders and contracts nothing, so
no result depends on the CPU's units. No innermost loop takes an item of a tuple: it would not be vectorised where it is compiled alone, and the
process that compiles it calls that copy, at a twentieth of the speed of what later processes load from the cache.
"""

import numpy as np
from numba import config, njit
from numba.extending import intrinsic

from xlm_utils.study.records import cache_folder

ZERO, ONE, TINY = np.float32(0), np.float32(1), np.float32(1e-8)
SIZE = np.uint32(0x7FFFFFFF)  # all bits of a float32 but its sign: in the order of their sizes, NaN last
BLOCK = 1 << 12  # weights that stay in a core's own cache from one loop to the next
EVERY = np.ones(BLOCK, bool)  # a mask that keeps all, of every block
config.CACHE_DIR = config.CACHE_DIR or str(cache_folder() / "numba")  # a package's own folder may be read-only, and its user without a home
compiled = njit(nogil=True, cache=True, error_model="numpy")


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
    sums = np.empty(BLOCK, np.float32)
    for start in range(0, len(made), BLOCK):
        own = made[start : start + BLOCK]
        sums[:] = ZERO
        for i in range(len(models)):
            model = models[i][start : start + BLOCK]
            for j in range(len(model)):
                sums[j] = fused(wide(model, j), weights[i], sums[j])
        for j in range(len(own)):
            put(own, j, sums[j] / total)


@compiled
def between(model, base, low, high):
    """Those sizes of changes, as bits, that lie between two of them, and how many exceed both, are the higher and are the lower."""
    inside, bits, n, larger, highs, lows = np.empty(len(base), np.uint32), np.empty(BLOCK, np.uint32), 0, 0, 0, 0
    next_up, width = low + np.uint32(1), max(high, low + np.uint32(1)) - low - np.uint32(1)
    for start in range(0, len(base), BLOCK):
        own, other = base[start : start + BLOCK], model[start : start + BLOCK]
        above, at_high, at_low = np.uint32(0), np.uint32(0), np.uint32(0)
        for j in range(len(own)):
            bits[j] = np.float32(wide(other, j) - wide(own, j)).view(np.uint32) & SIZE
            above += np.uint32(bits[j] > high)
            at_high += np.uint32(bits[j] == high)
            at_low += np.uint32(bits[j] == low)
        larger, highs, lows = larger + above, highs + at_high, lows + at_low
        for j in range(len(own)):
            if np.uint32(bits[j] - next_up) < width:  # few: no branch to guess
                inside[n] = bits[j]
                n += 1
    return inside[:n].copy(), larger, highs, lows if low < high else 0


@compiled
def added(made, models, masks, scales, weights, leasts, tied, scale, elect, normalize):
    """The first of ``models``, a tuple, and the others' task vectors, times numbers, added up, times ``scale``.

    Of a task vector is kept what ``masks`` (as long, or ``EVERY``) do, if its size, as bits, is above ``leasts``, or that in the first ``tied``.
    ``elect``: only changes with the sign of their sum; ``normalize``: divided by the weights of what is added.
    """
    changes, total = np.empty((len(masks), BLOCK), np.float32), np.empty(BLOCK, np.float32)
    found, divisor = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, len(made), BLOCK):
        own, base = made[start : start + BLOCK], models[0][start : start + BLOCK]
        total[:], found[:], divisor[:] = ZERO, ZERO, ZERO
        for i in range(len(masks)):
            first, at = np.uint32(min(max(tied[i] - start, 0), BLOCK)), start % len(masks[i])
            change, model, mask = changes[i], models[i + 1][start : start + BLOCK], masks[i][at : at + BLOCK]
            share, weight, least = scales[i], weights[i], leasts[i]  # items of arrays, which stores in the loop might change, would halve its speed
            for j in range(len(base)):
                gap = np.float32(wide(model, j) - wide(base, j))
                size = np.uint32((gap.view(np.uint32) & SIZE) + np.uint32(np.uint32(j) < first))
                change[j] = (gap if mask[j] and size > least else ZERO) * share * weight
                total[j] += change[j]
        for i in range(len(masks)):
            change, weight = changes[i], weights[i]
            for j in range(len(base)):  # without the sign of the total, until the end
                agreed = change[j] * (-ONE if elect and total[j] < ZERO else ONE)
                agreed = ZERO if elect and agreed < ZERO else agreed  # NaN stays, for the check of the result
                divisor[j] += weight if agreed > ZERO or not elect else ZERO
                found[j] += agreed
        for j in range(len(base)):
            over = ONE if not normalize or abs(divisor[j]) < TINY else divisor[j]
            found[j] = found[j] / over * (-ONE if elect and total[j] < ZERO else ONE) * scale + wide(base, j)
        for j in range(len(base)):
            put(own, j, found[j])


@compiled
def paired(made, ones, others, one, other):
    """Sums of two models' weights, each times its model's number."""
    for j in range(len(ones)):
        put(made, j, wide(ones, j) * one + wide(others, j) * other)


@compiled
def multiplied(ones, others, one, other):
    """Products of two models' weights, each over its model's number, in float32."""
    made = np.empty(len(ones), np.float32)
    for j in range(len(ones)):
        made[j] = wide(ones, j) / one * (wide(others, j) / other)
    return made
