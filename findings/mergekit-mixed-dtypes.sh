#!/usr/bin/env bash
# MergeKit 0.1.5 merges a float16 model and a bfloat16 one into a float32 file under a config that says float16.
#
# Expected: without dtype in the recipe, a result in one of the parents' types, and a config.json that names the type of its weights.
# Happens:  linear writes float32, twice the parents' bytes, and config.json has the base_model's type. transformers, asked for the checkpoint's own
#   type (dtype="auto"), rounds each weight to float16 on loading: what is evaluated is not what was written.
# Where:    mergekit/merge_methods/dtype.py: without dtype in the recipe, tensors of two types are promoted to the type that holds both, float32;
#   mergekit/merge.py, _model_out_config: the config is copied, and its type changed only where the recipe has one.
# So:       dtype and out_dtype in every recipe.
#
# bash findings/mergekit-mixed-dtypes.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
HF_HUB_OFFLINE=1 env/bin/python - <<'PYTHON' 2> /dev/null
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
for seed, (name, kind) in enumerate({"half": torch.float16, "brain": torch.bfloat16}.items()):
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)).to(kind).save_pretrained(name)

print("mergekit", version("mergekit"))
models = [{"model": name, "parameters": {"weight": 0.5}} for name in ("half", "brain")]
for given in ({}, {"dtype": "float32", "out_dtype": "bfloat16"}):
    recipe = {"merge_method": "linear", "base_model": "half", "models": models, **given}
    run_merge(MergeConfiguration.model_validate(recipe), "merged", MergeOptions(write_model_card=False))
    weights = load_file("merged/model.safetensors")
    [written] = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}
    model = AutoModelForCausalLM.from_pretrained("merged", dtype="auto")
    moved = sum(int((tensor != weights[name].float()).sum()) for name, tensor in ((n, t.float()) for n, t in model.state_dict().items()))
    size = Path("merged/model.safetensors").stat().st_size / Path("half/model.safetensors").stat().st_size
    named = json.loads(Path("merged/config.json").read_text())["dtype"]
    print(f"recipe with {given or 'no dtype'}: {written} in the file, {named} in config.json, {size:.1f} x the parent's bytes,", end=" ")
    print(f"loaded as {str(model.dtype).removeprefix('torch.')}, {moved} weights changed by loading")
    if not given:
        found = written, named, size > 1.8, model.dtype, moved > 0
sys.exit(found != ("float32", "float16", True, torch.float16, True) or (written, named, moved) != ("bfloat16", "bfloat16", 0))
PYTHON
# Seen: no dtype: float32 in the file, float16 in config.json, twice the bytes, 7,928 weights changed by loading; with both: bfloat16, bfloat16, 0
