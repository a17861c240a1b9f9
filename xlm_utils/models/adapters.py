"""LoRA adapters: where one is, whether it fits its base, and base + adapter as one model."""

import json
import re
from pathlib import Path

from xlm_utils.models import hub
from xlm_utils.models.configs import read_config
from xlm_utils.models.libraries import PretrainedConfig, PreTrainedModel, torch, transformers
from xlm_utils.models.weights import opened
from xlm_utils.study import StudyError, project_path

WITHOUT_ADAPTER = {"adapter_kwargs": {"subfolder": "none"}}  # for from_pretrained, which applies an adapter left in a model's folder once more
PARTS = r"lora_\w+|modules_to_save|original_module|base_layer|trainable_tokens\w*|ia3_l|oft_\w+|weight|bias"
PART = re.compile(rf"(?P<module>.+?)\.(?P<part>{PARTS})(\..+)?")


def find(adapter: str) -> Path:
    """The folder of an adapter: as named, below the repository's root, or fetched from the hub. A StudyError: it is nowhere."""
    if (folder := project_path(adapter)).is_dir():
        return folder
    if adapter.count("/") != 1 or adapter.startswith((".", "/", "~")):
        raise StudyError(f"adapter {adapter}: there is no such folder")
    return hub.from_hub(adapter, None, hub.ADAPTER)


def check(adapter: Path, config: PretrainedConfig, base: str) -> int:
    """Whether every tensor of an adapter has its place in a base model, told from names and shapes alone.

    ``base``: the weights that the study names. Returns the rows of the vocabulary that the adapter was made for: the base's, or more where it adds
    tokens. A StudyError: files are missing or unreadable, a tensor doesn't fit, or the adapter changes a head tied to its embedding.
    """
    about, shapes = read(adapter)
    named = about.get("base_model_name_or_path") or base
    named, ours = (re.sub(r"[\W_]", "", str(name).rstrip("/").rpartition("/")[2].lower()) for name in (named, base.removeprefix("wheel:")))
    if named not in (ours, ours[: len(named)] if base.startswith("wheel:") else ours):  # a wheel's name says how it is packed, too
        print(f"adapter {adapter.name}: it names {about['base_model_name_or_path']} as its base, and the study gives it {base}")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    embeddings = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    places = {name: module for name, module in model.named_modules() if getattr(module, "weight", None) is not None}
    rows, unfit, turned = config.vocab_size, [], (transformers.pytorch_utils.Conv1D, torch.nn.Embedding)
    for key, shape in shapes.items():
        found = PART.fullmatch(key.removeprefix("base_model.model."))
        module = places.get(found["module"]) if found else None
        if module is None:
            unfit.append(f"{key} has no place")
            continue
        weight, part = module.weight, found["part"]
        out, into = weight.shape[::-1] if isinstance(module, turned) and len(weight.shape) == 2 else (weight.shape * 2)[:2]
        expected = {"lora_A": (shape[0], into), "lora_embedding_A": (shape[0], into), "weight": tuple(weight.shape)}
        expected |= {"lora_B": (out, shape[-1]), "lora_embedding_B": (out, shape[-1])}
        saved = found["module"].rpartition(".")[2] in (about.get("modules_to_save") or ())
        if id(weight) in embeddings and part in ("weight", "base_layer", "modules_to_save"):
            rows = max(rows, shape[0])
            expected["weight"] = (rows, *weight.shape[1:])
        if shape != expected.get(part, shape):
            unfit.append(f"{key} has the shape {shape}, and its place {expected[part]}")
        if id(weight) in embeddings and config.tie_word_embeddings and (saved or part.startswith(("lora", "trainable"))):
            raise StudyError(f"adapter {adapter.name}: it changes {found['module']}, which {base} ties to its other end; merged, it is another model")
    if unfit:
        how_many = "no key of the adapter fits" if len(unfit) == len(shapes) else f"{len(unfit)} of its {len(shapes)} tensors don't fit"
        raise StudyError(f"adapter {adapter.name}: {how_many} the base {base}: {unfit[0]}")
    if rows != config.vocab_size and not (adapter / "tokenizer_config.json").is_file():
        raise StudyError(f"adapter {adapter.name}: it has {rows} rows of vocabulary, {base} has {config.vocab_size}, and it brings no tokenizer")
    return rows


def applied(base: Path, adapter: Path, called: str) -> PreTrainedModel:
    """Base + adapter in float32, as one model without an adapter; rows for tokens that the adapter adds are appended first.

    A StudyError: the adapter doesn't fit, see ``check``.
    """
    from peft import PeftModel

    rows = check(adapter, read_config(base / "config.json", called), called)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **WITHOUT_ADAPTER)
    if rows != model.config.vocab_size:
        print(f"adapter {adapter.name}: it adds {rows - model.config.vocab_size} rows to the vocabulary")
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def read(adapter: Path) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """An adapter's config, and its tensors' shapes. A StudyError: a file is missing or can't be read."""
    file, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    if not config.is_file():
        raise StudyError(f"adapter {adapter}: there is no adapter_config.json in it")
    try:
        about = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"adapter {adapter}: adapter_config.json is not JSON ({error})") from None
    if not file.is_file():
        raise StudyError(f"adapter {adapter}: there is no adapter_model.safetensors in it")
    tensors = opened(file)
    return about, {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
