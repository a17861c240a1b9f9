"""The checks name, by file, what is wrong with a study's models, before any weights are read or fetched."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.merge.test_planning import WIDE, change, siblings
from xlm_utils.run import checks, preflight
from xlm_utils.study import StudyError


def config(folder, to, without=(), **changes):
    shutil.copytree(folder, to)
    file = to / "config.json"
    given = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in given.items() if key not in without}))
    return to


def wrong(study) -> str:
    with pytest.raises(StudyError) as told:
        preflight.preflight(study, ["03_merge"])
    return str(told.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors is there"),
        (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), "is a git-lfs pointer, not the weights"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:999]), "model.safetensors is cut off"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is cut off"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").unlink(), "there is no config.json, so no model"),
        (lambda f: [file.unlink() for file in f.glob("*token*")], "no tokenizer that can be read"),
        (lambda f: ((f / "config.json").unlink(), (f / "adapter_config.json").write_text("{}")), "an adapter, not a model: give it as adapter:"),
    ],
    ids=["no weights", "pointer", "half", "empty", "no json", "no config", "no tokenizer", "adapter"],
)
def test_a_damaged_folder_is_named_by_its_file(pico_study, pico_siblings, tmp_path, damage, words):
    folder = shutil.copytree(pico_siblings["llama"] / "expert", tmp_path / "damaged")
    damage(folder)
    told = wrong(pico_study(weights={"expert": folder}))
    assert words in told
    assert str(folder) in told
    assert told.startswith("1 of the checks failed")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}, "it brings code of its own, which is not run"),
        ({"model_type": "unheard"}, "the model type 'unheard' is not one of transformers"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "its weights are quantised (bitsandbytes)"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "only causal language models"),
        ({"vocab_size": 308}, "vocab_size is 308"),
    ],
)
def test_what_no_merge_can_take_is_one_sentence(pico_study, pico_siblings, tmp_path, changes, words):
    assert words in wrong(pico_study(weights={"expert": config(pico_siblings["llama"] / "expert", tmp_path / "odd", **changes)}))


def test_a_model_of_pictures_and_text_is_one_sentence(pico_study, pico_siblings, tmp_path):
    folder = shutil.copytree(pico_siblings["gemma"] / "expert", tmp_path / "seeing")
    text = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    (folder / "config.json").write_text(json.dumps(whole))
    assert "Gemma3ForConditionalGeneration is more than a model of text" in wrong(pico_study("gemma", weights={"expert": folder}))


def test_a_default_that_one_config_leaves_out_is_no_difference(pico_study, pico_siblings, tmp_path, capsys):
    folder = config(pico_siblings["gemma"] / "expert", tmp_path / "sparse", without=("tie_word_embeddings",))
    preflight.preflight(pico_study("gemma", weights={"expert": folder}), ["03_merge"])
    assert "the parents match: Gemma3ForCausalLM, vocabulary 300" in capsys.readouterr().out
    heads = siblings(tmp_path / "heads", "Llama", {**WIDE, "num_key_value_heads": 4})
    less = config(heads["expert"], tmp_path / "less", without=("num_key_value_heads",))
    preflight.preflight(pico_study(weights={**heads, "expert": less}), ["03_merge"])


def test_parameters_are_those_of_the_model_s_own_files(pico_study, pico_siblings, tmp_path):
    folder = change(pico_siblings["llama"] / "expert", tmp_path / "twice")
    shutil.copyfile(folder / "model.safetensors", folder / "consolidated.safetensors")
    facts = {}
    for name in ("japanese", "expert"):
        checks.model(pico_study(weights={"expert": folder}), name, facts)
    assert facts["japanese"]["parameters"] == facts["expert"]["parameters"]


def test_one_folder_for_two_parents_is_told_in_the_checks(pico_study, pico_siblings):
    assert "japanese and expert can't be merged: both are" in wrong(pico_study(weights={"expert": pico_siblings["llama"] / "japanese"}))


def test_an_adapter_is_checked_against_its_base_before_anything_is_made(pico_study, pico_siblings, tmp_path):
    study = pico_study()
    expert = study.settings.constituents["expert"]
    nowhere = ("runs/nowhere/else", "constituents.expert.adapter runs/nowhere/else: there is no such folder")
    for adapter, words in (nowhere, (str(tmp_path), "there is no adapter_config")):
        own = {**study.settings.constituents, "expert": expert.model_copy(update={"adapter": adapter})}
        study.settings = study.settings.model_copy(update={"constituents": own})
        assert words in wrong(study)
