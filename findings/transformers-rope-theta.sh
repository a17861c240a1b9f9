#!/usr/bin/env bash
# A Llama-3 that transformers 5 saved is another model in transformers 4: it reads the rotary base 10,000 for 500,000, and prints nothing about it.
#
# Expected: the last 4.x reads what 5.x saves as an ordinary checkpoint (it loads, and no tensor is missing), or says that it can't.
# Happens:  config.json of 5.x has the base only within rope_parameters, which 4.x keeps as an attribute that nothing reads; its own, rope_theta, is
#   the class's default. Here, with random weights and 64 tokens, most next tokens are others. It affects whoever merges or fine-tunes with tools on
#   transformers 5 and evaluates or serves with one that is still on 4.
# Where:    transformers 5, configuration_utils.py: a config is saved with rope_parameters alone; transformers 4.57,
#   models/llama/configuration_llama.py: rope_theta=10000.0 unless the file has that name.
# So:       write "rope_theta" beside rope_parameters into config.json; both versions read that. (A scaled base wants rope_scaling as well, Gemma-3
#   rope_local_base_freq, GPT-NeoX rotary_emb_base and rotary_pct.)
#
# bash findings/transformers-rope-theta.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
for version in 5.23.0 4.57.6; do
  name=$([ "${version%%.*}" = 5 ] && echo five || echo four)
  python3 -m venv $name
  $name/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==$version
done
cat > five.py <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM, __version__

torch.manual_seed(0)
sizes = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
rotary = {"rope_type": "default", "rope_theta": 500000.0}
model = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rotary, max_position_embeddings=4096)).eval()
with torch.inference_mode():
    for weight in model.parameters():
        weight.mul_(5)  # so that attention matters
    torch.save(model(torch.arange(64)[None]).logits.argmax(-1), "next.pt")
model.save_pretrained("saved")
print(f"saved by transformers {__version__} with the rotary base {model.config.rope_parameters['rope_theta']:,.0f}")
PYTHON
cat > four.py <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, __version__

file, found = Path("saved/config.json"), []
config = json.loads(file.read_text())
for said, more in (("as it was saved", {}), ("with rope_theta beside it", {"rope_theta": config["rope_parameters"]["rope_theta"]})):
    file.write_text(json.dumps(config | more))
    model = AutoModelForCausalLM.from_pretrained("saved").eval()
    with torch.inference_mode():
        same = (model(torch.arange(64)[None]).logits.argmax(-1) == torch.load("next.pt")).float().mean().item()
    found.append((model.config.rope_theta, same))
    print(f"read by transformers {__version__} {said}: rotary base {found[-1][0]:,.0f}, {same:.0%} of the next tokens the same")
sys.exit(found[0][0] != 10000 or found[0][1] > 0.9 or found[1] != (500000, 1))
PYTHON
five/bin/python five.py 2> /dev/null
four/bin/python four.py 2> told
! grep -qi rope told
# Seen: as it was saved: rotary base 10,000, 22% of the next tokens the same; with rope_theta beside it: 500,000, 100%
