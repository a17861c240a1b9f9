"""Prompts → greedy continuations: a batch size that the memory holds, and finished rows that leave early.

A decoding step reads every weight once, however many rows there are, so rows are nearly free until arithmetic takes over; and definitions differ in
length, so a batch that waits for its longest row computes mostly padding. Hence large batches that shrink as their rows finish.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import psutil

from xlm_utils import models
from xlm_utils.models.libraries import PreTrainedModel, PreTrainedTokenizerBase, torch
from xlm_utils.study import Study

SHARE = {"cuda": 0.8, "cpu": 0.5}  # of the free memory; on a CPU other programs live there, too, and overstepping kills without a word
MOST_ROWS = {"cuda": 512, "cpu": 256}  # more gain little, and a killed run loses a batch
LOOP = 8  # tokens; a row that says so many again, in the same order, has begun to repeat itself
OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")  # in a plain RuntimeError


class Writer(NamedTuple):
    """A model that is ready to write: what it runs on, and its two functions."""

    tokenizer: PreTrainedTokenizerBase
    how: str  # one line to print
    facts: dict  # for the manifest: device, dtype, quantization, stop_tokens
    complete: Callable[[list[str]], list[dict]]
    batch_size: Callable[[list[str]], tuple[int, str]]  # of the study's prompts; with the reason


def writer(study: Study, name: str) -> Writer:
    """Load a constituent or merge for writing."""
    most, templated, loops = study.generation.max_new_tokens, study.generation.chat_template, study.generation.stop_at_loop
    model, tokenizer, how = models.load(study, name)
    stops = tokenizer.convert_ids_to_tokens(models.as_list(model.generation_config.eos_token_id))
    facts = {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch."), "quantization": study.generation.quantization}
    answer = partial(complete, model, tokenizer, max_new_tokens=most, templated=templated, stop_at_loop=loops)
    return Writer(tokenizer, how, facts | {"stop_tokens": stops}, answer, partial(pick_batch_size, study, model, tokenizer))


def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_new_tokens: int, templated: bool = False,
    stop_at_loop: bool = False) -> list[dict]:  # fmt: skip
    """Greedy continuations of one batch.

    ``templated``: the prompts bring their own beginning-of-text token; ``stop_at_loop``: a row that repeats eight tokens has finished, and what it
    says again is cut off. Returns one dict a text: definition (stripped, without thoughts), tokens (generated and kept, without the stop token),
    finish (``stop``, ``length``, ``loop`` or ``empty``; a thought that never ends is ``length``).
    """
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not templated).to(model.device)
    stops, rows = models.as_list(model.generation_config.eos_token_id), (batch["input_ids"], batch["attention_mask"])
    said = models.continuations(model, *rows, max_new_tokens, lambda tokens: stop_at_loop and _loop(tokens) is not None)
    return [_row(tokenizer, tokens, stops, stop_at_loop) for tokens in said]


def _row(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stops: list[int], stop_at_loop: bool = False) -> dict:
    end = next((i for i, token in enumerate(tokens) if token in stops), None)
    kept = tokens if end is None else tokens[:end]
    finish = "length" if end is None else "stop"
    if stop_at_loop and (again := _loop(kept)):
        kept, finish = kept[:again], "loop"
    text, thought = models.said(tokenizer, kept)
    if thought == "open" and finish == "stop":
        finish = "length"
    return {"definition": text.strip(), "tokens": len(kept), "finish": finish if text.strip() or thought == "open" else "empty"}


def _loop(tokens: list[int]) -> int | None:
    """Where the first eight tokens that were said before begin for the second time; None if there are none."""
    seen = set()
    for i in range(len(tokens) - LOOP + 1):
        if (words := tuple(tokens[i : i + LOOP])) in seen:
            return i
        seen.add(words)
    return None


def pick_batch_size(study: Study, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[int, str]:
    """Batch size and the reason for it: the study's own, or what the free memory holds (a power of two)."""
    if study.generation.batch_size:
        return study.generation.batch_size, "set by the study"
    device = model.device.type
    free, row = free_memory(device), row_bytes(model, max(map(len, tokenizer(texts)["input_ids"])), study.generation.max_new_tokens)
    size = min(MOST_ROWS[device], 2 ** (max(1, int(SHARE[device] * free / row)).bit_length() - 1))
    why = f"{free / 2**30:.1f} GiB free on {device}, at most {row / 2**20:.1f} MiB a row"
    if size >= len(texts):
        return len(texts), f"all at once: {why}"
    return size, why + (", and more rows gain little" if size == MOST_ROWS[device] else "")


def free_memory(device: str) -> int:
    """Bytes that could be allocated now; on a GPU with what PyTorch holds without using it."""
    if device == "cpu":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def row_bytes(model: PreTrainedModel, prompt_tokens: int, new_tokens: int) -> int:
    """Most memory that one row needs: its keys and values, its prompt's activations, its scores over the vocabulary."""
    config, size = model.config.get_text_config(), model.dtype.itemsize
    queries = getattr(config, "num_attention_heads", None) or 1  # Mamba has none, and a state that is smaller
    head = getattr(config, "head_dim", None) or config.hidden_size // queries
    heads = getattr(config, "num_key_value_heads", None) or queries  # GPT-2 and GPT-NeoX share none
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size  # as GPT-2's is
    keys_values = 2 * config.num_hidden_layers * heads * head * (prompt_tokens + new_tokens) * size
    activations = prompt_tokens * (4 * inner + 8 * config.hidden_size) * size
    scores = config.vocab_size * (size + 4 + 4)  # and the float32 copies that generate ranks
    return int(1.1 * keys_values) + activations + scores  # a tenth: one layer at a time is copied when it grows


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on either kind of device."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in OUT_OF_MEMORY)
