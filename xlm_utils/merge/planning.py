"""What a configuration asks of every tensor that the parents store, whatever MergeKit's table of architectures lists.

The methods are MergeKit's. Its planner is not used: it takes longer to import than most merges take.
"""

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from mergekit.merge_methods.base import ParameterSpec, PerInputValues, TensorEntry, TensorGroup, TensorMetadata
from mergekit.merge_methods.registry import get
from psutil import virtual_memory

from xlm_utils.merge import chunked, own
from xlm_utils.merge.methods import DTYPES, check_specification, parents, render, resolve, written_out
from xlm_utils.models.libraries import PreTrainedModel
from xlm_utils.models.vocabularies import own_rows
from xlm_utils.models.weights import EMBEDDINGS, LAYER, Tensors
from xlm_utils.study import Study, pick_device

COPIES = 17  # float32 copies of one tensor that MergeKit holds at once on a GPU: TIES sorts it, in about eleven times its size
ROOM = 0.25  # of the memory that is available, for random numbers


def math_device(folders: Mapping[str, Path]) -> tuple[str, str]:
    """Where to compute a merge, and the reason: a GPU that holds a model and MergeKit's copies of its largest tensor, or the CPU.

    It is asked of the GPU's whole memory, not of what is free, so that a search and the merge of what it found
    draw their random masks on the same device.
    """
    device, reason = pick_device()
    if device == "cpu":
        return device, reason
    sizes = [math.prod(shape) for shape in Tensors(next(iter(folders.values()))).shapes.values()]
    needed, there = COPIES * 4 * max(sizes) + 2 * sum(sizes), torch.cuda.get_device_properties(0).total_memory
    if there < needed:
        return "cpu", f"merging on the GPU takes up to {needed / 2**30:.0f} GiB, and it has {there / 2**30:.0f}"
    return device, reason


class Plan:
    """One merge, tensor by tensor, to be called in the order of their names: random masks are drawn in it, as MergeKit draws them.

    ``config`` is rendered and written out, ``folders`` has the models that it names (a method knows them by these), ``seed`` is of the random masks,
    which are drawn apart from torch's global generators, and ``names`` are those of all tensors.
    """

    def __init__(self, config: dict, folders: Mapping[str, Path], seed: int | None, device: str, names: Collection[str]):
        self.base = folders[config["base_model"]].resolve()
        self.inputs = {folders[entry["model"]].resolve(): entry.get("parameters", {}) for entry in config["models"]}
        self.inputs.setdefault(self.base, {})  # a base that is none of the models comes last
        self._shared, self._name, self._method = config["parameters"], config["merge_method"], get(config["merge_method"])
        self._faster = device == "cpu" and self._name in chunked.FASTER
        self.bare = self._faster and seed is None  # it may be called beside others: those that draw share torch's generators
        self._generators = [] if self.bare else [torch.default_generator, *torch.cuda.default_generators]
        self._states = [torch.Generator(generator.device).manual_seed(seed or 0).get_state() for generator in self._generators]
        self._donor, self._own = next(iter(folders.values())).resolve(), own_rows([folders[entry["model"]] for entry in config["models"]])
        self._device = device if self._method.spec.uses_accelerator else "cpu"
        self._layers = 1 + max((int(found[1]) for found in map(LAYER.search, names) if found), default=-1)

    def __call__(self, name: str, stored: Callable[[Path], torch.Tensor]) -> torch.Tensor:
        """The merged tensor in the dtype of the result, on the device; ``stored`` gives a parent's."""
        entries = [TensorEntry(id=folder, tensor=stored(folder).to(self._device), is_base=folder == self.base) for folder in self.inputs]
        group, out = TensorGroup(tuple(entries), TensorMetadata(name=name)), getattr(torch, DTYPES["out_dtype"])
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()), enabled=not self.bare), torch.no_grad():
            for generator, state in zip(self._generators, self._states, strict=True):
                generator.set_state(state)
            if self._faster:
                merged = chunked.merge(self._name, group, self.parameters(name)).to(out)
            else:
                (merged,) = self._method((group,), parameters=self.parameters(name), dtype=getattr(torch, DTYPES["dtype"]), out_dtype=out)
            if rows := self._own.get(name):  # SLERP would stretch them, and a task vector move them
                merged = merged.index_copy(0, rows := torch.tensor(rows, device=merged.device), stored(self._donor).to(merged)[rows])
            self._states = [generator.get_state() for generator in self._generators]
        return merged

    def parameters(self, name: str) -> dict[str, Any]:
        """What the method's parameters are at a tensor: a value, or one for each input that has the parameter."""
        layer, found = LAYER.search(name), {}
        depth = 0.0 if not layer and EMBEDDINGS.search(name) else 1.0  # what stands behind the layers goes with the last one
        if layer and self._layers > 1:
            depth = int(layer[1]) / (self._layers - 1)
        for spec in self._method.spec.parameters:
            inputs = [folder for folder in self.inputs if spec.scope == "input" or folder != self.base]
            values = [(folder, _value(spec, [self.inputs[folder], self._shared], name, depth)) for folder in inputs]
            found[spec.name] = _value(spec, [self._shared], name, depth) if spec.scope == "shared" else PerInputValues(values)
        return found


