"""How long notebook 07's statistics take at the size of the published study.

    python measure/paper_size.py     # 8 models × 1,782 synthetic terms × 2 judges × 2 references, and full-sized benchmarks

Scores and items are made up (tests/support/synthetic.py); nothing is read but the files made here.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.synthetic import make_study, write_lines  # noqa: E402
from xlm_utils.benchmark.prepared import COLUMN_OF  # noqa: E402
from xlm_utils.report import planned, tables  # noqa: E402

SIZES = {"pubmedqa": 500, "medmcqa_jp": 4183, "jsquad": 4442, "jcsts": 3670}  # about the public sets'; 1,000 for the others


def main() -> None:
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        study, draw = make_study(Path(home), patch, terms=1782, judges=("gpt-4o", "gemini-1.5-pro")), np.random.default_rng(0)
        for place, model in enumerate(study.models):
            rows = []
            for dataset in COLUMN_OF:
                gold = draw.integers(0, 6, SIZES.get(dataset, 1000))
                answer = np.where(draw.random(len(gold)) < 0.3 + 0.02 * place, gold, draw.integers(0, 6, len(gold)))
                scores = draw.random(len(gold)) if dataset == "xlsum_ja" else (answer == gold).astype(float)
                parts = zip(gold.tolist(), answer.tolist(), scores.tolist() if dataset != "jcsts" else [None] * len(gold), strict=True)
                named = {"model": model, "dataset": dataset}
                rows += [named | {"item": item, "gold": str(g), "prediction": str(a), "score": s} for item, (g, a, s) in enumerate(parts)]
            write_lines(study.folder / "benchmarks" / f"{model}.samples.jsonl", rows)
        print(f"{len(study.models)} models, {len(rows):,} items each")
        start, cpu = time.perf_counter(), time.process_time()
        for table in (
            tables.table1, tables.missing_table, tables.seen_unseen, tables.differences, tables.agreements, tables.controls_table,
            planned.table2, planned.column_differences,
        ):  # fmt: skip
            before, used = time.perf_counter(), time.process_time()
            frame = table(study)
            seconds = f"{time.perf_counter() - before:5.1f} s, {time.process_time() - used:4.1f} s of processor time"
            print(f"{table.__name__:<20} {len(frame):4} rows  {seconds}", flush=True)
        print(f"{'all':<20}            {time.perf_counter() - start:5.1f} s, {time.process_time() - cpu:.1f} s of processor time")


if __name__ == "__main__":
    main()
