"""What a configuration asks of every tensor that the parents store, whatever MergeKit's table of architectures lists.

The methods are MergeKit's. Its planner is not used: it takes longer to import than most merges take.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mergekit.merge_methods.base import MISSING, ParameterSpec, TensorEntry, TensorGroup, TensorMetadata
from mergekit.merge_methods.registry import get
from psutil import virtual_memory

from xlm_utils.merge import activations, chunked, own
from xlm_utils.merge.layers import written_out
from xlm_utils.merge.methods import DTYPES, check_specification, render, resolve
from xlm_utils.merge.parents import math_device, parents
from xlm_utils.models.weights import EMBEDDINGS, LAYER, Tensors
from xlm_utils.study import Study

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ROOM = 0.25  # of the memory that is available, for random numbers


class Plan:
    """One merge, tensor by tensor, to be called in the order of their names: random masks are drawn in it, as MergeKit draws them.

    Args:
        config: rendered and written out; ``folders`` has the models that it names, and a method knows them by their folders.
        seed: of the random masks; they are drawn apart from torch's global generators.
        names: of all tensors.
    """

    def __init__(self, config: dict, folders: Mapping[str, Path], seed: int | None, device: str, names: Collection[str]):
        self.base = folders[config["base_model"]].resolve()
        self.inputs = {folders[entry["model"]].resolve(): entry.get("parameters", {}) for entry in config["models"]}
        self.inputs.setdefault(self.base, {})  # a base that is none of the models comes last
        self._shared, self._seed, self.state, self.apart = config["parameters"], seed or 0, None, []
        stock, faster = get(config["merge_method"]), chunked.FASTER.get(config["merge_method"]) if device == "cpu" else None
        stock.validate_inputs(list(self.inputs), self.base)
        self.method, self._dtype = faster or stock, None if faster else getattr(torch, DTYPES["dtype"])
        self._device = device if stock.spec.uses_accelerator else "cpu"
        self._layers = 1 + max((int(found[1]) for found in map(LAYER.search, names) if found), default=-1)

    def __call__(self, name: str, stored: Callable[[Path], torch.Tensor]) -> torch.Tensor:
        """The merged tensor in the dtype of the result, on the device; ``stored`` gives a parent's."""
        entries = [TensorEntry(id=folder, tensor=stored(folder).to(self._device), is_base=folder == self.base) for folder in self.inputs]
        group, out = TensorGroup(tuple(entries), TensorMetadata(name=name)), getattr(torch, DTYPES["out_dtype"])
        own.apart.clear()
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
            generators = [torch.default_generator, *torch.cuda.default_generators]
            if self.state is None:
                torch.manual_seed(self._seed)
            else:
                for generator, state in zip(generators, self.state, strict=True):
                    generator.set_state(state)
            # SLERP widens its pieces by itself: a whole copy in float32 adds nothing
            dtype = None if self.method is get("slerp") and all(entry.tensor.dtype == out for entry in entries) else self._dtype
            (merged,) = self.method((group,), parameters=self.parameters(name), dtype=dtype, out_dtype=out)
            self.state = [generator.get_state() for generator in generators]
        self.apart += own.apart
        return merged

    def drawn(self) -> bytes:
        """The state of the random numbers, before the next tensor."""
        return b"".join(state.numpy().tobytes() for state in self.state or ())

    def parameters(self, name: str) -> dict[str, Any]:
        """What the method's parameters are at a tensor: a value, or one for each input that has the parameter."""
        layer, found = LAYER.search(name), {}
        depth = 0.0 if not layer and EMBEDDINGS.search(name) else 1.0  # what stands behind the layers goes with the last one
        if layer and self._layers > 1:
            depth = int(layer[1]) / (self._layers - 1)
        for spec in self.method.spec.parameters:
            if spec.scope == "shared":
                found[spec.name] = _value(spec, [self._shared], name, depth)
            else:
                inputs = [folder for folder in self.inputs if spec.scope == "input" or folder != self.base]
                found[spec.name] = {folder: _value(spec, [self.inputs[folder], self._shared], name, depth) for folder in inputs}
        return found


def _value(spec: ParameterSpec, sources: list[Mapping], tensor: str, depth: float) -> Any:
    """The first source's value that holds for a tensor, or the default, as MergeKit's ``resolve_parameter``."""
    for settings in sources:
        value = settings.get(spec.name)
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            parts = value if isinstance(value, list) else [value]
            value = next((part["value"] for part in parts if part.get("filter") in ("*", None) or part["filter"] in tensor), None)
        if isinstance(value, list) and value:  # a gradient
            values, place = [spec.validate(one) for one in value], depth * (len(value) - 1)
            low, share = int(place), place - int(place)
            if isinstance(values[low], (bool, str)):
                return values[low]
            return spec.validate((1 - share) * values[low] + share * values[min(len(value) - 1, low + 1)])
        if value is not None:
            return spec.validate(value)
    if spec.default is MISSING:
        raise RuntimeError(f"Missing required parameter {spec.name} for {tensor}")
    return spec.validate(spec.default)


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
        config = written_out(self._study, render(self._study, self._name, **values), self._folders)
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
        activations.forget()
        if first and chunked.Room.missing:
            print(f"{self._name}: {chunked.Room.missing / 2**30:.1f} GiB of random numbers don't fit in memory and are drawn for every candidate")

    def _changed(self, plan: Plan, by_name: bool) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors that are not what they were after the last merge."""
        for name in next(iter(self._tensors.values())).shapes:
            key = (repr(plan.parameters(name)), plan.drawn())
            last, behind, was = self._last.get(name, ("", None, 0))
            if by_name and key == last:
                plan.state = behind
                continue
            tensor = plan(name, lambda folder, name=name: self._tensors[folder][name])
            own = tensor.data_ptr() in {tensors[name].data_ptr() for tensors in self._tensors.values()}
            now = tensor.data_ptr() if own else 0  # a parent's own tensor, as none changed it
            self._last[name] = (key, plan.state, now)
            if not (by_name and now and now == was):
                yield name, tensor


def unlisted(folder: Path, names: Collection[str]) -> list[str]:
    """The tensors of a model that MergeKit's table of architectures lacks: ``mergekit-yaml`` leaves them out.

    Read from the table's files, as importing the room that reads them takes four seconds.
    """
    config, listed = json.loads((folder / "config.json").read_text(encoding="utf-8")), set()
    tables = [json.loads(file.read_text(encoding="utf-8")) for file in files("mergekit._data.architectures").iterdir() if file.suffix == ".json"]
    fitting = [table for table in tables if set(config["architectures"]) & set(table["architectures"])]
    for table in fitting if len(fitting) == 1 else [table for table in fitting if table["model_type"] == config["model_type"]]:
        parts = (table.get("pre_weights", ()), table.get("layer_templates", {}).get("weights", ()), table.get("post_weights", ()))
        listed |= {weight["name"] for weight in chain(*parts)}
    apart = [name for name in names if LAYER.sub(lambda found: found[0].replace(found[1], "${layer_index}"), name, count=1) not in listed]
    return sorted(apart, key=lambda name: [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)])
