"""Notebooks 02 and 05 with an LLM, by Papermill, against a loopback server: what a person with a key would run."""

import json
import os
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from tests.support.loopback import SERVED, Loopback
from tests.test_notebooks import papermill
from xlm_utils.generate.generation import runs
from xlm_utils.study import ROOT, open_study
from xlm_utils.study.records import Step, append_jsonl, read_jsonl
from xlm_utils.translate import translation

KEY = "sk-secret0123456789abcdefXYZ"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A run folder of its own at smoke size, with a key that must not be seen again."""
    for name, value in {"XLM_SMOKE": "1", "XLM_HOME": str(tmp_path / "home"), "LOCAL_JUDGE_API_KEY": KEY, "OPENAI_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    return {**os.environ}


def shown(path: Path) -> str:
    """All that an executed notebook shows."""
    notebook = nbformat.read(path, as_version=4)
    return "".join(json.dumps(cell.outputs, ensure_ascii=False) for cell in notebook.cells if cell.cell_type == "code")


def assert_no_key(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def finished_definitions() -> list[str]:
    """Definitions of every run of the study at smoke size, made up; returns the runs that are scored."""
    study = open_study("demo")
    terms, names = translation.terms(study), [run.name for run in runs(study)]
    for name in names:
        with Step(study.folder / "definitions" / f"{name}.jsonl", made_up=name) as step:
            rows = [{"term_id": row.term_id, "run": name, "definition": f"{row.term}, as {name} says"} for row in terms.itertuples()]
            append_jsonl(step.partial, rows)
            step.finish()
    return [name for name in names if not name.endswith(".reference")]


def test_notebook_05_judges_with_an_llm_end_to_end_and_asks_nothing_twice(environment, tmp_path):
    scored = finished_definitions()
    with Loopback(latency=0.02) as server:
        given = ("judge", "local", "judge_base_url", server.openai)
        done = papermill(ROOT / "notebooks", environment, "05_judge.ipynb", tmp_path / "out.ipynb", *given)
        assert done.returncode == 0, done.stderr[-3000:]
        asked = len(server.prompts)
        again = papermill(ROOT / "notebooks", environment, "05_judge.ipynb", tmp_path / "again.ipynb", *given)
        assert again.returncode == 0, again.stderr[-3000:]
        assert len(server.prompts) == asked
        assert set(server.keys) == {KEY}
        repeats = asked - len(set(server.prompts))
    folder = open_study("demo").folder / "scores" / "local"
    assert {path.stem for path in folder.glob("*.jsonl")} == {*scored, "controls", "retest", "order", "wording"}
    rows = read_jsonl(folder / "slerp.jsonl")
    assert [(row["score"], row["status"], row["served_model"]) for row in rows] == [(7, "ok", SERVED["openai"])] * 8
    assert repeats == len(read_jsonl(folder / "retest.jsonl")) == 24  # four terms, six runs: all of the first reference
    text = shown(tmp_path / "out.ipynb")
    planned = asked - 2  # the notebook's own sentence comes after the plan: a call for each of two pairs
    assert f"{planned:,} calls to make, 0 stored" in text
    assert f"0 calls to make, {planned:,} stored" in shown(tmp_path / "again.ipynb")
    assert "You are grading a definition of a term of medicine" in text
    assert "FAILED" in text  # a judge that gives 7 to everything fails its controls, and the notebook says so
    assert_no_key(tmp_path)


def test_notebook_05_takes_the_sdks_own_address_variable_and_says_what_a_dear_judge_would_cost(environment, tmp_path):
    finished_definitions()
    with Loopback(shutdown_date="2027-01-14") as server:
        environment["OPENAI_BASE_URL"] = server.openai
        done = papermill(ROOT / "notebooks", environment, "05_judge.ipynb", tmp_path / "out.ipynb", "judge", "gpt-4o")
        assert done.returncode != 0
        assert server.prompts == []
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("StudyError: ")]
    assert "judging.max_cost_usd = 0 is below the" in sentence
    assert "shutdown: 2027-01-14" in shown(tmp_path / "out.ipynb")
    assert_no_key(tmp_path)


def test_notebook_02_translates_with_an_llm_and_shows_what_it_coined(environment, tmp_path):
    def answer(prompt: str) -> str:
        term = json.loads(next(line for line in prompt.splitlines() if line.startswith("Term: ")).removeprefix("Term: "))
        return json.dumps({"translation": f"訳{term}", "established": len(term) % 2 == 0})

    words = tmp_path / "words.csv"
    words.write_text("term\n" + "\n".join(["xanthinuria", "bradycardia", "ophiasis", "cataract", "vaginismus"]) + "\n", encoding="utf-8")
    preset = (ROOT / "params" / "demo.yaml").read_text(encoding="utf-8").replace("source: hpo,", f"source: csv, path: {words},")
    preset = preset.replace("references: [expert, clinician]", "references: [expert]")  # the list has no definitions
    (tmp_path / "mine.yaml").write_text(preset, encoding="utf-8")
    given = ("study", str(tmp_path / "mine.yaml"), "translator", "local")
    with Loopback(answer=answer) as server:
        done = papermill(ROOT / "notebooks", environment, "02_translate.ipynb", tmp_path / "out.ipynb", *given, "judge_base_url", server.openai)
        assert done.returncode == 0, done.stderr[-3000:]
        assert sorted(server.prompts) == sorted(set(server.prompts))
        assert len(server.prompts) == 5
    table = pd.read_csv(tmp_path / "home" / "data" / "runs" / "mine+smoke=1+translator=local" / "translated.csv", keep_default_na=False)
    assert set(table["translator"]) == {"local"}
    assert set(table["served_model"]) == {SERVED["openai"]}
    assert table.set_index("term").loc[["ophiasis", "bradycardia"], "kind"].tolist() == ["established", "coined"]
    text = shown(tmp_path / "out.ipynb")
    assert "5 calls to make, 0 stored" in text
    assert "2 of 5 translations are coined: xanthinuria 訳xanthinuria; bradycardia 訳bradycardia" in text
    assert_no_key(tmp_path)


def test_an_unknown_translator_is_one_sentence(environment, tmp_path):
    done = papermill(ROOT / "notebooks", environment, "02_translate.ipynb", tmp_path / "out.ipynb", "translator", "gtp-4o")
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("StudyError: ")]
    assert "'gtp-4o' is not one of jmdict, " in sentence
    assert "gpt-4o" in sentence
