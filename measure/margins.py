"""Log-likelihoods of the margin (notebook 06) by our model class, and by the harness's own on the same pairs, in turns.

    python measure/margins.py --terms 12 --repeats 3

The demo's Japanese model, definitions behind their own and three rival terms. The stock class takes one pair at a time, as by default,
and eight at a time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from xlm_utils import curate, models, translate
from xlm_utils.benchmark import transfer
from xlm_utils.study import open_study


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--terms", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    from lm_eval.models.huggingface import HFLM

    from xlm_utils.benchmark.harness import SharedPromptLM

    plan = open_study("demo")
    table = translate.terms(plan)
    drawn = transfer.draw(table, curate.groups(plan), 3, asked.terms, plan.seed)
    prompts = [plan.prompt(plan.target, term) for term in table["translation"]]
    pairs = [(prompts[number], f" {table['definition'].iloc[row]}") for row, others in drawn for number in (row, *others)]
    model, tokenizer, how = models.load(plan, "japanese")
    print(how)
    ours = SharedPromptLM(model, tokenizer, plan.benchmarks.batch_tokens)
    stock = {size: HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size) for size in (1, 8)}
    seconds: dict[str, list[float]] = {}
    answers = {}
    for _ in range(asked.repeats):
        started = time.perf_counter()
        answers["ours"] = [value for value, _ in ours.likelihoods(pairs)]
        seconds.setdefault("ours", []).append(time.perf_counter() - started)
        for size, lm in stock.items():
            started = time.perf_counter()
            encoded = [(pair, *lm._encode_pair(*pair)) for pair in pairs]
            answers[f"stock {size}"] = [value for value, _ in lm._loglikelihood_tokens(encoded, disable_tqdm=True)]
            seconds.setdefault(f"stock {size}", []).append(time.perf_counter() - started)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{len(pairs)} pairs of {asked.terms} terms; medians of {asked.repeats}")
    for name, value in middle.items():
        apart = max(abs(a - b) for a, b in zip(answers["ours"], answers[name], strict=True))
        print(f"{name:8} {value:7.1f} s   {value / middle['ours']:5.2f} x ours; log-likelihoods differ by {apart:.4f} at most")


if __name__ == "__main__":
    main()
