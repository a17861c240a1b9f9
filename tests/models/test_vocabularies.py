"""Parents of different vocabularies are merged by token: shared tokens by the formula, the general model's own as they were, whatever the method."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

from tests.conftest import CHAT, pico_tokenizer
from tests.merge.test_planning import in_memory_as_on_disk
from xlm_utils import merge
from xlm_utils.models import loading
from xlm_utils.models.constituents import as_parent
from xlm_utils.models.vocabularies import NEW, by_token, own_rows
from xlm_utils.models.weights import Tensors, eos_ids, read_config, read_tokenizer
from xlm_utils.run import preflight
from xlm_utils.study import StudyError, digest

EMBEDDING = "model.embed_tokens.weight"


def with_tokens(folder, to, keep, added=()):
    """A copy of a pico model whose vocabulary is the tokens that ``keep`` names in that order, each with its row, and new ones with rows of ones."""
    shutil.copytree(folder, to)
    state = json.loads((to / "tokenizer.json").read_text())
    old = state["model"]["vocab"]
    order = [*keep(list(old)), *added]
    new = {token: number for number, token in enumerate(order)}
    state["model"]["vocab"] = new
    state["model"]["merges"] = [pair for pair in state["model"]["merges"] if {*pair, "".join(pair)} <= new.keys()]
    state["added_tokens"] = [{**token, "id": new[token["content"]]} for token in state["added_tokens"]]
    (to / "tokenizer.json").write_text(json.dumps(state))
    stored = load_file(to / "model.safetensors")
    for name in {EMBEDDING, "lm_head.weight"} & stored.keys():
        ones = torch.ones(1, stored[name].shape[1], dtype=stored[name].dtype)
        stored[name] = torch.cat([stored[name][old[token]][None] if token in old else ones for token in order])
    save_file(stored, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((to / "config.json").read_text()) | {"vocab_size": len(order), "eos_token_id": [new["<eos>"], new["<|im_end|>"]]}
    (to / "config.json").write_text(json.dumps(config | {"pad_token_id": new["<pad>"], "bos_token_id": new["<bos>"]}))
    generation = json.loads((to / "generation_config.json").read_text())
    (to / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": config["eos_token_id"], "pad_token_id": new["<pad>"]}))
    return to


def rotated(tokens):
    """All but the last thirty tokens, each at another place."""
    return tokens[40:-30] + tokens[:40]


@pytest.fixture
def different(pico_study, pico_siblings, tmp_path, monkeypatch):
    """A study whose expert and ancestor have 270 of the general model's 300 tokens, at other places, and three tokens more."""

    monkeypatch.setenv("XLM_CACHE", str(tmp_path / "cache"))

    def make(family: str = "llama", **settings):
        new, siblings = ("xyz", "zyx", "yxz"), pico_siblings[family]
        odd = {name: with_tokens(siblings / name, tmp_path / f"{family}-{name}", rotated, new) for name in ("expert", "ancestor")}
        return pico_study(family, weights=odd, **settings)

    return make


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_rows_are_merged_by_token_and_the_rest_stays_the_general_models_own(different, pico_siblings, family):
    study, plain = different(family), {name: load_file(pico_siblings[family] / name / "model.safetensors") for name in ("japanese", "expert")}
    linear = load_file(merge.merge(study, "linear~expert_weight=0.5") / "model.safetensors")
    for name, tensor in linear.items():
        mean = ((plain["japanese"][name].float() + plain["expert"][name].float()) / 2).to(torch.bfloat16)
        if tensor.shape[0] == 300:  # the pico siblings share a tokenizer, so the expert's rows of before are the right ones
            mean[-30:] = plain["japanese"][name][-30:]
        assert torch.equal(tensor, mean), name


