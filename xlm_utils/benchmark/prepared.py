"""The items, prompts and tasks of every Table 2 column, built once for all models of a study."""

import json
import random
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from xlm_utils.benchmark.own_tasks import load_own, own_tasks
from xlm_utils.benchmark.tasks import data
from xlm_utils.models.libraries import ConfigurableTask, DatasetDict
from xlm_utils.study import Study, StudyError, fingerprint, project_path

TASKS = Path(data.__file__).parent
# column → its data sets, each a task file <data set>.yaml; a family is the unweighted mean of its data sets
COLUMNS = {name: (name,) for name in ("pubmedqa", "jaqket_v2", "jcommonsenseqa", "jsquad", "xwinograd_ja", "xlsum_ja")} | {
    "mcqa": ("medmcqa_jp", "usmleqa_jp", "medqa_jp", "mmlu_medical_jp", "jmmlu_medical", "igakuqa", "pubmedqa_jp"),
    "dc": ("crade", "rrtnm", "smdis"), "sts": ("jcsts",)}  # fmt: skip
SIMILARITY = ("jcsts", "jcsts_likelihood")  # one data set scored in two ways, both always shown; a study may take the second for its column
COLUMN_OF = {dataset: column for column, sets in COLUMNS.items() for dataset in sets} | dict.fromkeys(SIMILARITY, "sts")
NO_CHOICES = ("jaqket_v2", "jsquad", "xlsum_ja", "jcsts_likelihood")  # so nothing smooth to search on


@dataclass
class Prepared:
    """Tasks with their requests, ready for any model; keys are data sets."""

    tasks: dict[str, ConfigurableTask] = field(default_factory=dict)
    items: dict[str, list[int]] = field(default_factory=dict)  # rows of the reported split that are asked
    facts: dict[str, dict] = field(default_factory=dict)  # what a result is made from
    unavailable: dict[str, str] = field(default_factory=dict)  # why a data set is missing
    columns: dict[str, tuple[str, ...]] = field(default_factory=lambda: COLUMNS)  # column → the data sets that it is the mean of
    pairs: dict[str, dict] = field(default_factory=dict)  # tokenizer → tokenised requests


def columns(study: Study) -> dict[str, tuple[str, ...]]:
    """Column → the data sets that it is the mean of in this study: of ``COLUMNS``, or fewer by ``benchmarks.columns`` and ``sets``, then own tasks.

    A StudyError: a column, data set or folder that there is not.
    """
    for column, sets in study.benchmarks.sets.items():
        valid = [dataset for dataset, own in COLUMN_OF.items() if own == column]
        if column not in COLUMNS or not sets or not set(sets) <= set(valid):
            raise StudyError(f"benchmarks.sets: {column}: {list(sets)} must name some of {', '.join(valid or COLUMNS)}")
    chosen = COLUMNS if (wanted := study.benchmarks.columns) is None else wanted
    if unknown := set(chosen) - set(COLUMNS):
        raise StudyError(f"benchmarks.columns: {min(unknown)!r} is not one of {', '.join(COLUMNS)}; benchmarks: none asks none of them")
    if twice := {*(own := own_tasks(study))} & {*COLUMNS, *COLUMN_OF}:
        raise StudyError(f"benchmarks.tasks: {min(twice)!r} is the name of a column or data set of Table 2; give the task another")
    return {column: sets for column, sets in (COLUMNS | study.benchmarks.sets).items() if column in chosen} | {name: (name,) for name in own}


def asked(study: Study) -> list[str]:
    """The data sets of Table 2 that are put to the models."""
    chosen = columns(study)
    return [dataset for dataset, column in COLUMN_OF.items() if column in chosen and dataset in (*chosen[column], *SIMILARITY)]


