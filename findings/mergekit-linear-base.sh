#!/usr/bin/env bash
# MergeKit 0.1.5 averages a base_model into a linear merge that does not list it, where the weight stands once for all models.
#
# Expected: base_model says whose configuration and tokenizer the result has; linear has no use for a base, so its weights are the mean of the two
#   models listed.
# Happens:  the base is a third model of the mean, with the same weight. With the weight beside each model the same recipe stops: the base has none.
# Where:    mergekit/plan.py, normalize_config: a base that is not among the models is added to them for every method; parameters that stand once
#   hold for it, too.
# So:       in linear, name one of the models as base_model, or write each model's weight beside it.
#
# bash findings/mergekit-linear-base.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
HF_HUB_OFFLINE=1 env/bin/python - <<'PYTHON' 2> /dev/null
import sys
from importlib.metadata import version

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
for name, value in (("one", 1.0), ("three", 3.0), ("eleven", 11.0)):
    model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(value)
    model.save_pretrained(name)

print("mergekit", version("mergekit"))
once = {"models": [{"model": "one"}, {"model": "three"}], "parameters": {"weight": 1.0}}
each = {"models": [{"model": name, "parameters": {"weight": 1.0}} for name in ("one", "three")]}
found = []
for said, recipe in (("no base", once), ("base eleven", once | {"base_model": "eleven"}), ("base eleven", each | {"base_model": "eleven"})):
    where = "once" if recipe.get("parameters") else "beside each model"
    try:
        run_merge(MergeConfiguration.model_validate({"merge_method": "linear"} | recipe), "merged", MergeOptions(write_model_card=False))
        found.append({float(value) for tensor in load_file("merged/model.safetensors").values() for value in tensor.unique()})
    except RuntimeError as error:
        found.append(str(error).split(" for ")[0])
    print(f"one and three, {said}, weight {where}: {found[-1]}")
sys.exit(found != [{2.0}, {5.0}, "Missing required parameter weight"])
PYTHON
# Seen: no base: {2.0}; base eleven, weight once: {5.0}; base eleven, weight beside each model: Missing required parameter weight
