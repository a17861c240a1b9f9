"""Methods of this project, registered beside MergeKit's: a control for swaps of modules, RegMean and WUDI-Merging.

The last two solve for each linear layer, in float64 on the CPU. Embeddings, head, norms and biases are the mean of both models in
RegMean, as in its paper. In WUDI-Merging both task vectors are added to them, as ``chat_vector`` does, so that only what was solved
tells the two apart; its authors' code leaves them the ancestor's.

RegMean's models read texts with their own hidden states, layer by layer; in memory at a time are the embeddings, one layer's weights, the
hidden states, and what the layer's matrices read, all in float32.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, partial
from math import inf
from pathlib import Path

import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import BasePolicy, InputContract, PerInput, TensorGroup
from mergekit.merge_methods.easy_define import merge_method

from xlm_utils.models.libraries import PreTrainedModel
from xlm_utils.models.weights import HEAD, LAYER, Tensors, read_config, read_tokenizer
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


def _gram(read: torch.Tensor, alpha: float) -> torch.Tensor:  # (inputs, inputs): mean products over tokens, off the diagonal times alpha
    read = read.double()
    return (read.T @ read).div_(len(read)).mul_(torch.eye(read.shape[1], dtype=read.dtype).mul_(1 - alpha).add_(alpha))


@merge_method(name="random_swap", contract=InputContract(base=BasePolicy.REQUIRED, min_inputs=2, max_inputs=2))
def random_swap(group: TensorGroup, share: float) -> torch.Tensor:
    """The expert's tensor with the chance ``share``, else the base's; one number is drawn for every tensor, so that seeds tell draws apart."""
    return (group.non_base[0] if torch.rand(()) < share else group.base).tensor


@merge_method(name="regmean", contract=InputContract(base=BasePolicy.REQUIRED, min_inputs=2, max_inputs=2), uses_accelerator=False)
def regmean(group: TensorGroup, alpha: float, texts: PerInput[str]) -> torch.Tensor:
    """W = (Σ Wᵢ Gᵢ)(Σ Gᵢ)⁻¹ for a linear layer (Jin et al. 2023), where each model reads its own texts with its own hidden states.

    The Grams are means over tokens, as in the authors' code, so that longer texts do not count more. An input that is 0 on all
    texts gets the mean of both models.
    """
    general, expert = group.base, group.non_base[0]
    if group.metadata.name not in linear_layers(str(general.id)):
        return (general.tensor + expert.tensor) / 2
    first, second = (_gram(read_by(str(entry.id), texts[entry.id], group.metadata.name), alpha) for entry in (general, expert))
    dead = first.diagonal() + second.diagonal() == 0
    first.diagonal()[dead] = second.diagonal()[dead] = 1
    ours, theirs = (entry.tensor.cpu().double() for entry in (general, expert))
    # solved for what is added to the general model, so that rounding is relative to the models' difference
    return (ours + torch.cholesky_solve(second @ (theirs - ours).T, torch.linalg.cholesky(first.add_(second))).T).to(general.tensor)


@merge_method(name="wudi", contract=InputContract(base=BasePolicy.REQUIRED, min_inputs=3, max_inputs=3), uses_accelerator=False)
def wudi(group: TensorGroup, cutoff: float) -> torch.Tensor:
    """The τ that minimises Σ ‖(τ − τᵢ) τᵢᵀ‖² / ‖τᵢ‖² for a linear layer (Cheng et al. 2025).

    With sᵢ = τᵢ / ‖τᵢ‖, what τ differs by from τ₁ + τ₂ is the least-squares solution of least norm of (τ − τ₁ − τ₂) [s₁; s₂]ᵀ =
    −[τ₂ s₁ᵀ, τ₁ s₂ᵀ]. It comes from a QR decomposition of the stacked sᵢ, never of their Gram, whose condition number is the square.
    Singular values of the stack below ``cutoff`` of the largest count as 0: along them τ stays τ₁ + τ₂.
    """
    base, one, two = (entry.tensor.cpu().double() for entry in (group.base, *group.non_base))
    one, two = one - base, two - base
    total = one + two
    if group.metadata.name in linear_layers(str(group.base.id)) and one.any() and two.any():
        first, second = one / one.norm(), two / two.norm()
        q, r = torch.linalg.qr(torch.cat([first, second]))
        known = q[: len(one)].T @ first @ two.T + q[len(one) :].T @ second @ one.T
        total = total - (torch.linalg.pinv(r, rtol=max(cutoff, 1e-14)) @ known).T
    return (base + total).to(group.base.tensor)


NAMES = {method.spec.name: method for method in (random_swap, regmean, wudi)}
for _method in NAMES.values():
    registry.register(_method)
