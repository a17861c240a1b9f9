"""Merges at the size of Llama-3-8B: against the bytes that must move, and against ``mergekit-yaml``, in one run.

    python measure/merge_8b.py [--shape 8b|0.3b|0.17b|pico] [--methods linear,ties,…] [--scratch FOLDER]

Makes three random siblings (bf16, in shards) in the scratch folder: 48 GB for ``8b``, and 32 GB more for the results.
The floor of a merge is the time to read its parents from this disk and write the result to it once, each timed here
as plain copies of bytes; and ``loading`` is the time MergeKit's own loader takes to hand out every tensor of the
parents. With a CUDA device it also counts merges of an evolution's candidates into a live model per minute.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from merge import CLI, OURS, SEED, preset, run

SHAPES = {  # hidden, layers, intermediate, heads, key-value heads, vocabulary
    "8b": (4096, 32, 14336, 32, 8, 128256),
    "0.3b": (1024, 16, 3584, 16, 4, 64128),
    "0.17b": (1024, 8, 3584, 16, 4, 32064),
    "pico": (64, 2, 128, 4, 2, 512),
}
PIECE, SHARD = 1 << 26, 4 << 30  # bytes
LOAD = """
import sys
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
for folder in sys.argv[1:]:
    loader = LazyTensorLoader.from_disk(folder)
    for name in sorted(loader.index.tensor_paths):
        loader.get_tensor(name).view(-1)[::512].sum().item()  # a weight of each kilobyte, so that every page is read
"""


def siblings(shape: str, folder: Path) -> dict[str, Path]:
    """An ancestor of random weights and two fine-tunes, every weight changed; with manifests, as materialised models have."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from xlm_utils.study.records import Step

    sizes = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    config = LlamaConfig(**dict(zip(sizes, SHAPES[shape], strict=True)), dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    made = {}
    for seed, name in enumerate(("ancestor", "japanese", "expert")):
        step = Step(folder / name, shape=shape, seed=seed)
        with step:
            step.partial.mkdir(parents=True)
            config.save_pretrained(step.partial)
            _shards(shapes, seed, step.partial)
            step.finish()
        made[name] = step.path
    return made


def _shards(shapes: dict[str, tuple[int, ...]], seed: int, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    root, own = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    shards, size = [{}], 0
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=root).mul_(0.02)
        if seed:
            tensor += 0.002 * torch.randn(shape, generator=own)
        if size + 2 * tensor.numel() > SHARD and shards[-1]:
            _flush(save_file, shards, folder)
            size = 0
        shards[-1][name] = tensor.to(torch.bfloat16)
        size += 2 * tensor.numel()
    _flush(save_file, shards, folder)
    files = {name: f"model-{number:05d}.safetensors" for number, shard in enumerate(shards, 1) for name in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def _flush(save_file, shards: list[dict], folder: Path) -> None:
    save_file(shards[-1], folder / f"model-{len(shards):05d}.safetensors", metadata={"format": "pt"})
    shards[-1] = dict.fromkeys(shards[-1])  # the names are enough from here on
    shards.append({})


def read(folders: list[Path]) -> float:
    """Seconds to read every byte of these folders' weights once, in the state of the page cache that a merge finds."""
    started, buffer = time.perf_counter(), bytearray(PIECE)
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - started


def write(n: int, folder: Path) -> float:
    """Seconds to write so many bytes into a new file, not waiting for the disk to have them, as merges don't."""
    started, piece = time.perf_counter(), os.urandom(PIECE)
    with (folder / "bytes").open("wb", buffering=0) as stream:
        for start in range(0, n, PIECE):
            stream.write(piece[: n - start])
    taken = time.perf_counter() - started
    (folder / "bytes").unlink()
    return taken


def candidates(file: Path, name: str, parent: Path, count: int = 5) -> str:
    """Merges of candidates into a live model per minute, on one GPU."""
    import torch
    from transformers import AutoModelForCausalLM

    from xlm_utils.merge import merging, methods
    from xlm_utils.study import open_study

    study = open_study(str(file))
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.bfloat16, device_map="cuda")
    free = methods.resolve(study, name).free
    for candidate in range(-1, count):  # the first warms up
        if candidate == 0:
            started = time.perf_counter()
        merging.merge_into(model, study, name, dict.fromkeys(free, 0.4 + 0.1 * (candidate + 1)), seed=1)
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / count
    used = torch.cuda.max_memory_allocated() / 2**30
    return f"{name}: {60 / seconds:.1f} candidates merged a minute on {torch.cuda.get_device_name()}, {used:.1f} GiB"


def main() -> None:
    """Measure each method against the floor and against MergeKit's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--methods", default="linear,slerp,task_arithmetic@ancestor,ties@ancestor,dare_ties@ancestor")
    parser.add_argument("--scratch", help="folder on the disk to be measured")
    options = parser.parse_args()
    import pandas as pd
    import torch

    from xlm_utils.merge import merging, methods
    from xlm_utils.study import open_study, pick_device

    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        os.environ["XLM_HOME"] = scratch
        folder = Path(scratch) / "study"
        folder.mkdir()
        made = siblings(options.shape, folder / "parents")
        file = preset(folder, made)
        study, device = open_study(str(file)), pick_device()[0]
        weights = sum(f.stat().st_size for f in made["ancestor"].glob("*.safetensors"))
        a = torch.empty(1 << 26)
        started = time.perf_counter()
        a.copy_(torch.ones_like(a))
        copied = 4 * 2 * a.numel() / (time.perf_counter() - started) / 1e9
        print(f"{options.shape}: {weights / 1e9:.2f} GB a model, device {device}, {torch.get_num_threads()} threads, memory copies {copied:.1f} GB/s")
        rows = {}
        for name in options.methods.split(","):
            parents = list(merging.parents(study, methods.render(study, name)).values())
            reading, writing = read(parents), write(weights, folder)
            loading = run(sys.executable, "-c", LOAD, *parents)[0] - run(sys.executable, "-c", LOAD)[0]
            ours = run(sys.executable, "-c", OURS, file, name)
            arguments = ("--quiet", "--random-seed", SEED, "--no-copy-tokenizer", *(["--cuda"] if device == "cuda" else []))
            theirs = run(CLI, *arguments, f"{study.models_folder / name}.mergekit.yml", folder / "theirs")
            rows[name] = {
                "read s": reading, "write s": writing, "loading s": loading, "ours s": ours[0], "ours GiB": ours[-1],
                "mergekit-yaml s": theirs[0], "mergekit-yaml GiB": theirs[-1],
                "faster": theirs[0] / ours[0], "less CPU": theirs[1] / ours[1], "times floor": ours[0] / (reading + writing),
            }  # fmt: skip
            print(f"{name}: " + ", ".join(f"{what} {value:.2f}" for what, value in rows[name].items()), flush=True)
            shutil.rmtree(folder / "theirs")
            shutil.rmtree(study.models_folder)
        print(f"\n{pd.DataFrame(rows).T.round(2).to_string()}", flush=True)
        if device == "cuda":
            print(candidates(file, "evo_dare_ties@ancestor", made["japanese"]))
        else:
            print("no CUDA device: candidates per minute are not measured")


if __name__ == "__main__":
    main()
