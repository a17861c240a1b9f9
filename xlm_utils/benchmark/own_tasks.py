"""A user's own columns: a folder of the harness's task files (``benchmarks.tasks``), a column each, with the functions and rows beside them."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from xlm_utils.benchmark.tasks.data import DataError
from xlm_utils.models.libraries import datasets
from xlm_utils.study import Study, StudyError, project_path, short
from xlm_utils.study.inputs import NAME

if TYPE_CHECKING:
    from xlm_utils.benchmark.harness import PreparedTask

CHOICE, FREE = "multiple_choice", "generate_until"
RAISED = (AssertionError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError)  # by a task's own code, which can be any


def own_tasks(study: Study) -> dict[str, Path]:
    """Name of each task → its file; a file that names no task is there to be included.

    A StudyError: no such folder, no task in it, a file that can't be read, or a name that is no file's or there twice.
    """
    if not study.benchmarks.tasks:
        return {}
    from lm_eval.tasks._yaml_loader import load_yaml
    from yaml import YAMLError

    found, folder = {}, project_path(study.benchmarks.tasks).resolve()
    for file in sorted(folder.glob("*.yaml")):
        try:
            config = load_yaml(file, resolve_func=False)
        except (YAMLError, OSError, ValueError) as error:
            raise StudyError(f"benchmarks.tasks: {file.name}: {' '.join(str(error).split())[:200]}") from None
        if "task" in config:
            if not NAME.fullmatch(name := str(config["task"])) or name in found:
                raise StudyError(f"benchmarks.tasks: {file.name}: task: {short(config['task'])} is there twice, or can't name a file and a column")
            found[name] = file
    if not found:
        raise StudyError(f"benchmarks.tasks: {short(study.benchmarks.tasks)} is no folder with a task file of the harness (.yaml with task: name)")
    return found


def load_own(name: str, file: Path) -> "PreparedTask":
    """A task with its rows, each put into words once; paths in its file are from its folder.

    A DataError: what the file, its functions, templates or rows raise, or that it is none of the tasks that a column can be made of.
    """
    from jinja2 import TemplateError
    from lm_eval.api.registry import get_aggregation
    from lm_eval.tasks._yaml_loader import load_yaml

    from xlm_utils.benchmark.harness import PreparedTask

    try:
        with contextlib.chdir(file.parent), contextlib.redirect_stderr(io.StringIO()):  # progress bars of an instant
            task = PreparedTask(config=load_yaml(file))
            task.build_all_requests()
        made, choice, (metric, mean) = task.config, task.OUTPUT_TYPE == CHOICE, next(iter(task.aggregation().items()))
        unfit = {
            f"output_type is {task.OUTPUT_TYPE}, neither {CHOICE} nor {FREE}": task.OUTPUT_TYPE not in (CHOICE, FREE),
            "an item has several texts or right choices": task.multiple_input or (choice and task.multiple_target),
            "answers are sampled": made.repeats != 1 or (made.generation_kwargs or {}).get("do_sample"),
            f"{metric} is no mean over items, the higher the better": not (mean is get_aggregation("mean") and task.higher_is_better()[metric]),
        }
        if why := [reason for reason, holds in unfit.items() if holds]:
            raise DataError(f"task {name}: {file.name}: can't be a column, as {why[0]}")
        for doc in task.eval_docs:
            answers = [(0.0, number == task.gold_index(doc)) for number, _ in enumerate(task.doc_to_choice(doc))] if choice else [""]
            if (choice and not any(right for _, right in answers)) or not isinstance(task.process_results(doc, answers)[metric], int | float):
                raise DataError(f"task {name}: {file.name}: can't be a column, as {metric} is no number, or no choice is right, of {short(doc)}")
    except (*RAISED, TemplateError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"task {name}: {file.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None
    task._instances = None  # those of a model with a chat template are others
    return task
