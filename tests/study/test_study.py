"""A study is validated before anything runs, and each mistake is one sentence with the valid choices."""

import pytest
import yaml

from xlm_utils.study import PARAMS, StudyError, open_study
from xlm_utils.study.inputs import listed


def test_every_preset_opens():
    assert "demo" in listed(".")
    for name in listed("."):
        assert open_study(name).models[0] == "expert"


def test_models_are_in_table_order():
    study = open_study("demo")
    assert study.models == ["expert", "japanese", "slerp", "ties", "linear", "task_arithmetic", "dare_ties", "evo_dare_ties"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"study": "nosuch"}, ["'nosuch'", "demo"]),
        ({"method": "tie"}, ["'tie'", "ties", "japanese", "all"]),
        ({"judge": "nobody"}, ["'nobody'", "proxy"]),
        ({"limit": -3}, ["limit", "-3", "greater than or equal to 0"]),
        ({"limit": "many"}, ["limit", "many", "whole number"]),
        ({"base": "expert"}, ["base", "expert", "japanese", "ancestor"]),
    ],
)
def test_a_wrong_parameter_is_one_sentence_with_the_valid_choices(parameters, words):
    with pytest.raises(StudyError) as error:
        open_study(**parameters)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def edited(tmp_path, **changes):
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    preset.update(changes)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(preset), encoding="utf-8")
    return str(path)


def test_a_study_by_path_has_the_file_s_name(tmp_path):
    assert open_study(edited(tmp_path)).name == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generaton": {}}, ["mine.yaml", "generaton", "generation"]),
        ({"generation": {"max_token": 3}}, ["generation.max_token", "max_new_tokens"]),
        ({"generation": {"dtype": "int4"}}, ["generation.dtype", "int4", "bfloat16"]),
        ({"methods": ["tise"]}, ["methods", "tise", "ties"]),
        ({"constituents": {}}, ["constituents", "general"]),
        ({"source": {"code": "en", "name": "English", "prompt": "judge.txt"}}, ["prompt: params/prompts/judge.txt has no {term}"]),
        (
            {
                "constituents": {
                    "a": {"role": "general", "label": "A", "weights": "b"},
                    "b": {"role": "expert", "label": "B", "weights": "a"},
                },
                "base": "a",
            },
            ["constituents.a.weights", "leads back to itself"],
        ),
    ],
)
def test_a_wrong_preset_names_file_key_and_choices(tmp_path, changes, words):
    with pytest.raises(StudyError) as error:
        open_study(edited(tmp_path, **changes))
    for word in words:
        assert word in str(error.value)


def test_overrides_get_a_folder_of_their_own_and_share_the_merges():
    plain, limited = open_study("demo"), open_study("demo", limit=3)
    assert limited.vocabulary.sample == 3
    assert limited.folder != plain.folder
    assert limited.models_folder == plain.models_folder


def test_a_default_override_changes_nothing():
    assert open_study("demo", limit=0, max_new_tokens=0, data_dir="").folder == open_study("demo").folder


def test_a_run_with_overrides_has_a_name_that_every_notebook_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_HOME", str(tmp_path / "home"))
    run = open_study("demo", translator="gpt-4o", chat_template="true", data_dir=str(tmp_path))
    assert run.options() == f"-p study demo+chat_template=True+data_dir={tmp_path}+translator=gpt-4o"
    again = open_study(run.options().split()[-1])
    assert (again.folder, again.settings) == (run.folder, run.settings)
    assert open_study("demo", chat_template=True, translator="gpt-4o", data_dir=str(tmp_path)).folder == run.folder
    assert open_study("demo+limit=5+seed=1", limit=3).vocabulary.sample == 3, "a parameter is nearer than the name"
    with pytest.raises(StudyError, match=r"study 'demo\+limt=5': 'limt' is not one of limit, "):
        open_study("demo+limt=5")
    file = edited(tmp_path)
    mine = open_study(f"{file}+limit=5", sweep=True, drive_dir=str(tmp_path / "drive"))
    assert mine.name == "mine"
    assert mine.options(method="ties") == f"-p study {file}+limit=5 -p method ties -p sweep true -p drive_dir {tmp_path / 'drive'}"


