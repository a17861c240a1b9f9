#!/usr/bin/env bash
# MergeKit 0.1.5 leaves the generation config out of a merge whose configuration has a tokenizer setting.
#
# Expected: with tokenizer: {source: base} the result has the base model's generation_config.json, as it has without the setting: chat
#   models list there a second token at which they stop, which their config.json need not name.
# Happens:  the file is missing; loaded from the result, generation knows config.json's one stop token, and a chat model writes on.
# Where:    mergekit/merge.py, run_merge: generation_config.json is one of the files that _copy_tokenizer copies, which is only
#   called where no tokenizer was built.
#
# bash findings/mergekit-generation-config.sh: exit 0 while MergeKit does so, 1 when it no longer does.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
HF_HUB_OFFLINE=1 env/bin/python - <<'PY'
import sys
from importlib.metadata import version

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = {word: number for number, word in enumerate(("<unk>", "</s>", "<|turn|>", "one", "two", "three"))}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
config = LlamaConfig(
    vocab_size=6, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, eos_token_id=1, tie_word_embeddings=False
)
for seed, name in enumerate(("one", "other")):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [1, 2]
    model.save_pretrained(name)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(name)
print("mergekit", version("mergekit"), "transformers", version("transformers"))
recipe = {"merge_method": "linear", "base_model": "one", "models": [{"model": name, "parameters": {"weight": 0.5}} for name in ("one", "other")]}
stops = {}
for setting in ({}, {"tokenizer": {"source": "base"}}):
    run_merge(MergeConfiguration.model_validate(recipe | setting), f"merged{len(setting)}", MergeOptions(write_model_card=False, quiet=True))
    try:
        stops[len(setting)] = GenerationConfig.from_pretrained(f"merged{len(setting)}").eos_token_id
    except OSError:
        stops[len(setting)] = "no generation_config.json"
    loaded = LlamaForCausalLM.from_pretrained(f"merged{len(setting)}").generation_config.eos_token_id
    print(f"{setting or 'no tokenizer setting'}: {stops[len(setting)]}; a loaded model stops at {loaded}")
sys.exit(stops != {0: [1, 2], 1: "no generation_config.json"})
PY
