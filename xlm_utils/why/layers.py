"""What each layer of a model says, by plain forward hooks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from xlm_utils.study import StudyError


def stack(model: PreTrainedModel) -> nn.ModuleList:
    """The model's layers."""
    count = model.config.get_text_config().num_hidden_layers
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count)


def to_logits(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The model's final norm and head, which the logit lens puts behind every layer: (…, width) → (…, vocabulary)."""
    norms = [module for module in model.base_model.children() if "norm" in type(module).__name__.lower()]
    norm, head = norms[-1] if norms else nn.Identity(), model.get_output_embeddings()
    return lambda hidden: head(norm(hidden))


@torch.inference_mode()
def states(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Tensor]:
    """Hidden states behind each layer, a float32 tensor of shape (layers, tokens, width) a text.

    A StudyError: ``to_logits`` behind the last layer is not what the model itself says, so no layer could be read by it.
    """
    outputs, found = [], []
    hooks = [layer.register_forward_hook(lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out)) for layer in stack(model)]
    try:
        for start in range(0, len(texts), 32):
            inputs = tokenizer(texts[start : start + 32], return_tensors="pt", padding=True).to(model.device)
            mask = inputs["attention_mask"]
            outputs.clear()
            said = model(input_ids=inputs["input_ids"], attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1)
            if not torch.allclose(to_logits(model)(outputs[-1][:, -1]).softmax(-1), said.logits[:, -1].softmax(-1), atol=0.01):
                raise StudyError(f"{type(model).__name__}: its final norm and head are not found, so its layers can't be read")
            found += [torch.stack([layer[row, mask[row].bool()] for layer in outputs]).float() for row in range(len(mask))]
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.inference_mode()
def lens(model: PreTrainedModel, hidden: Tensor, *gold: list[set[int]]) -> Tensor:
    """Probability of each text's tokens behind each layer, for every list of ``gold``: states (layers, texts, width) → (lists, layers, texts).

    The logit lens (nostalgebraist 2020), by which languages are told apart (Wendler et al. 2024, arXiv 2402.10588).
    """
    behind = (to_logits(model)(layer.to(model.dtype)).float().softmax(-1) for layer in hidden)
    rows = [torch.stack([row[[*ids]].sum() for own in gold for row, ids in zip(chances, own, strict=True)]) for chances in behind]
    return torch.stack(rows).unflatten(1, (len(gold), -1)).transpose(0, 1)


def meeting(ours: Tensor, theirs: Tensor) -> Tensor:
    """Which texts and their translations are each other's only nearest neighbours, by cosine: (layers, texts, width) twice → (layers, texts).

    MEXA's alignment score is their share (Kargaran et al. 2024, arXiv 2410.05873); of n unrelated pairs, 1 in 2n − 1.
    """
    ours, theirs = nn.functional.normalize(ours, dim=-1), nn.functional.normalize(theirs, dim=-1)
    similar = ours @ theirs.mT
    own = similar.diagonal(dim1=1, dim2=2)
    return ((similar >= own[:, :, None]).sum(2) == 1) & ((similar >= own[:, None]).sum(1) == 1)


def distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """L2 distance of one model's states of a text from another's, over the L2 norm of theirs, mean over tokens; shape (layers,)."""
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).mean(-1)
