"""MergeKit's methods on a CPU, a piece of a tensor at a time: the same weights in less time and memory.

MergeKit sorts a whole tensor to find the changes that TIES keeps, draws DARE's mask the slow way, and pages in some
ten copies of the tensor. Here a threshold is selected among the few changes near a sampled guess, a piece goes through
everything else at once, and what several merges of a tensor need is computed once.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup

CHUNK, SAMPLE = 1 << 20, 1 << 16  # weights in a piece: less of them, and threads wait for Python; changes looked at to guess a threshold
MINUS = -(1 << 31)  # the bit of the sign
ROOM = 1 << 28  # bytes of what may be kept while a tensor is merged: the changes of 64 million weights


def merge(method: str, group: TensorGroup, parameters: dict) -> torch.Tensor:
    """The tensor that one of ``FASTER``'s methods merges, in bfloat16 where the parents are, else in float32."""
    shape = group.entries[0].tensor.shape
    group = replace(group, entries=tuple(replace(entry, tensor=entry.tensor.reshape(-1)) for entry in group.entries))
    piece, first = FASTER[method](method, group, parameters), group.entries[0].tensor
    if not piece:
        return group.base.tensor.reshape(shape)
    merged = _empty(len(first), torch.bfloat16 if first.dtype == torch.bfloat16 else torch.float32)  # rounded as MergeKit does at its end
    _each(lambda part: merged[part].copy_(piece(part)), len(first))
    return merged.reshape(shape)


def by_weight(method: str, group: TensorGroup, parameters: dict) -> Callable[[slice], torch.Tensor]:
    """A method in which a weight depends on its counterparts alone."""

    def piece(part: slice) -> torch.Tensor:
        cut = tuple(replace(entry, tensor=entry.tensor[part]) for entry in group.entries)
        return registry.get(method)._execute_resolved((replace(group, entries=cut),), [parameters], dtype=torch.float32)[0]

    return piece


def slerp(method: str, group: TensorGroup, parameters: dict) -> Callable[[slice], torch.Tensor]:
    """MergeKit's formula in MergeKit's pieces, several at a time; nothing whole but the result."""
    pair, t = [entry.tensor[None] for entry in (group.base, *group.non_base)], torch.tensor([[parameters["t"]]], dtype=torch.float32)

    def over(function: Callable, *tensors: torch.Tensor) -> torch.Tensor:
        return torch.stack(_each(lambda part: function(*(own[:, part].float() for own in tensors)), pair[0].shape[1], CHUNK))

    lengths = (over(partial(torch.linalg.vector_norm, dim=1, keepdim=True), own) for own in pair)
    ours, theirs = (torch.where((norm := torch.linalg.vector_norm(parts, dim=0)) > 1e-8, norm, 1) for parts in lengths)
    dot = over(lambda one, other: (one / ours).mul_(other / theirs).sum(dim=1, keepdim=True), *pair).sum(dim=0).clamp(-1, 1)
    theta = torch.acos(torch.where(linear := dot.abs() > 0.9995, 0, dot))
    ours, theirs = (torch.where(linear, share, torch.sin(share * theta) / torch.sin(theta)) for share in (1 - t, t))
    return lambda part: (pair[0][:, part].float() * ours).add_(pair[1][:, part].float() * theirs)[0]


