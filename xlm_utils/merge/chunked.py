"""MergeKit's methods on a CPU, a piece of a tensor at a time: the same weights in less time and memory.

MergeKit sorts a whole tensor to find the changes that TIES keeps, draws DARE's mask the slow way, and pages in some
ten copies of the tensor. Here a threshold is selected among the few changes near a sampled guess, a piece goes through
everything else at once, and what several merges of a tensor need is computed once.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup

CHUNK, SAMPLE = 1 << 20, 1 << 16  # weights in a piece: less of them, and threads wait for Python; changes looked at to guess a threshold
ROOM = 1 << 28  # bytes of what may be kept while a tensor is merged: the changes of 64 million weights


def pieces(method: str, group: TensorGroup, parameters: dict) -> torch.Tensor:
    """A method in which a weight depends on its counterparts alone."""
    flat, run = [replace(entry, tensor=entry.tensor.reshape(-1)) for entry in group.entries], registry.get(method)._execute_resolved
    merged = _result(flat[0].tensor)

    def merge(part: slice) -> None:
        piece = replace(group, entries=tuple(replace(entry, tensor=entry.tensor[part]) for entry in flat))
        merged[part] = run((piece,), [parameters], dtype=torch.float32)[0]

    _each(merge, len(merged))
    return merged.reshape(group.entries[0].tensor.shape)


def slerp(method: str, group: TensorGroup, parameters: dict) -> torch.Tensor:
    """MergeKit's formula in MergeKit's pieces, several at a time; nothing whole but the result."""
    pair, t = [entry.tensor.reshape(1, -1) for entry in (group.base, *group.non_base)], torch.tensor([[parameters["t"]]], dtype=torch.float32)
    merged = _result(pair[0][0])

    def over(function: Callable, *tensors: torch.Tensor) -> torch.Tensor:
        return torch.stack(_each(lambda part: function(*(own[:, part].float() for own in tensors)), len(merged), CHUNK))

    length = partial(torch.linalg.vector_norm, dim=1, keepdim=True)
    ours, theirs = (torch.where((norm := torch.linalg.vector_norm(over(length, own), dim=0)) > 1e-8, norm, 1) for own in pair)
    dot = over(lambda one, other: ((one / ours) * (other / theirs)).sum(dim=1, keepdim=True), *pair).sum(dim=0).clamp(-1, 1)
    theta = torch.acos(torch.where(linear := dot.abs() > 0.9995, 0, dot))
    ours, theirs = (torch.where(linear, share, torch.sin(share * theta) / torch.sin(theta)) for share in (1 - t, t))
    _each(lambda part: merged[part].copy_((ours * pair[0][:, part].float() + theirs * pair[1][:, part].float())[0]), len(merged), CHUNK)
    return merged.reshape(group.base.tensor.shape)


def consensus(method: str, group: TensorGroup, parameters: dict) -> torch.Tensor:
    """TIES or DARE TIES: task vectors trimmed, the sign that has more of the change elected, and what agrees with it added up."""
    base, keep, kept = group.base.tensor.reshape(-1), partial(_known, _trim) if method == "ties" else _random, []
    for model in group.non_base:
        tensor, density = model.tensor.reshape(-1), parameters["density"][model.id]
        if not _known(torch.equal, tensor, base):  # an unchanged tensor adds nothing and has no sign to elect
            kept.append((partial(_change, tensor, base) if density >= 1 else keep(tensor, base, density), parameters["weight"][model.id]))
        elif keep is _random and density < 1:
            _skip(len(base))
    if not kept:
        return group.base.tensor
    merged = _result(base)

    def merge(part: slice) -> None:
        changes = [trimmed(part) * weight for trimmed, weight in kept]
        if len(kept) == 1 and kept[0][1] > 0:  # one task vector agrees with itself
            change = changes[0].div_(kept[0][1]) if parameters["normalize"] else changes[0]
            merged[part] = change.mul_(parameters["lambda"]).add_(base[part])
            return
        sign = torch.ones_like(changes[0]).copysign_(sum(changes))  # never of -0, as sum starts from 0
        changes = [change.mul_(sign).clamp_(min=0) for change in changes]  # what disagrees becomes 0
        change = sum(changes)
        if parameters["normalize"]:
            divisor = sum(change.sign_().mul_(weight) for change, (_, weight) in zip(changes, kept, strict=True))
            change /= divisor.add_(divisor == 0)
        merged[part] = change.mul_(sign).mul_(parameters["lambda"]).add_(base[part])

    _each(merge, len(base))
    return merged.reshape(group.base.tensor.shape)


def _parts(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(n, start + size)) for start in range(0, n, size))


def _each(function: Callable, n: int, size: int = 0) -> list:
    """Results of ``function`` for each piece, of ``size`` if it matters: in as many threads as torch has, every operation in one."""
    threads = torch.get_num_threads()
    parts = list(_parts(n, size or min(CHUNK, max(CHUNK // 16, -(-n // threads)))))
    if threads == 1 or len(parts) == 1:
        return list(map(function, parts))
    torch.set_num_threads(1)
    try:
        return list(_pool(threads).map(function, parts))
    finally:
        torch.set_num_threads(threads)


_pool = cache(ThreadPoolExecutor)  # threads that begin while torch has one of its own keep to one


def _result(like: torch.Tensor) -> torch.Tensor:  # rounding to bfloat16 piece by piece is what MergeKit does at the end; else it stays float32
    return _empty(len(like), torch.bfloat16 if like.dtype == torch.bfloat16 else torch.float32)


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


def _sample(model: torch.Tensor, base: torch.Tensor) -> np.ndarray:
    """Sizes of changes at equal distances, sorted."""
    return np.sort(_change(model, base, slice(0, len(base), len(base) // SAMPLE + 1)).abs().numpy())


def _random(model: torch.Tensor, base: torch.Tensor, density: float) -> Callable[[slice], torch.Tensor]:
    """Changes kept by a Bernoulli mask, drawn now and in MergeKit's order, scaled to the L1 norm of them all."""
    mask, size, before = _draw(len(base), density), _empty(len(base), torch.float32), _known(_norm, model, base)
    _each(lambda part: size[part].copy_(torch.where(mask[part], _change(model, base, part).abs(), 0)), len(base))
    after = size.sum()  # whole, as sums in another order differ in the last bit
    scale = before / after if before >= 1e-7 and after >= 1e-7 else 1.0
    return lambda part: torch.where(mask[part], _change(model, base, part), 0).mul_(scale)


