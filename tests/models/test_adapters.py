"""An adapter is what its base is made into, or one sentence before the base is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import pico_tokenizer
from xlm_utils import merge, models
from xlm_utils.models import constituents
from xlm_utils.models.weights import Tensors, read_config
from xlm_utils.study import StudyError


def lora(base: Path, to: Path, seed: int = 0, rows: int = 0, **settings: object) -> Path:
    """A LoRA of the base in a folder, whose every tensor is random."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    peft = get_peft_model(model, LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}))
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    peft.save_pretrained(to)
    return to


def logits(model, tokens: int = 300) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(5, tokens, 7)[None]).logits


def by_peft(base: Path, adapter: Path) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter))


def made(base: Path, adapter: Path) -> Path:
    return constituents._adapted(base, adapter, str(base))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_CACHE", str(tmp_path / "cache"))


def test_two_adapters_in_folders_of_one_name_are_two_models(pico_study, pico_siblings, tmp_path):
    base = pico_siblings["llama"] / "ancestor"
    for seed, run in enumerate(("ja", "med")):
        lora(base, tmp_path / "runs" / run / "checkpoint-300", seed)
    ja, med = (Tensors(made(base, tmp_path / "runs" / run / "checkpoint-300")) for run in ("ja", "med"))
    assert not torch.equal(ja["model.layers.0.self_attn.q_proj.weight"], med["model.layers.0.self_attn.q_proj.weight"])
    study = pico_study()
    settings = study.settings.constituents
    own = {
        "japanese": settings["japanese"].model_copy(update={"weights": "ancestor", "adapter": str(tmp_path / "runs/ja/checkpoint-300")}),
        "expert": settings["expert"].model_copy(update={"weights": "ancestor", "adapter": str(tmp_path / "runs/med/checkpoint-300")}),
    }
    study.settings = study.settings.model_copy(update={"constituents": settings | own})
    merged = Tensors(merge.merge(study, "linear~expert_weight=0.5"))
    for name in ja.shapes:
        assert torch.equal(merged[name], ((ja[name].float() + med[name].float()) / 2).to(torch.bfloat16)), name


def test_what_is_made_says_what_base_and_adapter_say(pico_siblings, tmp_path):
    base = pico_siblings["llama"] / "expert"
    adapter = lora(base, tmp_path / "plain")
    whole = constituents.with_adapter(base, adapter, str(base))
    assert torch.allclose(logits(whole), by_peft(base, adapter), atol=1e-4)


def test_an_adapter_that_does_not_fit_is_one_sentence_with_the_tensor(pico_siblings, tmp_path):
    base = pico_siblings["llama"] / "expert"
    config = read_config(base / "config.json", "expert")

    def broken(name: str, change) -> Path:
        folder = tmp_path / name
        lora(base, folder)
        change(folder)
        return folder

    def rename(folder: Path) -> None:
        stored = load_file(folder / "adapter_model.safetensors")
        nested = {name.replace("model.model.", "model.model.language_model.model."): t for name, t in stored.items()}
        save_file(nested, folder / "adapter_model.safetensors")

    def narrow(folder: Path) -> None:
        stored = load_file(folder / "adapter_model.safetensors")
        save_file({name: t[..., :16].contiguous() for name, t in stored.items()}, folder / "adapter_model.safetensors")

    for name, change, words in [
        ("nested", rename, r"adapter nested: no key of the adapter fits the base .*language_model.* has no place"),
        ("narrow", narrow, r"adapter narrow: .* tensors don't fit.*has the shape \(4, 16\), and its place \(4, 32\)"),
        ("bare", lambda folder: (folder / "adapter_model.safetensors").unlink(), r"there is no adapter_model\.safetensors"),
        ("nameless", lambda folder: (folder / "adapter_config.json").unlink(), r"there is no adapter_config\.json"),
        ("garbled", lambda folder: (folder / "adapter_config.json").write_text("{"), r"adapter_config\.json is not JSON"),
        ("cut", lambda folder: (folder / "adapter_model.safetensors").write_bytes(b""), r"adapter_model\.safetensors is cut off"),
    ]:
        with pytest.raises(StudyError, match=words):
            constituents.check_adapter(broken(name, change), config, str(base))
    with pytest.raises(StudyError, match="there is no such folder"):
        constituents.find_adapter("runs/ja/nowhere")


