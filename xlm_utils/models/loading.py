"""From a folder of weights to a loaded model that decodes greedily and knows where to stop."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from xlm_utils.models.adapters import WITHOUT_ADAPTER
from xlm_utils.models.constituents import locate
from xlm_utils.models.libraries import quiet
from xlm_utils.models.weights import EMBEDDINGS, HEAD, Tensors
from xlm_utils.study import Study, StudyError, pick_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BLOCK = 64  # weights that share one scale in nf4
NOT_GREEDY = ("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "min_length", "suppress_tokens", "bad_words_ids")


def pick_dtype(study: Study, device: str) -> tuple[str, str]:
    """Name of the dtype to compute in, and the reason for it."""
    if study.generation.dtype != "auto":
        return study.generation.dtype, "set by the study"
    import torch

    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU computes in bfloat16"
        return "float16", "the GPU has no bfloat16 units"
    if "amx_bf16" in _cpu_flags() or "avx512_bf16" in _cpu_flags():
        return "bfloat16", "the CPU has bfloat16 instructions"
    return "float32", "the CPU has no bfloat16 instructions"


def check_backend(study: Study) -> None:
    """Stop, before anything is loaded, if this machine has no use of the study's backend, or it of the study.

    Raises:
        StudyError: vLLM is not installed, or can't load what the study asks for.
    """
    if study.generation.backend == "hf":
        return
    if (asked := study.generation.quantization) != "none":  # it gave up bitsandbytes, and its own ways give other weights than the backend hf
        raise StudyError(f"generation.quantization = {asked!r}: the backend vllm loads none; take that, or the backend hf")
    if find_spec("vllm") is None:
        raise StudyError("backend vllm: the package is not installed; it needs Linux, a GPU, and an environment of its own, as it replaces torch")


def check_blocks(name: str, shapes: Mapping[str, tuple[int, ...]], device: str) -> None:
    """Stop if nf4 would scramble this model: on a CPU, bitsandbytes 0.50.2 gives weights in rows of broken blocks each other's scales.

    Raises:
        StudyError: a layer's rows are no whole blocks of 64.
    """
    for tensor, shape in shapes.items() if device == "cpu" else ():
        if len(shape) == 2 and shape[1] % BLOCK and tensor != HEAD and not EMBEDDINGS.search(tensor):
            raise StudyError(
                f"generation.quantization = 'nf4': on a CPU the rows of every layer must be whole blocks of {BLOCK} weights, and those of {name}'s"
                f" {tensor} have {shape[1]:,}; take int8 or none, or a GPU"
            )


def _cpu_flags() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text() if cpuinfo.exists() else ""


def load(study: Study, name: str, dtype: str = "") -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Load a constituent or merge for inference.

    Returns:
        model in evaluation mode on the picked device, its tokenizer (left-padding), and one line
        that says where and how it was loaded, with the reasons.
    """
    quiet()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    folder = locate(study, name)
    device, device_reason = pick_device()
    dtype, dtype_reason = (dtype, "asked for") if dtype else pick_dtype(study, device)
    options: dict = {"dtype": getattr(torch, dtype), "device_map": device}
    quantization = study.generation.quantization
    if quantization == "nf4":
        check_blocks(name, Tensors(folder).shapes, device)
    if quantization != "none":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantization == "int8", load_in_4bit=quantization == "nf4",
            bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype),
        )  # fmt: skip
    if (folder / "adapter_config.json").is_file():
        print(f"{name}: the adapter in its folder is left aside; the folder's whole weights are the model")
    model = AutoModelForCausalLM.from_pretrained(folder, **options, **WITHOUT_ADAPTER).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    if dtype == "float16" and not _finite(model, tokenizer):
        if study.generation.dtype == "float16":
            raise StudyError(f"generation.dtype = 'float16': {name} overflows in it; take bfloat16 or float32")
        print(f"{name} overflows in float16 (its scores are not finite): loaded again in float32")
        del model
        return load(study, name, dtype="float32")
    for setting in NOT_GREEDY:  # or models with and without them would be compared, and vLLM would not follow
        if (value := getattr(model.generation_config, setting, None)) not in (None, 1.0, 0):
            print(f"{name}: {setting} = {value} in its generation config is left out: decoding is plain greedy")
            setattr(model.generation_config, setting, None)
    model.generation_config.cache_implementation = None  # decoding goes on from a cache of its own
    model.generation_config.eos_token_id = stops = stop_tokens(model.generation_config.eos_token_id, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    how = f"{name} on {device} ({device_reason}) in {dtype} ({dtype_reason}), quantization {quantization}"
    return model, tokenizer, f"{how}, stops at {' '.join(tokenizer.convert_ids_to_tokens(stops))}"


def _finite(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the scores after a short prompt are numbers: Gemma-3, for one, was trained in bfloat16 and exceeds float16's 65,504."""
    import torch

    with torch.inference_mode():
        return bool(torch.isfinite(model(**tokenizer("Term: asthma\nDefinition:", return_tensors="pt").to(model.device)).logits).all())


def stop_tokens(eos: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an answer: the generation config's ``eos``, the tokenizer's own, and what the chat template ends a turn with.

    A fine-tune or merge whose generation config knows ``<|end_of_text|>`` alone would otherwise run on
    after Llama-3's ``<|eot_id|>`` until it is cut off. The end of a turn is read from the template
    itself: the special token right behind an assistant's message.
    """
    found = {*as_list(eos), *as_list(tokenizer.eos_token_id)}
    if tokenizer.chat_template:
        answer = "ANSWER"
        turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": answer}]
        tail = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(answer)[2]
        behind = tokenizer(tail, add_special_tokens=False)["input_ids"][:1]
        found.update(token for token in behind if token in tokenizer.added_tokens_decoder)
    return sorted(found)


def as_list(ids: int | list[int] | None) -> list[int]:
    """Token ids as configs give them: one, several or none."""
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
