"""The runner: a finished stage starts no kernel, a changed one runs again, a failed one says which."""

import json

import pytest

from xlm_utils import pipeline
from xlm_utils.records import Step
from xlm_utils.study import StudyError, open_study


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


def test_a_failed_notebook_is_named_and_kept_with_what_it_did(tmp_path, monkeypatch):
    import nbformat

    monkeypatch.setattr(pipeline, "NOTEBOOKS", tmp_path)
    code = ["print('so far')", "raise ValueError('too hot')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])
    nbformat.write(notebook, tmp_path / "01_curate.ipynb")
    with pytest.raises(StudyError, match=r"01_curate\.ipynb failed: ValueError: too hot \(see "):
        pipeline.execute(tmp_path / "01_curate.ipynb", tmp_path / "run" / "01_curate.ipynb", {})
    assert "so far" in (tmp_path / "run" / "01_curate.ipynb").read_text(encoding="utf-8")
