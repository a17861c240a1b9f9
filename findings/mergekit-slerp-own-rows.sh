#!/usr/bin/env bash
# MergeKit 0.1.5 changes, in a SLERP of two models of different vocabularies, the rows of tokens that only the base has.
#
# Expected: with tokenizer: {source: base} a token that the other model lacks has the base's row in both, so between them lies the base's
#   row, as it does in a linear merge.
# Happens:  such rows come out longer, by sin((1 - t) a) / sin a + sin(t a) / sin a at an angle a between the two whole embeddings.
# Where:    mergekit/merge_methods/slerp.py, slerp: one angle of the whole tensor, and its two coefficients, which add up to more than 1,
#   go to every row, whether or not the rows are equal.
#
# bash findings/mergekit-slerp-own-rows.sh: exit 0 while MergeKit does so, 1 when it no longer does.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
HF_HUB_OFFLINE=1 env/bin/python - <<'PY'
import math
import sys
from importlib.metadata import version

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

for seed, (name, count) in enumerate({"base": 64, "other": 60}.items()):  # the base has four words more
    words = {"<unk>": 0, "</s>": 1} | {f"word{number}": number for number in range(2, count)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=count, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(name)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(name)
print("mergekit", version("mergekit"), "transformers", version("transformers"))
base, other = (load_file(f"{name}/model.safetensors")["model.embed_tokens.weight"] for name in ("base", "other"))
both = torch.cat([other, base[60:]])
angle = torch.acos((base * both).sum() / base.norm() / both.norm()).item()
found = {}
for method, parameters in {"linear": {}, "slerp": {"t": 0.5}}.items():
    entries = [{"model": name} | ({} if parameters else {"parameters": {"weight": 0.5}}) for name in ("base", "other")]
    recipe = {"merge_method": method, "base_model": "base", "models": entries, "parameters": parameters, "tokenizer": {"source": "base"}, "dtype": "float32"}
    run_merge(MergeConfiguration.model_validate(recipe), method, MergeOptions(write_model_card=False, quiet=True))
    rows = load_file(f"{method}/model.safetensors")["model.embed_tokens.weight"][60:]
    found[method] = (rows.norm() / base[60:].norm()).item()
expected = 2 * math.sin(angle / 2) / math.sin(angle)
print(f"length of the base's own rows after the merge, 1 = as before: linear {found['linear']:.4f}, slerp {found['slerp']:.4f} (by the formula {expected:.4f})")
sys.exit(not (abs(found["linear"] - 1) < 1e-5 and found["slerp"] > 1.01 and abs(found["slerp"] - expected) < 1e-4))
PY
