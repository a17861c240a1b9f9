"""Peak memory of notebook 06's scoring, on the longest rows of every data set.

    python measure/memory.py [--data_dir FOLDER] [--model expert] [--rows 2]

Data sets that the folder lacks come from the demo's item sets. The model runs as the study says, in
this process, whose peak resident size is printed.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from xlm_utils import models
from xlm_utils.benchmark import benchmarks
from xlm_utils.benchmark.harness import SharedPromptLM
from xlm_utils.benchmark.prepared import prepare
from xlm_utils.study import ROOT, open_study

DEMO = ROOT / "data" / "demo" / "benchmarks"


def longest_rows(source: Path, target: Path, rows: int) -> None:
    """The longest rows of each file (few-shot files too), from ``source`` or else the demo."""
    for name in sorted(path.name for path in DEMO.glob("*.jsonl")):
        file = source / name if (source / name).is_file() else DEMO / name
        lines = sorted(filter(None, file.read_text(encoding="utf-8").split("\n")), key=len, reverse=True)
        (target / name).write_text("\n".join(lines[: max(rows, 4 if "train" in name else 1)]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path(os.environ.get("XLM_TEST_DATA", DEMO.parent)) / "benchmarks")
    parser.add_argument("--model", default="expert")
    parser.add_argument("--rows", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        longest_rows(arguments.data_dir, Path(folder), arguments.rows)
        study = open_study("demo", data_dir=folder)
        prepared = prepare(study)
        model, tokenizer, how = models.load(study, arguments.model)
        print(how)
        lm = SharedPromptLM(model, tokenizer, study.benchmarks.batch_tokens)
        result, rows = benchmarks.compose(prepared, arguments.model, benchmarks.answer(lm, prepared, prepared.tasks))
    longest = max(len(tokenizer.encode(instance.args[0])) for task in prepared.tasks.values() for instance in task.instances)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(rows)} items of {len(result['datasets'])} data sets, the longest prompt {longest:,} tokens: peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
