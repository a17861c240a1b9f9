"""Notebook 06 against one `lm-eval run` per model: the same tasks, items and weights, wall time and scores.

    python measure/table2.py --study demo                # every model of the study that exists
    python measure/table2.py --models ancestor --batch 4
    python measure/table2.py --keep data/runs/table2 --runs 3   # in pieces: what the folder holds is not run again

Both sides compute in float32, so that their answers can be compared item by item. The stopwatch is
on whole processes, start-up and model loading included, and once more on the scoring alone; seconds
of the clock, and of processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from xlm_utils import models
from xlm_utils.benchmark import benchmarks
from xlm_utils.benchmark.prepared import TASKS, Prepared, prepare
from xlm_utils.study import ROOT, Study, open_study


def stopwatch(seconds: Path) -> None:
    """`lm-eval run` with the rest of the command line, its scoring timed."""
    import lm_eval.evaluator

    untimed = lm_eval.evaluator.evaluate

    def timed(*args, **options):
        start, cpu = time.perf_counter(), time.process_time()
        results = untimed(*args, **options)
        seconds.write_text(f"{time.perf_counter() - start} {time.process_time() - cpu}")
        return results

    lm_eval.evaluator.evaluate = timed
    runpy.run_module("lm_eval", run_name="__main__")


def ours(study: Study, names: list[str], folder: Path) -> None:
    """All models in this process, as notebook 06 runs them, but nothing resumed or taken over from a twin."""
    from xlm_utils.benchmark.harness import SharedPromptLM

    prepared, seconds, processor, pairs = prepare(study), 0.0, 0.0, {}
    for name in names:
        model, tokenizer, _ = models.load(study, name, dtype="float32")
        start, cpu = time.perf_counter(), time.process_time()
        lm = SharedPromptLM(model, tokenizer, study.benchmarks.batch_tokens, pairs)
        _, rows = benchmarks.compose(prepared, name, benchmarks.answer(lm, prepared, prepared.tasks))
        seconds, processor = seconds + time.perf_counter() - start, processor + time.process_time() - cpu
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "seconds").write_text(f"{seconds} {processor}")


def timed_process(command: list[str], folder: Path) -> None:
    """Run a process that writes what its scoring took to ``folder/seconds``; what it took in all goes beside it, when it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (folder / "whole").write_text(f"{time.perf_counter() - start} {cpu}")


def times(folders: list[Path], name: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor, summed over folders: ``whole`` processes, or their scoring (``seconds``)."""
    found = [map(float, (folder / name).read_text().split()) for folder in folders]
    wall, cpu = map(math.fsum, zip(*found, strict=True))
    return wall, cpu


def stock(study: Study, name: str, samples: dict[str, list[int]], batch: int, folder: Path) -> list[str]:
    """The command line of one `lm-eval run`."""
    data_dir = study.benchmarks.data_dir
    metadata = {"data_dir": str(ROOT / data_dir)} if data_dir else {}
    return [
        sys.executable, __file__, "--stopwatch", str(folder / "seconds"), "run", "--model", "hf",
        "--model_args", f"pretrained={models.locate(study, name)},dtype=float32", "--batch_size", str(batch),
        "--include_path", str(TASKS), "--tasks", *samples, "--samples", json.dumps(samples), "--metadata", json.dumps(metadata),
        "--log_samples", "--output_path", str(folder),
    ]  # fmt: skip


def answers(folder: Path, task: str) -> dict[int, tuple[str, float | None]]:
    """Item → prediction and gold log-probability, from the files that `--log_samples` leaves."""
    found = {}
    for file in folder.rglob(f"samples_{task}_2*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            resps = sample["filtered_resps"]
            if isinstance(resps[0], str):
                found[sample["doc_id"]] = resps[0], None
            else:
                likelihoods = [float(likelihood) for likelihood, _ in resps]
                found[sample["doc_id"]] = str(likelihoods.index(max(likelihoods))), likelihoods
    return found


def compare(name: str, mine: Path, stock_folder: Path, prepared: Prepared) -> str:
    rows = json.loads((mine / f"{name}.json").read_text(encoding="utf-8"))
    different, largest = [], 0.0
    for dataset, task in prepared.tasks.items():
        theirs = answers(stock_folder, task.task_name)
        for row in (row for row in rows if row["dataset"] == dataset):
            prediction, likelihoods = theirs[row["item"]]
            if likelihoods:
                doc = task.eval_docs[row["item"]]
                prediction = task.doc_to_choice(doc)[int(prediction)]
                largest = max(largest, abs(benchmarks.choice_scores(task, doc, likelihoods)[0] - row["gold_logprob"]))
            if prediction != row["prediction"]:
                different.append(f"{dataset} {row['item']}")
    verdict = f"{len(different)} different ({', '.join(different)})" if different else "all the same"
    return f"{name}: {len(rows)} predictions, {verdict}; gold log-probabilities within {largest:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--models", nargs="*", help="default: every model of the study")
    parser.add_argument("--items", type=int, default=0, help="per data set; default: as the study says")
    parser.add_argument("--batch", type=int, default=4, help="batch size of lm-eval; ours is by tokens")
    parser.add_argument("--keep", type=Path, help="folder for answers and times; runs that it holds are not repeated")
    parser.add_argument("--runs", type=int, help="at most so many processes this time (with --keep)")
    parser.add_argument("--ours", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    study = open_study(arguments.study, items=arguments.items)
    names = arguments.models or study.models
    if arguments.ours:
        return ours(study, names, Path(arguments.ours))
    with tempfile.TemporaryDirectory() as scratch:
        measure(study, names, arguments, arguments.keep or Path(scratch))


def measure(study: Study, names: list[str], arguments: argparse.Namespace, folder: Path) -> None:
    """Run what has no result yet, then compare answers and times."""
    for name in names:
        models.locate(study, name)  # made before the clock starts
    prepared = prepare(study)
    samples = {task.task_name: prepared.items[dataset] for dataset, task in prepared.tasks.items()}
    mine = folder / "ours"
    command = [sys.executable, __file__, "--study", arguments.study, "--items", str(arguments.items), "--models", *names, "--ours", str(mine)]
    commands = {mine: command} | {folder / name: stock(study, name, samples, arguments.batch, folder / name) for name in names}
    todo = [place for place in commands if not (place / "whole").exists()]
    for place in todo[: arguments.runs]:
        timed_process(commands[place], place)
        print(f"{place.name}: {times([place], 'whole')[0]:.0f} s", flush=True)
    if left := todo[arguments.runs :] if arguments.runs else []:
        return print(f"{len(left)} of {len(commands)} processes are still to run: {', '.join(place.name for place in left)}")
    for name in names:
        print(compare(name, mine, folder / name, prepared))
    print(f"{len(names)} models, {sum(map(len, samples.values()))} items each, {len(os.sched_getaffinity(0))} cores")
    for what, file in (("in all", "whole"), ("scoring only", "seconds")):
        (wall, cpu), (our_wall, our_cpu) = times([folder / name for name in names], file), times([mine], file)
        print(f"{what}: lm-eval {wall:.0f} s, here {our_wall:.0f} s, {wall / our_wall:.1f} times as fast;", end=" ")
        print(f"processor time {cpu:.0f} s, here {our_cpu:.0f} s, {cpu / our_cpu:.1f} times")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stopwatch"]:
        seconds_file = Path(sys.argv[2])
        sys.argv = ["lm-eval", *sys.argv[3:]]
        stopwatch(seconds_file)
    else:
        main()
