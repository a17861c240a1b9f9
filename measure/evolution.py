"""Candidates of an evolution per minute: merged in memory against written, loaded and evaluated.

    python measure/evolution.py --study demo --candidates 3

The second way is that of ``mergekit-evolve``: MergeKit's own merge to a folder, then ``from_pretrained``.
Both merge on the GPU where there is one, and evaluate the same candidates with the study's fitness, one
after the other in this process; the objectives must agree. Writes nothing into the study's folders.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--study", default="demo")
    arguments.add_argument("--method", default="evo_dare_ties@ancestor")
    arguments.add_argument("--candidates", type=int, default=3)
    options = arguments.parse_args()
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

    from xlm_utils.merge import merging, methods
    from xlm_utils.merge.fitness import scorer
    from xlm_utils.study import open_study

    study = open_study(study_name)
    score, free = scorer(study), methods.resolve(study, name).free
    model, tokenizer, how = models.load(study, study.by_role("general"))
    device, generator, rows = model.device.type, np.random.default_rng(study.seed), []

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for candidate in range(-1, candidates):  # number -1 warms both ways up and is left out
        values = {parameter: low + generator.random() * (high - low) for parameter, (low, high) in free.items()}

        started = now()
        merging.merge_into(model, study, name, values, seed=1)
        merged = now()
        ours = score(model, tokenizer)["objective"]
        ended = now()
        rows.append(("in memory", candidate, merged - started, 0.0, ended - merged))

        config = methods.render(study, name, **values)
        folders = merging._with_folders(config, merging.parents(study, config))
        started = now()
        out = scratch / f"candidate{candidate}"
        to_disk = MergeOptions(quiet=True, random_seed=1, write_model_card=False, device=device)
        run_merge(MergeConfiguration.model_validate(folders), str(out), to_disk)
        merged = now()
        loaded_model = AutoModelForCausalLM.from_pretrained(out, dtype=model.dtype, device_map=model.device).eval()
        loaded = now()
        theirs = score(loaded_model, tokenizer)["objective"]
        ended = now()
        rows.append(("checkpoint", candidate, merged - started, loaded - merged, ended - loaded))
        del loaded_model
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
