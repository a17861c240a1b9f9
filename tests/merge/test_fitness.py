"""Room ``fitness``: a search looks at rows that are not reported, and at the gold answers' log-probability."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.conftest import DEMO_ITEMS
from xlm_utils import models
from xlm_utils.benchmark import benchmarks
from xlm_utils.benchmark.prepared import COLUMN_OF, COLUMNS, NO_CHOICES, load_task, make_task, pools, prepare, spread
from xlm_utils.merge import fitness
from xlm_utils.study import StudyError

CHOICES = [dataset for dataset in COLUMN_OF if dataset not in NO_CHOICES]


@pytest.mark.parametrize("dataset", CHOICES)
def test_a_disjoint_search_never_sees_a_reported_row(item_study, dataset):
    the_study = item_study(evolution={"columns": [COLUMN_OF[dataset]], "fitness": "disjoint"})
    config, splits = load_task(the_study, dataset)
    (split, reported), (search_split, searched) = pools(the_study, dataset, config, splits)
    assert searched
    assert reported
    if split == search_split:
        assert sorted(reported + searched) == list(range(len(splits[split])))
    published = item_study(evolution={"columns": [COLUMN_OF[dataset]], "fitness": "published"})
    first, second = pools(published, dataset, config, splits)
    assert first == second == (split, list(range(len(splits[split]))))


@pytest.mark.parametrize(("rows_of", "both"), [("disjoint", 0), ("published", 3)])
def test_the_rows_of_a_search_are_named_with_those_that_are_reported_too(item_study, rows_of, both):
    found = fitness.fitness_rows(item_study(evolution={"columns": ["pubmedqa", "dc"], "items": 3, "fitness": rows_of})).set_index("data set")
    assert list(found.index) == ["pubmedqa", *COLUMNS["dc"]]
    assert (found["searched on"] == 3).all()
    assert (found["both"] == both).all()


def test_fitness_is_the_mean_gold_log_probability_of_its_items_and_leaves_the_global_generators_alone(item_study):
    import torch

    from xlm_utils.benchmark.harness import SharedPromptLM

    the_study = item_study(items=0, evolution={"columns": ["pubmedqa", "dc"], "items": 3, "fitness": "published"})
    model, tokenizer, _ = models.load(the_study, "expert")
    python, others = random.getstate(), [np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    score = fitness.scorer(the_study)
    found = score(model, tokenizer)
    assert score(model, tokenizer) == found
    assert random.getstate() == python
    prepared = prepare(the_study)
    _, rows = benchmarks.compose(prepared, "expert", benchmarks.answer(SharedPromptLM(model, tokenizer, 4096), prepared, prepared.tasks))
    assert [np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()] == others
    mean = {}
    for dataset in ("pubmedqa", *COLUMNS["dc"]):
        items = spread(prepared.items[dataset], 3, (the_study.seed, "search", dataset))
        own = [row for row in rows if row["dataset"] == dataset and row["item"] in items]
        mean[dataset] = np.array([sum(row["gold_logprob"] for row in own) / 3, sum(row["score"] for row in own) / 3])
    expected = (mean["pubmedqa"] + (mean["crade"] + mean["rrtnm"] + mean["smdis"]) / 3) / 2
    assert [found["objective"], found["accuracy"]] == pytest.approx(expected, abs=1e-5)


def test_an_item_of_a_search_is_never_its_own_example(item_study):
    the_study = item_study(evolution={"columns": ["jcommonsenseqa"], "items": 6, "fitness": "disjoint"})
    config, splits = load_task(the_study, "jcommonsenseqa")
    task = make_task(config, splits, test_split="train")
    task.build_all_requests(samples=list(range(6)))
    for instance in task.instances:
        assert instance.args[0].count(instance.doc["question"]) == 1


def test_a_column_without_choices_or_unknown_cannot_be_searched(item_study):
    for column in ("jsquad", "nonsense"):
        with pytest.raises(StudyError, match=f"evolution.columns: '{column}' has no choices to search on; there are pubmedqa, "):
            fitness.scorer(item_study(evolution={"columns": [column]}))


def test_a_search_on_missing_or_too_few_rows_says_so(item_study, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match=r"data set pubmedqa: no file pubmedqa_test\.jsonl"):
        fitness.scorer(item_study(benchmarks={"data_dir": str(tmp_path / "empty")}, evolution={"columns": ["pubmedqa"]}))
    row = (DEMO_ITEMS / "smdis.jsonl").read_text(encoding="utf-8").splitlines()[0]
    for dataset in COLUMNS["dc"]:
        (tmp_path / f"{dataset}.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(StudyError, match="crade has too few rows to set some aside"):
        fitness.scorer(item_study(benchmarks={"data_dir": str(tmp_path)}, evolution={"columns": ["dc"], "fitness": "disjoint"}))


def test_a_search_may_look_at_the_margin_on_terms_that_no_table_reports(item_study):
    from xlm_utils.benchmark import transfer
    from xlm_utils.benchmark.harness import SharedPromptLM
    from xlm_utils.translate.translation import terms

    the_study = item_study(evolution={"columns": ["transfer", "dc"], "items": 3, "fitness": "disjoint"})
    the_study.settings.__dict__["transfer"] = the_study.settings.transfer.model_copy(update={"rivals": 2})
    own = terms(the_study)
    spare, asked = fitness._spare(the_study)
    assert not set(spare["concept"]) & set(own["concept"])
    assert not set(spare["translation"]) & set(own["translation"])
    assert len(asked) == 3
    model, tokenizer, _ = models.load(the_study, "expert")
    lm, prompts = SharedPromptLM(model, tokenizer, 4096), [the_study.prompt(the_study.target, word) for word in spare["translation"]]
    margins = [row["margin"] for row in transfer.score(lm, the_study, spare, prompts, asked)]
    alone = item_study(evolution={"columns": ["dc"], "items": 3, "fitness": "disjoint"})
    other = fitness.scorer(alone)(model, tokenizer)["objective"]
    found = fitness.scorer(the_study)(model, tokenizer)["objective"]
    assert found == pytest.approx((np.mean(margins) + other) / 2, abs=1e-6)
    assert fitness.fitness_rows(the_study).set_index("column").loc["transfer", "searched on"] == 3
