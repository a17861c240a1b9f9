"""MergeKit's methods on a CPU, a piece of a tensor at a time: the same weights in less time and memory.

MergeKit sorts a whole tensor to find the changes that TIES keeps, draws DARE's mask the slow way, and pages in some ten copies of the tensor. Here
only changes between two bounds are sorted, which a sample gives, and what several merges of a tensor need is computed once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from mergekit.merge_methods.base import TensorGroup

from xlm_utils.merge import kernels
from xlm_utils.models.buffers import room

CHUNK, ALL = 1 << 20, 1 << 40  # weights in a piece of MergeKit's; more than any tensor has
np.empty(31 << 20, np.uint8)  # freed, it lets glibc keep 62 MiB a thread of what is freed later: else pieces are paged in anew
ROOM = 1 << 28  # bytes of random numbers that may be kept while a tensor is merged
_pool = cache(ThreadPoolExecutor)  # threads that begin while torch has one of its own keep to one
_facts: dict[tuple, object] = {}  # of tensors in memory, by address: whether they are equal, thresholds, sums
_drawn: dict[tuple[bytes, int], tuple] = {}  # by the generator's state before and how many: random numbers, and the state behind
_room = [ROOM]  # bytes of random numbers that may still be kept


def merge(method: str, group: TensorGroup, parameters: dict) -> torch.Tensor:
    """The tensor that one of ``FASTER``'s methods merges, in bfloat16 where the parents are, else in float32."""
    shape = group.entries[0].tensor.shape
    group = replace(group, entries=tuple(replace(entry, tensor=entry.tensor.reshape(-1)) for entry in group.entries))
    fill, first = FASTER[method](method, group, parameters), group.entries[0].tensor
    if not fill:
        return group.base.tensor.reshape(shape)
    kind = np.dtype(np.uint16 if first.dtype == torch.bfloat16 else np.uint32)
    merged = room(kind.itemsize * len(first)).view(kind)
    each(lambda part: fill(merged[part], part), _parts(len(first)))
    return torch.from_numpy(merged).view(torch.bfloat16 if merged.itemsize == 2 else torch.float32).reshape(shape)


def linear(method: str, group: TensorGroup, parameters: dict) -> Callable[[np.ndarray, slice], None]:
    """Weighted sums, or means."""
    weights = np.array([parameters["weight"][model.id] for model in group.entries], np.float32)
    total = np.float32(torch.from_numpy(weights).sum() if parameters["normalize"] else 1)
    return lambda made, part: kernels.averaged(made, _bits(part, *(model.tensor for model in group.entries)), weights, total)


def slerp(method: str, group: TensorGroup, parameters: dict) -> Callable[[np.ndarray, slice], None]:
    """MergeKit's formula in MergeKit's pieces, several at a time; nothing whole but the result."""
    pair, t = [entry.tensor for entry in (group.base, *group.non_base)], torch.tensor(parameters["t"], dtype=torch.float32)

    def over(function: Callable[[slice], torch.Tensor]) -> torch.Tensor:  # floats: small tensors between the pieces would keep their memory
        return torch.tensor(each(lambda part: float(function(part)), _parts(len(pair[0]), CHUNK)))

    lengths = [torch.linalg.vector_norm(over(lambda part, own=own: torch.linalg.vector_norm(own[part].float()))) for own in pair]
    by = [np.float32(length if length > 1e-8 else 1) for length in lengths]
    dot = over(lambda part: torch.from_numpy(kernels.multiplied(*_bits(part, *pair), *by)).sum()).sum().clamp(-1, 1)
    theta = torch.acos(torch.where(straight := dot.abs() > 0.9995, 0, dot))
    shares = [np.float32(torch.where(straight, share, torch.sin(share * theta) / torch.sin(theta))) for share in (1 - t, t)]
    return lambda made, part: kernels.paired(made, *_bits(part, *pair), *shares)


def consensus(method: str, group: TensorGroup, parameters: dict) -> Callable[[np.ndarray, slice], None] | None:
    """Task vectors added up; in TIES and DARE TIES trimmed before, and only what agrees with the sign that has more of the change."""
    dare, plain, base, kept = method == "dare_ties", method == "task_arithmetic", group.base.tensor, []
    densities = [1.0 if plain else parameters["density"][model.id] for model in group.non_base]
    moved = [plain or not _known(torch.equal, model.tensor, base) for model in group.non_base]  # else it adds nothing and has no sign to elect
    draws = [_pool(1).submit(_draw, len(base), density) if dare and density < 1 else None for density in densities]  # beside all else
    for model, density, changed, draw in zip(group.non_base, densities, moved, draws, strict=True):
        mask, scale, least, end = (draw.result() if draw else lambda part: kernels.EVERY), 1.0, 0, ALL
        if draw and changed:
            before, after = _known(_norm, model.tensor, base), _norm(model.tensor, base, mask)
            scale = 1.0 if before < 1e-7 or after < 1e-7 else float(before / after)  # back to the L1 norm of them all; NaN is passed on
        elif changed and density < 1:
            least, end = _known(_threshold, model.tensor, base, density)
        if changed:
            kept.append((model.tensor, parameters["weight"][model.id], mask, scale, least, end))
    if not kept:
        return None
    models, weights, masks, scales, leasts, ends = zip(*kept, strict=True)
    numbers = np.array(scales, np.float32), np.array(weights, np.float32), np.array(leasts, np.uint32)
    settings, ends = (np.float32(parameters["lambda"]), not plain, bool(parameters["normalize"])), np.array(ends)
    return lambda made, part: kernels.added(made, _bits(part, base, *models), tuple(at(part) for at in masks), *numbers, ends - part.start, *settings)


