"""The eight notebooks at smoke size by this build and by an earlier one, in turn: seconds of each, as papermill runs it.

    python measure/notebooks.py --before CHECKOUT [--repeats 3]

Each run has an empty folder of its own; the models that the demo unpacks are taken from the cache. At this size most of the
time is what every notebook needs whatever its study's size: libraries, data, models, tables. CPU seconds tell two builds apart
better than seconds on a machine that does other things; both are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from merge import run

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure both builds and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout of an earlier commit")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    builds = {"before": options.before.resolve(), "now": ROOT}
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("0[1-9]_*.ipynb"))
    taken: dict[tuple[str, str], list] = {}
    os.environ |= {"XLM_SMOKE": "1", "XLM_CACHE": os.environ.get("XLM_CACHE", str(ROOT / "data" / "cache"))}
    for _ in range(options.repeats):
        for build, folder in builds.items():
            with tempfile.TemporaryDirectory() as home:
                os.environ |= {"XLM_HOME": home, "PYTHONPATH": str(folder)}
                for name in names:
                    notebook = folder / "notebooks" / f"{name}.ipynb"
                    command = ("-m", "papermill", "--no-progress-bar", "--log-level", "ERROR", "--cwd", notebook.parent, notebook, os.devnull)
                    taken.setdefault((name, build), []).append(run(sys.executable, *command))
            print(f"{build}: {sum(taken[name, build][-1][1] for name in names):.0f} CPU s", flush=True)
    print(f"{'':<14}{'before: s':>10}{'CPU s':>8}{'now: s':>10}{'CPU s':>8}{'ratio of CPU s':>16}")
    whole = dict.fromkeys(builds, (0.0, 0.0))
    for name in names:
        found = {build: [statistics.median(values) for values in zip(*taken[name, build], strict=True)][:2] for build in builds}
        whole = {build: (whole[build][0] + found[build][0], whole[build][1] + found[build][1]) for build in builds}
        print(row(name, found))
    print(row("all eight", whole))


def row(name: str, found: dict) -> str:
    """A line of the table: seconds and CPU seconds of two builds."""
    (before, before_cpu), (now, now_cpu) = found["before"], found["now"]
    return f"{name:<14}{before:>10.1f}{before_cpu:>8.1f}{now:>10.1f}{now_cpu:>8.1f}{before_cpu / now_cpu:>16.2f}"


if __name__ == "__main__":
    main()
