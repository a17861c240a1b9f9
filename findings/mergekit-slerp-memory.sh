#!/usr/bin/env bash
# MergeKit 0.1.5's SLERP works through a tensor in pieces to bound its memory, and needs several times the tensor's size all the same.
#
# Expected: beside both parents and the result a few pieces of 2^20 weights in float32, 4 MiB each, as its docstring says of its scratch.
# Happens:  on Linux the process grows by 4 MiB and more with every piece, beyond parents and result.
# Where:    mergekit/merge_methods/slerp.py, slerp, collects the norm of each piece as a tensor of one number. PyTorch's CPU allocator asks the C
#   library for aligned blocks, and for those it wants a little more room than the block of the piece before has left, once a number lies behind it:
#   so every piece gets new memory, and the numbers keep the old from being given back. The same loop with Python's floats stays as it is.
#
# bash findings/mergekit-slerp-memory.sh: exit 0 while MergeKit does so, 1 when it no longer does.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
env/bin/python - <<'PY'
import re
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.merge_methods.slerp import slerp

WEIGHTS, PIECE = 1 << 27, 1 << 20
one, other = (torch.ones(1, WEIGHTS, dtype=torch.bfloat16), torch.ones(1, WEIGHTS, dtype=torch.bfloat16))
other[:, ::2] = -0.5


def grown(work) -> float:
    """MiB by which the peak of this process rises above what it holds before."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, made = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]), work()
    return (int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) - before) / 1024


def norms(keep) -> list:
    return [keep(torch.linalg.vector_norm(piece.float())) for piece in one[0].split(PIECE)]


with torch.no_grad():
    floats = grown(lambda: norms(float))
    tensors = grown(lambda: norms(lambda norm: norm))
    merge = grown(lambda: slerp(torch.tensor([0.3]), one, other))
result = 2 * WEIGHTS / 2**20
print("mergekit", version("mergekit"), "torch", version("torch"))
print(f"a model's tensor {result:.0f} MiB; norms of its pieces kept as floats: {floats:.0f} MiB more, kept as tensors: {tensors:.0f} MiB more")
print(f"slerp: {merge:.0f} MiB more, of which the result {result:.0f}")
sys.exit(not (floats < 64 and merge > 2 * result))
PY
