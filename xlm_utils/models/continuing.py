"""Greedy continuations in segments of a few steps; rows that have finished leave between two."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from xlm_utils.models.loading import can_drop_rows
from xlm_utils.models.turns import as_list

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel

SEGMENT = {"cuda": 16, "cpu": 4}  # steps between two looks at which rows have finished; on a GPU a row costs little and a look a wait


def continuations(
    model: "PreTrainedModel", ids: "torch.Tensor", mask: "torch.Tensor", most: int, done: Callable[[list[int]], bool],
    cache: "DynamicCache | None" = None) -> list[list[int]]:
    """The tokens that ``generate`` puts behind each row, at most ``most``; what a row says after it is done may be among them.

    The cache goes on from segment to segment, so nothing is computed twice.

    Args:
        done: whether a row has finished with these tokens, beside by a stop token.
        cache: keys and values of the first columns of ``ids``.
    """
    import torch

    # a hybrid's state (Qwen3.5, LFM2) can't be cut by row, so its batches stay whole
    last, segment = ids.shape[1] + most, SEGMENT[ids.device.type] if can_drop_rows(model) else most
    stops = set(as_list(model.generation_config.eos_token_id))
    said: list[list[int]] = [[] for _ in ids]
    pad = model.generation_config.pad_token_id
    rows = list(range(len(ids)))  # that are not finished
    with torch.inference_mode():
        while rows and ids.shape[1] < last:
            output = model.generate(
                input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=min(segment, last - ids.shape[1]),
                do_sample=False, num_beams=1, use_cache=True, pad_token_id=pad, return_dict_in_generate=True)  # fmt: skip
            new = output.sequences[:, ids.shape[1] :]
            for row, tokens in zip(rows, new.tolist(), strict=True):
                said[row] += tokens
            ids, cache = output.sequences, output.past_key_values
            mask = torch.nn.functional.pad(mask, (0, new.shape[1]), value=1)
            going = [i for i, row in enumerate(rows) if stops.isdisjoint(said[row]) and not done(said[row])]
            if 0 < len(going) < len(rows) and ids.shape[1] < last:
                cache.batch_select_indices(torch.tensor(going, device=ids.device))
                ids, mask = ids[going], mask[going]
            rows = [rows[i] for i in going]
    return said
