"""The whole `paper` run on random siblings of Llama-3-8B's shape: seconds and peak memory a stage, extrapolated to the full study.

    python measure/paper_gpu.py --scratch FOLDER                    # on a GPU: 48 GB of siblings, 96 GB of merges in the folder
    python measure/paper_gpu.py --scratch FOLDER --shape pico --items 2 --tokens 16      # the same code at a size for any machine

The real pipeline runs the real notebooks on the demo's terms (24) and item sets (20 items each, if not told otherwise), with all six methods and
the paper's judges at the loopback address; the search tries four candidates of the paper's 200. What random weights write is
noise and never stops by itself, so every definition has all its tokens. Seconds without a model (start-up, judges' limits) are
not told apart: the extrapolation of a stage multiplies the whole of it, an upper bound. Generation against the bandwidth bound
and the one-by-one loop is ``measure/generate.py --shape llama-3-8b``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import yaml
from merge import ROOT
from merge_8b import SHAPES, siblings

sys.path.insert(0, str(ROOT))

from tests.support.loopback import Loopback

CANDIDATES, TERMS = 4, 24
SETS = 12  # data sets of the demo
FULL = {"04_generate": 1782, "05_judge": 1782, "06_benchmark": 25_795}  # terms, and items a model, of the published study
STAGES = sorted(path.stem for path in (ROOT / "notebooks").glob("0[1-9]_*.ipynb"))


def preset(folder: Path, parents: dict[str, Path], candidates: int, tokens: int, items: int) -> Path:
    """The demo's terms and items under the paper's methods, judges and settings, over the parents in these folders."""
    study, paper = (yaml.safe_load((ROOT / "params" / f"{name}.yaml").read_text(encoding="utf-8")) for name in ("demo", "paper"))
    for key in ("transfer", "sweep", "proxy", "why"):
        study.pop(key, None)
    for name, constituent in study["constituents"].items():
        for key in ("adapter", "tokens"):
            constituent.pop(key, None)
        constituent["weights"] = str(parents[name])
    study["methods"], study["judging"] = paper["methods"], paper["judging"]
    study["vocabulary"]["sample"] = TERMS
    study["translation"]["reviewed"] = str(ROOT / study["translation"]["reviewed"])
    study["generation"] = {"max_new_tokens": tokens, "chat_template": False}
    study["benchmarks"] = {
        "items": items,
        "data_dir": str(ROOT / study["benchmarks"]["data_dir"]),
        "ending": "-demo",
        "sets": study["benchmarks"]["sets"],
    }
    study["evolution"] = paper["evolution"] | {"evaluations": candidates, "population": min(candidates, 4), "items": 8}
    path = folder / "paper_gpu.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


class Peaks:
    """Peak resident memory of this process's children and used memory of the GPU, a stage at a time, read twice a second."""

    def __init__(self):
        self.stage, self.memory, self.gpu, self._ended = STAGES[0], dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0), threading.Event()

    def watch(self) -> None:
        """Look until ``end``; to be run in a thread."""
        import psutil
        import torch

        while not self._ended.wait(0.5):
            resident = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    resident += child.memory_info().rss
                except psutil.NoSuchProcess:  # ended since the list was made
                    continue
            self.memory[self.stage] = max(self.memory[self.stage], resident / 2**30)
            if torch.cuda.is_available():
                free, total = torch.cuda.mem_get_info()
                self.gpu[self.stage] = max(self.gpu[self.stage], (total - free) / 2**30)

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()


def main() -> None:
    """Run the stages and show each one's seconds, memory and share of the full study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=256, help="of a definition")
    parser.add_argument("--items", type=int, default=20, help="of a data set")
    options = parser.parse_args()
    import pandas as pd

    from xlm_utils.study import pick_device

    device, reason = pick_device()
    if options.shape == "8b" and device == "cpu":
        sys.exit(f"Llama-3-8B's shape wants a GPU ({reason}): take --shape pico")
    folder = options.scratch.resolve() / f"paper_{options.shape}"
    shutil.rmtree(folder / "runs", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    file = preset(folder, siblings(options.shape, SHAPES[options.shape][1], folder / "parents"), CANDIDATES, options.tokens, options.items)
    peaks, started = Peaks(), dict[str, float]()
    with ExitStack() as stack:
        openai, gemini = (stack.enter_context(Loopback()) for _ in range(2))
        urls = {
            "OPENAI_BASE_URL": openai.openai,
            "OPENAI_API_KEY": "sk-loopback",
            "GOOGLE_GEMINI_BASE_URL": gemini.root,
            "GEMINI_API_KEY": "loopback",
        }
        settings = os.environ | urls | {"XLM_HOME": str(folder / "runs"), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
        threading.Thread(target=peaks.watch, daemon=True).start()
        stack.callback(peaks.end)
        command = [sys.executable, "-m", "xlm_utils.run.pipeline", str(file)]
        with subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                if (stage := line.partition(":")[0]) in STAGES:
                    peaks.stage, started[stage] = stage, time.perf_counter()
        ended = time.perf_counter()
    if process.returncode:
        sys.exit("the run failed; its files are kept in the scratch folder")
    ends = [*list(started.values())[1:], ended]
    table = pd.DataFrame({"s": [end - start for start, end in zip(started.values(), ends, strict=True)]}, index=list(started))
    asked = {"04_generate": TERMS, "05_judge": TERMS, "06_benchmark": options.items * SETS}
    table["full study h"] = [seconds * FULL.get(stage, 1) / asked.get(stage, 1) / 3600 for stage, seconds in table["s"].items()]
    table["GiB resident"], table["GiB on the GPU"] = pd.Series(peaks.memory), pd.Series(peaks.gpu)
    calls = len(openai.prompts) + len(gemini.prompts)
    size = f"{TERMS} terms, {options.items} items a data set, {CANDIDATES} candidates"
    print(f"\n{options.shape} on {device} ({reason}), {size}, {calls} calls of two judges")
    print(table.round(3).to_string())
    print(f"03_merge has {CANDIDATES} candidates where the paper's has 200; its hours hold for the six merges, not for the search")


if __name__ == "__main__":
    main()
