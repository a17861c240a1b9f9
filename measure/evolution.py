"""Candidates of an evolution per minute: merged in memory against written, loaded and evaluated.

    python measure/evolution.py --study demo --candidates 3 [--before CHECKOUT]

The second way is that of ``mergekit-evolve``: MergeKit's own merge to a folder, then ``from_pretrained``.
Both merge on the GPU where there is one, and evaluate the same candidates with the study's fitness, one
after the other in this process; the objectives must agree. Writes nothing into the study's folders.

``--before`` is a checkout of an earlier commit instead: both builds evaluate the same candidates, each in a process of its
own, the first of them a warm-up; seconds a candidate of merging and of evaluating, and the objectives, which must be
equal but for the order in which a mean adds up.
"""

from __future__ import annotations

import argparse
import json
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


SEARCH = """
import json, sys, time
import numpy as np
from xlm_utils.merge import evolution, fitness, methods
from xlm_utils.study import open_study
study, name, count = open_study(sys.argv[1]), sys.argv[2], int(sys.argv[3])
spent, rows, generator, free = [], [], np.random.default_rng(study.seed), methods.resolve(study, name).free

def timed(study):
    score = fitness.scorer(study)
    def fit(model, tokenizer):
        started = time.perf_counter()
        answer = score(model, tokenizer)
        spent.append(time.perf_counter() - started)
        return answer
    return fit

evaluate = evolution.evaluator(study, timed, name, seed=1)
for _ in range(count + 1):
    values = {parameter: low + generator.random() * (high - low) for parameter, (low, high) in free.items()}
    started = time.perf_counter()
    objective = evaluate(values)["objective"]
    rows.append((time.perf_counter() - started - spent[-1], spent[-1], objective))
print(json.dumps(rows))
"""


def builds(before: Path, study: str, name: str, candidates: int) -> None:
    """The same candidates by two builds; their objectives on one thread, as until 2026-11-29 the sums that DARE scales by were of all threads."""
    found = {}
    for build, folder in (("before", before), ("now", ROOT)):

        def search(count: int, folder: Path = folder, **more: str) -> list:
            run = subprocess.run([sys.executable, "-c", SEARCH, study, name, str(count)], env=os.environ | {"PYTHONPATH": str(folder), **more},
                                 cwd=folder, capture_output=True, text=True)  # fmt: skip
            if run.returncode:
                sys.exit(run.stderr)
            return json.loads(run.stdout.splitlines()[-1])

        merging, evaluating, _ = map(statistics.median, zip(*search(candidates)[1:], strict=True))
        found[build] = merging, [objective for *_, objective in search(candidates, OMP_NUM_THREADS="1")]
        rate = 60 / (merging + evaluating)
        print(f"{name}, {build:>6}: merged in {merging:.2f} s, evaluated in {evaluating:.2f} s: {rate:.1f} candidates a minute", flush=True)
    apart = max(abs(one - other) for one, other in zip(found["before"][1], found["now"][1], strict=True))
    assert apart < 1e-12, f"the objectives differ: {found}"
    print(f"the same {candidates + 1} objectives (means add up to {apart:.0e} apart); merging {found['before'][0] / found['now'][0]:.2f} x")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--study", default="demo")
    arguments.add_argument("--method", default="evo_dare_ties@ancestor")
    arguments.add_argument("--candidates", type=int, default=3)
    arguments.add_argument("--before", type=Path, help="checkout of an earlier commit")
    options = arguments.parse_args()
    if options.before:
        return builds(options.before.resolve(), options.study, options.method, options.candidates)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XLM_HOME"] = scratch
        measure(options.study, options.method, options.candidates, Path(scratch))


def measure(study_name: str, name: str, candidates: int, scratch: Path) -> None:
    from xlm_utils import models

    models.quiet()
    import numpy as np
    import pandas as pd
    import torch
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from transformers import AutoModelForCausalLM

    from xlm_utils.merge import merging, methods, planning
    from xlm_utils.merge.fitness import scorer
    from xlm_utils.study import open_study

    study = open_study(study_name)
    score, free = scorer(study), methods.resolve(study, name).free
    model, tokenizer, how = models.load(study, study.by_role("general"))
    device, generator, rows = model.device.type, np.random.default_rng(study.seed), []
    live = planning.Live(model, study, name, seed=1)

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for candidate in range(-1, candidates):  # number -1 warms both ways up and is left out
        values = {parameter: low + generator.random() * (high - low) for parameter, (low, high) in free.items()}

        started = now()
        live.merge(values)
        merged = now()
        ours = score(model, tokenizer)["objective"]
        ended = now()
        rows.append(("in memory", candidate, merged - started, 0.0, ended - merged))

        config = methods.render(study, name, **values)
        folders = merging.with_folders(config, merging.parents(study, config))
        started = now()
        out = scratch / f"candidate{candidate}"
        to_disk = MergeOptions(quiet=True, random_seed=1, write_model_card=False, device=device)
        run_merge(MergeConfiguration.model_validate(folders), str(out), to_disk)
        merged = now()
        loaded_model = AutoModelForCausalLM.from_pretrained(out, dtype=model.dtype, device_map=model.device).eval()
        loaded = now()
        score(loaded_model, tokenizer)
        ended = now()
        rows.append(("checkpoint", candidate, merged - started, loaded - merged, ended - loaded))
        del loaded_model
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # once more, untimed: MergeKit's sums depend on it, and ours are those of one
        run_merge(MergeConfiguration.model_validate(folders), str(out), to_disk)
        torch.set_num_threads(threads)
        theirs = score(AutoModelForCausalLM.from_pretrained(out, dtype=model.dtype, device_map=model.device).eval(), tokenizer)["objective"]
        shutil.rmtree(out)
        assert ours == theirs, f"candidate {candidate}: {ours} in memory, {theirs} from the checkpoint"

    table = pd.DataFrame(rows, columns=["way", "candidate", "merge s", "load s", "evaluate s"])
    table["total s"] = table[["merge s", "load s", "evaluate s"]].sum(axis=1)
    table = table[table["candidate"] >= 0].groupby("way").median().drop(columns="candidate")
    table["candidates/min"] = 60 / table["total s"]
    ratio = table.loc["in memory", "candidates/min"] / table.loc["checkpoint", "candidates/min"]
    print(f"{how}; {torch.get_num_threads()} threads; {name}, medians of {candidates} candidates")
    print(f"{table.round(2).to_string()}\nin memory / checkpoint: {ratio:.2f}")


if __name__ == "__main__":
    main()
