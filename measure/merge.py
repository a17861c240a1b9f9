"""Seconds and peak memory of merges: this package beside ``mergekit-yaml`` on the same configuration, fresh processes both.

    python measure/merge.py [--pair parents|changed] [--methods ties,dare_ties] [--repeats 3]

``parents`` are the demo's models, whose adapters leave 63 % of the weights alone; in ``changed`` a little noise was
added to every weight. Ours includes the checks, hashes and manifest of a finished merge. Prints medians, ratios with
and without the imports, and how many weights differ: for TIES only some of those that tie at its threshold may.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

OURS = "import sys; from xlm_utils.merge import merging; from xlm_utils.study import open_study; merging.merge(open_study(sys.argv[1]), sys.argv[2])"
IMPORTS = "from transformers import AutoConfig, AutoTokenizer, GenerationConfig; from xlm_utils.merge import merging, planning, writing"
CLI = str(Path(sys.executable).with_name("mergekit-yaml"))
SEED = "0"


def run(*command: str | Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak resident GiB of a process; pages of the parents' files that it maps count, too."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux counts this process's own peak as the child's, until it runs its program
    started = time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(list(map(str, command)), **pipes, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{output}\nexit status {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def preset(folder: Path, parents: dict[str, Path]) -> Path:
    """The demo's study over the parents in these folders."""
    import yaml

    study = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text(encoding="utf-8"))
    del study["why"], study["repeats"]  # earlier builds don't know them
    for name, constituent in study["constituents"].items():
        constituent.pop("adapter", None)
        constituent.pop("tokens", None)
        constituent["weights"] = str(parents[name])
    path = folder / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def changed(parents: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Copies of the parents, a tenth of its standard deviation in noise added to every tensor of the fine-tunes."""
    import torch
    from safetensors.torch import load_file, save_file

    from xlm_utils.study.records import Step

    made = dict(parents)
    for seed, name in enumerate(name for name in parents if name != "ancestor"):
        step = Step(folder / name, noise=0.1, seed=seed)  # with a manifest, as the demo's parents have
        with step:
            shutil.copytree(parents[name], step.partial)
            tensors, generator = load_file(parents[name] / "model.safetensors"), torch.Generator().manual_seed(seed)
            for key, tensor in tensors.items():
                noise = torch.randn(tensor.shape, generator=generator).mul_(0.1 * tensor.float().std().clamp(min=0.01))
                tensors[key] = noise.add_(tensor).to(tensor.dtype)
            save_file(tensors, step.partial / "model.safetensors", metadata={"format": "pt"})
            step.finish()
        made[name] = step.path
    return made


def differences(ours: Path, theirs: Path, config: dict, folders: dict[str, Path]) -> tuple[int, int, int]:
    """Weights, those that differ between two results, and those of them that don't tie at a TIES threshold of a parent."""
    import numpy as np

    from xlm_utils.models.weights import Tensors

    a, b = Tensors(ours), Tensors(theirs)
    parents = {entry["model"]: Tensors(folders[entry["model"]]) for entry in config["models"]}
    base, total, differ, untied = Tensors(folders[config["base_model"]]), 0, 0, 0
    for name in a.shapes:
        apart = (a[name] != b[name]).reshape(-1).numpy()
        total, differ = total + apart.size, differ + int(apart.sum())
        if apart.any() and config["merge_method"] == "ties":
            for entry in config["models"]:
                size = parents[entry["model"]][name].float().sub_(base[name].float()).abs_().reshape(-1).numpy()
                k = max(1, int(entry["parameters"]["density"] * size.size))
                apart &= size != np.partition(size, size.size - k)[size.size - k]
        untied += int(apart.sum())
    return total, differ, untied


def compare(preset_file: Path, name: str, repeats: int, scratch: Path) -> dict[str, float]:
    """Medians of both ways, taken in turn, and the differences between their results."""
    from xlm_utils.merge import merging, methods
    from xlm_utils.study import open_study

    study, taken = open_study(str(preset_file)), {"ours": [], "mergekit-yaml": []}
    folder, theirs = study.models_folder / name, scratch / "theirs"
    for _ in range(repeats):
        shutil.rmtree(study.models_folder, ignore_errors=True)
        shutil.rmtree(theirs, ignore_errors=True)
        taken["ours"].append(run(sys.executable, "-c", OURS, preset_file, name))
        taken["mergekit-yaml"].append(run(CLI, "--quiet", "--random-seed", SEED, f"{folder}.mergekit.yml", theirs))
    config = methods.render(study, name)
    weights, differ, untied = differences(folder, theirs, config, merging.parents(study, config))
    row = {f"{way} {unit}": statistics.median(run[i] for run in runs) for way, runs in taken.items() for i, unit in enumerate(("s", "CPU s", "GiB"))}
    return {**row, "differ": differ, "share": differ / weights, "differ but don't tie": untied}


def main() -> None:
    """Measure each method; the ratios are the claim, the seconds are this machine's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=("parents", "changed"), action="append")
    parser.add_argument("--methods", default="linear,ties,ties@ancestor,dare_ties,dare_ties@ancestor")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    import pandas as pd
    import torch

    from xlm_utils.models.constituents import locate
    from xlm_utils.study import open_study

    demo = open_study("demo")
    parents = {name: locate(demo, name) for name in demo.constituents}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        os.environ["XLM_HOME"] = scratch
        starts = {"ours": (sys.executable, "-c", IMPORTS), "mergekit-yaml": (CLI, "--help")}
        imports = {way: statistics.median(run(*command)[1] for _ in range(options.repeats)) for way, command in starts.items()}
        print(f"{torch.get_num_threads()} threads; imports take {imports['ours']:.1f} CPU s, mergekit-yaml's {imports['mergekit-yaml']:.1f}")
        for pair in options.pair or ("parents", "changed"):
            folder = Path(scratch) / pair
            folder.mkdir()
            file = preset(folder, parents if pair == "parents" else changed(parents, folder / "models"))
            table = pd.DataFrame({name: compare(file, name, options.repeats, folder) for name in options.methods.split(",")}).T
            table["faster"] = table["mergekit-yaml s"] / table["ours s"]
            table["less CPU"] = table["mergekit-yaml CPU s"] / table["ours CPU s"]
            table["but for imports"] = (table["mergekit-yaml CPU s"] - imports["mergekit-yaml"]) / (table["ours CPU s"] - imports["ours"])
            table["memory"] = table["ours GiB"] / table["mergekit-yaml GiB"]
            print(f"\n{pair}, medians of {options.repeats}\n{table.round(3).to_string()}", flush=True)


if __name__ == "__main__":
    main()
