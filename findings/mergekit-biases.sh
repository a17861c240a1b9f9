#!/usr/bin/env bash
# MergeKit 0.1.5 leaves out every bias of a Llama with attention_bias and mlp_bias, and its merge ends without a word about it.
#
# Expected: a linear merge of two LlamaForCausalLM has the tensors that both have (35 here), or the merge stops and says
#   which tensors it does not know.
# Happens:  21 tensors are written and the merge ends well. Its config.json still says attention_bias and mlp_bias, so
#   transformers makes the 14 biases anew, as zeros, and says so only in its report on loading.
# Where:    mergekit/_data/architectures/llama.json lists the weights of LlamaForCausalLM and no bias;
#   mergekit/plan.py, MergePlanner.plan_module, plans what is listed and never looks for tensors that the inputs have besides.
#
# bash findings/mergekit-biases.sh: exit 0 while MergeKit does so, 1 when it no longer does.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
HF_HUB_OFFLINE=1 env/bin/python - <<'PY'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, attention_bias=True, mlp_bias=True
)
for seed, name in enumerate(("one", "other")):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.normal_()
    model.save_pretrained(name)
models = [{"model": name, "parameters": {"weight": 0.5}} for name in ("one", "other")]
recipe = MergeConfiguration.model_validate({"merge_method": "linear", "models": models, "dtype": "float32"})
run_merge(recipe, "merged", MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True))


def tensors(folder):
    return {name for file in Path(folder).glob("*.safetensors") for name in safe_open(file, "pt").keys()}


lost = sorted(tensors("one") - tensors("merged"))
loaded = LlamaForCausalLM.from_pretrained("merged").model.layers[0].mlp.up_proj.bias
said = json.loads(Path("merged/config.json").read_text())
print("mergekit", version("mergekit"), "transformers", version("transformers"))
print(len(tensors("one")), "tensors in,", len(tensors("merged")), "out; left out:", *lost[:3], "…")
print("config.json: mlp_bias", said["mlp_bias"], "| the merge's up_proj.bias, loaded:", loaded.abs().max().item())
sys.exit(not (len(lost) == 14 and all(name.endswith(".bias") for name in lost) and said["mlp_bias"] and not loaded.any()))
PY