def test_smoke_shrinks_any_study(monkeypatch):
    monkeypatch.setenv("XLM_SMOKE", "1")
    study = open_study("demo")
    assert (study.vocabulary.sample, study.benchmarks.items, len(study.methods)) == (4, 1, 2)
    assert study.folder.name == "demo+smoke=1"


def test_a_term_is_data_inside_the_prompt():
    study = open_study("demo")
    assert study.prompt(study.source, "{term} {x} %s") == "Term: {term} {x} %s\nDefinition:"


def test_a_study_error_shows_without_a_traceback():
    assert StudyError("no")._render_traceback_() == ["StudyError: no"]


def test_a_trial_on_few_terms_reads_the_benchmarks_of_the_study_without_it():
    whole = open_study("demo").benchmarks_folder
    assert open_study("demo", limit=4, max_new_tokens=8, translator="gpt-4o").benchmarks_folder == whole
    for changed in ({"items": 2}, {"base": "ancestor"}, {"seed": 1}, {"evaluations": 3}, {"chat_template": True}):
        assert open_study("demo", limit=4, **changed).benchmarks_folder == open_study("demo", **changed).benchmarks_folder != whole


def test_the_next_notebook_is_named_with_the_values_to_set_in_it():
    limited = open_study("demo", limit=4)
    assert limited.go_on("04_generate").startswith("Next: [04_generate](04_generate.ipynb) (set `limit = 4`), or `papermill 04_generate.ipynb")
    assert "(set `study = 'demo+limit=4'`)" in limited.go_on("06_benchmark"), "it has no such parameter"
    assert "(run it as it is)" in open_study("demo").go_on("04_generate")


def test_a_notebook_shows_the_settings_that_it_uses(capsys):
    open_study("demo").show("vocabulary", "constituents")
    keys = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert keys == ["study", "files", "vocabulary", "japanese", "expert", "ancestor", "versions", "commit"]


def test_blocks_that_a_study_does_not_need_may_be_absent_and_all_that_it_needs_are_told_at_once(tmp_path):
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    for block in ("generation", "benchmarks", "evolution", "sweep", "transfer"):
        del preset[block]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(preset), encoding="utf-8")
    assert open_study(str(file)).generation.max_new_tokens == 256
    for block in ("constituents", "judging", "base"):
        del preset[block]
    file.write_text(yaml.safe_dump(preset), encoding="utf-8")
    with pytest.raises(StudyError, match=r"^mine\.yaml: constituents, base, judging are missing$"):
        open_study(str(file))


def test_a_domain_stands_in_the_prompts_and_a_study_names_its_own(tmp_path):
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    preset["source"]["prompt"] = "define_en.txt"
    file = tmp_path / "mine.yaml"
    for changed, domain, by in (({}, "medicine", "clinicians"), ({"domain": "law {term}"}, "law {term}", "vocabulary")):
        file.write_text(yaml.safe_dump(preset | changed), encoding="utf-8")
        study = open_study(str(file))
        assert study.prompt(study.source, "{domain}").startswith(f"Define the following term of {domain} in English".replace("{term}", "{domain}"))
        assert study.definitions_by == by
        assert study.prompt(study.source, "{domain}").endswith("Term: {domain}")
    for block, key in (("judging", "prompt"), ("judging", "wording"), ("translation", "prompt")):
        file.write_text(yaml.safe_dump(preset | {block: preset[block] | {key: "mine.txt"}}), encoding="utf-8")
        with pytest.raises(StudyError, match=r"prompt: no file params/prompts/mine\.txt; there are complete_en\.txt, "):
            open_study(str(file))


def test_benchmarks_may_be_none_and_a_vocabulary_without_translations_needs_a_translator(tmp_path):
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(preset | {"benchmarks": "none"}), encoding="utf-8")
    assert open_study(str(file), items=3).benchmarks.columns == ()
    file.write_text(yaml.safe_dump(preset | {"translation": {}}), encoding="utf-8")
    with pytest.raises(StudyError, match=r"none \(the vocabulary's own translations\) can't serve vocabulary\.source hpo; .* jmdict, hpo, gem"):
        open_study(str(file))