def test_an_adapter_that_names_another_base_is_told(pico_siblings, tmp_path, capsys):
    base = pico_siblings["llama"] / "expert"
    adapter = lora(base, tmp_path / "other")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "meta-llama/Meta-Llama-3-8B"}))
    constituents.check_adapter(adapter, read_config(base / "config.json", "expert"), "meta-llama/Meta-Llama-3-8B-Instruct")
    told = "other: it names meta-llama/Meta-Llama-3-8B as its base, and the study gives it meta-llama/Meta-Llama-3-8B-Instruct"
    assert told in capsys.readouterr().out
    constituents.check_adapter(adapter, read_config(base / "config.json", "expert"), "someone/meta-llama-3-8b")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("target", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["embed_tokens"]}])
def test_an_adapter_on_one_end_of_tied_embeddings_is_refused(pico_siblings, tmp_path, target):
    base = pico_siblings["gemma"] / "expert"
    with pytest.raises(StudyError, match=r"which .* ties to its other end; merged, it is another model"):
        made(base, lora(base, tmp_path / "tied", **target))


def test_added_tokens_make_the_base_larger_and_bring_their_tokenizer(pico_siblings, tmp_path, capsys):
    base = pico_siblings["llama"] / "expert"
    adapter = lora(base, tmp_path / "added", rows=301, modules_to_save=["embed_tokens", "lm_head"])
    with pytest.raises(StudyError, match=r"301 rows of vocabulary, .* has 300, and it brings no tokenizer"):
        made(base, adapter)
    tokenizer = pico_tokenizer()
    tokenizer.add_tokens(["徐脈"])
    tokenizer.chat_template = "{{ messages }}!"
    tokenizer.save_pretrained(adapter)
    folder = made(base, adapter)
    assert "adds 1 rows to the vocabulary" in capsys.readouterr().out
    assert Tensors(folder).shapes["lm_head.weight"] == (301, 32)
    saved = load_file(adapter / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    assert torch.equal(Tensors(folder)["lm_head.weight"], saved.to(torch.bfloat16))
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(folder)
    assert (len(own), own.chat_template) == (301, "{{ messages }}!")


def test_an_adapter_left_in_a_whole_models_folder_is_not_applied_again(pico_study, pico_siblings, tmp_path, capsys):
    whole = pico_siblings["llama"] / "expert"
    both = shutil.copytree(whole, tmp_path / "both")
    lora(whole, both)
    plain, left = (models.load(pico_study(weights={"expert": folder}), "expert", dtype="float32")[0] for folder in (whole, both))
    assert torch.equal(logits(plain), logits(left))
    assert "the adapter in its folder is left aside" in capsys.readouterr().out
    assert Tensors(both).shapes == Tensors(whole).shapes


def test_a_tokenizer_of_sentencepiece_alone_is_read(tmp_path):
    import sentencepiece
    from transformers import AutoTokenizer, LlamaTokenizer  # noqa: F401

    (tmp_path / "text.txt").write_text("\n".join(["Term: asthma", "Definition: a disease of the airways", "用語：喘息"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=60, model_type="bpe", byte_fallback=False,
        minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer("asthma", add_special_tokens=False)["input_ids"]) == "asthma"


def test_a_merge_of_a_donor_with_a_tokenizer_model_alone_has_a_whole_tokenizer(pico_study, pico_siblings, tmp_path):
    import sentencepiece
    from transformers import AutoTokenizer

    general = shutil.copytree(pico_siblings["llama"] / "japanese", tmp_path / "general")
    for file in general.glob("*token*"):
        file.unlink()
    (tmp_path / "text.txt").write_text("\n".join(["Term: asthma", "Definition: a disease of the airways", "用語：喘息"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(general / "tokenizer"), vocab_size=60, model_type="bpe", minloglevel=2
    )
    (general / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False}))
    merged = merge.merge(pico_study(weights={"japanese": general}), "linear")
    ours, theirs = (AutoTokenizer.from_pretrained(folder)("asthma 喘息")["input_ids"] for folder in (merged, general))
    assert ours == theirs
    assert len(ours) > 2
