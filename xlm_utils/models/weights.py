"""What a model folder holds: config and tokenizer, a config that transformers 4 and 5 read alike, and the tensors, one by one."""

import json
import os
import re
from functools import cache
from pathlib import Path

from xlm_utils.models.buffers import room
from xlm_utils.models.libraries import PretrainedConfig, PreTrainedTokenizerBase, Tensor, quiet, safe_open, safetensors, torch, transformers
from xlm_utils.study import StudyError

OLD_ROPE = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")  # transformers 4; 5 has rope_parameters
NEOX = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}  # GPT-NeoX's names of them
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError)  # what transformers raises of files it can't read
HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")
SHAPE = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", *HEADS, "attention_bias", "mlp_bias")  # or parents' tensors differ
FLOATING = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # in a safetensors header; others are quantised
BUFFERS = re.compile(r"(rotary_emb\.\w+|position_ids|masked_bias|\battn\.bias|\battention\.bias)$")  # stored by older versions, made anew on loading
EMBEDDINGS = re.compile("emb(?!ed_out)|wte|wpe")  # embed_out is GPT-NeoX's head
LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # the first number in a tensor's name; an expert's of a mixture stands behind it
HEAD = "lm_head.weight"
CHUNK = 1 << 18  # weights handled at a time: the working set stays in the CPU's cache


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


def older_rope(config: dict) -> dict[str, object]:
    """What the content of a config.json with rope_parameters lacks for transformers 4, or has otherwise: that reads 10000 for a Llama-3's 500000."""
    rope = config.get("rope_parameters") or {}
    full = rope.get("full_attention", rope)  # Gemma-3 has one for each kind of layer
    old = {key: full[key] for key in ("rope_theta", "partial_rotary_factor") if key in full}
    if config.get("model_type") == "gpt_neox":
        old |= {name: old[key] for name, key in NEOX.items() if key in old}
    if "sliding_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"].get("rope_theta")
    if full.get("rope_type", "default") != "default":
        old["rope_scaling"] = config.get("rope_scaling") or {key: value for key, value in full.items() if key not in OLD_ROPE}
    return {key: value for key, value in old.items() if "rope_theta" in old and config.get(key) != value}


def spell_rope_twice(folder: Path, like: Path | None = None) -> None:
    """Add that to what transformers 5 has written; ``like``: a model folder whose own spelling is kept, where it has the older one."""
    config, theirs = (json.loads((of / "config.json").read_text(encoding="utf-8")) for of in (folder, like or folder))
    if old := older_rope(config):
        old |= {key: theirs[key] for key in OLD_ROPE if theirs.get(key) is not None and (key == "rope_scaling" or key not in old)}
        (folder / "config.json").write_text(json.dumps(config | old, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_tokenizer(folder: Path, model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder. A StudyError: there is none that can be read."""
    quiet()
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except UNREADABLE as error:
        raise StudyError(f"{model}: no tokenizer that can be read is in {folder} ({str(error).strip().splitlines()[0]})") from None


class Tensors:
    """The tensors of a checkpoint folder (``model.safetensors``, or the files of its index), read one at a time.

    Buffers are none of them, nor is a head that is stored although it is the embedding, tied. A StudyError: a file is missing or not whole.
    """

    def __init__(self, folder: Path):
        files, self._head = {path: opened(path) for path in weight_files(folder)}, cache(_head)
        self._path = {name: path for path, file in files.items() for name in file.keys() if not BUFFERS.search(name)}  # noqa: SIM118
        self._file = {name: files[path] for name, path in sorted(self._path.items())}
        about = {name: file.get_slice(name) for name, file in self._file.items()}
        self.shapes = {name: tuple(part.get_shape()) for name, part in about.items()}
        self.dtypes = {name: part.get_dtype() for name, part in about.items()}
        if HEAD in self.shapes and (folder / "config.json").is_file() and read_config(folder / "config.json", folder.name).tie_word_embeddings:
            same = [name for name, shape in self.shapes.items() if EMBEDDINGS.search(name) and shape == self.shapes[HEAD]]
            if any(self[name].equal(self[HEAD]) for name in same):
                del self.shapes[HEAD], self.dtypes[HEAD]

    def __getitem__(self, name: str) -> Tensor:
        return self._file[name].get_tensor(name)

    def read(self, name: str, keep: bool = True) -> Tensor:
        """A tensor in memory of its own: pages of a mapped file stay with the process for as long as it is open. ``keep``: of ``let_go``."""
        start, head = self._head(self._path[name])
        begin, end = head[name]["data_offsets"]
        with self._path[name].open("rb") as file:
            file.seek(start + begin)
            if file.readinto(data := room(end - begin)) < len(data):
                raise StudyError(f"{self._path[name]}: cut off since the merge began")
            let_go(file.fileno(), keep, start + begin, end - begin)
        return torch.from_numpy(data).view(getattr(torch, FLOATING[self.dtypes[name]])).view(self.shapes[name])

    @property
    def layers(self) -> int:
        """How many layers the tensors' names count."""
        return 1 + max((int(found[1]) for found in map(LAYER.search, self.shapes) if found), default=-1)


def let_go(file: int, keep: bool, start: int = 0, length: int = 0) -> None:
    """Unless asked to ``keep`` them, have the system drop an open file's bytes (from ``start`` on) from its cache, and begin to write those due."""
    if not keep and hasattr(os, "posix_fadvise"):  # macOS has none
        os.posix_fadvise(file, start, length, os.POSIX_FADV_DONTNEED)


def _head(file: Path) -> tuple[int, dict]:  # where its tensors begin, and where each lies from there on
    with file.open("rb") as stream:
        return 8 + (size := int.from_bytes(stream.read(8), "little")), json.loads(stream.read(size))


def squared_distance(ours: Tensor, theirs: Tensor) -> float:
    """Sum of the squared differences of two tensors, in float32 a piece at a time."""
    pairs = zip(ours.reshape(-1).split(CHUNK), theirs.reshape(-1).split(CHUNK), strict=True)
    return sum(float((one.float() - other.float()).square().sum()) for one, other in pairs)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's tensors. A StudyError: there are none, one that the index names is missing, or it is unclear which ones."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not index.exists():
        if not single.exists():
            raise StudyError(f"{folder}: no model.safetensors is there, and no other weights can be merged")
        return [single]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError) as error:
        raise StudyError(f"{folder}: {index.name} can't be read ({error!r})") from None
    for name in names:
        if not (folder / name).exists():
            raise StudyError(f"{folder}: {name} is missing, and {index.name} names it")
    if single.exists() and single.name not in names:
        raise StudyError(f"{folder}: there is {single.name} beside {index.name} of other files: two models; keep one")
    return [folder / name for name in names]


def opened(file: Path) -> safe_open:
    """A safetensors file of which the header has been read. A StudyError: it is a pointer of git-lfs, cut off, or something else."""
    try:
        return safetensors.safe_open(file, "pt")
    except safetensors.SafetensorError as error:
        with file.open("rb") as stream:
            is_pointer = stream.read(8) == b"version "
        what = "is a git-lfs pointer, not the weights: run git lfs pull there" if is_pointer else f"is cut off, or no safetensors file ({error})"
        raise StudyError(f"{file} {what}") from None


def eos_ids(folder: Path) -> list[int]:
    """Ids of the tokens that end a generation: of the generation config if it names any, else of the config."""
    for file in (folder / "generation_config.json", folder / "config.json"):
        if file.exists() and (ids := json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")) is not None:
            return as_list(ids)
    return []


def as_list(ids: int | list[int] | None) -> list[int]:
    """Token ids as configs give them: one, several or none."""
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
