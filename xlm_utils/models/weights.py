"""Checkpoints read tensor by tensor, and the tokens that end a generation."""

import json
import re
from pathlib import Path

import numpy as np

from xlm_utils.models.configs import read_config
from xlm_utils.models.libraries import Tensor, safe_open, safetensors, torch
from xlm_utils.models.turns import as_list
from xlm_utils.study import StudyError

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
        files = {path: opened(path) for path in weight_files(folder)}
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

    def read(self, name: str) -> Tensor:
        """A tensor in memory of its own: pages of a mapped file stay with the process for as long as it is open."""
        with self._path[name].open("rb") as stream:
            begin, end = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))[name]["data_offsets"]
            data = torch.from_numpy(np.fromfile(stream, np.uint8, end - begin, offset=begin))
        return data.view(self[name].dtype).view(self.shapes[name])

    @property
    def layers(self) -> int:
        """How many layers the tensors' names count."""
        return 1 + max((int(found[1]) for found in map(LAYER.search, self.shapes) if found), default=-1)


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
