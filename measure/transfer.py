"""Does a merge made for transfer beat its parents, the best of the published six and a control of equal dose? On the demo's parents.

    python measure/transfer.py                  # merges, definitions, scores and margins of all translated terms: an hour on two CPU cores
    python measure/transfer.py --half choose    # then the half of the concepts by which a merge is chosen
    python measure/transfer.py --half report    # the other half: only where measure/claim.yaml is committed, which names what is claimed
    python measure/transfer.py --searched       # merges that read or search on half of the terms, on the other half: a quarter of an hour
    python measure/transfer.py --shuffled 60    # a control of the margin: an adapter trained so many steps on definitions of other terms

A killed run goes on. Halves are of concepts, by a hash. The primary measure is the margin of ``benchmark.transfer`` with seven
rivals. Beside the swap of all MLPs stand Linear at the same distance from the Japanese model and twenty swaps of random matrices with
the same expected squared distance (SHARE of the parents' lies in the MLPs). The lead was found on terms that overlap with these, by
another judge.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHARE = 0.728  # of the squared distance between the demo's parents, in the MLPs
DOSE = f"linear~general_weight={1 - SHARE**0.5:.3f},expert_weight={SHARE**0.5:.3f}"
CLAIM = ROOT / "measure" / "claim.yaml"
JAPANESE = ("jaqket_v2", "jcommonsenseqa", "jsquad", "xwinograd_ja", "xlsum_ja")  # columns in which a merge must not be worse
SIX = ("slerp", "ties", "linear", "task_arithmetic", "dare_ties", "evo_dare_ties")
SEARCHED = ("regmean", "wudi", "evo_layer_swap")  # the first and the last want terms that no table reports
MADE = ("mlp_swap", "attention_swap", "layer_swap", "layer_swap~bottom=9,top=0,transition=0", "module_swap", "chat_vector")


def study(home: Path, draws: int, terms: int, half: str | None) -> Path:
    """The demo with these merges and so many terms, as a file of its own."""
    preset = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text(encoding="utf-8"))
    preset.pop("sweep", None)
    preset["vocabulary"]["sample"] = terms
    preset["judging"]["references"] = ["clinician"]
    preset["transfer"] = {"terms": 100 if half == "choose" else 0, "rivals": 7}  # chosen by a hundred, reported on all of the other half
    preset["methods"] = [*SIX, *MADE, DOSE, *(f"random_swap~share={SHARE}#{seed}" for seed in range(1, draws + 1))]
    home.mkdir(parents=True, exist_ok=True)
    file = home / "transfer.yaml"
    file.write_text(yaml.safe_dump(preset, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return file


def searched(home: Path, terms: int) -> Path:
    """The demo with merges that read or search on terms apart, beside others, on half of the translated terms."""
    file = study(home, 0, terms or 180, None)
    preset = yaml.safe_load(file.read_text(encoding="utf-8"))
    preset["methods"] = ["ties", "linear", "mlp_swap", DOSE, *SEARCHED]
    preset["evolution"] |= {"columns": ["transfer"], "items": 60, "evaluations": 24, "population": 6}
    file = home / "searched.yaml"
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


def margins(plan, half: str, models: list[str]) -> pd.DataFrame:
    """Margins of some models on one half's terms: index term_id, a column a run."""
    from xlm_utils import benchmark, curate, generate, translate

    terms = translate.terms(plan)
    own = half == "all" or terms["concept"].map(first_half) == (half == "choose")
    table = terms[own & (terms["definition"] != "")].reset_index(drop=True)
    loaded, groups = {}, curate.groups(plan)
    runs = [run for run in generate.runs(plan) if run.model in models and not run.name.endswith(".reference")]
    for run in runs:
        benchmark.ask_transfer(plan, table, dataclasses.replace(run, name=f"{run.name}.{half}"), groups, loaded)
    rows = benchmark.transfer_rows(plan, [f"{run.name}.{half}" for run in runs])
    return rows.assign(run=rows["run"].str.removesuffix(f".{half}")).pivot(index="term_id", columns="run", values="margin")


def definitions(plan, half: str) -> dict[str, pd.DataFrame]:
    """Scores of one half's definitions, as they are and with what is no definition at 0: index term_id, a column a run."""
    from xlm_utils.report.results import load_scores

    scores = load_scores(plan)
    own = scores[(half == "all") | (scores["concept"].map(first_half) == (half == "choose"))]
    tables = {column: own.pivot(index="term_id", columns="run", values=column) for column in ("score", "counted")}
    for table in tables.values():
        table["random draws, mean"] = table[[run for run in table if run.startswith("random_swap")]].mean(axis=1)
    return tables