def consensus(method: str, group: TensorGroup, parameters: dict) -> Callable[[slice], torch.Tensor] | None:
    """Task vectors added up; in TIES and DARE TIES trimmed before, and only what agrees with the sign that has more of the change."""
    dare, plain, base, kept = method == "dare_ties", method == "task_arithmetic", group.base.tensor, []
    if plain and parameters["normalize"]:
        return by_weight(method, group, parameters)
    densities = [1.0 if plain else parameters["density"][model.id] for model in group.non_base]
    moved = [plain or not _known(torch.equal, model.tensor, base) for model in group.non_base]  # else it adds nothing and has no sign to elect
    masks = [_pool(1).submit(_draw, len(base), *of) if dare and of[0] < 1 else None for of in zip(densities, moved, strict=True)]  # beside all else
    for model, density, changed, mask in zip(group.non_base, densities, moved, masks, strict=True):
        trimmed = partial(_change, model.tensor, base)
        if changed and density < 1:
            trimmed = _random(model.tensor, base, mask) if dare else _known(_trim, model.tensor, base, density)
        if changed:
            kept.append((trimmed, parameters["weight"][model.id]))
        elif mask:
            mask.result()
    least, scale, signs = min((weight for _, weight in kept), default=0), parameters["lambda"], torch.int32

    def piece(part: slice) -> torch.Tensor:
        changes = [trimmed(part) * weight for trimmed, weight in kept]
        if plain:
            change = sum(changes[1:], changes[0].add_(0))
        elif len(kept) == 1 and least > 0:  # one task vector agrees with itself
            change = changes[0].div_(least) if parameters["normalize"] else changes[0]
        else:
            sign = sum(changes[1:], changes[0] + 0).view(signs).bitwise_and_(MINUS)  # of -0 it is never
            for change in changes:
                change.view(signs).bitwise_xor_(sign)
                change.clamp_(min=0)  # what disagrees becomes 0
            change = changes[0] + 0 if parameters["normalize"] or least <= 0 else changes[0]  # never -0, as MergeKit's sum
            for other in changes[1:]:
                change.add_(other)
            if parameters["normalize"]:
                divisor = sum(change.sign_().mul_(weight) for change, (_, weight) in zip(changes, kept, strict=True))
                change.div_(divisor.clamp_(min=least) if least > 0 else divisor.add_(divisor == 0))
            change.view(signs).bitwise_xor_(sign)
        return (change if scale == 1 else change.mul_(scale)).add_(base[part])

    return piece if kept else None


def _parts(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(n, start + size)) for start in range(0, n, size))


