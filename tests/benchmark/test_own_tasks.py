"""Own tasks of the harness as columns: the harness's own numbers, and files that can't be columns."""

from __future__ import annotations

import json
import re

import pytest

from xlm_utils import report
from xlm_utils.benchmark import benchmarks
from xlm_utils.benchmark.own_tasks import load_own
from xlm_utils.benchmark.prepared import columns, prepare
from xlm_utils.merge import fitness
from xlm_utils.report import planned
from xlm_utils.run import preflight
from xlm_utils.study import StudyError, read_jsonl

COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {train: stars.jsonl, exam: exam.jsonl}}
test_split: exam
training_split: train
fewshot_split: train
doc_to_text: "Question: {{question}}\\nAnswer:"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
CHOICE = "task: stars\ninclude: common\noutput_type: multiple_choice\nnum_fewshot: 1\ndoc_to_choice: '{{options}}'\ndoc_to_target: '{{gold}}'\n"
FREE = """task: planets
include: common
process_docs: !function words.short
output_type: generate_until
doc_to_target: "{{options[gold]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: first, filter: [{function: regex, regex_pattern: "(\\\\w)"}, {function: take_first}]}
  - {name: whole, filter: [{function: take_first}]}
"""
FUNCTION = "def short(rows):\n    return rows.filter(lambda row: len(row['question']) < 12)\n"


