#!/usr/bin/env bash
# MergeKit 0.1.5's SLERP of the same two models is another file on a machine with another number of cores.
#
# Expected: a merge that draws no random numbers gives the same bytes, and so the same hash, wherever it is made on a CPU; linear does.
# Happens:  with one thread and with two, some 20 weights in a million differ by the last bit of bfloat16.
# Where:    mergekit/merge_methods/slerp.py, slerp: the norms and the dot product are sums over pieces of 2^20 weights, which PyTorch shares out
#   among its threads; another order of adding moves the last bit of both coefficients, and with them the weights that lie between two bfloat16.
#
# bash findings/mergekit-slerp-threads.sh: exit 0 while MergeKit does so, 1 when it no longer does.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
export HF_HUB_OFFLINE=1
env/bin/python - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(vocab_size=6000, hidden_size=1024, intermediate_size=2048, num_hidden_layers=2, num_attention_heads=8, tie_word_embeddings=False)
torch.manual_seed(0)
model = LlamaForCausalLM(config).to(torch.bfloat16)
model.save_pretrained("one")
with torch.no_grad():
    for weight in model.parameters():
        weight += 0.02 * torch.randn(weight.shape)
model.save_pretrained("two")
PY
for method in linear slerp; do
  parameters=$([ "$method" = slerp ] && echo "{t: 0.3}" || echo "{weight: 0.5}")
  printf 'merge_method: %s\nbase_model: one\nmodels: [{model: one}, {model: two}]\nparameters: %s\ndtype: bfloat16\n' "$method" "$parameters" > "$method.yml"
  for threads in 1 2; do
    OMP_NUM_THREADS=$threads env/bin/mergekit-yaml --quiet --no-copy-tokenizer --no-write-model-card "$method.yml" "$method-$threads" > /dev/null 2>&1
  done
done
env/bin/python - <<'PY'
import sys
from importlib.metadata import version

from safetensors.torch import load_file

print("mergekit", version("mergekit"), "torch", version("torch"))
changed = {}
for method in ("linear", "slerp"):
    one, two = (load_file(f"{method}-{threads}/model.safetensors") for threads in (1, 2))
    changed[method] = sum(int((one[name] != two[name]).sum()) for name in one)
    print(f"{method}: {changed[method]} of {sum(map(len, map(lambda t: t.reshape(-1), one.values()))):,} weights differ between one thread and two")
sys.exit(not (changed["linear"] == 0 and changed["slerp"] > 0))
PY
