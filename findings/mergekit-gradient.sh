#!/usr/bin/env bash
# MergeKit 0.1.5 gives the final norm and the head the first value of a gradient, not the last.
#
# Expected: with weight: [1, 0] for one model and [0, 1] for the other, values run from the first to the last layer; so the
#   embedding, before the first layer, is the one model's, and the final norm and lm_head, behind the last, are the other's.
# Happens:  the last layer is the other model's, and the final norm and lm_head behind it are the first model's again.
# Where:    mergekit/plan.py, MergePlanner.plan_module: one ConfigReader with t=0 plans module_arch.post_weights(), as it
#   does pre_weights(); only plan_slice moves t.
#
# bash findings/mergekit-gradient.sh: exit 0 while MergeKit does so, 1 when it no longer does.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
HF_HUB_OFFLINE=1 env/bin/python - <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, tie_word_embeddings=False
)
for seed, name in enumerate(("one", "other")):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.normal_()
    model.save_pretrained(name)
models = [{"model": "one", "parameters": {"weight": [1.0, 0.0]}}, {"model": "other", "parameters": {"weight": [0.0, 1.0]}}]
recipe = MergeConfiguration.model_validate({"merge_method": "linear", "models": models, "dtype": "float32"})
run_merge(recipe, "merged", MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True))


def tensors(folder):
    return {name: tensor for file in Path(folder).glob("*.safetensors") for name, tensor in load_file(file).items()}


one, other, merged = map(tensors, ("one", "other", "merged"))
found = {}
for name in ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"):
    found[name] = "one" if torch.equal(merged[name], one[name]) else "other" if torch.equal(merged[name], other[name]) else "between"
print("mergekit", version("mergekit"), "transformers", version("transformers"))
print("weight: [1, 0] of one, [0, 1] of other;", ", ".join(f"{name}: {whose}" for name, whose in found.items()))
sys.exit(list(found.values()) != ["one", "one", "other", "one", "one"])
PY
