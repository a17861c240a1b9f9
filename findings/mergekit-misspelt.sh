#!/usr/bin/env bash
# MergeKit 0.1.5 takes parameters that its methods do not have, and merges with the default of the one that was meant.
#
# Expected: `densty: 0.1` in a TIES recipe, or `normalise: false`, stops with the name that is unknown.
# Happens:  the merge is made without a word, with the whole task vectors, or normalised: byte for byte the one without that line, so that
#   only the recipe, where one is kept, shows it.
# Where:    mergekit/config.py: parameters are a dict of any names; a method asks for those it knows, and density has the default 1.
# So:       compare a recipe's names with the method's own before merging.
#
# bash findings/mergekit-misspelt.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
HF_HUB_OFFLINE=1 env/bin/python - <<'PYTHON' 2> /dev/null
import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
for seed, name in enumerate(("base", "left", "right")):
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)).save_pretrained(name)

print("mergekit", version("mergekit"))
cards = {"nothing": ({}, {}), "density: 0.1": ({"density": 0.1}, {}), "densty: 0.1": ({"densty": 0.1}, {})}
cards |= {"normalize: false": ({}, {"normalize": False}), "normalise: false": ({}, {"normalise": False})}
made = {}
for said, (own, common) in cards.items():
    models = [{"model": name, "parameters": {"weight": 0.5} | own} for name in ("left", "right")]
    recipe = {"merge_method": "ties", "base_model": "base", "models": models, "parameters": common}
    run_merge(MergeConfiguration.model_validate(recipe), "merged", MergeOptions(write_model_card=False))
    made[said] = hashlib.sha256(Path("merged/model.safetensors").read_bytes()).hexdigest()[:8]
    print(f"ties with {said}: {made[said]}")
sys.exit(not made["densty: 0.1"] == made["normalise: false"] == made["nothing"] or len(set(made.values())) != 3)
PYTHON
# Seen: five merges of three kinds: densty and normalise give the bytes of the recipe without them
