"""The model libraries, kept quiet; and their classes for annotations, without the seconds that importing them takes."""

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safetensors import safe_open
    from torch import Tensor
    from transformers import DynamicCache, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
else:
    safe_open = Tensor = DynamicCache = PretrainedConfig = PreTrainedModel = PreTrainedTokenizerBase = Any


def quiet() -> None:
    """Silence progress bars and notices of the model libraries that a user can't act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses CPU kernels that nobody asked for
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # PEFT's call, not the user's
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
