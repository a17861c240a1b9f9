"""Definitions: fixed batches, whole batches on disk, the same bytes after a kill, twins copied."""

import codecs
import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from tests.conftest import pico_tokenizer
from xlm_utils import models
from xlm_utils.generate import decoding, generation
from xlm_utils.study import StudyError, open_study
from xlm_utils.study.records import read_jsonl


def test_the_expert_runs_twice_and_once_more_as_a_control():
    study = open_study("demo")
    names = [run.name for run in generation.runs(study)]
    assert names[:4] == ["expert.reference", "expert", "expert.ja", "japanese"]
    assert names[4:] == ["ancestor.ja", *study.methods]
    columns = {run.name: run.column for run in generation.runs(study)}
    assert (columns["expert"], columns["expert.ja"], columns["japanese"]) == ("term", "translation", "translation")


class Clerk:
    """Stands in for a loaded model: says back each prompt's last letter, and can be given a memory that holds few rows."""

    def __init__(self, holds=100, auto=8):
        self.holds, self.auto, self.calls = holds, auto, []

    def __call__(self, study, name):
        facts = {"device": "cpu", "dtype": "float32", "quantization": "none", "stop_tokens": ["<eos>"]}
        return decoding.Writer(pico_tokenizer(), f"loaded {name}", facts, self.complete, lambda texts: (self.auto, "for a test"))

    def complete(self, texts):
        self.calls.append(len(texts))
        if len(texts) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        ends = {"s": ("ss", 2, "stop"), "e": ("", 0, "empty"), "l": ("lllll", 5, "length")}
        return [dict(zip(("definition", "tokens", "finish"), ends[text[-1]], strict=True)) for text in texts]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_HOME", str(tmp_path))
    def locate(study, name):
        folder = tmp_path / name / "weights"  # every model's folder has the same name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_text(name)
        return folder

    monkeypatch.setattr(models, "locate", locate)
    study = open_study("demo")
    monkeypatch.setattr(type(study), "prompt", lambda self, language, term: term)
    study.folder.mkdir(parents=True)
    table = pd.DataFrame({"term_id": [f"t{i}" for i in range(20)], "term": ["s"] * 10 + ["xl"] * 10, "translation": ["e"] * 20})
    table.to_csv(study.folder / "terms.csv", index=False)
    return study, table


@pytest.fixture
def clerk(monkeypatch):
    clerk = Clerk()
    monkeypatch.setattr(decoding, "writer", lambda *arguments: clerk(*arguments))
    return clerk


def read(study, name):
    file = study.folder / "definitions" / f"{name}.jsonl"
    return read_jsonl(file), json.loads((file.parent / f"{file.name}.manifest.json").read_text())


def identical(study, table):
    """Terms that the expert defines in the same words in both of its source-language runs, of those in both: as notebook 04 counts."""
    pair = generation.side_by_side(study, table.assign(definition="")).reindex(columns=["expert.reference", "expert"]).dropna()
    return (pair["expert"] == pair["expert.reference"]).sum(), len(pair)


def forget(study, name):
    file = study.folder / "definitions" / f"{name}.jsonl"
    file.unlink()
    file.with_name(file.name + ".manifest.json").unlink()


def test_a_killed_run_resumes_at_the_next_batch_with_the_same_bytes_though_the_memory_has_changed(study, clerk):
    study, table = study
    run = generation.runs(study)[0]
    list(generation.define(study, run, table))
    file = study.folder / "definitions" / f"{run.name}.jsonl"
    whole = file.read_bytes()
    forget(study, run.name)
    partial = generation.define(study, run, table)
    next(partial)
    partial.close()  # killed after the first batch
    clerk.calls, clerk.auto = [], 2
    list(generation.define(study, run, table))
    assert file.read_bytes() == whole
    assert clerk.calls == [8, 4]  # of 8, 8, 4: as it was begun


def test_a_batch_that_memory_does_not_hold_is_halved_and_no_row_is_lost(study, clerk, capsys):
    study, table = study
    run = generation.runs(study)[0]
    clerk.holds = 3
    list(generation.define(study, run, table))
    rows, manifest = read(study, run.name)
    assert clerk.calls == [8, 4, 2, *[2] * 9]
    assert sorted(row["term_id"] for row in rows) == sorted(table["term_id"])
    assert {(row["batch"], row["batch_size"]) for row in rows} == {(batch, 2) for batch in range(10)}
    assert manifest["made_by"]["batch_size"] == [2]
    assert "out of memory with 8 rows; going on in batches of 4" in capsys.readouterr().out


