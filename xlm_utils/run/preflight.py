"""What a study needs, checked before anything is downloaded or paid for; every failure at once, each one sentence.

The stages that are still to run decide what is looked at: the demo's checks are local and instant. The hub is asked for facts about repositories, a
small file of each model and the first rows of each data set; a judge is asked whether its model exists.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from xlm_utils import models
from xlm_utils.ask.cards import load_card
from xlm_utils.benchmark import prepared
from xlm_utils.benchmark.own_tasks import load_own, own_tasks
from xlm_utils.benchmark.tasks import data
from xlm_utils.curate import vocabulary
from xlm_utils.merge import evolution, fitness
from xlm_utils.merge.merging import is_searched
from xlm_utils.merge.methods import check_specification
from xlm_utils.models import hub
from xlm_utils.run import checks
from xlm_utils.run.checks import GIB, Facts, in_gib, largest
from xlm_utils.study import Study, StudyError, parse, pick_device, read_card, read_manifest, relative
from xlm_utils.study.settings import OFFLINE
from xlm_utils.translate.translation import draw_terms, translate

ROOM = 2 * GIB  # beside a model's weights, for a batch and what the libraries take
LARGE = 1e9  # parameters
FREE = "import torch; print(torch.cuda.mem_get_info()[0])"
BEGINNING = 1 << 20  # bytes of a data set's file; a row of JAQKET with its hundred contexts has less
SPARE = 2 * GIB  # of disk, for data sets and results
BYTES = {"int8": 1.1, "nf4": 0.75}  # of a parameter: embeddings and head stay in 16 bits


def preflight(study: Study, stages: Collection[str], here: bool = True, base_url: str = "") -> None:
    """Check all that the coming stages (``03_merge`` …) need, printing a line for each check that passes.

    Where models don't run ``here``, this machine's memory is not looked at. ``base_url`` is where judges and translator are asked; "": as their cards
    say. A StudyError: a sentence per failure, one a line.
    """
    failures: list[str] = []

    def attempt(check: Callable[[], str]) -> bool:
        try:
            print(f"  ok  {check()}", flush=True)
        except StudyError as error:
            failures.append(str(error))
            return False
        return True

    print(f"checks before {study.folder.name} runs:")
    facts: Facts = {}
    numbers = {stage[:2] for stage in stages}
    needs_models, needs_data = numbers & {"03", "04", "06", "08"}, numbers & {"03", "06"} and prepared.asked(study)
    if "03_merge" in stages:
        attempt(lambda: _methods(study))
    if "01_curate" in stages:
        attempt(lambda: _terminology(study))
    for name in checks.cards(study, stages):
        attempt(lambda name=name: checks.answers(load_card(name), base_url))
    missing = [name for name in study.constituents if checks.to_fetch(study, name)] if needs_models else []
    wanted = [study.constituents[name].weights for name in missing] + ["the benchmark data sets"] * bool(needs_data and not study.benchmarks.data_dir)
    reachable = not wanted or attempt(lambda: hub.check_reachable(wanted))
    for name in study.constituents if needs_models else ():
        if reachable or name not in missing:
            attempt(lambda name=name: checks.model(study, name, facts))
    if facts.keys() & set(study.parents):
        attempt(lambda: checks.match(study, facts))
        if here:
            attempt(lambda: _memory(study, facts))
    if needs_models:
        attempt(lambda: _disk(study, facts))
    if needs_data and study.benchmarks.data_dir:
        attempt(lambda: _folder(study))
    elif needs_data and reachable:
        failures += _hub_data_sets(study)
    for task, found in own_tasks(study).items() if "06" in numbers else ():
        attempt(lambda task=task, found=found: f"task {task}: {len(load_own(task, *found)[0].eval_docs):,} items")
    attempt(lambda: checks.cost(study, stages))
    if failures:
        raise StudyError("\n".join([f"{len(failures)} of the checks failed; nothing was downloaded or paid for", *failures]))


def _terminology(study: Study) -> str:
    """The vocabulary, made as notebooks 01 and 02 make it: what each filter leaves, and how many terms are run."""
    path = vocabulary.source_path(study)
    steps = pd.read_csv(vocabulary.curate(study).with_name("funnel.csv"))
    left = [f"{row.rows:,} {row.step}" for row in steps[steps["rows"].diff() != 0].itertuples()]  # what took none says nothing
    if study.translation.translator in OFFLINE:
        table, run = (vocabulary.read_terms(make(study)) for make in (translate, draw_terms))
        left += [f"{(table['translation'] != '').sum():,} translated", f"{len(run):,} run"]
    else:
        left.append(f"what has no translation, by {study.translation.translator}")
    return f"terminology {study.vocabulary.source}: {relative(path)}: {' → '.join(left)}"


def _methods(study: Study) -> str:
    """Every merge's name fits its card, and a search can run."""
    for card in dict.fromkeys(parse(name).card for name in study.methods):
        check_specification(read_card(card)["mergekit"], f"params/methods/{card}.yaml: ")
    if any([is_searched(study, name) for name in study.methods]):  # a list: every name is looked at
        evolution.check(study)
        fitness.check_columns(study)
    return f"methods: {len(study.methods)} merges"