def _norm(model: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    size = _empty(len(base), torch.float32)
    _each(lambda part: torch.abs(_change(model, base, part), out=size[part]), len(base))
    return size.sum()


def _draw(n: int, density: float, keep: bool = True) -> torch.Tensor:
    """The mask that ``torch.bernoulli`` draws from the same generator, in a third of its time, or of numbers that are kept."""
    mask, numbers, key = _empty(n, torch.bool), torch.empty(min(n, CHUNK)), (torch.get_rng_state().numpy().tobytes(), n)
    if keep and key not in _numbers and _fits(4 * n):
        _numbers[key], _states[key] = _empty(n, torch.float32).uniform_(), torch.get_rng_state()
    if key in _numbers:
        torch.set_rng_state(_states[key])
        _each(lambda part: np.less(_numbers[key][part].numpy(), np.float32(density), out=mask[part].numpy()), n)
        return mask
    for part in _parts(n, CHUNK):
        np.less(numbers[: part.stop - part.start].uniform_().numpy(), np.float32(density), out=mask.numpy()[part])
    return mask


def _skip(n: int) -> None:
    """Move the generator as a draw would, for later masks to stay MergeKit's; instantly from the second time on, as in a search."""
    before = (torch.get_rng_state().numpy().tobytes(), n)
    if before not in _states:
        _draw(n, 0.5, keep=False)
        _states[before] = torch.get_rng_state()
    torch.set_rng_state(_states[before])


FASTER = {"slerp": slerp} | dict.fromkeys(("linear", "task_arithmetic", "nearswap", "ram"), pieces) | dict.fromkeys(("ties", "dare_ties"), consensus)
