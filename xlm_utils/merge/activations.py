"""What the linear layers of a model read over texts: its own hidden states, layer by layer.

In memory at a time: the embeddings, one layer's weights, the hidden states, and what the layer's matrices read, all in float32.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, partial
from math import inf
from pathlib import Path

import torch

from xlm_utils.models.configs import read_config, read_tokenizer
from xlm_utils.models.libraries import PreTrainedModel
from xlm_utils.models.weights import HEAD, LAYER, Tensors
from xlm_utils.study import StudyError

_walks: dict[tuple[str, str], tuple] = {}  # folder and texts → a walk through the layers, the layer where it is, and what is read there


def _empty(folder: Path) -> PreTrainedModel:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(read_config(folder / "config.json", folder.name), dtype=torch.float32).eval()


@cache
def linear_layers(folder: str) -> frozenset[str]:
    """Names of the matrices in a checkpoint's layers, all of them weights of linear layers (outputs, inputs); neither embeddings nor head.

    A StudyError: one of them is no linear layer of its own, such as a mixture's experts, GPT-2's transposed matrices and Mamba's convolutions.
    """
    matrices = [name for name, shape in Tensors(Path(folder)).shapes.items() if len(shape) > 1 and LAYER.search(name)]
    linear = {f"{name}.weight" for name, module in _empty(Path(folder)).named_modules() if isinstance(module, torch.nn.Linear)}
    if odd := [name for name in matrices if name not in linear]:
        raise StudyError(f"{Path(folder).name}: {odd[0]} is no linear layer of its own, and this method knows no other matrices; take another method")
    return frozenset(matrices)


def layer_inputs(folder: Path, texts: list[str]) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Layer by layer: its number, and what each of its linear layers reads over all texts, shape (tokens, inputs), in float32.

    Each text goes through the model alone, as plain text with its tokenizer's special tokens. Wants ``torch.no_grad``.
    """
    model, tensors, tokenizer = _empty(folder), Tensors(folder), read_tokenizer(folder, folder.name)
    places = {int(found[1]): name[: found.end() - 1] for name in linear_layers(str(folder)) if (found := LAYER.search(name))}
    layers = [model.get_submodule(places[number]) for number in sorted(places)]

    def fill(names: list[str]) -> None:
        model.load_state_dict({name: tensors[name].float() for name in names}, strict=False, assign=True)

    # first the embeddings alone: how each layer is called (masks, positions) is kept, and what it was given is handed on
    calls: dict[int, list] = defaultdict(list)

    def keep(number: int, hidden_states: torch.Tensor, *args: object, **how: object) -> torch.Tensor:
        calls[number].append((hidden_states, args, how))
        return hidden_states

    for number, layer in enumerate(layers):
        layer.forward = partial(keep, number)
    fill([name for name in tensors.shapes if name != HEAD and not LAYER.search(name)])
    for text in texts:
        model.base_model(tokenizer(text, return_tensors="pt")["input_ids"], use_cache=False)
    states = [hidden for hidden, _, _ in calls[0]]
    for number, layer in enumerate(layers):
        del layer.forward
        fill([name for name in tensors.shapes if name.startswith(f"{places[number]}.")])
        read = defaultdict(list)
        for name, module in layer.named_modules(prefix=places[number]):
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda _, args, into=read[f"{name}.weight"]: into.append(args[0].flatten(0, -2)))
        for text, (_, args, how) in enumerate(calls.pop(number)):
            out = layer(states[text], *args, **how)
            states[text] = out[0] if isinstance(out, tuple) else out
        layer.to("meta")
        yield number, {name: torch.cat(parts) for name, parts in read.items()}


def read_by(folder: str, texts: str, name: str) -> torch.Tensor:
    """What one linear layer reads over a JSON list of texts; walks on to its layer, or starts anew where that lies behind."""
    layer = int(LAYER.search(name)[1])
    walk, at, read = _walks.get((folder, texts), (None, inf, {}))
    if at > layer:
        walk, at = layer_inputs(Path(folder), json.loads(texts)), -1
    while at < layer:
        at, read = next(walk)
    _walks[folder, texts] = walk, at, read
    return read[name]


def forget() -> None:
    """Let go of models that were read: other files may stand in their folders next time."""
    _walks.clear()
    linear_layers.cache_clear()