def test_finished_batches_survive_an_out_of_memory_that_comes_later(study, clerk, monkeypatch):
    study, table = study
    run = generation.runs(study)[0]
    for number, _ in enumerate(generation.define(study, run, table)):
        clerk.holds = 4 if number == 0 else 100
    rows, manifest = read(study, run.name)
    assert [row["batch_size"] for row in rows] == [8] * 8 + [4] * 12
    assert manifest["made_by"]["batch_size"] == [4, 8]


def test_one_row_that_memory_does_not_hold_is_one_sentence(study, clerk):
    study, table = study
    clerk.holds = 0
    with pytest.raises(StudyError, match="does not hold one row"):
        list(generation.define(study, generation.runs(study)[0], table))


def test_another_error_of_the_model_is_not_taken_for_a_lack_of_memory(study, clerk, monkeypatch):
    study, table = study
    monkeypatch.setattr(clerk, "complete", lambda texts: (_ for _ in ()).throw(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes"):
        list(generation.define(study, generation.runs(study)[0], table))


def test_the_manifest_says_how_the_definitions_were_made(study, clerk):
    study, table = study
    run = generation.runs(study)[0]
    list(generation.define(study, run, table))
    assert read(study, run.name)[1]["made_by"] == {
        "device": "cpu", "dtype": ["float32"], "quantization": "none", "stop_tokens": ["<eos>"], "batch_size": [8],
    }  # fmt: skip


def test_a_finished_run_does_nothing(study, clerk, capsys):
    study, table = study
    run = generation.runs(study)[0]
    list(generation.define(study, run, table))
    clerk.calls = []
    assert list(generation.define(study, run, table)) == []
    assert not clerk.calls
    assert "done before" in capsys.readouterr().out


def test_the_reference_and_the_baseline_are_both_generated_so_that_their_identity_is_measured(study, clerk, monkeypatch):
    study, table = study
    reference, baseline = generation.runs(study)[:2]
    list(generation.define(study, reference, table))
    said = clerk.complete
    other = {"lllll": "lllly"}
    monkeypatch.setattr(clerk, "complete", lambda texts: [
        row | {"definition": other.get(row["definition"], row["definition"])} for row in said(texts)
    ])  # fmt: skip
    list(generation.define(study, baseline, table))
    assert identical(study, table) == (10, 20)  # a device whose rounding depends on the day


def test_the_twin_of_a_merge_is_copied_under_its_own_name(study, clerk, monkeypatch):
    study, table = study
    one = models.locate(study, "slerp")
    monkeypatch.setattr(models, "locate", lambda *_: one)  # two merges with the same weights
    first, second = generation.runs(study)[-2:]
    list(generation.define(study, first, table))
    clerk.calls = []
    list(generation.define(study, second, table))
    rows, manifest = read(study, second.name)
    assert not clerk.calls
    assert {row["run"] for row in rows} == {second.name}
    assert manifest["same_as"] == first.name


def test_another_baseline_prompt_is_generated_and_leaves_every_other_run_as_it_is(study, clerk, monkeypatch):
    study, table = study
    for run in generation.runs(study)[:4]:
        list(generation.define(study, run, table))
    clerk.calls = []
    settings = study.settings
    study.settings = settings.model_copy(update={"generation": settings.generation.model_copy(update={"baseline_prompt": "explain_en.txt"})})
    said = clerk.complete
    monkeypatch.setattr(clerk, "complete", lambda texts: [
        {**answer, "definition": answer["definition"].upper()} if text == "s" else answer for text, answer in zip(texts, said(texts), strict=True)
    ])  # fmt: skip
    for run in generation.runs(study)[:4]:
        list(generation.define(study, run, table))
    assert clerk.calls == [8, 8, 4]  # the scored baseline alone
    assert identical(study, table) == (10, 20)


def test_the_baseline_prompt_must_be_a_file(pico_study):
    with pytest.raises(StudyError, match=r"no file params/prompts/nosuch\.txt"):
        pico_study(generation={"baseline_prompt": "nosuch.txt"})
    study = pico_study(generation={"baseline_prompt": "explain_en.txt"})
    first, second, control = generation.runs(study)[:3]
    assert study.prompt(second.language, "asthma") != study.prompt(first.language, "asthma")
    assert "asthma" in study.prompt(second.language, "asthma")
    assert control.language.prompt == study.target.prompt


def test_other_weights_in_a_folder_of_the_same_name_are_no_twin(study, clerk):
    study, table = study
    control, general = generation.runs(study)[2:4]
    list(generation.define(study, control, table))
    clerk.calls = []
    list(generation.define(study, general, table))
    assert len(clerk.calls) == 3


def test_a_run_in_the_source_language_takes_the_terms_whatever_that_language_is():
    study = open_study("demo")
    german = study.source.model_copy(update={"code": "de", "name": "German"})
    study.settings = study.settings.model_copy(update={"source": german})
    assert [run.column for run in generation.runs(study)[:3]] == ["term", "term", "translation"]


def test_the_summary_counts_cut_off_empty_and_other_language(study, clerk):
    study, table = study
    reference, _, control = generation.runs(study)[:3]
    list(generation.define(study, reference, table))
    list(generation.define(study, control, table.assign(translation=["e"] * 5 + ["s"] * 15)))
    english, japanese = generation.summary(study, [reference.name, control.name]).to_dict("records")
    counts = ["n", "stopped", "looped", "cut off", "empty", "other language", "usable"]
    assert [english[key] for key in counts] == [20, 10, 0, 10, 0, 0, 10]
    assert [japanese[key] for key in counts] == [20, 15, 0, 0, 5, 15, 0]  # it says ss, in Latin letters


@pytest.mark.parametrize(
    ("definition", "finish", "language", "reason"),
    [
        ("脈が遅いこと。", "stop", "ja", ""), ("", "empty", "other", "empty"), ("", "length", "other", "empty"), ("脈が遅い", "loop", "ja", "loops"),
        ("脈が遅い", "length", "ja", "cut off"), ("A slow pulse.", "stop", "en", "another language"),
    ],
)  # fmt: skip
def test_what_is_no_definition_in_the_target_language_is_told_with_its_reason(definition, finish, language, reason):
    row = {"definition": definition, "finish": finish, "output_language": language}
    assert generation.usable(row, "ja") == (not reason, reason)


def test_prompts_in_a_template_are_the_same_on_two_days_and_do_not_think(study, monkeypatch):
    study, table = study
    settings = study.settings
    study.settings = settings.model_copy(update={"generation": settings.generation.model_copy(update={"chat_template": True})})
    run = generation.runs(study)[3]
    tokenizer = pico_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}"
    assert set(generation.prompts(study, run, table, tokenizer)) == {"26 Jul 2024e"}
    templated = generation.step_of(study, run, study.folder / "terms.csv").key
    monkeypatch.setattr(models, "DATE", models.DATE.replace(year=2025))
    assert generation.step_of(study, run, study.folder / "terms.csv").key != templated


def test_chat_template_without_a_template_is_one_sentence(study):
    study, table = study
    settings = study.settings
    study.settings = settings.model_copy(update={"generation": settings.generation.model_copy(update={"chat_template": True})})
    run = generation.runs(study)[3]
    with pytest.raises(StudyError, match="the tokenizer of japanese has no template"):
        generation.prompts(study, run, table, SimpleNamespace(chat_template=None))


def test_side_by_side_has_one_row_a_term_and_a_column_for_every_finished_run_whoever_asks(study, clerk):
    study, table = study
    table = table.assign(definition="by clinicians")
    reference, _, control, general = generation.runs(study)[:4]
    list(generation.define(study, reference, table))
    next(generation.define(study, control, table))  # killed after a batch
    generation.side_by_side(study, table)
    list(generation.define(study, general, table))
    wide = generation.side_by_side(study, table)  # by a job that knows of its own run only
    assert list(wide.columns) == ["term_id", "term", "translation", "clinicians", reference.name, general.name]
    file = study.folder / "definitions" / "side_by_side.csv"
    assert file.read_bytes().startswith(codecs.BOM_UTF8)
    assert pd.read_csv(file, encoding="utf-8-sig", keep_default_na=False).equals(wide.fillna(""))
    assert list(wide["term_id"]) == list(table["term_id"])
    assert list(wide[reference.name]) == ["ss"] * 10 + ["lllll"] * 10
    assert set(wide["clinicians"]) == {"by clinicians"}
    assert identical(study, table) == (0, 0)  # the scored run is missing
