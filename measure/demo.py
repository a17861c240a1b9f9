"""The demo of this working tree against that of an earlier build, stage by stage, both without sweep, random arm and landing figures.

    python measure/demo.py                      # both whole: half an hour on two quiet cores
    python measure/demo.py --method linear      # 03, 04 and 06 for one merge only: minutes

The earlier build runs from its commit, in a worktree of git's, in this environment. Units of work differ between the builds
(terms, items, length), so ratios are of units a CPU second; ``--dtype float32`` makes the earlier build compute as this one does
where it would take bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "778d583fc6a933b9602ffffb48f3c856d96efe9d"
STAGES = ("01_curate", "02_translate", "03_merge", "04_generate", "05_judge", "06_benchmark", "07_figures")
GIB = 2**30


class Peak(threading.Thread):
    """The largest memory of this process's descendants together, looked at twice a second: pages that are theirs alone (USS)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes, self.running = 0, True

    def run(self) -> None:
        while self.running:
            used = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    used += process.memory_full_info().uss
                except psutil.Error:  # ended meanwhile
                    continue
            self.bytes = max(self.bytes, used)
            time.sleep(0.5)


def study(folder: Path, scratch: Path, dtype: str | None) -> Path:
    """The build's demo without its sweep and random arm, as a file of its own."""
    preset = yaml.safe_load((folder / "params" / "demo.yaml").read_text(encoding="utf-8"))
    preset.pop("sweep", None)
    preset["evolution"].pop("random", None)
    if dtype:
        preset["generation"]["dtype"] = dtype
    file = scratch / "demo.yaml"
    file.write_text(yaml.safe_dump(preset, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return file


def without_landing(notebook: Path, copy: Path) -> None:
    """A copy of a notebook that draws no picture of where merges land."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))
    cells["cells"] = [cell for cell in cells["cells"] if cell["cell_type"] != "code" or "landing" not in "".join(cell["source"])]
    copy.write_text(json.dumps(cells), encoding="utf-8")


def measure(folder: Path, scratch: Path, method: str, dtype: str | None) -> dict:
    """Wall and CPU seconds of each stage, units of work, peak memory and disk of one build."""
    file, home, cache = study(folder, scratch, dtype), scratch / "home", scratch / "cache"
    environment = {**os.environ, "XLM_HOME": str(home), "XLM_CACHE": str(cache), "PYTHONPATH": str(folder)}
    peak, wall, cpu = Peak(), {}, {}
    peak.start()
    for stage in STAGES:
        copy = scratch / f"{stage}.ipynb"
        without_landing(folder / "notebooks" / f"{stage}.ipynb", copy)
        chosen = ["-p", "method", method] if stage[:2] in ("03", "04", "06") else []
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR", str(copy), os.devnull, "-p", "study", str(file)]
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, *chosen], env=environment, cwd=folder / "notebooks", capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall[stage], cpu[stage] = time.monotonic() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"  {stage:14} {wall[stage]:6.0f} s {cpu[stage]:6.0f} CPU s", flush=True)
        if done.returncode and (method == "all" or stage[:2] not in ("05", "07")):
            sys.exit(done.stderr[-2000:])
        if done.returncode:  # what shows all models needs all models
            print(f"    ended with {done.returncode}: {done.stderr.strip().splitlines()[-1][:150]}")
    peak.running = False
    runs = home / "data" / "runs" / "demo"
    lines = {part: sum(path.read_bytes().count(b"\n") for path in runs.glob(pattern))
             for part, pattern in (("definitions", "definitions/*.jsonl"), ("items", "benchmarks/*.samples.jsonl"))}  # fmt: skip
    merged = sum(path.stat().st_size for path in runs.glob("models/*/*.safetensors"))
    disk = sum(path.stat().st_blocks * 512 for place in (home, cache) for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        "definitions a CPU second in 04": lines["definitions"] / cpu["04_generate"], "items a CPU second in 06": lines["items"] / cpu["06_benchmark"],
        "MB merged a second in 03": merged / 1e6 / wall["03_merge"], "GiB of memory at most": peak.bytes / GIB, "GiB of disk": disk / GIB,
        "seconds, whole": sum(wall.values()), "definitions": lines["definitions"], "items": lines["items"],
    }  # fmt: skip


def main() -> None:
    """Measure both builds and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", default="all", help="the only merge of 03, 04 and 06")
    parser.add_argument("--dtype", help="of the earlier build, if not its own choice")
    asked = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        earlier = Path(temporary) / "earlier"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(earlier), COMMIT], cwd=ROOT, check=True)
        try:
            for name, folder, dtype in (("earlier", earlier, asked.dtype), ("today", ROOT, None)):
                print(f"{name}:", flush=True)
                scratch = Path(temporary) / name.replace("earlier", "before")
                scratch.mkdir()
                found[name] = measure(folder, scratch, asked.method, dtype)
                shutil.rmtree(scratch)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(earlier)], cwd=ROOT, check=True)
    print(f"\n{'':32} {'earlier':>9} {'today':>9} {'ratio':>7}")
    for key, value in found["earlier"].items():
        print(f"{key:32} {value:9.2f} {found['today'][key]:9.2f} {found['today'][key] / value:7.2f}")


if __name__ == "__main__":
    main()