def rows(count: int, letters: str) -> str:
    made = [{"question": f"{letters[n % len(letters)] * (n + 1)}?", "options": ["a", "bb", "c"], "gold": n % 3} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.fixture
def folder(tmp_path):
    """Two tasks with an included file, a function and rows in files beside them."""
    here = tmp_path / "tasks"
    here.mkdir()
    files = {"stars.yaml": CHOICE, "planets.yaml": FREE, "common": COMMON, "words.py": FUNCTION}
    files |= {"stars.jsonl": rows(12, "xy"), "exam.jsonl": rows(15, "ab")}
    for name, text in files.items():
        (here / name).write_text(text, encoding="utf-8")
    return here


def own(item_study, folder, **settings):
    return item_study(items=0, benchmarks={"columns": [], "tasks": str(folder)}, **settings)


def test_own_columns_have_the_numbers_of_the_harness(item_study, folder, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    study = own(item_study, folder)
    prepared = prepare(study)
    assert columns(study) == {"planets": ("planets",), "stars": ("stars",)} == prepared.columns
    assert {name: facts["of"] for name, facts in prepared.facts.items()} == {"stars": 15, "planets": 10}
    loaded: dict = {}
    found = benchmarks.evaluate(study, prepared, "japanese", loaded)["datasets"]
    monkeypatch.chdir(folder)
    theirs = simple_evaluate(loaded["lm"], tasks=["stars", "planets"], task_manager=TaskManager(include_path=str(folder), include_defaults=False),
                             bootstrap_iters=0, log_samples=False)["results"]  # fmt: skip
    assert found["stars"]["value"] == theirs["stars"]["acc,none"]
    assert found["planets"]["value"] == theirs["planets"]["exact_match,first"]
    assert (found["stars"]["chance"], found["planets"]["chance"], found["planets"]["n"]) == (pytest.approx(1 / 3), 0, 10)
    assert benchmarks.datasets_table(study, ["japanese"])["column"].tolist() == ["planets", "stars"]


def test_a_value_and_its_interval_are_of_one_metric_the_harness_s_first(item_study, folder):
    """Its order is its own: ``acc`` comes before ``acc_norm``, whatever the file lists first."""
    listed = "{metric: acc_norm, aggregation: mean, higher_is_better: true}, {metric: acc, aggregation: mean, higher_is_better: true}"
    (folder / "common").write_text(COMMON.replace("{metric: acc, aggregation: mean, higher_is_better: true}", listed))
    study = own(item_study, folder)
    prepared = prepare(study)
    result = benchmarks.evaluate(study, prepared, "japanese")["datasets"]["stars"]
    rows = [row for row in read_jsonl(study.benchmarks_folder / "japanese.samples.jsonl") if row["dataset"] == "stars"]
    assert result["metric"] == "acc"
    assert result["value"] == pytest.approx(sum(row["score"] for row in rows) / 15)


def test_a_group_is_passed_over_and_few_shots_are_as_many_as_the_study_says(item_study, folder):
    (folder / "all.yml").write_text("group: sky\ntask: [stars, planets]\n")
    study = item_study(items=0, benchmarks={"columns": [], "tasks": str(folder), "shots": 0})
    assert [task.config.num_fewshot for task in prepare(study).tasks.values()] == [0, 0]


def test_a_function_may_open_files_of_its_folder(item_study, folder):
    (folder / "words.py").write_text("def short(rows):\n    open('stars.jsonl').close()\n    return rows\n")
    assert len(prepare(own(item_study, folder)).tasks["planets"].eval_docs) == 15


def test_a_search_takes_no_own_column(item_study, folder):
    with pytest.raises(StudyError, match="'planets' has no choices to search on; there are transfer"):
        fitness.check_columns(own(item_study, folder, evolution={"columns": ["planets"]}))


def test_own_columns_stand_in_table_2_and_the_heat_map_by_their_names(item_study, folder):
    study = own(item_study, folder, repeats="published")
    prepared, loaded = prepare(study), {}
    for model in (study.by_role("expert"), study.by_role("general")):
        benchmarks.evaluate(study, prepared, model, loaded)
    table = planned.table2(study)
    assert table.columns.get_level_values(0).unique().tolist() == ["planets", "stars"]
    assert table["stars", "n"].iloc[0] == 15
    assert "planets: exact_match; stars: acc" in table.attrs["caption"]
    assert report.benchmark_gaps(study).data[0].x == ("planets<br>n = 10", "stars<br>n = 15")


def test_what_a_task_is_made_of_is_what_its_results_are_made_from(item_study, folder):
    study = own(item_study, folder)
    before = prepare(study).facts
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "words.pyc").write_bytes(b"x")
    assert prepare(study).facts == before
    for file, old, new, changed in (("words.py", "12", "13", ("stars", "planets")), ("common", "Answer:", "It is:", ("stars", "planets")),
                                    ("stars.jsonl", "x?", "z?", ("stars",))):  # fmt: skip
        (folder / file).write_text((folder / file).read_text().replace(old, new))
        after = prepare(study).facts
        assert [name for name in after if after[name] != before[name]] == [name for name in before if name in changed], file
        before = after


def test_the_check_counts_the_items(item_study, folder, capsys):
    preflight.preflight(own(item_study, folder), ["06_benchmark"])
    out = capsys.readouterr().out
    assert "ok  task planets: 10 items\n  ok  task stars: 15 items" in out
    assert "data sets" not in out


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("stars.yaml", "multiple_choice", "loglikelihood", "output_type is loglikelihood, neither multiple_choice nor generate_until"),
        ("stars.yaml", "'{{gold}}'", "[0, 1]", "Answer is not a string"),
        ("common", "aggregation: mean", "aggregation: median", "acc is no mean over items"),
        ("common", "metric: acc", "metric: f1", "f1 is no number"),
        ("common", "metric: acc,", "metric: acc_mutual_info,", "UnboundLocalError|acc_mutual_info"),
        ("stars.yaml", "num_fewshot: 1", "num_fewshot: 1\nprocess_docs: !function broken.short", "SyntaxError"),
        ("stars.yaml", "num_fewshot: 1", "num_fewshot: 1\nunsafe_code: true", "it runs code"),
        ("stars.yaml", "num_fewshot: 1", "num_fewshot: 1\ngeneration_kwargs: {num_beams: 4}", "generation_kwargs may name do_sample, "),
        ("stars.yaml", "num_fewshot: 1", "num_fewshot: 1\ngeneration_kwargs: {temperature: 0.7}", "answers are sampled"),
        ("common", "exam.jsonl", "lost.jsonl", "FileNotFoundError: .*lost.jsonl"),
        ("common", "test_split: exam", "", "must have valid or test docs"),
        ("common", "{{question}}", "{{question", "TemplateSyntaxError"),
        ("common", "doc_to_text", "doc_to_txt", "doc_to_txt"),
        ("exam.jsonl", '"gold": 1', '"gold": 7', "no choice right, of .*'bb"),
    ],
)
def test_a_task_that_can_be_no_column_is_one_sentence(folder, file, old, new, says):
    text = (folder / file).read_text()
    (folder / "broken.py").write_text("def short(rows:\n")
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(StudyError, match=rf"task stars: stars.yaml: .*({says})"):
        load_own("stars", folder / "stars.yaml", {})


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("stars.yaml", CHOICE.replace("task: stars", "task: jsquad"), "benchmarks.tasks: 'jsquad' is the name of a column or data set of Table 2"),
        ("stars.yaml", CHOICE.replace("task: stars", "task: planets"), "benchmarks.tasks: stars.yaml: task: 'planets' is there twice"),
        ("stars.yaml", CHOICE.replace("task: stars", "task: 7"), "stars.yaml: task: .*can't name a file"),
        ("stars.yaml", CHOICE.replace("include: common", "include:"), "benchmarks.tasks: stars.yaml: "),
        ("stars.yaml", "task: [", "benchmarks.tasks: stars.yaml: while parsing"),
        ("stars.yaml", CHOICE.replace("include: common", "include: lost"), "benchmarks.tasks: stars.yaml: .*No such file"),
    ],
)
def test_a_folder_of_tasks_that_can_t_be_read_is_one_sentence(item_study, folder, file, text, says):
    (folder / file).write_text(text)
    with pytest.raises(StudyError, match=says):
        columns(own(item_study, folder))


@pytest.mark.parametrize("given", ["lost", "."])
def test_no_folder_of_tasks_is_one_sentence(item_study, tmp_path, given):
    with pytest.raises(StudyError, match=re.escape("is no folder with a task file of the harness")):
        columns(own(item_study, tmp_path / given))
