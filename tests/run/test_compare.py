"""Two logs of the same tasks are compared item by item: real lm-eval logs of tiny models, and small ones with known answers."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xlm_utils.run.compare import compare, forest, main, read_scores
from xlm_utils.study import ROOT, StudyError

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Term: {{{{term}}}}\\nAnswer:"
doc_to_choice: [" yes", " no"]
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
TERMS = ["asthma", "syncope", "vertigo", "stroke", "ataxia", "apnea", "angina", "colitis", "gout", "lupus", "mumps", "rabies"]


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "xlm_utils.run.compare", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def logs(pico_siblings, tmp_path_factory):
    """Folders that ``lm-eval run --log_samples`` has written for two siblings, called here: importing it takes seconds."""
    from lm_eval.__main__ import cli_evaluate

    root = tmp_path_factory.mktemp("logs")
    for number, name in enumerate(("first", "second")):
        data = root / f"{name}.jsonl"
        data.write_text("".join(json.dumps({"term": term, "gold": (i + number) % 2}) + "\n" for i, term in enumerate(TERMS)), encoding="utf-8")
        (root / "tasks").mkdir(exist_ok=True)
        (root / "tasks" / f"{name}.yaml").write_text(TASK.format(name=name, data=data), encoding="utf-8")
    models = pico_siblings["llama"]
    for name in ("ancestor", "expert"):
        arguments = ["--model", "hf", "--model_args", f"pretrained={models / name},dtype=float32", "--device", "cpu", "--batch_size", "4"]
        arguments += ["--tasks", "first,second", "--include_path", root / "tasks", "--log_samples", "--output_path", root / name]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["lm-eval", "run", *map(str, arguments)])
            cli_evaluate()
    return root


@pytest.mark.timeout(300)
def test_two_real_logs_become_a_table_with_the_harness_s_own_means(logs, tmp_path, monkeypatch):
    done = run(logs / "ancestor", logs / "expert", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert table["task"].tolist() == ["first", "first", "second", "second", "all 2 tasks", "all 2 tasks"]
    assert table["metric"].tolist() == ["acc", "acc_norm"] * 3
    for side, name in (("A", "ancestor"), ("B", "expert")):
        results = json.loads(next((logs / name).rglob("results_*.json")).read_text(encoding="utf-8"))["results"]
        told = [results[task][f"{metric},none"] for task in ("first", "second") for metric in ("acc", "acc_norm")]
        assert table[side][:4].tolist() == pytest.approx(told)
    assert (table["n"][:4] == len(TERMS)).all()
    assert table["difference"].tolist() == pytest.approx((table["A"] - table["B"]).tolist())
    assert {path.name for path in (tmp_path / "out" / "forest").iterdir()} >= {"forest.html", "forest.json"}
    assert "for all 4 rows of single tasks" in done.stdout
    only = ["compare", logs / "ancestor", logs / "expert", "--out", tmp_path / "one", "--metric", "acc"]
    monkeypatch.setattr(sys, "argv", list(map(str, only)))
    main()
    assert set(pd.read_csv(tmp_path / "one" / "comparison.csv")["metric"]) == {"acc"}


def write_samples(folder, task, scores, time="2026-11-28T10-00-00.000001", **more):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"doc_id": i, "filter": "none", "metrics": ["acc"], "doc_hash": f"{task}{i}", "acc": score, **more} for i, score in enumerate(scores)]
    (folder / f"samples_{task}_{time}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_right_or_wrong_is_mcnemar_s_exact_test_adjusted_for_all_tasks(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    write_samples(a, "one", [1] * 9 + [0] * 3), write_samples(b, "one", [0] * 8 + [1] + [0] * 2 + [1])  # 8 to 1
    write_samples(a, "two", [1, 1, 0, 0]), write_samples(b, "two", [0, 1, 0, 1])
    table = compare(read_scores(a), read_scores(b)).set_index("task")
    exact = stats.binomtest(1, 9).pvalue
    assert table.loc["one", "p"] == pytest.approx(exact)
    assert table.loc["one", "p_holm"] == pytest.approx(2 * exact)
    assert table.loc["one", "difference"] == pytest.approx(7 / 12)
    assert table.loc["two", "p"] == 1
    assert table.loc["all 2 tasks", "difference"] == pytest.approx(7 / 24)
    assert np.isnan(table.loc["all 2 tasks", "p_holm"])
    assert list(forest(table.reset_index(), "a minus b").data[0].marker.symbol) == ["circle-open"] * 3


def test_the_newest_log_of_a_task_counts_and_metrics_of_all_items_at_once_are_left_out(tmp_path):
    write_samples(tmp_path, "one", [0, 0]), write_samples(tmp_path, "one", [1, 0], "2026-11-28T11-00-00.000001")
    write_samples(tmp_path, "sts", [0.5], metrics=["acc", "pearson"], pearson=[0.1, 0.2])
    found = read_scores(tmp_path)
    assert found.groupby("task")["score"].mean().to_dict() == {"one": 0.5, "sts": 0.5}
    assert set(found["metric"]) == {"acc"}


def test_filters_are_rows_of_their_own(tmp_path):
    write_samples(tmp_path, "gsm8k", [1], filter="strict-match")
    assert read_scores(tmp_path)["metric"].tolist() == ["acc (strict-match)"]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "neither lm-eval's samples_*.jsonl nor inspect_ai's *.json"),
        (lambda folder: (write_samples(folder / "one", "t", [1]), write_samples(folder / "two", "u", [1])), "logs of several models or runs"),
        (lambda folder: write_samples(folder, "t", [None]), "no metric in its logs is a number for each item"),
        (lambda folder: write_samples(folder, "t", [1]) / "samples_t_2026-11-28T12-00-00.0.jsonl", ""),
    ],
)
def test_a_folder_that_can_t_be_compared_is_told_in_one_sentence(make, told, tmp_path):
    folder = tmp_path / "logs"
    broken = make(folder)
    if not told:
        broken.write_text("{half\n", encoding="utf-8")
        told = "line 1: not JSON"
    with pytest.raises(StudyError) as error:
        read_scores(folder)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_an_item_that_is_another_document_stops_and_one_that_is_missing_is_told(tmp_path, capsys):
    a, b = read_scores(write_samples(tmp_path / "a", "t", [1, 0, 1])), read_scores(write_samples(tmp_path / "b", "t", [1, 1]))
    assert compare(a, b)["n"].tolist() == [2]
    assert "1 of 5 scores are of an item and metric that the other side lacks" in capsys.readouterr().out
    with pytest.raises(StudyError, match="task t: item 1 is another document in B"):
        compare(a, b.assign(document=["t0", "other"]))
    with pytest.raises(StudyError, match="no item in common: A has t acc, B has u acc"):
        compare(a, read_scores(write_samples(tmp_path / "c", "u", [1])))


def test_inspect_logs_are_read_too_with_an_item_s_epochs_averaged(tmp_path):
    given = [(1, 1, "C"), (1, 2, "I"), (2, 1, 0.25), (3, 1, "in words")]
    samples = [{"id": i, "epoch": epoch, "input": f"q{i}", "scores": {"choice": {"value": value}}} for i, epoch, value in given]
    (tmp_path / "log.json").write_text(json.dumps({"eval": {"task": "medqa"}, "samples": samples}), encoding="utf-8")
    found = read_scores(tmp_path)
    assert found[["task", "metric", "item", "score"]].values.tolist() == [["medqa", "choice", "1", 0.5], ["medqa", "choice", "2", 0.25]]
