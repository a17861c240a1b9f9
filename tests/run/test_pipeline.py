"""The runner: a finished stage starts no kernel, a changed one runs again, a failed one says which."""

import json
import shutil
import sys

import pytest

from xlm_utils.ask.cards import load_card
from xlm_utils.run import checks, pipeline, preflight
from xlm_utils.study import PARAMS, StudyError, open_study
from xlm_utils.study.records import Step


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A study of one stage whose notebook writes one file; the list counts the kernels started."""
    monkeypatch.setenv("XLM_HOME", str(tmp_path))
    monkeypatch.setattr(pipeline, "NOTEBOOKS", tmp_path)
    output, started = tmp_path / "out.csv", []
    notebook = tmp_path / "01_curate.ipynb"
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["1"]}]}))

    def execute(*_):
        started.append(1)
        step = Step(output, number=len(started))
        with step:
            step.partial.write_text("x")
            step.finish()

    monkeypatch.setattr(pipeline, "outputs", lambda study: {"01_curate": [output]})
    monkeypatch.setattr(pipeline, "execute", execute)
    return notebook, output, started


def test_a_second_run_starts_no_kernel(stage, capsys):
    pipeline.run("demo")
    pipeline.run("demo")
    assert len(stage[2]) == 1
    assert "nothing to do" in capsys.readouterr().out


def test_a_changed_notebook_runs_again(stage):
    pipeline.run("demo")
    stage[0].write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["2"]}]}))
    pipeline.run("demo")
    assert len(stage[2]) == 2


def test_a_changed_card_or_prompt_runs_again(stage, tmp_path, monkeypatch):
    plan, before = open_study("demo"), pipeline.stage_key(open_study("demo"), stage[0], "")
    shutil.copytree(pipeline.PARAMS, tmp_path / "params")
    monkeypatch.setattr(pipeline, "PARAMS", tmp_path / "params")
    assert pipeline.stage_key(plan, stage[0], "") == before
    (tmp_path / "params" / "prompts" / "complete_ja.txt").write_text("{term}とは")
    assert pipeline.stage_key(plan, stage[0], "") != before


def test_a_stage_for_one_method_or_judge_leaves_that_one_s_files():
    whole, part = pipeline.outputs(open_study("demo")), pipeline.outputs(open_study("demo", method="expert"))
    assert [file.name for file in part["04_generate"]] == ["expert.reference.jsonl", "expert.jsonl", "expert.ja.jsonl"]
    assert part["03_merge"] == []
    assert part["06_benchmark"] == whole["06_benchmark"][:1]
    merge = pipeline.outputs(open_study("demo", method="ties"))
    assert [[file.name for file in merge[stage]] for stage in ("03_merge", "04_generate")] == [["ties"], ["ties.jsonl"]]


def test_prose_and_outputs_of_a_notebook_change_nothing(stage):
    pipeline.run("demo")
    code = {"cell_type": "code", "source": ["1"], "outputs": [{"text": "x"}]}
    stage[0].write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["more words"]}, code]}))
    pipeline.run("demo")
    assert len(stage[2]) == 1


def test_a_result_that_was_changed_or_deleted_is_made_again(stage):
    pipeline.run("demo")
    stage[1].unlink()
    pipeline.run("demo")
    assert len(stage[2]) == 2


def test_every_stage_has_its_notebook_and_leaves_something():
    study = open_study("demo")
    stages = pipeline.outputs(study)
    assert list(stages) == sorted(stages)
    for stage_, files in stages.items():
        assert (pipeline.NOTEBOOKS / f"{stage_}.ipynb").is_file()
        assert files


def test_a_stage_without_its_results_is_named(stage, monkeypatch):
    monkeypatch.setattr(pipeline, "execute", lambda *_: None)
    with pytest.raises(StudyError, match="01_curate ended without"):
        pipeline.run("demo")


def test_a_study_by_a_relative_path_reaches_kernels_in_another_folder(stage, tmp_path, monkeypatch):
    given = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text((PARAMS / "demo.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(pipeline, "execute", lambda notebook, output, parameters: given.append(parameters))
    with pytest.raises(StudyError, match="ended without"):
        pipeline.run("mine.yaml")
    assert given == [{"study": str(tmp_path / "mine.yaml")}]


def test_a_fetch_is_the_checks_and_the_downloads_and_looks_at_no_memory(pico_study, tmp_path, monkeypatch, capsys):
    pico_study("llama")
    monkeypatch.setattr(preflight, "_memory", lambda *_: pytest.fail("models run elsewhere"))
    monkeypatch.setattr(sys, "argv", ["pipeline", str(tmp_path / "preset" / "pico.yaml"), "--fetch"])
    pipeline.main()
    told = capsys.readouterr().out
    assert "ok  terminology hpo" in told
    assert "here  model expert: " in told
    assert "here  data sets: 13" in told


def test_a_failed_notebook_is_named_and_kept_with_what_it_did(tmp_path, monkeypatch):
    import nbformat

    monkeypatch.setattr(pipeline, "NOTEBOOKS", tmp_path)
    code = ["print('so far')", "raise ValueError('too hot')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])
    nbformat.write(notebook, tmp_path / "01_curate.ipynb")
    with pytest.raises(StudyError, match=r"01_curate\.ipynb failed: ValueError: too hot \(see "):
        pipeline.execute(tmp_path / "01_curate.ipynb", tmp_path / "run" / "01_curate.ipynb", {})
    assert "so far" in (tmp_path / "run" / "01_curate.ipynb").read_text(encoding="utf-8")


def test_a_sheet_that_comes_in_makes_the_people_stage_run_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_HOME", str(tmp_path))
    study = open_study("demo", judge="people")
    key = study.folder / "people" / "round1.key.csv"
    assert pipeline.outputs(study)["05_judge"] == [key]
    sheet = study.folder / "people" / "filled" / "round1.csv"
    sheet.parent.mkdir(parents=True)
    sheet.write_text("row,rating\n")
    assert pipeline.outputs(study)["05_judge"] == [key, sheet]


def test_people_need_no_server_before_a_run_and_cost_nothing():
    study = open_study("demo", judge="people")
    assert "people, who rate a sheet" in checks.answers(load_card("people"))
    assert "no call to pay for" in checks.cost(study, ["05_judge"])
