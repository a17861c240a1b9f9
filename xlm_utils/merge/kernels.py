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
def counted(model, base, upper):
    """How many changes have which upper 16 bits of their size's 31; or, of those that have ``upper``, which lower 15. Shape (2 ** 16,)."""
    counts, bits = np.zeros(1 << 16, np.uint32), np.empty(BLOCK, np.uint32)
    for start in range(0, len(base), BLOCK):
        own, other = base[start : start + BLOCK], model[start : start + BLOCK]
        for j in range(len(own)):
            bits[j] = np.float32(wide(other, j) - wide(own, j)).view(np.uint32) & SIZE
        for j in range(len(own)):
            place = bits[j] >> np.uint32(15)
            if upper >= 0:  # what has another goes to places behind, so that no branch is guessed
                place = bits[j] & np.uint32(0x7FFF) if place == upper else np.uint32(1 << 15 | j & 0xFF)
            counts[place] += np.uint32(1)
    return counts


@compiled
def added(made, models, masks, scales, weights, leasts, tied, scale, elect, normalize):
    """The first of ``models``, a tuple, and what ``changed`` keeps of the others, added up, times ``scale``; ``masks`` are as long, or ``EVERY``.

    ``elect``: only changes with the sign of their sum; ``normalize``: divided by the weights of what is added.
    """
    changes, total = np.empty((len(masks), BLOCK), np.float32), np.empty(BLOCK, np.float32)
    found, divisor = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, len(made), BLOCK):
        block = slice(start, start + BLOCK)
        base = models[0][block]
        total[:], found[:], divisor[:] = ZERO, ZERO, ZERO
        for i in range(len(masks)):
            first, at = np.uint32(min(max(tied[i] - start, 0), BLOCK)), start % len(masks[i])
            changed(changes[i], total, models[i + 1][block], base, masks[i][at : at + BLOCK], scales[i], weights[i], leasts[i], first)
        for i in range(len(masks)):
            elected(found, divisor, total, changes[i], weights[i], elect)
        ended(made[block], found, divisor, total, base, scale, elect, normalize)


@compiled
def changed(made, total, model, base, mask, scale, weight, least, tied):
    """The task vector, times numbers, where ``mask`` keeps it and its size, as bits, is above ``least``, or that in the first ``tied``; else 0."""
    for j in range(len(base)):
        change = np.float32(wide(model, j) - wide(base, j))
        size = np.uint32((change.view(np.uint32) & SIZE) + np.uint32(np.uint32(j) < tied))
        made[j] = (change if mask[j] and size > least else ZERO) * scale * weight
        total[j] += made[j]


@compiled
def elected(found, divisor, total, change, weight, elect):
    """Add what a model's ``change`` has of the sign of ``total`` to ``found``, without the sign, and its weight to ``divisor``."""
    for j in range(len(total)):
        agreed = change[j] * (-ONE if elect and total[j] < ZERO else ONE)
        agreed = ZERO if elect and agreed < ZERO else agreed  # NaN stays, for the check of the result
        divisor[j] += weight if agreed > ZERO or not elect else ZERO
        found[j] += agreed


@compiled
def ended(made, found, divisor, total, base, scale, elect, normalize):
    """``base`` and what ``elected`` found, over its divisor and with its sign, times ``scale``; ``found`` is used up."""
    for j in range(len(base)):
        over = ONE if not normalize or abs(divisor[j]) < TINY else divisor[j]
        found[j] = found[j] / over * (-ONE if elect and total[j] < ZERO else ONE) * scale + wide(base, j)
    for j in range(len(base)):
        put(made, j, found[j])


@compiled
def paired(made, ones, others, one, other):
    """Sums of two models' weights, each times its model's number."""
    for j in range(len(ones)):
        put(made, j, wide(ones, j) * one + wide(others, j) * other)
