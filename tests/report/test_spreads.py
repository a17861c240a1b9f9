"""Grids: names, terms that nobody reports, and a table of their points."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.support.synthetic import make_study, write_lines
from xlm_utils.generate import generation
from xlm_utils.merge import merging, methods
from xlm_utils.merge.methods import resolve
from xlm_utils.report import planned, results, tables
from xlm_utils.study import PARAMS, inputs, names, open_study
from xlm_utils.study.inputs import StudyError
from xlm_utils.study.names import parse
from xlm_utils.study.records import Step, read_manifest
from xlm_utils.translate import translation


@pytest.mark.parametrize("name", ["ties", "ties~density=0.3", "ties@ancestor", "dare_ties#3", "dare_ties~weight=0.5,density=0.3@ancestor#2"])
def test_a_name_is_its_parts_put_together(name):
    assert str(parse(name)) == name


def test_every_part_of_a_name_has_its_place(pico_study):
    method = resolve(pico_study(), "dare_ties~weight=0.7@ancestor#2")
    assert (method.fixed, list(method.free), method.template["base_model"], method.seed) == ({"weight": 0.7}, ["density"], "ancestor", 2)
    assert pico_study().label("dare_ties~weight=0.7@ancestor#2") == "DARE TIES (weight: 0.7, base: ancestor, seed: 2)"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ties#1@ancestor", ["#1@ancestor", "no random mask"]),
        ("ties~density", ["'density'", "parameter=number"]),
        ("ties~density=high", ["'density=high'", "parameter=number"]),
        ("ties~", ["ties~", "card[~parameter=value"]),
        ("ties~densty=0.3", ["'densty'", "weight, density"]),
        ("ties~density=1.2", ["density = 1.2", "0.01 to 1"]),
        ("evo_dare_ties~general_weight=0.3", ["general_weight has no effect with the base japanese"]),
    ],
)
def test_a_wrong_name_is_one_sentence_with_the_valid_choices(pico_study, name, words):
    with pytest.raises(StudyError) as error:
        resolve(pico_study(), name)
    for word in words:
        assert word in str(error.value)


def test_a_point_merges_as_its_values_given_by_hand(pico_study):
    study = pico_study()
    assert methods.render(study, "ties~density=0.3") == methods.render(study, "ties", density=0.3)
    with pytest.raises(StudyError, match="its name already gives density a value"):
        methods.render(study, "ties~density=0.3", density=0.4)
    merging.merge(study, "dare_ties~weight=0.3,density=0.2")
    by_name = read_manifest(study.models_folder / "dare_ties~weight=0.3,density=0.2")["weights_sha256"]
    merging.merge(study, "dare_ties", {"weight": 0.3, "density": 0.2})
    assert read_manifest(study.models_folder / "dare_ties")["weights_sha256"] == by_name


def test_every_shipped_grid_belongs_to_a_card_and_holds_the_published_default(pico_study):
    study = pico_study()
    assert inputs.listed("sweeps") == ["dare_ties", "linear", "slerp", "task_arithmetic", "ties"], "the published methods with free parameters"
    for card in inputs.listed("sweeps"):
        points = names.grid(card)
        assert card in points, "all defaults: the method itself, whose merge is not made twice"
        assert len(set(points)) == len(points) >= 3
        configs = [json.dumps(methods.render(study, point)) for point in points]
        assert len(set(configs)) == len(points)


def test_a_grid_of_two_parameters_is_every_combination_with_its_base():
    points = names.grid("dare_ties@ancestor")
    assert len(points) == 12
    assert "dare_ties~weight=0.3,density=0.2@ancestor" in points
    assert "dare_ties~weight=0.3@ancestor" in points, "density at its default is not named"


def test_a_grid_outside_of_a_card_names_the_file(tmp_path, monkeypatch):
    for module in (inputs, names):
        monkeypatch.setattr(module, "PARAMS", tmp_path)
    for folder in ("sweeps", "methods"):
        (tmp_path / folder).mkdir()
    (tmp_path / "methods" / "ties.yaml").write_text((PARAMS / "methods" / "ties.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    wrong = {"density: [0.3, 1.2]": "density = 1.2: must be a number from 0.01 to 1", "t: [0.1]": "no parameter 't'; it has weight, density"}
    for text, words in wrong.items():
        (tmp_path / "sweeps" / "ties.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(StudyError, match=words):
            names.grid("ties")
    with pytest.raises(StudyError, match="'slerp' has no file in params/sweeps; there are ties"):
        names.grid("slerp")


def test_papermills_strings_switch_the_sweep(monkeypatch, tmp_path):
    monkeypatch.setenv("XLM_HOME", str(tmp_path))
    plain = open_study("demo")
    assert open_study("demo", sweep="false").methods == plain.methods
    for true in (True, "true", "True"):
        swept = open_study("demo", sweep=true)
        assert swept.methods == ("slerp~t=0.3", "slerp", "slerp~t=0.7", "ties~density=0.2", "ties", "ties~density=0.8")
        assert swept.folder.name == "demo+sweep=1"
        assert swept.models_folder == plain.models_folder, "a point that is the study's own method is not merged again"
    with pytest.raises(StudyError, match="sweep = 'yes': must be true or false"):
        open_study("demo", sweep="yes")
    with pytest.raises(StudyError, match="study open: it has no sweep; add sweep:"):
        open_study("open", sweep=True)
    assert open_study("demo", sweep=True, method="ties~density=0.2").method == "ties~density=0.2"
    ancestor = open_study("demo", sweep=True, base="ancestor")
    assert "ties~density=0.2@ancestor" in ancestor.methods


@pytest.fixture
def vocabulary(pico_study, tmp_path):
    """A study of 4 terms and a sweep of 4, with 14 translated terms: two concepts have two terms each, two concepts one translation."""

    def make(sample: int):
        preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
        study = pico_study(vocabulary=preset["vocabulary"] | {"sample": sample}, sweep={"grids": ["slerp"], "terms": 4})
        concepts = ["a", "a", "b", "b", *"cdefghijkl"]
        table = pd.DataFrame({
            "term_id": range(14), "concept": concepts, "term": [f"term{i}" for i in range(14)],
            "translation": [f"用語{i}" for i in range(13)] + ["用語12"], "definition": "A definition.", "seen": [i % 2 == 0 for i in range(14)],
        })  # fmt: skip
        with Step(study.folder / "translated.csv", made="by hand") as step:
            table.to_csv(step.partial, index=False)
            step.finish()
        translation.draw_terms(study)
        return study

    return make


@pytest.mark.parametrize("sample", [4, 0])
def test_the_terms_of_a_sweep_share_no_concept_and_no_translation_with_the_study_s(vocabulary, sample, capsys):
    study = vocabulary(sample)
    own, swept = translation.terms(study), translation.terms(study.swept())
    assert len(swept) == 4
    assert swept["seen"].sum() == 2
    assert not set(own["concept"]) & set(swept["concept"])
    assert not set(own["translation"]) & set(swept["translation"])
    assert len(own) == sample or (5 <= len(own) <= 10 and "are set aside for the sweep and not run by the study" in capsys.readouterr().out)


def test_a_sweep_moves_no_term_of_a_study_that_draws_a_sample(vocabulary, pico_study):
    with_sweep = translation.terms(vocabulary(4))
    file = vocabulary(4).folder / "terms.csv"
    assert "sweep" not in read_manifest(file)["made_from"]
    assert with_sweep.equals(pd.read_csv(file, dtype={"term_id": str}))


def test_a_sweep_generates_with_its_points_the_reference_and_the_general_model_only(vocabulary):
    runs = [run.name for run in generation.runs(vocabulary(4).swept())]
    assert runs == ["expert.reference", "japanese", "slerp~t=0.3", "slerp", "slerp~t=0.7"]


def test_a_sweep_goes_through_generation_on_pico_models_and_reuses_the_study_s_merge(vocabulary, capsys):
    study = vocabulary(4)
    merging.merge(study, "slerp")
    swept, loaded = study.swept(), {}
    capsys.readouterr()
    for name in swept.methods:
        merging.merge(swept, name)
    assert capsys.readouterr().out.count("already merged") == 1
    table = translation.terms(swept)
    for run in generation.runs(swept):
        assert sum(map(len, generation.define(swept, run, table, loaded))) == 4 or run.name.endswith("reference")
    assert (swept.folder / "definitions" / "slerp~t=0.3.jsonl").exists()


def test_table_2_says_what_a_contaminated_search_has_seen(tmp_path, monkeypatch):
    study = make_study(tmp_path, monkeypatch)
    assert "contaminated" not in planned.table2(study).attrs["caption"]
    study.settings = study.settings.model_copy(update={"evolution": study.evolution.model_copy(update={"fitness": "published"})})
    table = planned.table2(study)
    assert "searched on the items reported here (PubMedQA, JComQA)" in table.attrs["caption"]
    assert table.index[-1] == "Evo. DARE TIES (contaminated)"


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """The demo's scores made up, and a sweep in which SLERP's points are equal and TIES's far apart."""
    study = make_study(tmp_path, monkeypatch)
    draw = np.random.default_rng(3)

    def write(of, run, terms, values):
        rows = [{"term_id": t, "run": run, "judge": "proxy", "reference": r, "score": round(float(v), 2), "status": "ok"}
                for r in study.judging.references for t, v in zip(terms, np.clip(values, 0, 10), strict=True)]  # fmt: skip
        write_lines(of.folder / "scores" / "proxy" / f"{run}.jsonl", rows)

    swept, terms, level = study.swept(), [f"sweep{i}" for i in range(12)], draw.normal(5, 1, 12)
    swept.folder.mkdir(parents=True)
    frame = pd.read_csv(study.folder / "terms.csv").head(12)
    frame.assign(term_id=terms).to_csv(swept.folder / "terms.csv", index=False)
    monkeypatch.setattr(translation, "draw_terms", lambda study: study.folder / "terms.csv")
    for run, move in zip(swept.methods, (0, 0, 0, -2, 0, 2), strict=True):
        write(swept, run, terms, level + move + (0 if run.startswith("slerp") else draw.normal(0, 0.3, 12)))
    return study


def test_the_points_of_a_sweep_stand_in_a_table_1_of_their_own(scored):
    swept, header = scored.swept(), "Proxy (sentence encoder), against the expert’s definition"
    frame, scores = tables.table1(swept)[header], results.load_scores(swept)
    wide = scores[scores["reference"] == "expert"].pivot(index="term_id", columns="run", values="score")
    assert frame.loc[[swept.label(run) for run in swept.methods], "mean"].tolist() == pytest.approx(wide[list(swept.methods)].mean().tolist())
    assert frame.loc["TIES (density: 0.8)", "mean"] - frame.loc["TIES (density: 0.2)", "mean"] == pytest.approx(4, abs=0.5)
    assert frame.loc["SLERP (t: 0.3)", "mean"] == frame.loc["SLERP", "mean"] == frame.loc["SLERP (t: 0.7)", "mean"]
    assert (frame.loc["TIES", "n"], frame["n"].notna().sum()) == (12, 6)
