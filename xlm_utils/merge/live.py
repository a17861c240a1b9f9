"""Candidates of a search, merged into one live model: what no candidate changes is done once."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from xlm_utils.merge.layers import written_out
from xlm_utils.merge.methods import check_specification, render, resolve
from xlm_utils.merge.parents import math_device, parents
from xlm_utils.models.weights import Tensors
from xlm_utils.study import Study

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Live:
    """A live model that one method's merges are written into, under one random mask.

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
        self._model, self._done = model, {}  # tensor → what its last merge was made from

    def merge(self, values: Mapping[str, float | list[float]]) -> None:
        """Merge with these parameters: the weights of the checkpoint that ``merge`` writes, to the bit."""
        import torch

        from xlm_utils.merge.planning import Plan

        config = written_out(render(self._study, self._name, **values), self._folders)
        check_specification(config)
        shapes = next(iter(self._tensors.values())).shapes
        plan = Plan(config, self._folders, self._seed, self._device, shapes)
        live = dict(self._model.named_parameters(remove_duplicate=False))
        made = ((name, plan(name, lambda folder, name=name: self._tensors[folder][name])) for name in shapes)
        if not shapes.keys() <= live.keys():  # GPT-2's and GPT-NeoX's have other names in memory, and the experts of a mixture are one there
            stored = {name: tensor.cpu() for name, tensor in made}
            made = type(self._model).from_pretrained(None, config=self._model.config, state_dict=stored).named_parameters()
        with torch.no_grad():
            for name, tensor in made:
                live[name].copy_(tensor)