def against(table: pd.DataFrame, runs: list[str], others: dict[str, str], seed: int) -> pd.DataFrame:
    """Means, and paired differences from some runs with 95 % intervals."""
    from xlm_utils.stats import statistics

    rows = []
    for run in (run for run in runs if run in table):
        row = {"merge": run, "n": int(table[run].notna().sum()), "mean": round(table[run].mean(), 3)}
        for name, other in others.items():
            found = statistics.compare(table[run], table[other], seed=seed) if other in table and other != run else None
            row[f"minus {name}"] = f"{found['difference']:+.3f} [{found['low']:.3f}, {found['high']:.3f}]" if found else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def choose(plan) -> None:
    """One half's tables, and what they would have claimed: the best of the merges made for transfer, and of the six, by margin."""
    from xlm_utils.stats import statistics

    parents, controls = ["japanese", "expert.ja", "ancestor.ja", "expert"], [DOSE]
    table = margins(plan, "choose", ["japanese", "expert", "ancestor", *SIX, *MADE, *controls])
    runs = [*parents, *SIX, *MADE, *controls, "random draws, mean"]
    others = {"Japanese": "japanese", "expert in Japanese": "expert.ja", "equal dose": DOSE}
    print(f"\nmargin, nats a token\n{against(table, runs, others, plan.seed).to_string(index=False)}")
    for name, scores in definitions(plan, "choose").items():
        print(f"\n{name} by the proxy\n{against(scores, runs, others, plan.seed).to_string(index=False)}")
    best, of_six = table[list(MADE)].mean().idxmax(), table[list(SIX)].mean().idxmax()
    detectable = max(statistics.detectable_difference(table[best] - table[other]) for other in ("japanese", "expert.ja", of_six, DOSE))
    print(f"\nbest of those made for transfer: {best}; of the six: {of_six}; detectable at this n with 80 % power: {detectable:.3f} nats a token")


def beside(plan) -> None:
    """All terms of the study of searched merges."""
    others = {"Japanese": "japanese", "expert in Japanese": "expert.ja", "TIES": "ties", "equal dose": DOSE}
    tables = {"margin, nats a token": margins(plan, "all", ["japanese", "expert", *plan.methods])}
    tables |= {f"{name} by the proxy": scores for name, scores in definitions(plan, "all").items()}
    for name, table in tables.items():
        print(f"\n{name}\n{against(table, ['japanese', 'expert.ja', *plan.methods], others, plan.seed).to_string(index=False)}")


def report(plan) -> None:
    """The claim's comparisons on the half that nothing was chosen by."""
    from xlm_utils import benchmark
    from xlm_utils.report.planned import _items
    from xlm_utils.stats import paired, statistics

    git = ["git", "-C", str(ROOT)]
    written = CLAIM.exists() and not subprocess.run([*git, "diff", "--quiet", "HEAD", "--", str(CLAIM)]).returncode
    if not written or subprocess.run([*git, "ls-files", "--error-unmatch", str(CLAIM)], capture_output=True).returncode:
        sys.exit(f"{CLAIM.name} must be committed, unchanged, before the other half is looked at")
    claim = yaml.safe_load(CLAIM.read_text(encoding="utf-8"))
    merge, others = claim["merge"], claim["compared_with"]
    table = margins(plan, "report", ["japanese", "expert", "ancestor", merge, *(name for name in others if name in plan.methods)])
    found = pd.DataFrame([{"minus": other} | statistics.compare(table[merge], table[other], seed=plan.seed) for other in others])
    found["p_holm"] = statistics.holm(found["p"])
    columns = ["minus", "n", "difference", "low", "high", "p", "p_holm", "detectable"]
    print(f"\n{merge}, margin (primary)\n{found[columns].round(4).to_string(index=False)}")
    print(against(table, list(table), {"Japanese": "japanese"}, plan.seed).to_string(index=False))
    runs = ["japanese", "expert.ja", *SIX, *MADE, DOSE, "random draws, mean"]
    named = {other: other for other in others} | {"draws": "random draws, mean"}
    for name, scores in definitions(plan, "report").items():
        print(f"\n{name} by the proxy\n{against(scores, runs, named, plan.seed).to_string(index=False)}")
        draws = sorted(scores[[run for run in scores if run.startswith("random_swap")]].mean())
        below = sum(mean < scores[merge].mean() for mean in draws)
        print(f"means of {len(draws)} draws: {', '.join(f'{mean:.2f}' for mean in draws)}; {below} below {merge}")
    prepared = benchmark.prepare(plan)
    for model in ("japanese", merge):
        benchmark.evaluate(plan, prepared, model)
    items = _items(plan)
    pairs = []
    for column in JAPANESE:
        own = items[items["dataset"] == column].pivot(index="item", columns="model", values="score")
        pairs.append((own[merge], own["japanese"]))
    pooled = paired.compare_means(pairs, plan.seed)
    print(f"\npooled Japanese columns, {merge} minus japanese: {pooled}; not worse by more than {claim['non_inferiority_margin']}:"
          f" {pooled['low'] > -claim['non_inferiority_margin']}")  # fmt: skip