def test_shared_rows_are_mergekits_own_with_its_tokenizer_setting(different, pico_siblings, tmp_path):
    study, general = different(), str(pico_siblings["llama"] / "japanese")
    ours = load_file(merge.merge(study, "linear~expert_weight=0.5") / "model.safetensors")
    models = [{"model": one, "parameters": {"weight": 0.5}} for one in (general, study.constituents["expert"].weights)]
    config = {"merge_method": "linear", "base_model": general, "models": models, "tokenizer": {"source": "base"}}
    config |= {"dtype": "float32", "out_dtype": "bfloat16"}
    run_merge(MergeConfiguration.model_validate(config), str(tmp_path / "stock"), MergeOptions(quiet=True, write_model_card=False))
    stock = load_file(tmp_path / "stock" / "model.safetensors")
    assert ours.keys() == stock.keys()
    assert all(torch.equal(tensor, stock[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("method", ["slerp", "ties@ancestor", "dare_ties", "task_arithmetic~weight=0.5"])
def test_no_method_moves_a_row_that_the_general_model_alone_has(different, pico_siblings, method):
    study, general = different(), load_file(pico_siblings["llama"] / "japanese" / "model.safetensors")
    folder = merge.merge(study, method)
    merged = Tensors(folder)
    for name in (EMBEDDING, "lm_head.weight"):
        assert torch.equal(merged[name][-30:], general[name][-30:])
        assert not torch.equal(merged[name][:270], general[name][:270])
    assert in_memory_as_on_disk(study, method)
    assert "which stay its own" in folder.with_name(f"{folder.name}.mergekit.yml").read_text()


def test_the_merge_has_the_general_models_config_tokenizer_template_and_stop_tokens(different, pico_siblings):
    study, general = different(), pico_siblings["llama"] / "japanese"
    folder = merge.merge(study, "slerp")
    assert read_tokenizer(folder, "").get_vocab() == read_tokenizer(general, "").get_vocab()
    assert read_tokenizer(folder, "").chat_template == CHAT
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 300
    assert eos_ids(folder) == eos_ids(general) == [1, 4]
    assert (folder / "generation_config.json").read_bytes() == (general / "generation_config.json").read_bytes()


def test_a_parent_in_the_general_models_order_says_the_same_of_shared_tokens(different):
    """With the general model's tokenizer it has the very logits that the expert has with its own."""
    import transformers

    study = different()
    copy, own = as_parent(study, "expert"), loading.load(study, "expert", dtype="float32")
    stored, tokenizer = Tensors(copy), read_tokenizer(copy, "")
    weights = {name: stored[name].float() for name in stored.shapes}
    model = transformers.LlamaForCausalLM.from_pretrained(None, config=read_config(copy / "config.json", ""), state_dict=weights).float()
    texts = [one("a b", return_tensors="pt")["input_ids"] for one in (own[1], tokenizer)]
    assert not torch.equal(*texts)
    ours, theirs = (one(text).logits[0, -1] for one, text in zip((own[0], model), texts, strict=True))
    shared = sorted(own[1].get_vocab().keys() & tokenizer.get_vocab().keys())
    assert len(shared) == 270
    one, other = ours[[own[1].get_vocab()[name] for name in shared]], theirs[[tokenizer.get_vocab()[name] for name in shared]]
    torch.testing.assert_close(one, other)


def test_distances_the_table_and_the_check_know_it(different, capsys):
    study = different()
    table = merge.check_parents(study)
    assert table.loc["vocabulary"].tolist()[:3] == [300, 273, 273]
    assert table.loc["tokenizer", "what is done"] == "merged by token; what japanese alone has stays as it is"
    assert "no merge is possible" not in set(table["what is done"])
    merge.merge(study, "task_arithmetic~weight=1")
    distances = merge.l2_distances(study, ["task_arithmetic~weight=1"])
    assert distances.loc["task_arithmetic~weight=1", "expert"] == 0
    preflight.preflight(study, ["03_merge"])
    told = capsys.readouterr().out
    assert "the parents match: LlamaForCausalLM, vocabulary 300 and 273, so merged by token" in told
    assert told.count("expert: it has the tokens of 270 of japanese's 300 rows, which are merged (once)") == 1


def test_a_copy_outlives_the_folder_that_it_was_made_of(pico_siblings, tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_CACHE", str(tmp_path / "cache"))
    here = with_tokens(pico_siblings["llama"] / "expert", tmp_path / "here", rotated)
    general = pico_siblings["llama"] / "japanese"
    copy = by_token("expert", here, "japanese", general)
    there, before = here.rename(tmp_path / "there"), digest(copy / NEW)
    assert by_token("expert", there, "japanese", general) == copy
    assert Tensors(copy)["model.norm.weight"].equal(Tensors(there)["model.norm.weight"])
    assert digest(copy / NEW) == before


def test_one_vocabulary_is_no_copy_and_moved_tokens_of_as_many_rows_are(pico_siblings, tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_CACHE", str(tmp_path / "cache"))
    llama = pico_siblings["llama"]
    assert by_token("expert", llama / "expert", "japanese", llama / "japanese") == llama / "expert"
    again = shutil.copytree(llama / "expert", tmp_path / "again")
    pico_tokenizer().save_pretrained(again)
    (again / "tokenizer.json").write_text((again / "tokenizer.json").read_text() + "\n")  # other bytes, the same tokens
    assert by_token("expert", again, "japanese", llama / "japanese") == again
    moved = with_tokens(llama / "expert", tmp_path / "moved", lambda tokens: tokens[40:] + tokens[:40])
    copy = by_token("expert", moved, "japanese", llama / "japanese")
    assert torch.equal(Tensors(copy)[EMBEDDING], Tensors(llama / "expert")[EMBEDDING])
    assert own_rows([copy]) == {EMBEDDING: [], "lm_head.weight": []}


def test_a_config_that_says_another_size_than_the_embedding_has_is_told(pico_study, pico_siblings, tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_CACHE", str(tmp_path / "cache"))
    odd = shutil.copytree(pico_siblings["llama"] / "expert", tmp_path / "odd")
    (odd / "config.json").write_text(json.dumps(json.loads((odd / "config.json").read_text()) | {"vocab_size": 308}))
    with pytest.raises(StudyError, match=r"config\.json says that vocab_size is 308, and no embedding has as many rows"):
        merge.merge(pico_study(weights={"expert": odd}), "linear")
    assert not list((tmp_path / "cache").glob("expert-by-token*")), "nothing is left of a refused model"
