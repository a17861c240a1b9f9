"""Checkpoints read tensor by tensor, and the tokens that end a generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from xlm_utils.study import StudyError

if TYPE_CHECKING:
    import torch

ROWS = 64  # of each matrix, to estimate a distance without reading a model whole


class Tensors:
    """The tensors of a checkpoint folder (one or several safetensors files), read one at a time."""

    def __init__(self, folder: Path):
        from safetensors import safe_open

        files = [safe_open(file, "pt") for file in sorted(folder.glob("*.safetensors"))]
        if not files:
            raise StudyError(f"{folder.name}: no safetensors file in this model's folder")
        self._file = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in sorted(self._file.items())}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file[name].get_tensor(name)

    def head(self, name: str) -> torch.Tensor:
        """The first rows of a matrix, without reading the others, in float64."""
        return self._file[name].get_slice(name)[:ROWS].double()


def eos_ids(folder: Path) -> list[int]:
    """Ids of the tokens that end a generation: of the generation config if it names any, else of the config."""
    for file in ("generation_config.json", "config.json"):
        if (folder / file).exists():
            ids = json.loads((folder / file).read_text(encoding="utf-8")).get("eos_token_id")
            if ids is not None:
                return ids if isinstance(ids, list) else [ids]
    return []