def _memory(study: Study, facts: Facts) -> str:
    import psutil

    device, _ = pick_device()
    dtype = study.generation.dtype if device == "cuda" else models.pick_dtype(study, device)[0]
    size = BYTES.get(study.generation.quantization, 4 if dtype == "float32" else 2)
    free = psutil.virtual_memory().available
    if device == "cuda":  # asked in a process that ends: a CUDA context in this one would take memory for hours, and an exclusive GPU for itself
        free = int(subprocess.run([sys.executable, "-c", FREE], capture_output=True, text=True, check=True).stdout)
    needed, where = largest(facts) * size + ROOM, "GPU memory" if device == "cuda" else "memory (no GPU is visible)"
    if free < needed:
        raise StudyError(f"{where}: {in_gib(free)} are free, and a model with a batch needs {in_gib(needed)}; with generation.quantization nf4, less")
    slow = "; warning: on a CPU, models of this size take days" if device == "cpu" and largest(facts) > LARGE else ""
    return f"{where}: {in_gib(free)} free, {in_gib(needed)} needed{slow}"


def _disk(study: Study, facts: Facts) -> str:
    """Downloads and merges against the free space of the disks they go to."""
    from huggingface_hub import constants

    to_merge = [method for method in study.methods if not read_manifest(study.models_folder / method)]
    merges, downloads = len(to_merge) * largest(facts) * 2, sum(fact["to_download"] for fact in facts.values())
    disks: dict[int, list] = {}
    for folder, size in ((Path(constants.HF_HUB_CACHE), downloads), (study.models_folder, merges + SPARE)):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        disks.setdefault(there.stat().st_dev, [there, 0])[1] += size
    for folder, needed in disks.values():
        if (free := shutil.disk_usage(folder).free) < needed:
            raise StudyError(f"disk: {in_gib(free)} are free at {folder}, and downloads and {len(to_merge)} merges need {in_gib(needed)}")
    return "disk: " + "; ".join(f"{in_gib(shutil.disk_usage(folder).free)} free, {in_gib(needed)} needed" for folder, needed in disks.values())


def _asked(study: Study) -> dict[str, dict]:
    """What each data set's task file says of its place and files."""
    from lm_eval.tasks._yaml_loader import load_yaml

    found = [load_yaml(prepared.TASKS / f"{name}.yaml", resolve_func=False) for name in prepared.asked(study)]
    return {task["dataset_kwargs"]["name"]: task["dataset_kwargs"] for task in found if "dataset_kwargs" in task}


def _hub_data_sets(study: Study) -> list[str]:
    """Sentences about the data sets that can't be used; all are asked at once."""
    asked = _asked(study)
    with ThreadPoolExecutor(8) as threads:
        wrong = [sentence for sentence in threads.map(lambda kwargs: first_rows(**kwargs), asked.values()) if sentence]
    if not wrong:
        print(f"  ok  data sets: {len(asked)} on the hub, with the columns expected")
    return wrong


def first_rows(name: str, path: str, files: dict, needs: list, config: str | None = None, raw: dict | None = None, **_) -> str:
    """What is wrong with the first row of each needed split of a data set on the hub, reading no more than the beginning of its file."""
    import datasets
    from huggingface_hub import HfFileSystem

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs what it raises
    needed = ["train"] if name == "pubmedqa" else [split for split in files if split in needs]
    try:
        if raw:
            starts = {split: HfFileSystem().open(f"datasets/{path}/{raw[split]}").read(BEGINNING).decode("utf-8", "ignore") for split in needed}
            rows = {split: json.JSONDecoder().raw_decode(text.lstrip("[ \r\n"))[0] for split, text in starts.items()}
        else:
            loaded = datasets.load_dataset(path, config, streaming=True)
            rows = {split: next(iter(loaded[split]), None) for split in needed}
        for split, row in rows.items():
            data.check_row(name, path, f"{path}, first {split} row", row)
    except data.DataError as error:
        return str(error)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:  # unreachable, unknown or changed
        told = str(error).partition("\n")[0][:120] or "no details"
        return f"data set {name}: {path} can't be read from the hub ({type(error).__name__}: {told}); see {data.HUB}{path}"
    return ""


def _folder(study: Study) -> str:
    folder, asked = prepared.data_folder(study), _asked(study)
    there = [name for name, kwargs in asked.items() if any((folder / file).is_file() for file in kwargs["files"].values())]
    if not there:
        raise StudyError(f"benchmarks.data_dir: none of the {len(asked)} data sets is in {study.benchmarks.data_dir}")
    for name in there:
        data.load(**asked[name], data_dir=str(folder))
    return f"data sets: {len(there)} of {len(asked)} are in {study.benchmarks.data_dir}"
