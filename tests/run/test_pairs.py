"""Published pairs: every file is valid, a study names one in a word, and what is only scored is asked and never merged."""

import sys

import pytest
import yaml

from tests.conftest import DEMO_ITEMS
from tests.models.test_hub import hub  # noqa: F401 (a fixture)
from xlm_utils import generate, merge
from xlm_utils.report import results
from xlm_utils.run import pairs
from xlm_utils.run.preflight import preflight
from xlm_utils.study import PARAMS, StudyError, open_study
from xlm_utils.study.inputs import listed
from xlm_utils.study.settings import read_pair


@pytest.mark.parametrize("name", listed("pairs"))
def test_a_pair_has_one_general_model_and_one_expert_and_claims_nothing_unread(name):
    pair = read_pair(name)
    roles = [constituent.role for constituent in pair.constituents.values()]
    assert (roles.count("general"), roles.count("expert")) == (1, 1)
    assert all("unverified" in constituent.licence for constituent in pair.constituents.values())
    assert "unverified" in pair.ancestor or "not established" in pair.ancestor
    assert pair.run == "not run here"


def test_the_paper_s_pair_is_named_in_a_word_and_a_study_adds_what_it_likes(tmp_path):
    assert open_study("paper").settings.constituents == open_study("open").settings.constituents == read_pair("suzume-biomedical").constituents
    preset = yaml.safe_load((PARAMS / "paper.yaml").read_text(encoding="utf-8"))
    preset["constituents"] = {"other": {"role": "published", "label": "Another merge", "weights": "someone/merge"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    assert open_study(str(tmp_path / "mine.yaml")).scored == ["other"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset | {"pair": "suzume"}), encoding="utf-8")
    with pytest.raises(StudyError, match=r"pair: 'suzume' is not one of .*suzume-biomedical"):
        open_study(str(tmp_path / "mine.yaml"))


@pytest.fixture
def scored_study(pico_study, pico_siblings, tmp_path):
    """A pico study of the Llama family with an answer key of another family, and a published merge."""
    study = pico_study("llama", benchmarks={"items": 1, "data_dir": str(DEMO_ITEMS)})
    file = tmp_path / "preset" / "pico.yaml"
    preset = yaml.safe_load(file.read_text(encoding="utf-8"))
    preset["constituents"]["key"] = {"role": "upper", "label": "The key", "weights": str(pico_siblings["gemma"] / "expert")}
    preset["constituents"]["theirs"] = {"role": "published", "label": "Their merge", "weights": str(pico_siblings["llama"] / "expert")}
    file.write_text(yaml.safe_dump(preset, sort_keys=False), encoding="utf-8")
    assert not study.scored
    return open_study(str(file))


def test_a_scored_model_is_asked_and_stands_in_the_tables_and_is_never_merged(scored_study, capsys):
    study = scored_study
    assert study.models[:4] == ["expert", "japanese", "key", "theirs"]
    asked = {run.name: run.column for run in generate.runs(study)}
    assert asked["key"] == asked["theirs"] == "translation"
    assert {"key", "theirs"} <= set(results.row_order(study))
    assert (results.note(study, "key"), results.note(study, "theirs")) == ("answer key, no merge", "")
    assert results.published_differences(study, results.published_benchmarks()).index.intersection(study.scored).empty
    preflight(study, ["03_merge"])  # the key's family is no obstacle
    assert "the parents match: LlamaForCausalLM" in capsys.readouterr().out
    assert set(merge.check_parents(study).columns) == {"japanese", "expert", "ancestor", "same", "what is done"}
    folder = merge.merge(study, "linear")
    assert set(merge.l2_distances(study, ["linear"]).columns) == {"japanese", "expert", "ancestor"}
    assert folder.is_dir()
    with pytest.raises(StudyError, match="there is no base 'theirs'; valid are japanese, ancestor"):
        merge.resolve(study, "ties@theirs")


def test_an_answer_key_is_no_base(scored_study, tmp_path):
    file = tmp_path / "preset" / "pico.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("base: japanese", "base: key"), encoding="utf-8")
    with pytest.raises(StudyError, match="base: 'key' is not one of japanese, ancestor"):
        open_study(str(file))


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["pairs", *arguments])
    with pytest.raises(SystemExit) as end:
        pairs.main()
    return end.value.code


def test_the_list_says_licence_and_size_of_every_pair(monkeypatch, capsys):
    assert command(monkeypatch) == 0
    told = capsys.readouterr().out
    assert all(f"{name}: " in told for name in listed("pairs"))
    assert "14.9 GiB to load one model in 16 bits, 44.7 GiB of disk and 14.9 GiB a merge" in told
    assert command(monkeypatch, "nothing").startswith("error: pair: 'nothing' is not one of")


def test_the_check_puts_beside_a_file_s_facts_what_the_hub_says(hub, pico_siblings, monkeypatch, capsys):  # noqa: F811
    files = {path.name: path.read_bytes() for path in (pico_siblings["llama"] / "expert").iterdir()}
    for constituent in list(read_pair("suzume-biomedical").constituents.values())[:2]:
        hub.add(constituent.weights, files).card = {"license": "llama3", "base_model": "meta-llama/Meta-Llama-3-8B-Instruct"}
    assert command(monkeypatch, "suzume-biomedical", "--check") == "1 models can't be had"
    told = capsys.readouterr().out
    assert told.count("license llama3, base_model meta-llama/Meta-Llama-3-8B-Instruct") == 2
    assert "hub: model meta-llama/Meta-Llama-3-8B-Instruct: neither a folder nor a repository that the hub knows" in told
