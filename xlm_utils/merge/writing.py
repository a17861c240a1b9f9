"""Merged tensors on their way to disk: the files that MergeKit would write, byte for byte, checked, hashed and written behind the merge."""

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from importlib import metadata
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SHARD = 5_000_000_000  # bytes of tensors in a file, as MergeKit has it
PIECE = 1 << 20  # bytes that are checked, hashed and written while they are in the CPU's cache


class Writer:
    """A model's tensors in bfloat16, to be put in the order of their names; ``odd`` becomes the first that holds NaN or Inf."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]):
        self.odd = ""
        self._folder, self._thread, self._hashes = folder, ThreadPoolExecutor(1), {}
        shards: list[dict[str, int]] = [{}]  # tensor → bytes
        for name in sorted(shapes):
            size = 2 * prod(shapes[name])
            if shards[-1] and sum(shards[-1].values()) + size > SHARD:
                shards.append({})
            shards[-1][name] = size
        files = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)] if len(shards) > 1 else ["model.safetensors"]
        self._opens = {next(iter(shard)): (file, _header(shard, shapes)) for file, shard in zip(files, shards, strict=True)}
        folder.mkdir(parents=True)
        if len(shards) > 1:
            about = {"total_size": sum(sum(shard.values()) for shard in shards), "mergekit_version": metadata.version("mergekit")}
            places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": about, "weight_map": places}, indent=2), encoding="utf-8")

    def put(self, name: str, tensor: "torch.Tensor") -> Future:
        """Hand over the next tensor, which must stay as it is until the future is done; an OSError there: the disk is full."""
        import torch

        return self._thread.submit(self._write, name, memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))

    def _write(self, name: str, data: memoryview) -> None:
        if name in self._opens:
            self._close()
            file, head = self._opens[name]
            self._file, self._hashes[file] = (self._folder / file).open("wb"), sha256(head)
            self._hash = self._hashes[file]
            self._file.write(head)
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            if not self.odd and ((np.frombuffer(piece, np.uint16) & 0x7F80) == 0x7F80).any():  # all ones in the exponent
                self.odd = name
            self._hash.update(piece)
            self._file.write(piece)

    def _close(self) -> None:
        if self._hashes:
            self._file.close()

    def finish(self) -> dict[str, str]:
        """File name → SHA-256, when everything is written."""
        self._thread.submit(self._close).result()
        return {file: digest.hexdigest() for file, digest in self._hashes.items()}

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)


def _header(shard: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """What safetensors puts before the tensors of a file: the length of a JSON text, and the text, filled up to whole words."""
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for name, size in shard.items():
        entries[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
