"""What a search maximises: the gold answers' log-probability on rows that Table 2 does not report.

Prompts are built and tokenised as for Table 2 (room ``benchmarks``), and put to candidates that never touch the disk.
"""

from collections.abc import Callable, Iterator

import pandas as pd

from xlm_utils.benchmark import benchmarks, transfer
from xlm_utils.benchmark.prepared import COLUMN_OF, COLUMNS, NO_CHOICES, columns, load_task, make_task, pools, spread
from xlm_utils.curate.vocabulary import groups
from xlm_utils.models.libraries import ConfigurableTask, DatasetDict, PreTrainedModel, PreTrainedTokenizerBase
from xlm_utils.study import Study, StudyError
from xlm_utils.translate.translation import terms, unreported

TRANSFER = "transfer"  # as a column of evolution.columns: no benchmark, but the margin of room ``benchmark.transfer``


def check_columns(study: Study) -> None:
    """Stop with a StudyError if a column that a search is to look at is unknown or scored by generation."""
    valid = [column for column, sets in columns(study).items() if column in COLUMNS and not {*sets} & {*NO_CHOICES}] + [TRANSFER]
    for column in study.evolution.columns:
        if column not in valid:
            raise StudyError(f"evolution.columns: {column!r} has no choices to search on; there are {', '.join(valid)}")


def _searched(study: Study) -> Iterator[tuple[str, dict, DatasetDict, str, list[int], tuple[str, list[int]]]]:
    """Data set, its configuration and splits, the split and the items that a search looks at, and (split, rows) that are reported.

    A StudyError: a column is unknown or scored by generation, or its data can't be used.
    """
    check_columns(study)
    for column in study.evolution.columns:
        for dataset in columns(study)[column] if column != TRANSFER else ():
            config, splits = load_task(study, dataset)
            reported, (split, pool) = pools(study, dataset, config, splits)
            if not pool:
                raise StudyError(f"evolution.columns: {dataset} has too few rows to set some aside; take fitness: published or another column")
            yield dataset, config, splits, split, spread(pool, study.evolution.items, (study.seed, "search", dataset)), reported


def fitness_rows(study: Study) -> pd.DataFrame:
    """What a search looks at: a row per data set with its column, split, items searched on, rows left to be reported and how many are both.

    With ``fitness: published`` the last is not 0: the search is contaminated, and its reported scores are no test.
    """
    found = []
    for dataset, _, _, split, items, (test, reported) in _searched(study):
        found.append((COLUMN_OF[dataset], dataset, split, len(items), len(reported), len(set(items) & set(reported)) if split == test else 0))
    if TRANSFER in study.evolution.columns:
        found.append((TRANSFER, "terms", "not run by the study", len(spare(study, study.evolution.items)[1]), len(terms(study)), 0))
    return pd.DataFrame(found, columns=["column", "data set", "split", "searched on", "left to report", "both"])


def scorer(study: Study) -> Callable[[PreTrainedModel, PreTrainedTokenizerBase], dict[str, float]]:
    """What a search maximises, on ``evolution.items`` items of each data set of ``evolution.columns``.

    Returns a function of (model, tokenizer) → ``objective``: mean log-probability of the gold answer among the choices (smooth, where accuracies tie;
    of ``transfer`` the margin), and ``accuracy``; both are means over items, then over data sets, then over columns. Prompts are built and tokenised
    once, so all candidates must share one tokenizer. A StudyError: a column is unknown or scored by generation, or its data can't be used.
    """
    tasks: dict[str, list[tuple[ConfigurableTask, list[int]]]] = {}
    for dataset, config, splits, split, items, _ in _searched(study):
        tasks.setdefault(COLUMN_OF[dataset], []).append((make_task(config, splits, test_split=split), items))
    every = [pair for own in tasks.values() for pair in own]
    pairs: dict = {}
    others, tied = spare(study, study.evolution.items) if TRANSFER in study.evolution.columns else (None, [])
    prompts = [study.prompt(study.target, term) for term in others["translation"]] if tied else []

    def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        from xlm_utils.benchmark.harness import SharedPromptLM

        lm = SharedPromptLM(model, tokenizer, study.benchmarks.batch_tokens, pairs)
        chat = {"apply_chat_template": True, "chat_template": lm.apply_chat_template, "fewshot_as_multiturn": True}
        for task, items in every:
            task.build_all_requests(samples=items, **(chat if study.benchmarks.chat_template else {}))
        answers = iter(lm.loglikelihood([instance for task, _ in every for instance in task.instances]))
        found = {column: pd.DataFrame([_gold_scores(task, answers) for task, _ in own]).mean() for column, own in tasks.items()}
        if tied:
            margins = pd.DataFrame(transfer.score(lm, study, others, prompts, tied))
            found[TRANSFER] = pd.Series({"objective": margins["margin"].mean(), "accuracy": margins["correct"].mean()})
        return {key: float(value) for key, value in pd.DataFrame(found).mean(axis=1).items()}

    return score


def spare(study: Study, items: int) -> tuple[pd.DataFrame, list[tuple[int, list[int]]]]:
    """Translated terms whose concepts and translations no table reports, and so many of them (0: all) with their rivals (``transfer.draw``)."""
    rest = unreported(study)
    return rest, transfer.draw(rest, groups(study), study.transfer.rivals, items, study.seed)


def _gold_scores(task: ConfigurableTask, answers: Iterator[tuple[float, bool]]) -> dict[str, float]:
    """Means over a task's items, taking the task's share of the answers."""
    docs, likelihoods = {}, {}
    for instance in task.instances:
        docs[instance.doc_id] = instance.doc
        likelihoods.setdefault(instance.doc_id, []).append(next(answers)[0])
    found = [benchmarks.choice_scores(task, docs[item], values) for item, values in likelihoods.items()]
    return pd.DataFrame(found, columns=["objective", "accuracy"]).mean().to_dict()
