"""Merges at the size of Llama-3-8B: against the bytes that must move and the arithmetic on them, and against ``mergekit-yaml``, in one run.

    python measure/merge_8b.py [--shape 8b|0.3b|0.17b|pico] [--layers N] [--methods linear,ties,…] --scratch FOLDER

Makes three random siblings (bf16, in shards) in the scratch folder, once: 48 GB for ``8b``, and 16 GB for a result; it refuses
a disk that is too small. ``--layers`` makes a model of that width and so many layers: 12 of them want 30 GiB in all. Each method
is run once and appended to ``results.jsonl`` there; a method that stands in it is not run again. Every timed run starts with the
parents' files dropped from the page cache. The floor of a merge is the larger of two times measured beside it: to read its
parents from this disk and write the result to it once; and its arithmetic, tensor by tensor, on parents that are in memory. Bytes
are copied twice: plainly, and dropping them from the page cache behind the copy, which keeps to the same few pages; the lower floor
is that of the faster copy. Where ``mergekit-yaml`` is killed or fails, that is the result. With a CUDA device it also counts merges of an
evolution's candidates into a live model per minute.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from merge import CLI, OURS, SEED, preset, run

from xlm_utils.models.weights import let_go

GIB = 2**30

SHAPES = {  # hidden, layers, intermediate, heads, key-value heads, vocabulary
    "8b": (4096, 32, 14336, 32, 8, 128256),
    "0.3b": (1024, 16, 3584, 16, 4, 64128),
    "0.17b": (1024, 8, 3584, 16, 4, 32064),
    "pico": (64, 2, 128, 4, 2, 512),
}
PIECE, SHARD = 1 << 26, 4 << 30  # bytes
MODELS, SPARE = 4, 2  # on the disk at a time: three siblings and a result; GiB beside them
ARITHMETIC = """
import sys, time
from xlm_utils.merge import chunked, merging, methods, planning
from xlm_utils.merge.methods import written_out
from xlm_utils.models.weights import Tensors
from xlm_utils.study import open_study
study, name = open_study(sys.argv[1]), sys.argv[2]
config = methods.render(study, name)
folders = merging.parents(study, config)
methods.check_specification(config)
tensors = {folder.resolve(): Tensors(folder) for folder in folders.values()}
shapes = next(iter(tensors.values())).shapes
plan = planning.Plan(written_out(study, config, folders), folders, methods.resolve(study, name).seed, planning.math_device(folders)[0], shapes)
spent = 0
for tensor in shapes:
    held = {folder: tensors[folder][tensor].clone() for folder in plan.inputs}
    started = time.perf_counter()
    plan(tensor, held.__getitem__)
    spent += time.perf_counter() - started
    chunked.forget()
print(spent)
"""


def siblings(shape: str, layers: int, folder: Path) -> dict[str, Path]:
    """An ancestor of random weights and two fine-tunes, every weight changed; with manifests, as materialised models have."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.conftest import pico_tokenizer
    from xlm_utils.study.records import Step

    sizes = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    asked = dict(zip(sizes, SHAPES[shape], strict=True)) | {"num_hidden_layers": layers}
    config = LlamaConfig(**asked, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    made = {}
    for seed, name in enumerate(("ancestor", "japanese", "expert")):
        step = Step(folder / name, shape=shape, layers=layers, seed=seed)
        with step:
            if step.done:
                made[name] = step.path
                continue
            shutil.rmtree(step.partial, ignore_errors=True)
            step.partial.mkdir(parents=True)
            config.save_pretrained(step.partial)
            pico_tokenizer().save_pretrained(step.partial)
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


def drop(folders: list[Path]) -> None:
    """Write these folders' files to the disk and drop them from the page cache."""
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            let_go(stream.fileno(), keep=False)


def read(folders: list[Path], keep: bool) -> float:
    """Seconds to read every byte of these folders' weights once; ``keep`` them in the page cache, or drop them behind."""
    drop(folders)
    started, buffer = time.perf_counter(), bytearray(PIECE)
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                let_go(stream.fileno(), keep)
    return time.perf_counter() - started


def write(n: int, folder: Path, keep: bool) -> float:
    """Seconds to write so many bytes into a new file, not waiting for the disk to have them, as merges don't."""
    started, piece = time.perf_counter(), os.urandom(PIECE)
    with (folder / "bytes").open("wb", buffering=0) as stream:
        for start in range(0, n, PIECE):
            stream.write(piece[: n - start])
            let_go(stream.fileno(), keep)
    taken = time.perf_counter() - started
    (folder / "bytes").unlink()
    return taken


def candidates(file: Path, name: str, parent: Path, count: int = 5) -> str:
    """Merges of candidates into a live model per minute, on one GPU."""
    import torch
    from transformers import AutoModelForCausalLM

    from xlm_utils.merge import methods, planning
    from xlm_utils.study import open_study

    study = open_study(str(file))
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.bfloat16, device_map="cuda")
    free, live = methods.resolve(study, name).free, planning.Live(model, study, name, seed=1)
    for candidate in range(-1, count):  # the first warms up
        if candidate == 0:
            started = time.perf_counter()
        live.merge(dict.fromkeys(free, 0.4 + 0.1 * (candidate + 1)))
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / count
    used = torch.cuda.max_memory_allocated() / 2**30
    return f"{name}: {60 / seconds:.1f} candidates merged a minute on {torch.cuda.get_device_name()}, {used:.1f} GiB"


