"""Methods of this project, registered beside MergeKit's: a control for swaps of modules, RegMean and WUDI-Merging.

The last two solve for each linear layer, in float64 on the CPU. Embeddings, head, norms and biases are the mean of both models in
RegMean, as in its paper. In WUDI-Merging both task vectors are added to them, as ``chat_vector`` does, so that only what was solved
tells the two apart; its authors' code leaves them the ancestor's.
"""

import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import BasePolicy, InputContract, PerInput, TensorGroup
from mergekit.merge_methods.easy_define import merge_method

from xlm_utils.merge.activations import linear_layers, read_by

NEAR = 0.1  # of the length of the two task vectors' sum: what is nearer to it is called a copy
apart: list[tuple[float, float]] = []  # squared, for each linear layer that WUDI has merged: distance from the task vectors' sum, and its length


def _gram(read: torch.Tensor, alpha: float) -> torch.Tensor:
    """Mean product of the inputs' entries over tokens, those off the diagonal times alpha; shape (inputs, inputs)."""
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
    change = torch.cholesky_solve(second @ (theirs - ours).T, torch.linalg.cholesky(first.add_(second))).T
    return (ours + change).to(general.tensor)


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
        change = -(torch.linalg.pinv(r, rtol=max(cutoff, 1e-14)) @ known).T
        apart.append((float(change.square().sum()), float(total.square().sum())))
        total = total + change
    return (base + total).to(group.base.tensor)


def told(apart: list[tuple[float, float]]) -> str:
    """How far the linear layers of a WUDI merge are from both task vectors added; nothing of a merge by another method."""
    far = (sum(distance for distance, _ in apart) / max(sum(length for _, length in apart), 1e-300)) ** 0.5
    near = ": a near-copy of chat_vector" if far < NEAR else ""
    return f"; {far:.3f} of the length of 1·τ + 1·τ away from it{near}" if apart else ""


NAMES = {method.spec.name: method for method in (random_swap, regmean, wudi)}
for _method in NAMES.values():
    registry.register(_method)