def spread(pool: list[int], wanted: int, seed: object) -> list[int]:
    """``wanted`` of ``pool``, one from each of as many equal stretches (sets are often ordered by subject); 0: all."""
    if not wanted or wanted >= len(pool):
        return pool
    draw, edges = random.Random(str(seed)), [len(pool) * k // wanted for k in range(wanted + 1)]
    return [pool[draw.randrange(low, high)] for low, high in pairwise(edges)]


def prepare(study: Study) -> Prepared:
    """Load and check every data set, draw its items, build its task.

    A data set that can't be had, or has a bad row, is named in one printed sentence and stops its own column only. A StudyError: the data folder does
    not exist, or no data set can be used at all.
    """
    prepared = Prepared(columns=columns(study))
    for dataset in asked(study):
        try:
            config, splits = load_task(study, dataset)
        except data.DataError as error:
            prepared.unavailable[dataset] = str(error)
            print(error)
            continue
        (split, pool), _ = pools(study, dataset, config, splits)
        of = len(splits[split])
        if len(pool) < of:
            print(f"{dataset}: {of - len(pool)} of its {of} rows are set aside for the search and not reported")
        prepared.items[dataset] = spread(pool, study.benchmarks.items, (study.seed, config["dataset_kwargs"]["name"]))
        prepared.tasks[dataset] = make_task(config, splits)
        prepared.facts[dataset] = {
            "version": config["metadata"]["version"], "of": of, "held_out": of - len(pool), "items": fingerprint(prepared.items[dataset]),
            "task": fingerprint(json.dumps(config, default=lambda function: function.__name__)),
            "rows": fingerprint({name: rows.to_list() for name, rows in splits.items()})}  # fmt: skip
    for name, (file, said) in own_tasks(study).items():
        try:
            prepared.tasks[name], made = load_own(name, file, said, study.benchmarks.shots)
        except data.DataError as error:
            prepared.unavailable[name] = str(error)
            print(error)
            continue
        of, version = len(prepared.tasks[name].eval_docs), prepared.tasks[name].VERSION
        prepared.items[name] = spread([*range(of)], study.benchmarks.items, (study.seed, name))
        prepared.facts[name] = {"version": version, "of": of, "held_out": 0, "items": fingerprint(prepared.items[name]), "task": made}
    if prepared.unavailable and not prepared.tasks:
        raise StudyError("no benchmark data set can be used; " + next(iter(prepared.unavailable.values())))
    return prepared


def data_folder(study: Study) -> Path | None:
    """Where the study's ``benchmarks.data_dir`` is: as given, or from the repository's root; None for the hub. A StudyError: in neither place."""
    given = study.benchmarks.data_dir
    if not given:
        return None
    if not (folder := project_path(given)).is_dir():
        raise StudyError(f"data_dir: there is no folder {given}")
    return folder


def load_task(study: Study, dataset: str) -> tuple[dict, DatasetDict]:
    """A task's configuration and its rows by split."""
    from lm_eval.tasks._yaml_loader import load_yaml  # the manager would also load the rows, without our checks

    folder, config = data_folder(study), load_yaml(TASKS / f"{dataset}.yaml")
    del config["custom_dataset"]
    if study.benchmarks.shots is not None:
        config["num_fewshot"] = min(config["num_fewshot"], study.benchmarks.shots)
    return config, data.load(**config["dataset_kwargs"], data_dir=folder and str(folder))


def make_task(config: dict, splits: DatasetDict, **changes: object) -> ConfigurableTask:
    """The harness task over rows that are already loaded; ``changes`` override its configuration."""
    from xlm_utils.benchmark.harness import PreparedTask

    return PreparedTask(config={**config, "custom_dataset": lambda **_: splits, **changes})


def pools(study: Study, dataset: str, config: dict, splits: DatasetDict) -> tuple[tuple[str, list[int]], tuple[str, list[int]]]:
    """(split, rows) that results are reported on, and (split, rows) that a search may look at.

    With the ``disjoint`` fitness a search sees the training split; where a data set has none and a method of the
    study is searched on it, a seeded half of the reported split is set aside.
    """
    split = config.get("test_split") or config["validation_split"]
    rows = list(range(len(splits[split])))
    if study.evolution.fitness == "published":
        return (split, rows), (split, rows)
    if "train" in splits:
        return (split, rows), ("train", list(range(len(splits["train"]))))
    if COLUMN_OF[dataset] not in study.evolution.columns or not study.searched:
        return (split, rows), (split, [])
    half = set(random.Random(f"{study.seed} {config['dataset_kwargs']['name']}").sample(rows, len(rows) // 2))
    return (split, [row for row in rows if row not in half]), (split, sorted(half))
