"""A model whose cache can't lose rows, or that is told to keep none, writes and scores as one row alone does."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.conftest import pico_tokenizer
from xlm_utils import models
from xlm_utils.benchmark.harness import SharedPromptLM
from xlm_utils.generate import decoding

TEXTS = ["用語：喘息\n定義：", "Term: asthma\nDefinition:", "yes", "はい いいえ no"]
SIZE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 300}
TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def hybrid(family: str):
    import transformers

    if family == "lfm2":
        config = transformers.Lfm2Config(**SIZE, **TOKENS, layer_types=["conv", "full_attention"] * 2, conv_L_cache=3)
        return transformers.Lfm2ForCausalLM(config)
    linear = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 8}
    config = transformers.Qwen3_5TextConfig(**SIZE, **TOKENS, **linear, layer_types=["linear_attention", "full_attention"] * 2)
    return transformers.Qwen3_5ForCausalLM(config)


@pytest.fixture(params=["lfm2", "qwen3.5"])
def mixed(request, pico_study, tmp_path):
    """A pico hybrid in float32 that ends its texts at different places."""
    torch.manual_seed(1)
    model = hybrid(request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "mixed")
    pico_tokenizer().save_pretrained(tmp_path / "mixed")
    return models.load(pico_study(weights={"japanese": tmp_path / "mixed"}), "japanese", dtype="float32")[:2]


def test_a_hybrid_s_texts_in_a_batch_are_those_of_one_row_alone(mixed):
    model, tokenizer = mixed
    assert not models.can_drop_rows(model)
    model.generation_config.eos_token_id = list(range(20, 80))
    alone = [decoding.complete(model, tokenizer, [text], 24)[0] for text in TEXTS]
    assert decoding.complete(model, tokenizer, TEXTS, 24) == alone
    assert len({row["tokens"] for row in alone}) > 1, "rows must end apart"


def test_a_hybrid_scores_options_as_the_stock_class(mixed):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = mixed
    asked = [Instance("loglikelihood", {}, (text, f" {option}"), i) for i, text in enumerate(TEXTS[:2]) for option in ("yes", "no", "はい")]
    ours = SharedPromptLM(model, tokenizer, 512).loglikelihood(asked)
    stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1).loglikelihood(asked, disable_tqdm=True)
    assert [answer[0] for answer in ours] == pytest.approx([answer[0] for answer in stock], abs=1e-4)


def test_a_config_that_keeps_no_cache_changes_no_text(pico_study, pico_siblings, tmp_path):
    folder = shutil.copytree(pico_siblings["llama"] / "japanese", tmp_path / "none")
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | {"use_cache": False}))
    plain = models.load(pico_study(), "japanese", dtype="float32")[:2]
    none = models.load(pico_study(weights={"japanese": folder}), "japanese", dtype="float32")[:2]
    assert decoding.complete(*none, TEXTS, 20) == decoding.complete(*plain, TEXTS, 20)


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX", "Mamba"])
def test_a_family_without_grouped_heads_gets_a_batch_size(pico_study, family):
    import transformers

    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=300)
    if family == "GPTNeoX":
        config = transformers.GPTNeoXConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=300, intermediate_size=64)
    if family == "Mamba":
        config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=300, state_size=8)
    model = transformers.AutoModelForCausalLM.from_config(config)
    size, _ = decoding.pick_batch_size(pico_study(), model, pico_tokenizer(), TEXTS * 40)
    assert size > 1
    assert decoding.row_bytes(model, 10, 90) >= 2 * config.num_hidden_layers * 32 * 100 * 4
