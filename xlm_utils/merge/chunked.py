"""MergeKit's methods on a CPU, a piece of a tensor at a time: the same weights in less time and memory.

MergeKit sorts a whole tensor to find the changes that TIES keeps, draws DARE's mask the slow way, and pages in some ten copies of the tensor. Here a
threshold is selected among the few changes whose size has the same upper bits, and what several merges of a tensor need is computed once.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from mergekit.merge_methods.base import TensorGroup

from xlm_utils.merge import kernels

CHUNK, SIZE = 1 << 20, 0x7FFFFFFF  # weights in a piece: less of them, and threads wait for Python; all bits of a number but its sign
EVERY = np.ones(CHUNK, bool)
np.empty(31 << 20, np.uint8)  # freed, it lets glibc keep 62 MiB a thread of what is freed later: else pieces are paged in anew
ROOM = 1 << 28  # bytes of random numbers that may be kept while a tensor is merged
_pool = cache(ThreadPoolExecutor)  # threads that begin while torch has one of its own keep to one
_facts: dict[tuple, object] = {}  # of tensors in memory, by address: whether they are equal, thresholds, sums
_numbers: dict[tuple[bytes, int], np.ndarray] = {}  # by the generator's state before and how many: random numbers
_states: dict[tuple[bytes, int], torch.Tensor] = {}  # by the same: the state behind
_room = [ROOM]  # bytes of random numbers that may still be kept


def merge(method: str, group: TensorGroup, parameters: dict) -> torch.Tensor:
    """The tensor that one of ``FASTER``'s methods merges, in bfloat16 where the parents are, else in float32."""
    shape = group.entries[0].tensor.shape
    group = replace(group, entries=tuple(replace(entry, tensor=entry.tensor.reshape(-1)) for entry in group.entries))
    piece, first = FASTER[method](method, group, parameters), group.entries[0].tensor
    if not piece:
        return group.base.tensor.reshape(shape)
    dtype = torch.bfloat16 if first.dtype == torch.bfloat16 else torch.float32  # rounded as MergeKit does at its end
    merged = torch.from_numpy(np.empty(len(first) * dtype.itemsize, np.uint8)).view(dtype)  # NumPy asks for huge pages: fewer page faults
    _each(lambda part: merged[part].copy_(torch.from_numpy(piece(part))), len(first))
    return merged.reshape(shape)


def linear(method: str, group: TensorGroup, parameters: dict) -> Callable[[slice], np.ndarray]:
    """Weighted sums, or means."""
    weights = np.array([parameters["weight"][model.id] for model in group.entries], np.float32)
    total = np.float32(torch.from_numpy(weights).sum() if parameters["normalize"] else 1)
    return lambda part: kernels.averaged(tuple(_bits(model.tensor[part]) for model in group.entries), weights, total)


def slerp(method: str, group: TensorGroup, parameters: dict) -> Callable[[slice], np.ndarray]:
    """MergeKit's formula in MergeKit's pieces, several at a time; nothing whole but the result."""
    pair, t = [entry.tensor for entry in (group.base, *group.non_base)], torch.tensor(parameters["t"], dtype=torch.float32)

    def over(function: Callable, *tensors: torch.Tensor) -> torch.Tensor:  # floats: small tensors between the pieces would keep their memory
        return torch.tensor(_each(lambda part: float(function(*(own[part] for own in tensors))), len(tensors[0]), CHUNK))

    lengths = (torch.linalg.vector_norm(over(lambda part: torch.linalg.vector_norm(part.float()), own)) for own in pair)
    by = [np.float32(length if length > 1e-8 else 1) for length in lengths]
    dot = over(lambda *parts: torch.from_numpy(kernels.paired(*map(_bits, parts), *by, True)).sum(), *pair).sum().clamp(-1, 1)
    theta = torch.acos(torch.where(straight := dot.abs() > 0.9995, 0, dot))
    shares = [np.float32(torch.where(straight, share, torch.sin(share * theta) / torch.sin(theta))) for share in (1 - t, t)]
    return lambda part: kernels.paired(*(_bits(own[part]) for own in pair), *shares, False)


def consensus(method: str, group: TensorGroup, parameters: dict) -> Callable[[slice], np.ndarray] | None:
    """Task vectors added up; in TIES and DARE TIES trimmed before, and only what agrees with the sign that has more of the change."""
    dare, plain, base, kept = method == "dare_ties", method == "task_arithmetic", group.base.tensor, []
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
    changes, weights = zip(*kept, strict=True) if kept else ((), ())
    least = min(weights, default=0)
    numbers = np.array(weights, np.float32), np.float32(parameters["lambda"])
    election = not plain, bool(parameters["normalize"]), np.float32(least if least > 0 else -np.inf)
    return (lambda part: kernels.added(tuple(change(part) for change in changes), *numbers, _bits(base[part]), *election)) if kept else None


def _parts(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(n, start + size)) for start in range(0, n, size))