def _each(function: Callable[[slice], object], n: int, size: int = 0) -> list:
    """Results of ``function`` for each piece, of ``size`` if it matters."""
    return each(function, list(_parts(n, size or min(CHUNK, max(CHUNK // 16, -(-n // (8 * torch.get_num_threads())) * 8)))))


def each(function: Callable, items: Sequence) -> list:
    """Results of ``function`` for each item: in as many threads as torch has, every operation, and what they call ``each`` for, in one."""
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        return list(map(function, items))
    torch.set_num_threads(1)
    try:
        return list(_pool(threads).map(function, items))
    finally:
        torch.set_num_threads(threads)


_pool = cache(ThreadPoolExecutor)  # threads that begin while torch has one of its own keep to one


def _empty(n: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.empty(n * dtype.itemsize, np.uint8)).view(dtype)  # NumPy asks for huge pages: fewer page faults


def _change(model: torch.Tensor, base: torch.Tensor, part: slice) -> torch.Tensor:
    """A piece of a task vector in float32, which may be shared: not to be changed in place."""
    return model[part].float() - base[part].float() if (whole := _known(_changes, model, base)) is None else whole[part]


def _changes(model: torch.Tensor, base: torch.Tensor) -> torch.Tensor | None:
    if not _fits(4 * len(base)):
        return None
    changes = _empty(len(base), torch.float32)
    _each(lambda part: torch.sub(model[part].float(), base[part].float(), out=changes[part]), len(base))
    return changes


def _fits(size: int) -> bool:
    _room[0] -= size * (fits := size <= _room[0])
    return fits


_facts: dict[tuple, object] = {}  # of tensors in memory, by address: their difference, whether they are equal, thresholds, sums
_numbers: dict[tuple[bytes, int], torch.Tensor] = {}  # by the generator's state before and how many: random numbers
_states: dict[tuple[bytes, int], torch.Tensor] = {}  # by the same: the state behind
_room = [ROOM]  # bytes of changes and random numbers that may still be kept


def forget(room: int = ROOM) -> None:
    """Let go of what is known about tensors: others may stand at their addresses next time. ``room`` (bytes) is for changes and random numbers."""
    _facts.clear()
    _numbers.clear()
    _room[0] = room


def _known(find: Callable, model: torch.Tensor, base: torch.Tensor, *density: float) -> object:
    key = (find.__name__, model.data_ptr(), base.data_ptr(), len(base), *density)
    if key not in _facts:
        _facts[key] = find(model, base, *density)
    return _facts[key]


def _trim(model: torch.Tensor, base: torch.Tensor, density: float) -> Callable[[slice], torch.Tensor]:
    """The ``density`` largest changes of a piece, else 0. Of changes that tie at the threshold the first are kept."""
    k, n = max(1, int(density * len(base))), len(base)
    sample = _known(_sample, model, base)
    place, spread = (n - k) / n * len(sample), 3 * len(sample) ** 0.5  # of the threshold in the sample; six standard deviations
    ends = np.clip([place - spread, place + spread + 2], 0, len(sample) + 1).astype(int)

    def collect(part: slice) -> tuple[int, np.ndarray, np.ndarray]:
        size = _change(model, base, part).abs().numpy()
        near = np.flatnonzero((size >= low) & (size <= high))
        return np.count_nonzero(size > high), size[near], near + part.start

    for low, high in (np.pad(sample, 1, constant_values=(0, np.inf))[ends], (0, np.inf)):  # noqa: B007  (collect reads them)
        above, near, where = zip(*_each(collect, n), strict=True)
        above, near = sum(above), np.concatenate(near)
        if above < k <= above + len(near):
            break
    else:
        return partial(_change, model, base)  # NaN, which the check of the result will name
    threshold = float(np.partition(near, len(near) + above - k)[len(near) + above - k])
    tied, below = np.concatenate(where)[near == threshold], float(np.nextafter(np.float32(threshold), np.float32(0)))
    cut = tied[k - above - np.count_nonzero(near > threshold) - 1] + 1  # behind the last tied change that is kept

    def trimmed(part: slice) -> torch.Tensor:
        early, late = _change(model, base, part).tensor_split([max(0, cut - part.start)])
        shrunk = [torch.hardshrink(own, size) for own, size in ((early, below), (late, threshold)) if len(own)]
        return torch.cat(shrunk) if len(shrunk) > 1 else shrunk[0]

    return trimmed


def _sample(model: torch.Tensor, base: torch.Tensor) -> np.ndarray:  # sizes of changes at equal distances, sorted
    return np.sort(_change(model, base, slice(0, len(base), len(base) // SAMPLE + 1)).abs().numpy())


def _random(model: torch.Tensor, base: torch.Tensor, draw: Future) -> Callable[[slice], torch.Tensor]:
    """Changes kept by a Bernoulli mask and scaled to the L1 norm of them all."""
    before, mask = _known(_norm, model, base), draw.result()
    after = _norm(model, base, mask)
    scale = before / after if before >= 1e-7 and after >= 1e-7 else 1.0
    return lambda part: _kept(model, base, mask, part).mul_(scale)


def _norm(model: torch.Tensor, base: torch.Tensor, mask: Callable | None = None) -> torch.Tensor:
    size = _empty(len(base), torch.float32)
    _each(lambda part: torch.abs(_kept(model, base, mask, part) if mask else _change(model, base, part), out=size[part]), len(base))
    return size.sum()  # whole, as sums in another order differ in the last bit


def _kept(model: torch.Tensor, base: torch.Tensor, mask: Callable, part: slice) -> torch.Tensor:  # bit by bit: to choose takes ten times as long
    return (_change(model, base, part).view(torch.int32) & mask(part)).view(torch.float32)


def _draw(n: int, density: float, moved: bool = True) -> Callable[[slice], torch.Tensor] | None:
    """The mask that ``torch.bernoulli`` draws from the same generator, in a third of its time, to be read by the piece: -1 (all bits) or 0.

    Where nothing ``moved`` only the generator does, for later masks to stay MergeKit's; instantly from the second time on, as in a search.
    """
    key = (torch.get_rng_state().numpy().tobytes(), n)
    if moved and key not in _numbers and _fits(4 * n):
        _numbers[key], _states[key] = _empty(n, torch.float32).uniform_(), torch.get_rng_state()
    if key in _states and (not moved or key in _numbers):
        torch.set_rng_state(_states[key])
        numbers = _numbers.get(key)
        return lambda part: (numbers[part] - density).view(torch.int32).bitwise_right_shift_(31)
    numbers, bits = torch.empty(min(n, CHUNK)), np.empty(-(-n // 8), np.uint8)
    for part in _parts(n, CHUNK):
        bits[part.start // 8 : -(-part.stop // 8)] = np.packbits(numbers[: part.stop - part.start].uniform_().numpy() < np.float32(density))
    _states[key] = torch.get_rng_state()
    return lambda part: torch.from_numpy(np.unpackbits(bits[part.start // 8 :], count=part.stop - part.start).view(np.int8)).neg_().int()


# what makes a piece of a merged tensor, or nothing where it is the base's, by MergeKit's name of the method
FASTER = dict(linear=by_weight, slerp=slerp, task_arithmetic=consensus, ties=consensus, dare_ties=consensus, nearswap=by_weight, ram=by_weight)
