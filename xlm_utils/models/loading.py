"""From a folder of weights to a loaded model that decodes greedily and knows where to stop; rows that have finished leave their batch."""

import gc
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from xlm_utils.models.constituents import WITHOUT_ADAPTER, locate
from xlm_utils.models.libraries import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, Tensor, quiet, torch, transformers
from xlm_utils.models.turns import as_list, leave_open, stop_tokens
from xlm_utils.models.weights import EMBEDDINGS, HEAD, Tensors, eos_ids
from xlm_utils.study import Study, StudyError, pick_device

SAMPLING = {"use_cache", "do_sample", "temperature", "top_k", "top_p", "max_length", "max_new_tokens"}  # no say in greedy decoding
UNSAID = SAMPLING | {"eos_token_id", "bos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "cache_implementation"}
SEGMENT = {"cuda": 16, "cpu": 4}  # steps between two looks at which rows have finished; on a GPU a row costs little and a look a wait
BLOCK = 64  # weights that share one scale in nf4


def pick_dtype(study: Study, device: str) -> tuple[str, str]:
    """Name of the dtype to compute in, and the reason for it."""
    if study.generation.dtype != "auto":
        return study.generation.dtype, "set by the study"
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU computes in bfloat16"
        return "float16", "the GPU has no bfloat16 units"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and re.search("amx_bf16|avx512_bf16", cpuinfo.read_text(encoding="utf-8")):
        return "bfloat16", "the CPU has bfloat16 instructions"
    return "float32", "the CPU has no bfloat16 instructions"


def check_blocks(name: str, shapes: Mapping[str, tuple[int, ...]], device: str) -> None:
    """Stop if nf4 would scramble this model: on a CPU, bitsandbytes 0.50.2 gives weights in rows of broken blocks each other's scales.

    A StudyError: a layer's rows are no whole blocks of 64.
    """
    for tensor, shape in shapes.items() if device == "cpu" else ():
        if len(shape) == 2 and shape[1] % BLOCK and tensor != HEAD and not EMBEDDINGS.search(tensor):
            rule, here = f"the rows of every layer must be whole blocks of {BLOCK} weights", f"those of {name}'s {tensor} have {shape[1]:,}"
            raise StudyError(f"generation.quantization = 'nf4': on a CPU {rule}, and {here}; take int8 or none, or a GPU")


def can_drop_rows(model: PreTrainedModel) -> bool:
    """Whether finished rows can leave a batch: attention's cache can be cut by row, the state of a linear or convolutional layer can't."""
    return all(hasattr(layer, "batch_select_indices") for layer in transformers.DynamicCache(config=model.config).layers)


def load(study: Study, name: str, dtype: str = "") -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Load a constituent or merge for inference.

    Returns the model in evaluation mode on the picked device, its tokenizer (left-padding), and one line: where and how it was loaded, and why.
    """
    quiet()
    gc.collect()  # the model before, if frames of its imports or hooks for its devices hold it
    gc.freeze()  # what is left is no garbage, and to look at it again takes a second
    folder = locate(study, name)
    device, device_reason = pick_device()
    dtype, dtype_reason = (dtype, "asked for") if dtype else pick_dtype(study, device)
    plain = transformers.GenerationConfig()  # its own may not even load
    options: dict = {"dtype": getattr(torch, dtype), "device_map": device, "generation_config": plain}
    quantization = study.generation.quantization
    if quantization == "nf4":
        check_blocks(name, Tensors(folder).shapes, device)
    if quantization != "none":
        four = {"load_in_4bit": quantization == "nf4", "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": getattr(torch, dtype)}
        options["quantization_config"] = transformers.BitsAndBytesConfig(load_in_8bit=quantization == "int8", **four)
    if (folder / "adapter_config.json").is_file():
        print(f"{name}: the adapter in its folder is left aside; the folder's whole weights are the model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options, **WITHOUT_ADAPTER).eval()
    tokenizer = leave_open(transformers.AutoTokenizer.from_pretrained(folder, padding_side="left"), name)
    prompt = tokenizer("Term: asthma\nDefinition:", return_tensors="pt").to(model.device)
    with torch.inference_mode():  # Gemma-3, for one, was trained in bfloat16 and exceeds float16's 65,504
        overflows = dtype == "float16" and not torch.isfinite(model(**prompt).logits).all()
    if overflows:
        if study.generation.dtype == "float16":
            raise StudyError(f"generation.dtype = 'float16': {name} overflows in it; take bfloat16 or float32")
        print(f"{name} overflows in float16 (its scores are not finite): loaded again in float32")
        del model
        return load(study, name, dtype="float32")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    file = folder / "generation_config.json"  # a penalty or a stop string of its own would set it apart
    given = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    left = ", ".join(f"{key} = {value}" for key, value in given.items() if key not in UNSAID and value and (value != 1 or key.endswith("_id")))
    if left:
        print(f"{name}: left out of its generation config, since decoding is plain greedy: {left}")
    stops = stop_tokens(eos_ids(folder), tokenizer)
    model.generation_config = transformers.GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)
    how = f"{name} on {device} ({device_reason}) in {dtype} ({dtype_reason}), quantization {quantization}"
    return model, tokenizer, f"{how}, stops at {' '.join(tokenizer.convert_ids_to_tokens(stops))}"


def continuations(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, most: int, done: Callable[[list[int]], bool],
    cache: DynamicCache | None = None) -> list[list[int]]:  # fmt: skip
    """The tokens that ``generate`` puts behind each row, at most ``most``; what a row says after it is done may be among them.

    The cache goes on from segment to segment, so nothing is computed twice. ``done``: whether a row has finished with these tokens, beside by a stop
    token; ``cache``: keys and values of the first columns of ``ids``.
    """
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