def _parts(n: int, size: int = 0) -> list[slice]:
    """Pieces, of ``size`` if it matters: with too few weights in one threads wait for Python."""
    size = size or max(CHUNK // 16, -(-n // (64 * torch.get_num_threads())) * 8)
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def each(function: Callable, items: Sequence) -> list:
    """What a function makes of every item: in as many threads as torch has, in which torch's operations and ``each`` have none but their own."""
    if (threads := torch.get_num_threads()) == 1:
        return list(map(function, items))
    torch.set_num_threads(1)
    try:
        return list(_pool(threads).map(function, items))
    finally:
        torch.set_num_threads(threads)


def _bits(part: slice, *tensors: torch.Tensor) -> tuple[np.ndarray, ...]:
    """A piece of some tensors as the kernels take them: as bfloat16 if all of them are, else as float32."""
    if all(tensor.dtype == torch.bfloat16 for tensor in tensors):
        return tuple(tensor[part].view(torch.uint16).numpy() for tensor in tensors)
    return tuple(tensor[part].float().view(torch.uint32).numpy() for tensor in tensors)


def forget(room: int = ROOM) -> None:
    """Let go of what is known about tensors: others may stand at their addresses next time. ``room`` (bytes) is for random numbers."""
    _facts.clear()
    _drawn.clear()
    _room[0] = room


def _known(find: Callable, model: torch.Tensor, base: torch.Tensor, *density: float) -> object:
    key = (find.__name__, model.data_ptr(), base.data_ptr(), len(base), *density)
    if key not in _facts:
        _facts[key] = find(model, base, *density)
    return _facts[key]


def _threshold(model: torch.Tensor, base: torch.Tensor, density: float) -> tuple[int, int]:
    """What the ``density`` largest changes exceed, as bits of a size, and behind which weight none of those that tie there is kept."""
    n, parts, k = len(base), _parts(len(base)), max(1, int(density * len(base)))
    few = np.sort(_sizes(model[:: n >> 16 | 1], base[:: n >> 16 | 1]))
    for margin in (0.01, 0.1, 1):
        first, last = (int(len(few) * (1 - k / n + by)) for by in (-margin, margin))
        low, high = few[first] if first > 0 else np.uint32(0), few[last] if last < len(few) else kernels.SIZE
        inside, *counts = zip(*each(lambda part, ends=(low, high): kernels.between(*_bits(part, model, base), *ends), parts), strict=True)
        every, (larger, highs, lows) = np.concatenate(inside), np.array(counts)
        if 0 < (rest := k - larger.sum()) <= highs.sum() + len(every) + lows.sum():
            break
    if rest <= highs.sum():
        least, ties = high, highs
    elif (rest := rest - highs.sum()) <= len(every):
        least = np.partition(every, -rest)[-rest]
        rest, ties = rest - (every > least).sum(), np.array([(sizes == least).sum() for sizes in inside])
    else:
        rest, least, ties = rest - len(every), low, lows
    if least > 0x7F800000:
        return int(least), ALL  # NaN, whose bits differ between libraries: the result is refused
    part = parts[place := int(np.searchsorted(ties.cumsum(), rest))]
    return int(least), part.start + int(np.flatnonzero(_sizes(model[part], base[part]) == least)[rest - ties[:place].sum() - 1]) + 1


def _sizes(model: torch.Tensor, base: torch.Tensor) -> np.ndarray:
    return (model.float() - base.float()).abs_().view(torch.int32).numpy().view(np.uint32)


def _norm(model: torch.Tensor, base: torch.Tensor, mask: Callable[[slice], np.ndarray] = lambda part: np.ones(1, bool)) -> torch.Tensor:
    sizes, parts = torch.from_numpy(room(4 * len(base))).view(torch.float32), _parts(len(base), CHUNK)  # floats again: small pieces
    each(lambda p: torch.sub(model[p].float(), base[p].float(), out=sizes[p]).abs_().mul_(torch.from_numpy(mask(p))), parts)
    return each(torch.sum, [sizes])[0]  # whole and in one thread: another order, other last bits


def _draw(n: int, density: float) -> Callable[[slice], np.ndarray]:
    """The mask that ``torch.bernoulli`` draws from the same generator, in a third of its time, to be read by the piece; known when drawn again."""
    key = (torch.get_rng_state().numpy().tobytes(), n)
    if key not in _drawn and 4 * n <= _room[0]:
        numbers = torch.from_numpy(np.empty(n, np.float32)).uniform_().numpy()
        _drawn[key], _room[0] = (numbers, torch.get_rng_state()), _room[0] - 4 * n
    if key in _drawn:
        numbers, state = _drawn[key]
        torch.set_rng_state(state)
        return lambda part: numbers[part] < np.float32(density)
    few, bits = torch.empty(min(n, CHUNK)), np.empty(-(-n // 8), np.uint8)
    for part in _parts(n, CHUNK):
        bits[part.start // 8 : -(-part.stop // 8)] = np.packbits(few[: part.stop - part.start].uniform_().numpy() < np.float32(density))
    return lambda part: np.unpackbits(bits[part.start // 8 :], count=part.stop - part.start).view(bool)


# what makes a piece of a merged tensor, or nothing where it is the base's, by MergeKit's name of the method
FASTER = dict(linear=linear, slerp=slerp, task_arithmetic=consensus, ties=consensus, dare_ties=consensus)
