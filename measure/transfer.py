"""Does a merge made for transfer beat its parents, the best of the published six and a control of equal dose? On the demo's parents.

    python measure/transfer.py                  # merges, definitions, scores and margins of all translated terms: an hour on two CPU cores
    python measure/transfer.py --half choose    # then the half of the concepts by which a merge is chosen
    python measure/transfer.py --half report    # the other half: only where measure/claim.yaml is committed, which names what is claimed

A killed run goes on. Halves are of concepts, by a hash. Beside the swap of all MLPs stand Linear at the same distance from the
Japanese model and twenty swaps of random matrices with the same expected squared distance (SHARE of the parents' lies in the MLPs).
The lead was found on terms that overlap with these, by another judge.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHARE = 0.728  # of the squared distance between the demo's parents, in the MLPs
DOSE = f"linear~general_weight={1 - SHARE**0.5:.3f},expert_weight={SHARE**0.5:.3f}"
SIX = ("slerp", "ties", "linear", "task_arithmetic", "dare_ties", "evo_dare_ties")
MADE = ("mlp_swap", "attention_swap", "layer_swap", "layer_swap~bottom=9,top=0,transition=0", "module_swap", "chat_vector")


def study(home: Path, draws: int, terms: int) -> Path:
    """The demo with these merges and so many terms, as a file of its own."""
    preset = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text(encoding="utf-8"))
    preset.pop("sweep", None)
    preset["vocabulary"]["sample"] = terms
    preset["judging"]["references"] = ["clinician"]
    preset["methods"] = [*SIX, *MADE, DOSE, *(f"random_swap~share={SHARE}#{seed}" for seed in range(1, draws + 1))]
    home.mkdir(parents=True, exist_ok=True)
    file = home / "transfer.yaml"
    file.write_text(yaml.safe_dump(preset, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return file


def first_half(concept: str) -> bool:
    """Whether a concept is of the half that is chosen by."""
    return hashlib.sha256(concept.encode()).digest()[1] % 2 == 0


def run(file: Path) -> None:
    """Notebooks 01 to 05."""
    for stage in ("01_curate", "02_translate", "03_merge", "04_generate", "05_judge"):
        print(stage, flush=True)
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"]
        command += [f"{stage}.ipynb", os.devnull, "-p", "study", str(file)]
        subprocess.run(command, cwd=ROOT / "notebooks", check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def main() -> None:
    """Run what is not there yet, or print one half's table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--half", choices=("choose", "report"))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--terms", type=int, default=0, help="for a trial; 0: all that are translated")
    parser.add_argument("--home", type=Path, default=ROOT / "data" / "runs" / "transfer_measured")
    asked = parser.parse_args()
    os.environ["XLM_HOME"] = str(asked.home.resolve())
    file = study(asked.home.resolve(), asked.draws, asked.terms)
    if not asked.half:
        run(file)


if __name__ == "__main__":
    main()
