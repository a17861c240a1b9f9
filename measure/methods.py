"""Seconds and peak memory of merges by other cards beside ``ties``: fresh processes on the demo's parents, taken in turn.

    python measure/methods.py [--methods regmean,wudi] [--repeats 3]

Prints each run, then medians with the range over the repeats. Imports, checks, hashes and the manifest are in all of them; the terms whose texts
RegMean's models read are curated and translated before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from merge import OURS, preset, run

BESIDE = "ties@ancestor"
CARDS = "regmean,wudi,linear,chat_vector,mlp_swap,attention_swap,random_swap,layer_swap,module_swap"


def main() -> None:
    """Merge by each card and print what it took; the ratios to ``ties`` are the claim, the seconds are this machine's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=CARDS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    import pandas as pd
    import torch

    from xlm_utils.models.constituents import locate
    from xlm_utils.study import open_study
    from xlm_utils.translate import terms

    demo = open_study("demo")
    parents = {name: locate(demo, name) for name in demo.constituents}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        os.environ["XLM_HOME"] = scratch
        file = preset(Path(scratch), parents)
        study = open_study(str(file))
        terms(study)
        names = [BESIDE, *options.methods.split(",")]
        taken = {name: [] for name in names}
        for _ in range(options.repeats):
            for name in names:
                taken[name].append(run(sys.executable, "-c", OURS, file, name))
                print(name, "{:.1f} s, {:.1f} CPU s, {:.2f} GiB".format(*taken[name][-1]), flush=True)
                shutil.rmtree(study.models_folder)
        rows = {}
        for name, runs in taken.items():
            seconds, cpu, memory = (list(values) for values in zip(*runs, strict=True))
            spread = f"{min(seconds):.1f}–{max(seconds):.1f}"
            rows[name] = {"s": statistics.median(seconds), "from–to": spread, "CPU s": statistics.median(cpu), "GiB": statistics.median(memory)}
        table = pd.DataFrame(rows).T
        table["s / ties"], table["GiB / ties"] = table["s"] / table.loc[BESIDE, "s"], table["GiB"] / table.loc[BESIDE, "GiB"]
        print(f"{torch.get_num_threads()} threads, medians of {options.repeats}\n{table.to_string(float_format='{:.2f}'.format)}")


if __name__ == "__main__":
    main()