def compare(file: Path, name: str, folder: Path, device: str) -> dict[str, float | str]:
    """One method, once: the floors, our merge and ``mergekit-yaml``'s, each from files that are not in the page cache."""
    from xlm_utils.merge import merging, methods
    from xlm_utils.study import open_study

    study = open_study(str(file))
    parents = list(merging.parents(study, methods.render(study, name)).values())
    weights = sum(f.stat().st_size for f in parents[0].glob("*.safetensors"))
    plain, behind = ((read(parents, keep), write(weights, folder, keep)) for keep in (True, False))
    drop(parents)
    arithmetic = float(subprocess.run([sys.executable, "-c", ARITHMETIC, file, name], capture_output=True, text=True, check=True).stdout.split()[-1])
    drop(parents)
    ours = run(sys.executable, "-c", OURS, file, name)
    row = {"plain read s": plain[0], "plain write s": plain[1], "read s": behind[0], "write s": behind[1], "arithmetic s": arithmetic,
           "ours s": ours[0], "ours CPU s": ours[1], "ours GiB": ours[2], "times plain floor": ours[0] / max(sum(plain), arithmetic),
           "times lower floor": ours[0] / max(min(sum(plain), sum(behind)), arithmetic)}  # fmt: skip
    shutil.rmtree(study.models_folder / name)
    drop(parents)
    arguments = ("--quiet", "--random-seed", SEED, "--no-copy-tokenizer", *(["--cuda"] if device == "cuda" else []))
    try:
        theirs = run(CLI, *arguments, f"{study.models_folder / name}.mergekit.yml", folder / "theirs")
        row |= {"mergekit-yaml s": theirs[0], "mergekit-yaml CPU s": theirs[1], "mergekit-yaml GiB": theirs[2], "faster": theirs[0] / ours[0]}
    except SystemExit as error:
        row |= {"mergekit-yaml s": f"failed: {' '.join(str(error).split()[-12:])}"}
    shutil.rmtree(study.models_folder)
    shutil.rmtree(folder / "theirs", ignore_errors=True)
    return row


def main() -> None:
    """Measure each method that has no result yet, and show all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--layers", type=int, help="instead of the shape's own")
    parser.add_argument("--methods", default="linear,slerp,task_arithmetic@ancestor,ties@ancestor,dare_ties@ancestor")
    parser.add_argument("--scratch", type=Path, required=True, help="folder on the disk to be measured; siblings and results stay in it")
    options = parser.parse_args()
    import pandas as pd
    import torch

    from xlm_utils.study import pick_device
    from xlm_utils.study.records import append_jsonl, read_jsonl

    layers = options.layers or SHAPES[options.shape][1]
    folder = options.scratch.resolve() / f"merge_{options.shape}_{layers}"
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / GIB
    hidden, _, inner, heads, pairs, vocabulary = SHAPES[options.shape]
    weights = 2 * vocabulary * hidden + layers * (2 * hidden**2 * (1 + pairs / heads) + 3 * hidden * inner)  # but for the norms
    if (wanted := SPARE + MODELS * 2 * weights / GIB) > free and not (folder / "parents" / "expert").exists():
        sys.exit(f"three siblings of {layers} layers and a result want {wanted:.0f} GiB of disk, and {free:.0f} are free: take fewer --layers")
    os.environ["XLM_HOME"] = str(folder)
    made, device = siblings(options.shape, layers, folder / "parents"), pick_device()[0]
    file, results = preset(folder, made), folder / "results.jsonl"
    size = sum(f.stat().st_size for f in made["ancestor"].glob("*.safetensors")) / 1e9
    print(f"{options.shape}, {layers} layers: {size:.2f} GB a model, device {device}, {torch.get_num_threads()} threads", flush=True)
    for name in options.methods.split(","):
        if name not in {row["method"] for row in read_jsonl(results)}:
            append_jsonl(results, [{"method": name, **compare(file, name, folder, device)}])
            print(f"{name}: done", flush=True)
    print(pd.DataFrame(read_jsonl(results)).set_index("method").T.to_string(float_format="{:.2f}".format))
    if device == "cuda":
        print(candidates(file, "evo_dare_ties@ancestor", made["japanese"]))
    else:
        print("no CUDA device: candidates per minute are not measured")


if __name__ == "__main__":
    main()