def _each(function: Callable[[slice], object], n: int, size: int = 0) -> list:
    """Results of ``function`` for each piece, of ``size`` if it matters: in as many threads as torch has, every operation in one."""
    threads = torch.get_num_threads()
    parts = list(_parts(n, size or min(CHUNK, max(CHUNK // 16, -(-n // (8 * threads)) * 8))))
    if threads == 1:
        return list(map(function, parts))
    torch.set_num_threads(1)
    try:
        return list(_pool(threads).map(function, parts))
    finally:
        torch.set_num_threads(threads)


def _bits(piece: torch.Tensor) -> np.ndarray:
    """As the kernels take weights."""
    return piece.view(torch.uint16).numpy() if piece.dtype == torch.bfloat16 else piece.float().view(torch.uint32).numpy()


def _change(model: torch.Tensor, base: torch.Tensor, part: slice, mask: Callable | None = None, scale: np.float32 = kernels.ONE) -> np.ndarray:
    return kernels.changes(_bits(model[part]), _bits(base[part]), mask(part) if mask else EVERY, scale)


def forget(room: int = ROOM) -> None:
    """Let go of what is known about tensors: others may stand at their addresses next time. ``room`` (bytes) is for random numbers."""
    _facts.clear()
    _numbers.clear()
    _room[0] = room


def _known(find: Callable, model: torch.Tensor, base: torch.Tensor, *density: float) -> object:
    key = (find.__name__, model.data_ptr(), base.data_ptr(), len(base), *density)
    if key not in _facts:
        _facts[key] = find(model, base, *density)
    return _facts[key]


def _trim(model: torch.Tensor, base: torch.Tensor, density: float) -> Callable[[slice], np.ndarray]:
    """The ``density`` largest changes of a piece, else 0. Of changes that tie at the threshold the first are kept."""
    k = max(1, int(density * len(base)))

    def sizes(part: slice) -> np.ndarray:  # in the order of their bits, NaN last, which stays for the check of the result
        return _change(model, base, part).view(np.uint32) & SIZE

    larger = sum(_each(lambda part: kernels.counted(sizes(part)), len(base)))[::-1].cumsum()  # from the largest on
    place = np.searchsorted(larger, k)  # of the threshold among them

    def near(part: slice) -> tuple[np.ndarray, np.ndarray]:
        places = np.flatnonzero((own := sizes(part)) >> 15 == len(larger) - 1 - place)
        return own[places], places + part.start

    found, places = map(np.concatenate, zip(*_each(near, len(base)), strict=True))
    rest = k - larger[place] + len(found)  # of these are kept
    threshold = np.partition(found, len(found) - rest)[len(found) - rest]
    cut = places[found == threshold][rest - np.count_nonzero(found > threshold) - 1] + 1  # behind the last tied change that is kept

    def kept(part: slice) -> np.ndarray:
        own = sizes(part)
        own[: max(0, cut - part.start)] += 1  # at the threshold these are kept
        return own > threshold

    return partial(_change, model, base, mask=kept)


def _random(model: torch.Tensor, base: torch.Tensor, draw: Future) -> Callable[[slice], np.ndarray]:
    """Changes kept by a Bernoulli mask and scaled to the L1 norm of them all."""
    before, mask = _known(_norm, model, base), draw.result()
    after = _norm(model, base, mask)
    scale = np.float32(before / after if before >= 1e-7 and after >= 1e-7 else 1.0)
    return partial(_change, model, base, mask=mask, scale=scale)


def _norm(model: torch.Tensor, base: torch.Tensor, mask: Callable | None = None) -> torch.Tensor:
    size = np.empty(len(base), np.float32)
    _each(lambda part: np.abs(_change(model, base, part, mask), out=size[part]), len(base))
    return _each(lambda part: torch.from_numpy(size[part]).sum(), len(base), len(base))[0]  # whole and in one thread: another order, other last bits


def _draw(n: int, density: float, moved: bool = True) -> Callable[[slice], np.ndarray]:
    """The mask that ``torch.bernoulli`` draws from the same generator, in a third of its time, to be read by the piece.

    Where nothing ``moved`` only the generator does, for later masks to stay MergeKit's; instantly from the second time on, as in a search.
    """
    key = (torch.get_rng_state().numpy().tobytes(), n)
    if moved and key not in _numbers and 4 * n <= _room[0]:
        _numbers[key], _states[key] = torch.from_numpy(np.empty(n, np.float32)).uniform_().numpy(), torch.get_rng_state()
        _room[0] -= 4 * n
    if key in _states and (not moved or key in _numbers):
        torch.set_rng_state(_states[key])
        numbers = _numbers.get(key)
        return lambda part: numbers[part] < np.float32(density)
    numbers, bits = torch.empty(min(n, CHUNK)), np.empty(-(-n // 8), np.uint8)
    for part in _parts(n, CHUNK):
        bits[part.start // 8 : -(-part.stop // 8)] = np.packbits(numbers[: part.stop - part.start].uniform_().numpy() < np.float32(density))
    _states[key] = torch.get_rng_state()
    return lambda part: np.unpackbits(bits[part.start // 8 :], count=part.stop - part.start).view(bool)


# what makes a piece of a merged tensor, or nothing where it is the base's, by MergeKit's name of the method
FASTER = dict(linear=linear, slerp=slerp, task_arithmetic=consensus, ties=consensus, dare_ties=consensus)