def _value(spec: ParameterSpec, sources: list[Mapping], tensor: str, depth: float) -> Any:
    """The first source's value that holds for a tensor, or the default, as MergeKit's ``resolve_parameter``."""
    value = next((settings[spec.name] for settings in sources if spec.name in settings), spec.default)
    if isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)):
        parts = [value] if isinstance(value, dict) else value
        value = next((part["value"] for part in parts if part.get("filter") in ("*", None) or part["filter"] in tensor), spec.default)
    if isinstance(value, list):  # a gradient
        values, place = [spec.validate(one) for one in value], depth * (len(value) - 1)
        low, share = int(place), place - int(place)
        value = (1 - share) * values[low] + share * values[min(len(value) - 1, low + 1)]
    return spec.validate(value)


class Live:
    """A live model of the parents' architecture, in any dtype, that one method's merges are written into under one random mask, and nothing else.

    Random numbers are kept from the first merge on, 4 bytes a weight, in at most a quarter of the memory that is available; others are drawn again.
    Tensors that neither parent changed are written once. ``seed``: of the mask, if not the method's own.
    """

    def __init__(self, model: PreTrainedModel, study: Study, name: str, seed: int | None = None):
        method = resolve(study, name)
        self._study, self._name, self._seed = study, name, method.seed if seed is None else seed
        self._folders = parents(study, method.template)
        self._device = math_device(self._folders)[0]
        self._tensors = {folder.resolve(): Tensors(folder) for folder in self._folders.values()}
        self._model, self._last = model, {}  # tensor → where its last merge stands, if that is a parent's own
        self._stored = {name: {tensors[name].data_ptr() for tensors in self._tensors.values()} for name in next(iter(self._tensors.values())).shapes}
        chunked.forget(int(ROOM * virtual_memory().available))

    def merge(self, values: Mapping[str, float | list[float]]) -> None:
        """Merge with these parameters: the weights of the checkpoint that ``merge`` writes, to the bit."""
        config = written_out(self._study, render(self._study, self._name, **values), self._folders)
        check_specification(config)
        shapes, live = next(iter(self._tensors.values())).shapes, dict(self._model.named_parameters(remove_duplicate=False))
        plan = Plan(config, self._folders, self._seed, self._device, shapes)
        made = ((name, plan(name, lambda folder, name=name: self._tensors[folder][name])) for name in shapes)
        if not shapes.keys() <= live.keys():  # GPT-2's and GPT-NeoX's have other names in memory, and the experts of a mixture are one there
            stored = {name: tensor.cpu() for name, tensor in made}
            made = type(self._model).from_pretrained(None, config=self._model.config, state_dict=stored).named_parameters()
        with torch.no_grad():
            for name, tensor in made:
                if (place := tensor.data_ptr()) not in self._stored.get(name, ()) or self._last.get(name) != place:  # or as before
                    live[name].copy_(tensor)
                self._last[name] = place
        own.forget()
