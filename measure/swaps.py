"""Does the expert's MLP in the Japanese model beat a control of equal dose? The demo's parents, every translated term, the shipped judge.

    python measure/swaps.py                     # about 20 minutes on two CPU cores; a killed run goes on
    python measure/swaps.py --draws 20 --home FOLDER

Beside the swap of all MLPs (mlp_swap) stand Linear at the same distance from the Japanese model and swaps of random matrices
with the same expected squared distance (SHARE of the parents' lies in the MLPs). The lead was found on terms that overlap
with these, by another judge: this is a check of it, not a test on fresh terms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHARE = 0.728  # of the squared distance between the demo's parents, in the MLPs


def study(home: Path, draws: int, terms: int) -> Path:
    """The demo with these merges and so many terms, as a file of its own."""
    preset = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text(encoding="utf-8"))
    preset.pop("sweep", None)
    preset["vocabulary"]["sample"] = terms
    preset["judging"]["references"] = ["clinician"]
    dose = SHARE**0.5
    same = f"linear~general_weight={1 - dose:.3f},expert_weight={dose:.3f}"
    preset["methods"] = ["linear", "ties", "chat_vector", "attention_swap", "mlp_swap", same]
    preset["methods"] += [f"random_swap~share={SHARE}#{seed}" for seed in range(1, draws + 1)]
    home.mkdir(parents=True, exist_ok=True)
    file = home / "swaps.yaml"
    file.write_text(yaml.safe_dump(preset, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return file


def main() -> None:
    """Run notebooks 01 to 05 on it, and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--terms", type=int, default=0, help="for a trial; 0: all that are translated")
    parser.add_argument("--home", type=Path, default=ROOT / "data" / "runs" / "swaps_measured")
    asked = parser.parse_args()
    file = study(asked.home.resolve(), asked.draws, asked.terms)
    os.environ["XLM_HOME"] = str(asked.home.resolve())
    for stage in ("01_curate", "02_translate", "03_merge", "04_generate", "05_judge"):
        print(stage, flush=True)
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"]
        command += [f"{stage}.ipynb", os.devnull, "-p", "study", str(file)]
        subprocess.run(command, cwd=ROOT / "notebooks", check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    from xlm_utils.report.results import load_scores, row_label
    from xlm_utils.stats import statistics
    from xlm_utils.study import open_study

    plan = open_study(str(file))
    scores = load_scores(plan)
    drawn = [method for method in plan.methods if method.startswith("random_swap")]
    for column, what in (("score", "as scored"), ("counted", "output that is no definition counts as 0")):
        table = scores.pivot(index="term_id", columns="run", values=column)
        table["random draws, mean"] = table[drawn].mean(axis=1)
        against = {"Japanese": "japanese", "expert in Japanese": "expert.ja", "Linear ½": "linear"}
        against |= {"equal dose": plan.methods[5], "draws": "random draws, mean"}
        rows = []
        for run in ["japanese", "expert.ja", *plan.methods[:6], "random draws, mean"]:
            row = {"merge": row_label(plan, run) if run in set(scores["run"]) else run, "mean": f"{table[run].mean():.2f}"}
            for name, other in against.items():
                found = statistics.compare(table[run], table[other], seed=plan.seed)
                row[f"minus {name}"] = "–" if run == other else f"{found['difference']:+.2f} [{found['low']:.2f}, {found['high']:.2f}]"
            rows.append(row)
        print(f"\n{what}, n = {len(table)}\n{pd.DataFrame(rows).to_string(index=False)}")
        means = np.sort(table[drawn].mean().to_numpy())
        below = (means < table["mlp_swap"].mean()).sum()
        print(f"means of the {len(drawn)} draws: {', '.join(f'{mean:.2f}' for mean in means)}; {below} below mlp_swap")


if __name__ == "__main__":
    main()