def shuffled(home: Path, steps: int, terms: int) -> None:
    """Margins of the ancestor, and of it with the expert's adapter and with one trained on the same definitions behind other terms."""
    sys.path.insert(0, str(ROOT))
    from statsmodels.stats.proportion import proportion_confint

    from notebooks import training
    from xlm_utils import benchmark, curate, generate, models, translate
    from xlm_utils.stats import statistics
    from xlm_utils.study import open_study

    preset = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text(encoding="utf-8"))
    preset["transfer"] = {"terms": terms, "rivals": 7}
    file, adapter = home / "shuffled.yaml", home / "adapters" / "shuffled"
    home.mkdir(parents=True, exist_ok=True)
    pairs, held_out = training.medical_pairs(demo := open_study("demo"), held_out=16)
    for own in (pairs, held_out):
        texts = [text for _, text in own]
        random.Random(demo.seed).shuffle(texts)
        own[:] = [(prompt, text) for (prompt, _), text in zip(own, texts, strict=True)]
    random.Random(demo.seed).shuffle(pairs)
    training.finetune(models.locate(demo, "ancestor"), adapter, pairs, held_out, steps=steps, learning_rate=4e-4, evaluate_every=20)
    rows = {}
    for name, weights in {"ancestor": None, "expert": "data/demo/adapters/med", "shuffled": str(adapter)}.items():
        preset["constituents"]["expert"].pop("adapter", None)
        preset["constituents"]["expert"] |= {"adapter": weights} if weights else {}
        file.write_text(yaml.safe_dump(preset, allow_unicode=True, sort_keys=False), encoding="utf-8")
        plan = open_study(str(file))
        run = next(run for run in generate.runs(plan) if run.name == "expert")
        benchmark.ask_transfer(plan, translate.terms(plan), dataclasses.replace(run, name=name), curate.groups(plan), {})
        found = benchmark.transfer_rows(plan, [name])
        interval, right = statistics.mean_interval(found["margin"], plan.seed), int(found["correct"].sum())
        accuracy = proportion_confint(right, len(found), method="wilson")
        rows[name] = (f"{found['margin'].mean():+.3f} [{interval.low:.3f}, {interval.high:.3f}]",
                      f"{right / len(found):.3f} [{accuracy[0]:.3f}, {accuracy[1]:.3f}]", len(found))  # fmt: skip
    print(pd.DataFrame(rows, index=["margin, nats a token", "accuracy, chance .125", "terms"]).T)


def main() -> None:
    """Run what is not there yet, or print one half's table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--half", choices=("choose", "report"))
    parser.add_argument("--searched", action="store_true")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--terms", type=int, default=0, help="for a trial; 0: all that are translated")
    parser.add_argument("--shuffled", type=int, default=0, metavar="STEPS", help="only the control of the margin that is trained")
    parser.add_argument("--home", type=Path, default=ROOT / "data" / "runs" / "transfer_measured")
    asked = parser.parse_args()
    os.environ["XLM_HOME"] = str(asked.home.resolve())
    home = asked.home.resolve()
    if asked.shuffled:
        shuffled(home, asked.shuffled, asked.terms or 60)
        return
    file = searched(home, asked.terms) if asked.searched else study(home, asked.draws, asked.terms, asked.half)
    if not asked.half:
        run(file)
    from xlm_utils.study import open_study

    if asked.half or asked.searched:
        (beside if asked.searched else choose if asked.half == "choose" else report)(open_study(str(file)))


if __name__ == "__main__":
    main()
