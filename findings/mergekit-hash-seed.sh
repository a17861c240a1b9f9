#!/usr/bin/env bash
# MergeKit 0.1.5 gives a linear merge without base_model the config and the tokenizer of whichever model Python's hash seed puts first.
#
# Expected: the same configuration gives the same model in every process: its config.json, tokenizer and chat template are those of the first model
#   listed, or the merge stops and asks for one.
# Happens:  weights are the same every time, but stop token and chat template are the one parent's in one process and the other's in the next: a
#   merge of a chat model with another stops where it should in some runs and not in others.
# Where:    mergekit/config.py, referenced_models: a list made of a set; mergekit/merge.py, _get_donor_model and _model_out_config: its first item,
#   where there is no base_model. Strings' hashes change with PYTHONHASHSEED, which is random unless it is set.
# So:       always name a base_model, which linear does not use for anything else if it is among the models.
#
# bash findings/mergekit-hash-seed.sh: exit 0 while MergeKit does so, 1 when it no longer does.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
export HF_HUB_OFFLINE=1
env/bin/python - <<'PY' 2> /dev/null
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = {word: number for number, word in enumerate(("<unk>", "</s>", "<|turn|>", "one", "two", "three"))}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
for stop, name in enumerate(("plain", "chat"), 1):
    torch.manual_seed(stop)
    sizes = {"vocab_size": 6, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**sizes, eos_token_id=stop, tie_word_embeddings=False)).save_pretrained(name)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token=["</s>", "<|turn|>"][stop - 1])
    fast.save_pretrained(name)
PY
cat > merge.py <<'PY'
import sys
from hashlib import sha256
from pathlib import Path

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from transformers import AutoConfig, AutoTokenizer

out, *base = sys.argv[1:]
recipe = {"merge_method": "linear", "models": [{"model": name, "parameters": {"weight": 0.5}} for name in ("plain", "chat")]}
recipe |= {"base_model": base[0]} if base else {}
run_merge(MergeConfiguration.model_validate(recipe), out, MergeOptions(write_model_card=False, quiet=True))
stop, weights = AutoConfig.from_pretrained(out).eos_token_id, sha256(Path(out, "model.safetensors").read_bytes()).hexdigest()
print(stop, AutoTokenizer.from_pretrained(out).eos_token, weights[:8])
PY
echo "mergekit 0.1.5"
for seed in 0 1 2 3 4 5 6 7; do
  PYTHONHASHSEED=$seed env/bin/python merge.py free$seed 2> /dev/null | sed "s/^/hash seed $seed, no base_model: stops at /" | tee -a free
  PYTHONHASHSEED=$seed env/bin/python merge.py based$seed plain 2> /dev/null | sed 's/^/base_model plain: stops at /' >> based
done
sort based | uniq -c
[ "$(cut -d: -f2 free | sort -u | wc -l)" = 2 ] && [ "$(sort -u based | wc -l)" = 1 ] && [ "$(awk '{print $NF}' free | sort -u | wc -l)" = 1 ]
# Seen: hash seeds 0, 3, 5, 6 and 7: stops at </s>, 1, 2 and 4: at <|turn|>; with base_model always at </s>; the same weights every time
