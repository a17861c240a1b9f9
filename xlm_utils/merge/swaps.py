"""A control for merges that swap whole modules: matrices swapped by lot. Registered beside MergeKit's own methods."""

import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import BasePolicy, InputContract, TensorGroup
from mergekit.merge_methods.easy_define import merge_method


@merge_method(name="random_swap", contract=InputContract(base=BasePolicy.REQUIRED, min_inputs=2, max_inputs=2))
def random_swap(group: TensorGroup, share: float) -> torch.Tensor:
    """The expert's tensor with the chance ``share``, else the base's; one number is drawn for every tensor, so that seeds tell draws apart."""
    return (group.non_base[0] if torch.rand(()) < share else group.base).tensor


registry.register(random_swap)
