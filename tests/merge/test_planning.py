"""A merge has every tensor that its parents have, in memory as on disk, whatever MergeKit's table of architectures lists."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import pico_tokenizer
from xlm_utils import merge
from xlm_utils.merge import merging, planning
from xlm_utils.models import loading, weights
from xlm_utils.models.weights import Tensors
from xlm_utils.study import StudyError

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
WIDE = {**SIZE, "num_key_value_heads": 2, "intermediate_size": 48}
FAMILIES = {
    "llama with biases": ("Llama", {**WIDE, "attention_bias": True, "mlp_bias": True}),
    "qwen3 with biases": ("Qwen3", {**WIDE, "head_dim": 8, "attention_bias": True}),
    "stablelm": ("StableLm", {**WIDE, "qk_layernorm": True, "use_qkv_bias": True}),
    "gpt-neox": ("GPTNeoX", {**SIZE, "intermediate_size": 64}),
    "gpt-2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300, "n_positions": 256}),
    "falcon": ("Falcon", {**SIZE, "new_decoder_architecture": False}),
    "mixtral": ("Mixtral", {**WIDE, "num_local_experts": 4}),
    "mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 300, "state_size": 8}),
    "cohere without qk-norm": ("Cohere", {**WIDE, "use_qk_norm": False}),
}


def siblings(root, kind: str, settings: dict, names=("ancestor", "japanese", "expert")):
    """Three models of one family whose every tensor differs, biases and norms, too."""
    import transformers

    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(**settings, **tokens)
    model_class = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape))
        model.to(torch.bfloat16).save_pretrained(root / name)
        pico_tokenizer().save_pretrained(root / name)
    return {name: root / name for name in names}


def in_memory_as_on_disk(study, method: str) -> bool:
    """Whether a merge made in the loaded general model is the one that is loaded from its folder, bit for bit."""
    model, _, _ = loading.load(study, "japanese", dtype="bfloat16")
    with torch.no_grad():
        planning.Live(model, study, method).merge({})
    live, stored = model.state_dict(), loading.load(study, method, dtype="bfloat16")[0].state_dict()
    return live.keys() == stored.keys() and all(torch.equal(tensor, stored[name]) for name, tensor in live.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_the_parents_is_merged_in_memory_as_on_disk(pico_study, tmp_path, family):
    folders = siblings(tmp_path, *FAMILIES[family])
    study = pico_study(weights=folders)
    stored = {name: load_file(folder / "model.safetensors") for name, folder in folders.items()}
    linear = load_file(merge.merge(study, "linear~expert_weight=0.5") / "model.safetensors")
    assert linear.keys() == stored["expert"].keys()
    for name, tensor in linear.items():
        mean = (stored["japanese"][name].float() + stored["expert"][name].float()) / 2
        assert torch.equal(tensor, mean.to(torch.bfloat16)), name
    for method in ("ties@ancestor", "dare_ties", "slerp"):
        on_disk = Tensors(merge.merge(study, method))
        assert in_memory_as_on_disk(study, method), method
        assert not any(torch.equal(on_disk[name], stored["japanese"][name]) for name in on_disk.shapes)


def test_the_head_and_the_final_norm_get_the_last_value_of_a_gradient(pico_study):
    study = pico_study()
    names = ("japanese", "expert")
    general, expert = (Tensors(merging.locate(study, name)) for name in names)
    merged = Tensors(merge.merge(study, "task_arithmetic", {"weight": [0.0, 1.0]}))
    for tensor in ("lm_head.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        assert torch.equal(merged[tensor], expert[tensor]), tensor
    for tensor in ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"):
        assert torch.equal(merged[tensor], general[tensor]), tensor


def test_llama_3_s_rope_is_read_by_both_spellings_from_a_merge(pico_study, tmp_path):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    folders = siblings(tmp_path, "Llama", {**WIDE, "rope_theta": 500000.0, "rope_scaling": scaling, "max_position_embeddings": 512})
    for folder in folders.values():  # as on the hub
        config = json.loads((folder / "config.json").read_text())
        del config["rope_parameters"]
        (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 500000.0, "rope_scaling": scaling}))
    written = json.loads((merge.merge(pico_study(weights=folders), "linear") / "config.json").read_text())
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 500000.0
    assert written["rope_scaling"] == scaling
    assert {key: written["rope_parameters"][key] for key in scaling} == scaling


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_both_spellings_of_rope_mean_the_same(tmp_path, pico_siblings, family):
    from xlm_utils.models.weights import read_config, spell_rope_twice

    before = read_config(pico_siblings[family] / "japanese" / "config.json", family)
    before.save_pretrained(tmp_path)
    spell_rope_twice(tmp_path)
    assert read_config(tmp_path / "config.json", family).rope_parameters == before.rope_parameters
    written = json.loads((tmp_path / "config.json").read_text())
    assert ("rope_local_base_freq" in written) == (family == "gemma")
    if family == "gemma":
        assert (written["rope_theta"], written["rope_local_base_freq"]) == (1e6, 1e4)


def test_a_base_that_transformers_4_wrote_wrong_is_told_and_no_merge_takes_it_over(tmp_path, pico_siblings):
    """As 4.57 leaves a config of 5: rope_parameters, and its own default beside them."""
    from xlm_utils.models.weights import older_rope, read_config, spell_rope_twice

    donor = shutil.copytree(pico_siblings["llama"] / "japanese", tmp_path / "donor")
    config = json.loads((donor / "config.json").read_text()) | {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    (donor / "config.json").write_text(json.dumps(config | {"rope_theta": 10000.0, "rope_scaling": None}))
    assert older_rope(json.loads((donor / "config.json").read_text())) == {"rope_theta": 500000.0}
    read_config(donor / "config.json", "donor").save_pretrained(tmp_path)
    spell_rope_twice(tmp_path, donor)
    assert json.loads((tmp_path / "config.json").read_text())["rope_theta"] == 500000.0
    assert not older_rope(json.loads((tmp_path / "config.json").read_text()))
    spell_rope_twice(donor)
    assert not older_rope(json.loads((donor / "config.json").read_text()))


def test_gpt_neox_is_spelt_in_its_own_names_too(tmp_path):
    """transformers 4 reads rotary_pct, .25 where it is missing, and takes no partial_rotary_factor."""
    from transformers import GPTNeoXConfig

    from xlm_utils.models.weights import older_rope, spell_rope_twice

    rope = {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 1.0}
    GPTNeoXConfig(architectures=["GPTNeoXForCausalLM"], rope_parameters=rope).save_pretrained(tmp_path)
    assert {"rotary_pct", "rotary_emb_base"} <= set(older_rope(json.loads((tmp_path / "config.json").read_text())))
    spell_rope_twice(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["rotary_pct"], config["rotary_emb_base"]) == (1.0, 20000.0)
    assert not older_rope(config)


def change(folder, to, tensors=lambda stored: stored, **config):
    shutil.copytree(folder, to)
    save_file(tensors(load_file(folder / "model.safetensors")), to / "model.safetensors", metadata={"format": "pt"})
    (to / "config.json").write_text(json.dumps(json.loads((to / "config.json").read_text()) | config))
    return to


def test_what_is_no_weight_of_the_model_is_no_difference_between_parents(pico_study, pico_siblings, tmp_path):
    llama, gemma = pico_siblings["llama"], pico_siblings["gemma"]
    buffers = change(llama / "expert", tmp_path / "buffers", lambda stored: stored | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    save_file({"layers.0.attention.wq.weight": torch.ones(4, 4)}, buffers / "consolidated.safetensors")
    assert Tensors(buffers).shapes == Tensors(llama / "expert").shapes
    merge.merge(pico_study(weights={"expert": buffers}), "linear")
    tied = change(gemma / "expert", tmp_path / "tied", lambda stored: stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()})
    config = json.loads((tied / "config.json").read_text())
    config.pop("tie_word_embeddings", None)  # the default
    (tied / "config.json").write_text(json.dumps(config))
    study = pico_study("gemma", weights={"expert": tied})
    assert "lm_head.weight" not in Tensors(merge.merge(study, "linear")).shapes
    table = merge.check_parents(study)
    assert table.loc["tied embeddings", "same"]
    assert table.loc["parameters", "same"]


def test_a_head_that_differs_from_the_embedding_it_is_said_to_be_tied_to_is_a_difference(pico_study, pico_siblings, tmp_path):
    expert = pico_siblings["gemma"] / "expert"
    other = change(expert, tmp_path / "o", lambda stored: stored | {"lm_head.weight": stored["model.embed_tokens.weight"] + 1})
    with pytest.raises(StudyError, match=r"the shape of lm_head\.weight is none in one"):
        merge.merge(pico_study("gemma", weights={"expert": other}), "linear")


def test_files_that_are_not_whole_are_named(tmp_path, pico_siblings):
    whole = (pico_siblings["llama"] / "expert" / "model.safetensors").read_bytes()
    file = tmp_path / "model.safetensors"
    for data, words in [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", r"model\.safetensors is a git-lfs pointer.*run git lfs pull"),
        (whole[: len(whole) // 2], r"model\.safetensors is cut off, or no safetensors file \(.*not fully covered"),
        (whole[:100], r"model\.safetensors is cut off"),
        (b"", r"model\.safetensors is cut off"),
    ]:
        file.write_bytes(data)
        with pytest.raises(StudyError, match=words):
            Tensors(tmp_path)
    file.unlink()
    with pytest.raises(StudyError, match=r"no model\.safetensors is there"):
        Tensors(tmp_path)
    (tmp_path / "model-1.safetensors").write_bytes(whole)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(StudyError, match=r"model-2\.safetensors is missing"):
        weights.weight_files(tmp_path)


def test_one_folder_for_two_parents_is_one_sentence(pico_study, pico_siblings):
    with pytest.raises(StudyError, match="japanese and expert can't be merged: both are"):
        merge.merge(pico_study(weights={"expert": pico_siblings["llama"] / "japanese"}), "slerp")


def test_several_chat_templates_and_nothing_else_that_is_called_tokenizer_come_along(pico_study, pico_siblings, tmp_path):
    general = change(pico_siblings["llama"] / "japanese", tmp_path / "general")
    (general / "additional_chat_templates").mkdir()
    (general / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    (general / "tokenizer_old").mkdir()
    merged = merge.merge(pico_study(weights={"japanese": general}), "linear")
    assert (merged / "additional_chat_templates" / "rag.jinja").read_text() == "{{ messages }}"
    assert not (merged / "tokenizer_old").exists()
    assert (merged / "tokenizer.json").read_bytes() == (general / "tokenizer.json").read_bytes()
