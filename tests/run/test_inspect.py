"""A folder with a merge is looked at as its users do: a good one passes, and each of their complaints is found."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import CHAT, pico_tokenizer
from tests.merge.test_planning import WIDE, siblings
from xlm_utils.models.weights import OLD_ROPE, spell_rope_twice
from xlm_utils.run.inspect import main, weights


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """An ancestor and two siblings with biases, and ``merge``: their mean from the ancestor, dressed as the first."""
    root = tmp_path_factory.mktemp("parents")
    folders = siblings(root, "Llama", {**WIDE, "attention_bias": True, "mlp_bias": True})
    shutil.copytree(folders["japanese"], root / "merge")
    change(root / "merge", lambda one: {name: (one[name].float() + other).div(2).bfloat16() for name, other in read(root / "expert").items()})
    (root / "merge" / "generation_config.json").write_text('{"eos_token_id": [1, 4]}', encoding="utf-8")
    return root


def read(folder):
    return load_file(folder / "model.safetensors")


def change(folder, how):
    save_file(how(read(folder)), folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def inspect(parents, monkeypatch, capsys):
    """The command, in this process: its exit status (a text where something is wrong), and verdict and answer by question."""

    def run(merge, *more):
        command = ["inspect", merge, "--parents", parents / "japanese", parents / "expert", *more]
        monkeypatch.setattr(sys, "argv", [*map(str, command)])
        with pytest.raises(SystemExit) as end:
            main()
        lines = [line.partition(": ") for line in capsys.readouterr().out.splitlines()]
        return end.value.code, {question[7:]: (question[:6].strip(), answer) for question, _, answer in lines}

    return run


def test_a_good_merge_has_nothing_wrong_and_lies_where_it_was_put(inspect, parents):
    code, found = inspect(parents / "merge", "--base", parents / "ancestor")
    assert code == 0, found
    assert "wrong" not in {verdict for verdict, _ in found.values()}
    assert found["loads"] == ("ok", "every tensor has its place")
    assert found["end token"][1] == "stops at <eos> <|im_end|>"
    assert found["place"][1].count("0.50 of the way to") == 2
    assert "0% of that distance leads elsewhere" in found["place"][1]
    assert found[f"untouched from {parents / 'japanese'}"][1].startswith("0 of the ")
    assert {"What is asthma?", "Say hello in French."} <= set(found)


@pytest.fixture
def bad(parents, tmp_path):
    return shutil.copytree(parents / "merge", tmp_path / "bad")


def test_a_merge_without_end_token_or_that_overhears_its_template_s_is_wrong(inspect, bad):
    for name in ("config.json", "generation_config.json"):
        file = bad / name
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"eos_token_id": None}), encoding="utf-8")
    code, found = inspect(bad)
    assert (code, found["end token"][0]) == ("findings that are wrong: 1", "wrong")
    assert "no answer ends" in found["end token"][1]
    assert found["answers"][0] == "look"  # none of them stops
    (bad / "generation_config.json").write_text('{"eos_token_id": 1}', encoding="utf-8")
    tokenizer = pico_tokenizer()
    tokenizer.chat_template = CHAT.replace("<|im_end|>", "<|im_start|>")
    tokenizer.save_pretrained(bad)
    _, found = inspect(bad)
    assert found["end token"][0] == "wrong"
    assert "but not at <|im_start|>" in found["end token"][1]
    assert found["chat template"][0] == "look"


def test_a_rotary_base_that_transformers_4_would_not_find_is_told_until_it_is_spelt_twice(inspect, bad):
    """As transformers 5 saves a model (findings/transformers-rope-theta.sh)."""
    file = bad / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    scaling = {"rope_type": "linear", "factor": 2.0}
    config = {key: value for key, value in config.items() if key not in OLD_ROPE} | {"rope_parameters": {"rope_theta": 500000.0, **scaling}}
    file.write_text(json.dumps(config), encoding="utf-8")
    _, found = inspect(bad)
    told = "rope_theta and rope_scaling missing or other than in rope_parameters: to transformers 4 it is another model"
    assert found["rotary base"] == ("look", told)
    spell_rope_twice(bad)
    config = json.loads(file.read_text(encoding="utf-8"))
    assert (config["rope_theta"], config["rope_scaling"]) == (500000.0, scaling)
    _, found = inspect(bad)
    assert "rotary base" not in found


def test_a_lost_bias_is_told_by_its_name(inspect, bad):
    lost = "model.layers.1.self_attn.q_proj.bias"
    change(bad, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != lost})
    code, found = inspect(bad)
    assert code == "findings that are wrong: 3"  # and the number of parameters
    assert found["tensors lost"] == ("wrong", f"1, such as {lost}")
    assert found["loads"] == ("wrong", f"missing keys: 1, such as {lost}")


def test_nan_is_told_with_its_tensor_and_does_not_spoil_the_place(inspect, bad):
    broken = "model.layers.0.mlp.up_proj.weight"
    change(bad, lambda tensors: tensors | {broken: tensors[broken] * torch.nan})
    code, found = inspect(bad)
    assert code == "findings that are wrong: 1"
    assert found["NaN or Inf"] == ("wrong", f"1, such as {broken}")
    assert "0.50 of the way to" in found["place"][1]


def test_what_is_a_parent_s_as_it_was_is_counted_and_a_copy_is_wrong(parents, bad):
    layer = {name: tensor for name, tensor in read(parents / "expert").items() if "layers.1." in name}
    change(bad, lambda tensors: tensors | layer)
    folders = {"a": parents / "japanese", "b": parents / "expert"}
    found = {question: (verdict, answer) for question, answer, verdict in weights(bad, folders, None)}
    assert found["untouched from b"] == ("look", f"{len(layer)} of the {len(read(bad))} tensors in which the parents differ")
    found = {question: (verdict, answer) for question, answer, verdict in weights(parents / "expert", folders, None)}
    assert found["untouched from b"][0] == "wrong"
    assert "1.00 of the way to b" in found["place"][1]


def test_a_folder_that_is_no_model_is_one_sentence(inspect, tmp_path):
    code, _ = inspect(tmp_path)
    assert code.startswith("error: ")
    assert "\n" not in code
