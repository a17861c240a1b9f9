"""A grid of merges in one start: ``merge_many`` beside one ``merge`` after another, and beside an earlier build's notebook stage.

    python measure/sweep.py [--before CHECKOUT] [--repeats 3] [--points 9]

Nine TIES densities and nine linear weights on the demo's parents, fresh processes, taken in turn; what is written must be
the same to the byte. The floor is what no way of merging saves: every result's bytes hashed and written once, as many at
a time as there are cores, timed in the same run (the page cache included, as merges don't wait for the disk either).
``--before`` is a checkout of an earlier commit, whose merges run one after another.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from merge import preset, run

ROOT = Path(__file__).resolve().parent.parent
ONE = """
import sys
sys.path.insert(0, sys.argv[1])
from xlm_utils.merge import merging
from xlm_utils.study import open_study
study = open_study(sys.argv[2])
for name in sys.argv[3:]:
    merging.merge(study, name)
"""
MANY = ONE[: ONE.index("for name")] + "merging.merge_many(study, sys.argv[3:])\n"


def floor(file: Path, copies: int, folder: Path) -> float:
    """Seconds to hash and write so many copies of a file's bytes, a piece of 1 MiB at a time."""
    data = memoryview(file.read_bytes())

    def copy(number: int) -> None:
        digest = sha256()
        with (folder / f"copy{number}").open("wb") as stream:
            for start in range(0, len(data), 1 << 20):
                digest.update(data[start : start + (1 << 20)])
                stream.write(data[start : start + (1 << 20)])

    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(copy, range(copies)))
    taken = time.perf_counter() - started
    for number in range(copies):
        (folder / f"copy{number}").unlink()
    return taken


def main() -> None:
    """Measure; the ratios are the claim, the seconds are this machine's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--points", type=int, default=9)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from xlm_utils.models.constituents import locate
    from xlm_utils.study import open_study

    demo = open_study("demo")
    parents = {name: locate(demo, name) for name in demo.constituents}
    shares = [(number + 1) / (options.points + 1) for number in range(options.points)]
    names = [f"ties~density={share:.3g}" for share in shares] + [f"linear~general_weight={share:.3g}" for share in shares]
    ways = {"merge_many": (ROOT, MANY), "one merge after another": (ROOT, ONE)}
    if options.before:
        ways = {"merge_many": (ROOT, MANY), "the earlier build": (options.before.resolve(), ONE)}
    taken: dict[str, list] = {way: [] for way in (*ways, "floor")}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        os.environ["XLM_HOME"] = scratch
        folder = Path(scratch) / "sweep"
        folder.mkdir()
        study = open_study(str(preset(folder, parents)))
        for _ in range(options.repeats):
            weights = {}
            for way, (checkout, code) in ways.items():
                shutil.rmtree(study.models_folder, ignore_errors=True)
                taken[way].append(run(sys.executable, "-c", code, checkout, folder / "sweep.yaml", *names))
                print(f"{way}: {taken[way][-1][0]:.1f} s", flush=True)
                weights[way] = [sha256((study.models_folder / name / "model.safetensors").read_bytes()).hexdigest() for name in names]
            assert len(set(map(tuple, weights.values()))) == 1, "the two ways don't write the same weights"
            file = shutil.copy(study.models_folder / names[0] / "model.safetensors", folder)
            shutil.rmtree(study.models_folder)
            taken["floor"].append((floor(Path(file), len(names), folder), 0, 0))
    for way, runs in taken.items():
        seconds, cpu, memory = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"{way:<24} {seconds:7.1f} s" + (f" {cpu:7.1f} CPU s {memory:5.2f} GiB" if cpu else ""))
    many, one, least = (statistics.median(run[0] for run in runs) for runs in taken.values())
    print(f"{len(names)} merges, the same bytes: {one / many:.2f} x; {many / least:.1f} x the floor, which would be {one / least:.1f} x")


if __name__ == "__main__":
    main()
