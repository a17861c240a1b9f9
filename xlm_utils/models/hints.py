"""Transformers' classes for annotations, without the seconds that importing them takes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
else:
    PretrainedConfig = PreTrainedModel = PreTrainedTokenizerBase = Any
