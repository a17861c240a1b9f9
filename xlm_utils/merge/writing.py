"""Merged tensors on their way to disk: the files that MergeKit would write, byte for byte, checked, hashed and written behind the merge."""

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from importlib import metadata
from math import prod
from pathlib import Path

import numpy as np

from xlm_utils.models.libraries import Tensor, torch
from xlm_utils.models.weights import let_go

SHARD = 5_000_000_000  # bytes of tensors in a file, as MergeKit has it
PIECE = 1 << 20  # bytes that are checked and written while they are in the CPU's cache, beside the hashing of all


class Writer:
    """A model's tensors in bfloat16, to be put in the order of their names; ``odd`` becomes the first with NaN or Inf. ``keep``: of ``let_go``."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], keep: bool = True):
        self.odd, self.thread, self._folder, self._hashes, self._file, self._keep = "", ThreadPoolExecutor(1), folder, {}, None, keep
        shards, sizes = [[]], {name: 2 * prod(shapes[name]) for name in sorted(shapes)}
        for name, size in sizes.items():
            if shards[-1] and sum(map(sizes.get, shards[-1])) + size > SHARD:
                shards.append([])
            shards[-1].append(name)
        files = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)] if len(shards) > 1 else ["model.safetensors"]
        self._heads = {shard[0]: (file, _header({name: shapes[name] for name in shard})) for file, shard in zip(files, shards, strict=True)}
        folder.mkdir(parents=True)
        if len(shards) > 1:
            about = {"total_size": sum(sizes.values()), "mergekit_version": metadata.version("mergekit")}
            index = {"metadata": about, "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")

    def put(self, name: str, tensor: Tensor) -> Future:
        """Hand over the next tensor, which must stay as it is until the future is done; an OSError there: the disk is full."""
        return self.thread.submit(self._write, name, memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))

    def _write(self, name: str, data: memoryview) -> None:
        if name in self._heads:
            if self._file:
                self._file.close()
            file, head = self._heads[name]
            self._file = (self._folder / file).open("wb")
            self._file.write(head)
            self._hashes[file] = self._hash = sha256(head)
        with ThreadPoolExecutor(1) as beside:
            hashed = beside.submit(self._hash.update, data)
            for start in range(0, len(data), PIECE):
                bits = np.frombuffer(piece := data[start : start + PIECE], np.int16)
                if not self.odd and (bits.max(initial=0) >= 0x7F80 or bits.view(np.uint16).max(initial=0) >= 0xFF80):  # all ones in the exponent
                    self.odd = name
                self._file.write(piece)
        hashed.result()
        let_go(self._file.fileno(), self._keep)

    def finish(self) -> dict[str, str]:
        """File name → SHA-256, when everything is written."""
        self.thread.submit(lambda: self._file.close()).result()
        return {file: digest.hexdigest() for file, digest in self._hashes.items()}


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """What safetensors puts before the tensors of a file: the length of a JSON text, and the text, filled up to whole words."""
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end := end + 2 * prod(shape)]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
