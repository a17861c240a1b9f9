"""The model libraries: kept quiet, and imported when they are first used, since that takes seconds."""

import importlib
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets
    import safetensors
    import torch
    import transformers
    from datasets import DatasetDict
    from lm_eval.api.model import LM
    from lm_eval.api.task import ConfigurableTask
    from safetensors import safe_open
    from torch import Tensor
    from transformers import DynamicCache, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
else:
    DatasetDict = LM = ConfigurableTask = safe_open = Tensor = DynamicCache = PretrainedConfig = PreTrainedModel = PreTrainedTokenizerBase = Any

    class _Later:
        def __init__(self, library: str):
            self._library = library

        def __getattr__(self, part: str) -> Any:
            return getattr(importlib.import_module(self._library), part)

    datasets, safetensors, torch, transformers = map(_Later, ("datasets", "safetensors", "torch", "transformers"))


def quiet() -> None:
    """Silence progress bars and notices of the model libraries that a user can't act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses CPU kernels that nobody asked for
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # PEFT's call, not the user's
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
