"""The benchmark tasks: rows, prompts and metrics, without a model."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xlm_utils.benchmark import benchmarks
from xlm_utils.benchmark.prepared import COLUMN_OF, COLUMNS, TASKS, make_task
from xlm_utils.benchmark.tasks import data
from xlm_utils.study import ROOT

DEMO = ROOT / "data" / "demo" / "benchmarks"
REAL = Path(os.environ.get("XLM_TEST_DATA", ROOT.parent / "shared" / "data")) / "benchmarks"
INTRO = "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n"

# one row (and the shots a task needs, all alike, so that the drawn order does not matter)
CHOICE = {"question": "どれか", "options": ["甲", " 乙"], "answer_idx": 1, "metadata": {"source": "x", "context": "症例"}}
SQUAD = {"context": "題 [SEP] 本文 ", "question": "何か", "answers": {"text": ["答", "答え"]}}
QUIZ = {"question": "誰か", "answers": {"text": ["人"]}, "ctxs": {"text": ["一", "二"], "has_answer": [False, True]}}
COMMON = {"question": "何", **{f"choice{i}": f"物{i}" for i in range(5)}, "label": 2}
ROWS = {
    "pubmedqa": {"QUESTION": "Is it?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe"},
    "jaqket_v2": QUIZ,
    "jcommonsenseqa": COMMON,
    "jsquad": SQUAD,
    "xwinograd_ja": {"sentence1": "犬が走る。 ", "sentence2": "猫が走る。", "answer": "2"},
    "xlsum_ja": {"text": "記事", "summary": "要約"},
    **dict.fromkeys((*COLUMNS["mcqa"], *COLUMNS["dc"]), CHOICE),
    "jcsts": {"premise": "甲", "hypothesis": "乙", "label": 3},
}
SHOT = {
    "jaqket_v2": "### 指示：\n与えられた文脈から、質問に対する答えを抜き出してください。\n\n### 入力：\n文脈：一\n二\n質問：誰か\n\n### 応答：",
    "jcommonsenseqa": "### 指示：\n出力は以下から選択してください：\n- 物0\n- 物1\n- 物2\n- 物3\n- 物4\n\n### 入力：\n何\n\n### 応答：",
    "jsquad": "### 指示：\n与えられた文脈から、質問に対する答えを抜き出してください。\n\n### 入力：\n文脈：本文\n質問：何か\n\n### 応答：",
    "xlsum_ja": "### 指示：\n与えられたニュース記事を要約してください。\n\n### 入力：\nニュース記事：記事\n\n### 応答：",
}
MCQA = ("質問：どれか\nA. 甲\nB.  乙\n答え：", [" 甲", "  乙"])
DC = ("文脈：症例\n質問：どれか\nA. 甲\nB.  乙\n答え：", [" 甲", "  乙"])
PROMPTS = {
    "pubmedqa": ("Abstract: One.\nTwo.\nQuestion: Is it?\nAnswer:", [" yes", " no", " maybe"]),
    "jaqket_v2": (INTRO + SHOT["jaqket_v2"] + "\n人\n\n" + SHOT["jaqket_v2"], None),
    "jcommonsenseqa": (INTRO + (SHOT["jcommonsenseqa"] + "\n物2\n\n") * 3 + SHOT["jcommonsenseqa"], [f"\n物{i}" for i in range(5)]),
    "jsquad": (INTRO + (SHOT["jsquad"] + "\n答\n\n") * 2 + SHOT["jsquad"], None),
    "xwinograd_ja": ("", ["犬が走る。", "猫が走る。"]),
    "xlsum_ja": (INTRO + SHOT["xlsum_ja"] + "\n要約\n\n" + SHOT["xlsum_ja"], None),
    **dict.fromkeys(COLUMNS["mcqa"], MCQA),
    "pubmedqa_jp": ("要旨：症例\n質問：どれか\n答え：", [" 甲", "  乙"]),
    **dict.fromkeys(COLUMNS["dc"], DC),
    "jcsts": ("テキスト1：甲\nテキスト2：乙\n類似度 (0-5)：", [" 0", " 1", " 2", " 3", " 4", " 5"]),
}


def config_of(dataset: str) -> dict:
    from lm_eval.tasks._yaml_loader import load_yaml

    return {key: value for key, value in load_yaml(TASKS / f"{dataset}.yaml").items() if key != "custom_dataset"}


def load(dataset: str, folder: Path):
    return data.load(**config_of(dataset)["dataset_kwargs"], data_dir=str(folder))


def write(folder: Path, dataset: str, lines: list[str]) -> None:
    for split, name in config_of(dataset)["dataset_kwargs"]["files"].items():
        if split != "train" or "train" in config_of(dataset)["dataset_kwargs"]["needs"]:
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("dataset", PROMPTS)
def test_every_prompt_and_continuation_is_what_the_benchmark_asks(dataset, tmp_path):
    write(tmp_path, dataset, [json.dumps(ROWS[dataset])] * 4)
    task = make_task(config_of(dataset), load(dataset, tmp_path))
    task.build_all_requests(samples=[0])
    prompt, continuations = PROMPTS[dataset]
    assert [instance.args[0] for instance in task.instances] == [prompt] * len(continuations or [0])
    if continuations:
        assert [instance.args[1] for instance in task.instances] == continuations
    else:
        limit = {} if dataset == "xlsum_ja" else {"max_gen_toks": 64}
        assert task.instances[0].args[1] == {"until": ["\n\n"], "do_sample": False, **limit}


@pytest.mark.parametrize("name", ["jaqket_v2", "jcommonsenseqa", "jsquad", "xwinograd", "xlsum"])
def test_the_leaderboard_tasks_keep_the_installed_harness_prompt_and_metric(name):
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    stock = load_yaml(Path(lm_eval.tasks.__file__).parent / "japanese_leaderboard" / f"ja_leaderboard_{name}.yaml", resolve_func=False)
    ours = config_of({"xwinograd": "xwinograd_ja", "xlsum": "xlsum_ja"}.get(name, name))
    kept = ("description", "doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter", "output_type", "filter_list", "fewshot_split")
    assert {key: ours.get(key) for key in kept} == {key: stock.get(key) for key in kept}
    assert ours["num_fewshot"] == (stock["num_fewshot"] or 0)
    assert {k: v for k, v in (ours.get("generation_kwargs") or {}).items() if k != "max_gen_toks"} == (stock.get("generation_kwargs") or {})
    if name != "xlsum":  # its metric is a function, compared below
        assert ours["metric_list"] == stock["metric_list"]


def test_pubmedqa_and_xlsum_keep_the_installed_harness_prompt_and_metric():
    from lm_eval.tasks.japanese_leaderboard import ja_leaderboard_xlsum
    from lm_eval.tasks.pubmedqa.preprocess_pubmedqa import doc_to_text

    assert doc_to_text(ROWS["pubmedqa"]) == PROMPTS["pubmedqa"][0]
    metric = config_of("xlsum_ja")["metric_list"][0]
    assert (metric["metric"], metric["aggregation"]) == (ja_leaderboard_xlsum.rouge2, ja_leaderboard_xlsum.rouge2_agg)


@pytest.mark.parametrize("dataset", COLUMN_OF)
def test_every_data_set_loads_from_the_demo_folder(dataset):
    splits = load(dataset, DEMO)
    assert all(len(rows) for rows in splits.values())


@pytest.mark.parametrize("dataset", COLUMN_OF)
def test_every_data_set_loads_from_the_real_slices(dataset):
    config = config_of(dataset)["dataset_kwargs"]
    names = [config["files"][split] for split in config["needs"]]
    if not all((REAL / name).is_file() for name in names):
        pytest.skip(f"no {' and '.join(names)} in XLM_TEST_DATA")
    splits = load(dataset, REAL)
    for split in config["needs"]:
        lines = (REAL / config["files"][split]).read_text(encoding="utf-8").splitlines()
        assert len(splits[split]) == len(lines)


def test_the_group_of_every_family_is_an_unweighted_mean_of_its_column():
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    assert set(manager.all_groups) == {"table2", "jmedbench_mcqa", "jmedbench_dc", "jmedbench_sts"}
    assert len(manager.all_subtasks) == len(COLUMN_OF) == 18
    for family in ("mcqa", "dc", "sts"):
        group = manager.task_index[f"jmedbench_{family}"].cfg
        assert group["task"] == [f"jmedbench_{dataset}" for dataset in COLUMNS[family]]
        assert group["aggregate_metric_list"][0]["weight_by_size"] is False


def test_the_command_line_reads_the_same_rows_from_a_local_folder():
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"data_dir": str(DEMO), "pretrained": "any"})
    loaded = manager.load(["jmedbench_dc"])["tasks"]
    assert loaded["jmedbench_crade"].eval_docs.to_list() == load("crade", DEMO)["test"].to_list()


def test_lm_eval_run_takes_the_tasks_from_the_command_line(tmp_path):
    """The README's own line, with the harness's dummy model."""
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "dummy", "--include_path", str(TASKS), "--tasks", "jmedbench_mcqa", "table2_jsquad",
        "--metadata", json.dumps({"data_dir": str(DEMO)}), "--limit", "3", "--output_path", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = tmp_path.rglob("results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    family = [results[f"jmedbench_{dataset}"]["acc,none"] for dataset in COLUMNS["mcqa"]]
    assert results["jmedbench_mcqa"]["acc,none"] == pytest.approx(sum(family) / 7)
    assert "exact_match,whitespaces" in results["table2_jsquad"]


def test_the_pubmedqa_test_rows_are_the_official_500():
    official = data.PUBMEDQA_TEST.read_text(encoding="utf-8").split()
    assert len(official) == len(set(official)) == 500
    hub = [{"pubid": int(pmid), "question": "?", "context": {"contexts": ["c"]}, "final_decision": "yes"} for pmid in official]
    others = [{**row, "pubid": -number} for number, row in enumerate(hub, 1)]
    split = data._official_split(others + hub)
    assert [str(row["pubid"]) for row in split["test"]] == official
    assert split["train"] == others
    with pytest.raises(data.DataError, match="499 of the 500"):
        data._official_split(hub[1:])
    if (REAL / "pubmedqa_test.jsonl").is_file():
        real = [json.loads(line)["pmid"] for line in (REAL / "pubmedqa_test.jsonl").read_text(encoding="utf-8").splitlines()]
        assert set(real) < set(official)


def test_pubmedqa_loads_from_the_hub_with_todays_lower_case_keys(monkeypatch):
    import datasets

    official = data.PUBMEDQA_TEST.read_text(encoding="utf-8").split()
    rows = [{"pubid": int(p), "question": f"q{p}", "context": {"contexts": ["a", "b"]}, "final_decision": "no"} for p in official]
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config: {"train": datasets.Dataset.from_list(rows)})
    splits = data.load(**config_of("pubmedqa")["dataset_kwargs"])
    assert splits["test"][0] == {"QUESTION": f"q{official[0]}", "CONTEXTS": ["a", "b"], "final_decision": "no"}
    assert len(splits["test"]) == 500


def test_jaqket_keeps_five_contexts_and_drops_what_none_of_them_answers(tmp_path):
    contexts = [{"id": str(i), "title": "t", "text": f"文{i}", "score": "1", "has_answer": i == 5} for i in range(7)]
    fifth = [{**c, "has_answer": i == 4} for i, c in enumerate(contexts)]
    kept = {"qid": "a", "question": "誰", "answers": ["彼", "あの人"], "ctxs": fifth}
    raw = [kept, {"qid": "b", "question": "何", "answers": ["物"], "ctxs": contexts}]
    for name in ("train_jaqket_59.350.json", "dev_jaqket_59.350.json"):
        (tmp_path / name).write_text(json.dumps(raw), encoding="utf-8")
    rows = load("jaqket_v2", tmp_path)["validation"]
    assert [row["question"] for row in rows] == ["誰"]
    assert rows[0]["ctxs"]["text"] == [f"文{i}" for i in range(5)]
    assert rows[0]["answers"]["text"] == ["彼", "あの人"]


BAD = {
    "a missing field": ("igakuqa", {k: v for k, v in CHOICE.items() if k != "question"}, "line 2: question: is missing"),
    "no options": ("igakuqa", {**CHOICE, "options": []}, "line 2: options: List should have at least 2 items"),
    "an answer beyond the options": ("igakuqa", {**CHOICE, "answer_idx": 2}, "answer_idx 2 is outside the 2 options"),
    "a negative answer": ("crade", {**CHOICE, "answer_idx": -1}, "line 2: answer_idx: should be greater than or equal to 0"),
    "a similarity above five": ("jcsts", {**ROWS["jcsts"], "label": 6}, "line 2: label: should be less than or equal to 5"),
    "an unknown decision": ("pubmedqa", {**ROWS["pubmedqa"], "final_decision": "perhaps"}, "line 2: final_decision: should be 'yes'"),
    "a label outside five": ("jcommonsenseqa", {**COMMON, "label": 5}, "line 2: label: should be less than or equal to 4"),
    "no gold answer": ("jsquad", {**SQUAD, "answers": {"text": []}}, "line 2: answers.text: List should have at least 1 item"),
    "an answer beyond two": ("xwinograd_ja", {**ROWS["xwinograd_ja"], "answer": "3"}, "line 2: answer: should be '1' or '2'"),
    "a list": ("igakuqa", [1], "line 2: not an object with named fields"),
}


@pytest.mark.parametrize(("dataset", "row", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_with_its_file_and_line(dataset, row, message, tmp_path):
    write(tmp_path, dataset, [json.dumps(ROWS[dataset]), json.dumps(row)])
    with pytest.raises(data.DataError) as error:
        load(dataset, tmp_path)
    sentence = str(error.value)
    assert sentence.startswith(f"data set {dataset}: {dataset}")
    assert message in sentence
    assert "https://huggingface.co/datasets/" in sentence
    assert "\n" not in sentence


def test_a_truncated_line_an_empty_file_and_a_missing_file_are_named(tmp_path):
    whole = json.dumps(CHOICE)
    (tmp_path / "igakuqa.jsonl").write_text(f"{whole}\n{whole[:-9]}", encoding="utf-8")
    with pytest.raises(data.DataError, match=r"igakuqa\.jsonl, line 2: not JSON"):
        load("igakuqa", tmp_path)
    (tmp_path / "crade.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(data.DataError, match=r"crade\.jsonl is empty"):
        load("crade", tmp_path)
    with pytest.raises(data.DataError, match=r"data set rrtnm: no file rrtnm\.jsonl in the folder .*Coldog2333/JMedBench and put it there"):
        load("rrtnm", tmp_path)


def test_an_unreachable_hub_is_told_with_the_way_out(monkeypatch):
    import datasets

    def fail(*_):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(data.DataError) as error:
        data.load(**config_of("xwinograd_ja")["dataset_kwargs"])
    assert str(error.value) == (
        "data set xwinograd_ja: polm-stability/xwinograd-ja can't be loaded from the hub (ConnectionError); get it from "
        "https://huggingface.co/datasets/polm-stability/xwinograd-ja, put xwinograd_ja.jsonl into a folder and name that folder in data_dir"
    )


def test_pearson_is_worked_out_by_hand_and_undefined_where_one_side_is_constant():
    assert data.pearson([(1.0, 2.0), (2.0, 4.0), (3.0, 3.0)]) == pytest.approx(0.5)
    assert math.isnan(data.pearson([(2.0, 1.0), (2.0, 5.0)]))
    assert math.isnan(data.pearson([(2.0, 1.0)]))
    assert data.similarity_pair({"label": 3}, [(-4, False), (-1, True), (-9, False)]) == {"pearson": (1.0, 3.0)}


def test_normalised_exact_match_takes_the_best_gold_and_the_first_line():
    assert benchmarks.normalised_em("１９８８年\n### 指示", ["昭和63年", "1988年"]) == 1.0
    assert benchmarks.normalised_em("1988", ["1988年"]) == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("35mg", "3〜5mg", 0), ("3~5㎎", "3〜5mg", 1), ("3～5mg", "3〜5mg", 1), ("COVID－19", "COVID-19", 1),
        ("Ⅱ型", "II型", 1), ("ｱﾚﾙｷﾞｰ", "アレルギー", 1),
    ],
)
def test_normalised_exact_match_composes_first_and_keeps_tildes(answer, gold, same):
    assert benchmarks.normalised_em(answer, [gold]) == same


def test_log_softmax_is_over_the_choices_alone():
    assert benchmarks.scipy.special.log_softmax([-1000.0, -1000.0 + math.log(3)]) == pytest.approx([math.log(0.25), math.log(0.75)])


def test_a_family_with_a_missing_or_undefined_data_set_has_no_value():
    one = {"value": 0.5, "stderr": 0.3, "low": 0.2, "high": 0.8, "n": 4, "chance": 0.2, "metric": "acc"}
    two = {"value": 1.0, "stderr": 0.4, "low": 0.6, "high": 1.0, "n": 6, "chance": 0.4, "metric": "acc"}
    found = benchmarks.column_result(("a", "b"), {"a": one, "b": two})
    assert {key: found[key] for key in ("value", "stderr", "n", "metric")} == {"value": 0.75, "stderr": 0.25, "n": 10, "metric": "acc"}
    assert (found["low"], found["high"], found["chance"]) == pytest.approx((0.75 - 0.25, 0.75 + 0.15, 0.3))  # √(.3² + .4²) / 2, √(.3² + 0²) / 2
    assert benchmarks.column_result(("a", "b"), {"a": one})["value"] is None
    assert benchmarks.column_result(("a",), {"a": {**one, "value": None, "stderr": None}})["stderr"] is None
