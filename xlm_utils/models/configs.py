"""What a model folder's config and tokenizer mean, defaults filled in; and a config that transformers 4 and 5 read alike."""

import json
from pathlib import Path

from xlm_utils.models.libraries import PretrainedConfig, PreTrainedTokenizerBase, quiet, transformers
from xlm_utils.study import StudyError

OLD_ROPE = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")  # transformers 4; 5 has rope_parameters
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError)  # what transformers raises of files it can't read
SHAPE = (  # what must be one in models that merge, or their tensors differ
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "attention_bias", "mlp_bias")  # fmt: skip


def read_config(file: Path, model: str) -> PretrainedConfig:
    """The config of a causal language model of text, from its ``config.json``; ``model``: how to call it in an error.

    A StudyError: no such file, not JSON, an adapter's, quantised, with code of its own, or of a model that is not only one of text.
    """
    if not file.is_file():
        if (file.parent / "adapter_config.json").is_file():
            raise StudyError(f"{model}: an adapter, not a model: give it as adapter: beside the weights of its base")
        raise StudyError(f"{model}: there is no config.json, so no model")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"{model}: config.json is not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise StudyError(f"{model}: config.json holds no mapping")
    quiet()
    kind, architecture = raw.get("model_type"), " ".join(raw.get("architectures") or [])
    if kind not in transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES:
        own = "it brings code of its own, which is not run" if "auto_map" in raw else "this version of transformers has no such"
        raise StudyError(f"{model}: the model type {kind!r} is not one of transformers: {own}")
    if raw.get("quantization_config"):
        how = raw["quantization_config"].get("quant_method", "in some way")
        raise StudyError(f"{model}: its weights are quantised ({how}), and such can't be merged; take the model in 16 bits")
    try:
        config = transformers.AutoConfig.from_pretrained(file.parent if file.name == "config.json" else file, trust_remote_code=False)
    except UNREADABLE as error:
        raise StudyError(f"{model}: config.json can't be read ({str(error).splitlines()[0]})") from None
    if config.get_text_config() is not config:
        raise StudyError(f"{model}: {architecture or kind} is more than a model of text, and MergeKit can't merge it; take its text model")
    if architecture not in transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise StudyError(f"{model}: its architecture is {architecture or 'not named'}, and only causal language models of transformers merge")
    return config


def meaning(config: PretrainedConfig) -> dict[str, object]:
    """What parents must share or should: property → value, defaults filled in."""
    heads = getattr(config, "num_attention_heads", None)  # Mamba has none
    values = {key: getattr(config, key, None) for key in SHAPE}
    values["num_key_value_heads"] = values["num_key_value_heads"] or heads
    values["head_dim"] = values["head_dim"] or (config.hidden_size // heads if heads else None)
    epsilons = [getattr(config, key) for key in ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps") if hasattr(config, key)]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return {
        "architectures": " ".join(config.architectures), **values, "tie_word_embeddings": bool(config.tie_word_embeddings),
        "RoPE": json.dumps(getattr(config, "rope_parameters", None), sort_keys=True), "sliding window": window or "none",
        "norm epsilon": epsilons[0] if epsilons else None}  # fmt: skip


def spell_rope_twice(folder: Path, like: Path | None = None) -> None:
    """Add transformers 4's keys to a ``config.json`` that transformers 5 has written: it would read 10000 for a Llama-3's 500000.

    ``like``: a model folder whose own spelling is kept, where it has the older one.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    full = rope.get("full_attention", rope)  # Gemma-3 has one for each kind of layer
    if "rope_theta" not in full:
        return
    old = {key: full[key] for key in ("rope_theta", "partial_rotary_factor") if key in full}
    if "sliding_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    if full.get("rope_type", "default") != "default":
        old["rope_scaling"] = {key: value for key, value in full.items() if key not in OLD_ROPE}
    if like:
        theirs = json.loads((like / "config.json").read_text(encoding="utf-8"))
        old |= {key: theirs[key] for key in OLD_ROPE if theirs.get(key) is not None}
    file.write_text(json.dumps(config | old, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_tokenizer(folder: Path, model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder. A StudyError: there is none that can be read."""
    quiet()
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except UNREADABLE as error:
        raise StudyError(f"{model}: no tokenizer that can be read is in {folder} ({str(error).strip().splitlines()[0]})") from None
