"""TIES and DARE TIES for MergeKit on a CPU, a piece of a tensor at a time: the same weights in less time and memory.

MergeKit sorts a whole tensor to find the changes that TIES keeps, draws DARE's mask the slow way, and pages in some
ten copies of the tensor. Here a threshold is selected among the few changes near a sampled guess, and pieces that
fit the CPU's cache go through everything else. Registered beside MergeKit's own methods as ``chunked_…``.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import GroupMergeMethod, MergeMethodSpec, TensorGroup
from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge

CHUNK, SAMPLE = 1 << 17, 1 << 16  # weights in a piece; changes looked at to guess a threshold


@dataclass(frozen=True)
class Chunked(GroupMergeMethod):
    """One of MergeKit's methods with sign consensus, given inputs in their stored dtype, computing in float32."""

    stock: GeneralizedTaskArithmeticMerge

    @cached_property
    def spec(self) -> MergeMethodSpec:
        return replace(self.stock.spec, name=f"chunked_{self.stock.method_name}")

    def merge_group(self, group: TensorGroup, /, **parameters) -> torch.Tensor:
        base, keep, kept = group.base.tensor.reshape(-1), _largest if self.stock.method_name == "ties" else _random, []
        for model in group.non_base:
            tensor, density = model.tensor.reshape(-1), parameters["density"][model.id]
            if not torch.equal(tensor, base):  # an unchanged tensor adds nothing and has no sign to elect
                trimmed = partial(_change, tensor, base) if density >= 1 else keep(tensor, base, density)
                kept.append((trimmed, parameters["weight"][model.id]))
            elif keep is _random and density < 1:
                _skip(len(base))
        if not kept:
            return group.base.tensor
        # rounding to bfloat16 piece by piece is what MergeKit does at the end; any other dtype stays float32 until then
        merged = _empty(len(base), torch.bfloat16 if base.dtype == torch.bfloat16 else torch.float32)

        def merge(part: slice) -> None:
            changes = [trimmed(part).mul_(weight) for trimmed, weight in kept]
            sign = torch.ones_like(changes[0]).copysign_(sum(changes))  # never of -0, as sum starts from 0
            changes = [change.mul_(sign).clamp_(min=0) for change in changes]  # what disagrees becomes 0
            change = sum(changes)
            if parameters["normalize"]:
                divisor = sum(change.sign_().mul_(weight) for change, (_, weight) in zip(changes, kept, strict=True))
                change /= divisor.add_(divisor == 0)
            merged[part] = change.mul_(sign).mul_(parameters["lambda"]).add_(base[part].float())

        _each(merge, len(base))
        return merged.reshape(group.base.tensor.shape)


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, min(n, start + CHUNK)) for start in range(0, n, CHUNK))


def _each(function: Callable, n: int) -> list:
    """Results of ``function`` for each piece: in as many threads as torch has, every operation in one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, _parts(n)))
    finally:
        torch.set_num_threads(threads)


def _empty(n: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.empty(n * dtype.itemsize, np.uint8)).view(dtype)  # NumPy asks for huge pages: fewer page faults


def _change(model: torch.Tensor, base: torch.Tensor, part: slice) -> torch.Tensor:
    return model[part].to(torch.float32, copy=True).sub_(base[part].float())


def _largest(model: torch.Tensor, base: torch.Tensor, density: float) -> Callable[[slice], torch.Tensor]:
    """The ``density`` largest changes of a piece, else 0. Of changes that tie at the threshold the first are kept."""
    k, n = max(1, int(density * len(base))), len(base)
    sample = np.sort(_change(model, base, slice(0, n, n // SAMPLE + 1)).abs_().numpy())
    place, spread = (n - k) / n * len(sample), 3 * len(sample) ** 0.5  # of the threshold in the sample; six standard deviations
    ends = np.clip([place - spread, place + spread + 2], 0, len(sample) + 1).astype(int)

    def collect(part: slice) -> tuple[int, np.ndarray, np.ndarray]:
        size = _change(model, base, part).abs_().numpy()
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
        return torch.cat([torch.hardshrink(early, below), torch.hardshrink(late, threshold)])

    return trimmed


def _random(model: torch.Tensor, base: torch.Tensor, density: float) -> Callable[[slice], torch.Tensor]:
    """Changes kept by a Bernoulli mask, drawn now and in MergeKit's order, scaled to the L1 norm of them all."""
    mask, size = _draw(len(base), density), _empty(len(base), torch.float32)
    _each(lambda part: size[part].copy_(_change(model, base, part).abs_()), len(base))
    before = size.sum()  # whole, as sums in another order differ in the last bit
    _each(lambda part: size[part].mul_(mask[part]), len(base))
    scale = before / size.sum() if before >= 1e-7 and size.sum() >= 1e-7 else 1.0
    return lambda part: _change(model, base, part).mul_(mask[part]).mul_(scale)


def _draw(n: int, density: float) -> torch.Tensor:
    """The mask that ``torch.bernoulli`` draws from the same generator, in a third of its time."""
    mask, numbers = _empty(n, torch.bool), torch.empty(min(n, CHUNK))
    for part in _parts(n):
        np.less(numbers[: part.stop - part.start].uniform_().numpy(), np.float32(density), out=mask.numpy()[part])
    return mask


_states: dict[tuple[bytes, int], torch.Tensor] = {}  # of torch's generator: before a skip and its length → after it


def _skip(n: int) -> None:
    """Move the generator as a draw would, for later masks to stay MergeKit's; instantly from the second time on, as in a search."""
    before = (torch.get_rng_state().numpy().tobytes(), n)
    if before not in _states:
        _draw(n, 0.5)
        _states[before] = torch.get_rng_state()
    torch.set_rng_state(_states[before])


for _method in registry.registered_methods():
    if _method.spec.name in ("ties", "dare_ties"):
        registry.register(Chunked(_method))
