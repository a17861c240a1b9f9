"""Checkpoints read tensor by tensor, and the tokens that end a generation."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from xlm_utils.models.configs import read_config
from xlm_utils.study import StudyError

if TYPE_CHECKING:
    import torch

ROWS = 64  # of each matrix, to estimate a distance without reading a model whole
FLOATING = ("F64", "F32", "F16", "BF16")  # in a safetensors header; others are quantised
BUFFERS = re.compile(r"(rotary_emb\.\w+|position_ids|masked_bias|\battn\.bias|\battention\.bias)$")  # stored by older versions, made anew on loading
EMBEDDINGS = re.compile("emb(?!ed_out)|wte|wpe")  # embed_out is GPT-NeoX's head
LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # the first number in a tensor's name; an expert's of a mixture stands behind it
HEAD = "lm_head.weight"
CHUNK = 1 << 18  # weights handled at a time: the working set stays in the CPU's cache


class Tensors:
    """The tensors of a checkpoint folder (``model.safetensors``, or the files of its index), read one at a time.

    Buffers are none of them, nor is a head that is stored although it is the embedding, tied. A StudyError: a file is missing or not whole.
    """

    def __init__(self, folder: Path):
        from safetensors import safe_open

        headers = {file: header(file) for file in weight_files(folder)}
        about = {name: (file, entry) for file, entries in headers.items() for name, entry in entries.items() if not BUFFERS.search(name)}
        opened = {file: safe_open(file, "pt") for file in headers}
        self._file = {name: opened[file] for name, (file, _) in about.items()}
        self.shapes = {name: tuple(about[name][1]["shape"]) for name in sorted(about)}
        self.dtypes = {name: about[name][1]["dtype"] for name in self.shapes}
        if HEAD in self.shapes and (folder / "config.json").is_file() and read_config(folder / "config.json", folder.name).tie_word_embeddings:
            same = [name for name, shape in self.shapes.items() if EMBEDDINGS.search(name) and shape == self.shapes[HEAD]]
            if any(self[name].equal(self[HEAD]) for name in same):
                del self.shapes[HEAD], self.dtypes[HEAD]

    def __getitem__(self, name: str) -> "torch.Tensor":
        return self._file[name].get_tensor(name)

    @property
    def layers(self) -> int:
        """How many layers the tensors' names count."""
        return 1 + max((int(found[1]) for found in map(LAYER.search, self.shapes) if found), default=-1)

    def head(self, name: str) -> "torch.Tensor":
        """The first rows of a matrix, without reading the others, in float64."""
        return self._file[name].get_slice(name)[:ROWS].double()


def squared_distance(ours: "torch.Tensor", theirs: "torch.Tensor") -> float:
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


def header(file: Path) -> dict[str, dict]:
    """Tensor name → ``dtype``, ``shape`` and ``data_offsets`` in a safetensors file.

    A StudyError: it is a pointer of git-lfs, cut off, or something else.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            raise StudyError(f"{file} is a git-lfs pointer, not the weights: run git lfs pull there")
        length = int.from_bytes(start, "little")
        text = stream.read(length) if len(start) == 8 and length < file.stat().st_size else b""
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        whole = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError):
        raise StudyError(f"{file} is cut off, or no safetensors file: its header can't be read") from None
    if file.stat().st_size < whole:
        raise StudyError(f"{file} is cut off: {file.stat().st_size:,} of {whole:,} bytes are there")
    return entries


def eos_ids(folder: Path) -> list[int]:
    """Ids of the tokens that end a generation: of the generation config if it names any, else of the config."""
    for file in ("generation_config.json", "config.json"):
        if (folder / file).exists():
            ids = json.loads((folder / file).read_text(encoding="utf-8")).get("eos_token_id")
            if ids is not None:
                return ids if isinstance(ids, list) else [ids]
    return []
