#!/usr/bin/env bash
# bitsandbytes 0.50.2 on a CPU with AVX-512 gives a weight in nf4 other blocks' scales, where its rows are not whole blocks of 64, without a word.
#
# Expected: quantize_4bit goes through a matrix in blocks of 64 weights, wherever its rows end, and dequantize_4bit comes back to within the
#   rounding of nf4, some .09 of the mean size, for 96 columns as for 128.
# Happens:  with 96 columns or 4,304 (the width of SigLIP's MLP) the error is two to three times that. Row r reads its scales from block r * (columns // 64)
#   on, as if each row had whole blocks only, so scales lag behind by a part of a block a row. Nothing is raised, and
#   Linear4bit computes with these weights. Numbers of columns that are no multiple of 16 come back right.
# Where:    bitsandbytes/backends/cpu/ops.py, dequantize_4bit, hands rows and columns to the compiled cdequantize_blockwise_cpu_nf4_fp32
#   (csrc/cpu_ops.cpp), whose branch for AVX-512 counts blocks by the row; its scalar branch counts them through the whole matrix.
# So:       on a CPU refuse nf4 for a layer whose rows are not whole blocks of 64, or take int8.
#
# bash findings/bitsandbytes-nf4-rows.sh: exit 0 while it is so, 1 when it no longer is. On a CPU without AVX-512 nothing can be shown: exit 0.
set -euo pipefail
if ! grep -q avx512bw /proc/cpuinfo; then echo "this CPU has no AVX-512: nothing to show"; exit 0; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 bitsandbytes==0.50.2
env/bin/python - <<'PYTHON' 2> /dev/null
import sys
from importlib.metadata import version

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

BLOCK, ROWS = 64, 128
print("bitsandbytes", version("bitsandbytes"), "torch", version("torch"))
seen = {}
for columns in (64, 96, 128, 200, 4304):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(ROWS, columns, generator=generator) * torch.linspace(0.1, 2, ROWS)[:, None]  # rows of different sizes
    packed, state = quantize_4bit(weight, quant_type="nf4", blocksize=BLOCK)
    back = dequantize_4bit(packed, state)
    nibbles = torch.stack([packed.reshape(-1) >> 4, packed.reshape(-1) & 15], 1).reshape(-1).long()
    values = state.code.float()[nibbles].reshape(ROWS, columns)
    place = torch.arange(columns)
    through = torch.arange(ROWS * columns).reshape(ROWS, columns) // BLOCK
    by_row = torch.arange(ROWS)[:, None] * (columns // BLOCK) + place // BLOCK
    rule = {name: torch.allclose(back, values * state.absmax[blocks], rtol=1e-4) for name, blocks in (("through", through), ("by row", by_row))}
    error = [float((found - weight).abs().mean() / weight.abs().mean()) for found in (back, values * state.absmax[through])]
    seen[columns] = rule["through"]
    print(f"{columns:>5} columns: error {error[0]:.3f}, with each block's own scale {error[1]:.3f}; scales are counted "
          + " and ".join(name for name, holds in rule.items() if holds))
sys.exit(seen != {64: True, 96: False, 128: True, 200: True, 4304: False})
PYTHON
# Seen: errors .092 for 64 columns, .313 for 96, .091 for 128, .091 for 200, .202 for 4,304; with each block's own scale .091 to .092 everywhere,
# and with the scales counted by the row what came back, to .0001
