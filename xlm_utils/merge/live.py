"""Candidates of a search, merged into one live model: what no candidate changes is done once."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from psutil import virtual_memory

from xlm_utils.merge.layers import written_out
from xlm_utils.merge.methods import check_specification, render, resolve
from xlm_utils.merge.parents import math_device, parents
from xlm_utils.models.weights import Tensors
from xlm_utils.study import Study

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from xlm_utils.merge.planning import Plan


ROOM = 0.25  # of the memory that is available, for random numbers


class Live:
    """A live model that one method's merges are written into, under one random mask.

    Random numbers are kept from the first merge on, 4 bytes for each weight that a masked task vector changes, in at most a quarter of the
    memory that is available; what does not fit is drawn again, and said. Tensors that no parameter changed since the last merge are left alone.

    Args:
        model: of the parents' architecture, in any dtype; nobody else may write into it between two merges.
        seed: of the random mask, if not the method's own.
    """

    def __init__(self, model: "PreTrainedModel", study: Study, name: str, seed: int | None = None):
        method = resolve(study, name)
        self._study, self._name, self._seed = study, name, method.seed if seed is None else seed
        self._folders = parents(study, method.template)
        self._device = math_device(self._folders)[0]
        self._tensors = {folder.resolve(): Tensors(folder) for folder in self._folders.values()}
        self._model, self._last = model, {}  # tensor → what its last merge was made from, the generator's state behind it

    def merge(self, values: Mapping[str, float | list[float]]) -> None:
        """Merge with these parameters: the weights of the checkpoint that ``merge`` writes, to the bit."""
        import torch

        from xlm_utils.merge import chunked
        from xlm_utils.merge.planning import Plan

        config = written_out(render(self._study, self._name, **values), self._folders)
        check_specification(config)
        if first := not self._last:
            chunked.forget(int(ROOM * virtual_memory().available))
        shapes = next(iter(self._tensors.values())).shapes
        plan = Plan(config, self._folders, self._seed, self._device, shapes)
        live = dict(self._model.named_parameters(remove_duplicate=False))
        by_name = shapes.keys() <= live.keys()  # GPT-2's and GPT-NeoX's have other names in memory, and the experts of a mixture are one there
        made = self._changed(plan, by_name)
        if not by_name:
            stored = {name: tensor.cpu() for name, tensor in made}
            made = type(self._model).from_pretrained(None, config=self._model.config, state_dict=stored).named_parameters()
        with torch.no_grad():
            for name, tensor in made:
                live[name].copy_(tensor)
        if first and chunked.Room.missing:
            print(f"{self._name}: {chunked.Room.missing / 2**30:.1f} GiB of random numbers don't fit in memory and are drawn for every candidate")

    def _changed(self, plan: "Plan", by_name: bool) -> "Iterator[tuple[str, torch.Tensor]]":
        """The tensors that are not what they were after the last merge."""
        for name in next(iter(self._tensors.values())).shapes:
            key = (repr(plan.parameters(name)), plan.drawn())
            last, behind, was = self._last.get(name, ("", None, 0))
            if by_name and key == last:
                plan.state = behind
                continue
            tensor = plan(name, lambda folder, name=name: self._tensors[folder][name])
            parent = {folder: tensors[name].data_ptr() for folder, tensors in self._tensors.items()}
            now = tensor.data_ptr() if tensor.data_ptr() in parent.values() else 0  # a parent's own tensor, as neither changed it
            self._last[name] = (key, plan.state, now)
            if not (by_name and now and now == was):
                yield name, tensor
