"""A user's own columns: a folder of the harness's task files (``benchmarks.tasks``), a column each, with the functions and rows beside them."""

import contextlib
import io
import json
from numbers import Real
from pathlib import Path

from xlm_utils.benchmark.tasks.data import DataError
from xlm_utils.models.libraries import ConfigurableTask, datasets
from xlm_utils.study import Study, StudyError, fingerprint, project_path, sha256, short
from xlm_utils.study.inputs import NAME

CHOICE, FREE = "multiple_choice", "generate_until"
GREEDY = {"until", "do_sample", "max_gen_toks", "temperature", "top_p", "top_k"}  # settings of a generation that change no greedy one, or are kept
OFTEN = (AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, TypeError, ValueError)  # raised by a task's own code:
RAISED = (*OFTEN, ArithmeticError, RuntimeError, StopIteration, SyntaxError)  # it can be anything


def own_tasks(study: Study) -> dict[str, tuple[Path, dict]]:
    """Name of each task → its file and what that says, functions by name; groups, and files that name no task, are there for others.

    A StudyError: no such folder, no task in it, a file that can't be read, or a name that is no file's or there twice.
    """
    if not study.benchmarks.tasks:
        return {}
    from lm_eval.tasks._yaml_loader import load_yaml
    from yaml import YAMLError

    found, folder = {}, project_path(study.benchmarks.tasks).resolve()
    for file in sorted(folder.glob("*.y*ml")):
        try:
            config = load_yaml(file, resolve_func=False)
        except (YAMLError, OSError, ValueError, TypeError) as error:
            raise StudyError(f"benchmarks.tasks: {file.name}: {' '.join(str(error).split())[:200]}") from None
        if isinstance(name := config.get("task"), list | None):
            continue
        if not NAME.fullmatch(str(name)) or not isinstance(name, str) or name in found:
            raise StudyError(f"benchmarks.tasks: {file.name}: task: {short(name)} is there twice, or can't name a file and a column")
        found[name] = file, config
    if not found:
        raise StudyError(f"benchmarks.tasks: {short(study.benchmarks.tasks)} is no folder with a task file of the harness (.yaml with task: name)")
    return found


def load_own(name: str, file: Path, said: dict, shots: int | None = None) -> tuple[ConfigurableTask, str]:
    """A task with its rows, each put into words once, and a hash of all that it is made of; ``said``: see ``own_tasks``; ``shots``: at most so many.

    Paths in the file are from its folder. A DataError: what the file, its functions, templates or rows raise, or that it can be no column.
    """
    from jinja2 import TemplateError
    from lm_eval.api.registry import get_aggregation
    from lm_eval.tasks._yaml_loader import load_yaml

    from xlm_utils.benchmark.harness import PreparedTask

    try:
        with contextlib.chdir(file.parent), contextlib.redirect_stderr(io.StringIO()):  # progress bars of an instant
            config = load_yaml(file)
            config["num_fewshot"] = min(config.get("num_fewshot") or 0, 10**6 if shots is None else shots)
            task = PreparedTask(config=config)
            task.build_all_requests()
            made, choice, docs = task.config, task.OUTPUT_TYPE == CHOICE, task.eval_docs
            rows = [list(docs), list(task.fewshot_docs() or []) if made.num_fewshot else []]
            asked, metric, answer = made.generation_kwargs or {}, "", task.gold_index if choice else lambda doc: str(task.doc_to_target(doc))
            unfit = {
                f"output_type is {task.OUTPUT_TYPE}, neither {CHOICE} nor {FREE}": task.OUTPUT_TYPE not in (CHOICE, FREE),
                "an item has several texts or right choices": task.multiple_input or (choice and task.multiple_target),
                "answers are sampled": made.repeats != 1 or asked.get("do_sample") or (asked.get("temperature") or 0) > 0,
                f"generation_kwargs may name {', '.join(sorted(GREEDY))} alone": {*asked} - GREEDY,
                "it runs code, or takes pictures or sound": made.unsafe_code or made.doc_to_image or made.doc_to_audio}  # fmt: skip
            for doc in docs if not any(unfit.values()) else ():
                right = [(0.0, i == answer(doc)) for i, _ in enumerate(task.doc_to_choice(doc))] if choice else [answer(doc)]
                metric, score = next(iter(task.process_results(doc, right).items()))
                unfit[f"{metric} is no number, or no choice right, of {short(doc)}"] = not isinstance(score, Real) or (choice and not max(right)[1])
        unfit[f"{metric} is no mean over items, the higher the better"] = not any(unfit.values()) and (
            task.aggregation().get(metric) is not get_aggregation("mean") or not task.higher_is_better()[metric])  # fmt: skip
        if why := [reason for reason, holds in unfit.items() if holds]:
            raise DataError(f"task {name}: {file.name}: can't be a column, as {why[0]}")
    except (*RAISED, TemplateError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"task {name}: {file.name}: {type(error).__name__}: {' '.join(str(error.__cause__ or error).split())[:200]}") from None
    # requests are another model's where it has a chat template; rows are processed once, in the folder
    task._instances, made.process_docs, task.dataset[made.test_split or made.validation_split] = None, None, docs
    return task, fingerprint([json.dumps(said, sort_keys=True).replace(str(file.parent), ""), [*map(sha256, sorted(file.parent.glob("*.py")))], rows])
