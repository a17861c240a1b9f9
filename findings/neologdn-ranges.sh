#!/usr/bin/env bash
# neologdn takes the tilde out of "3〜5mg", so that LM Evaluation Harness's ROUGE for Japanese summaries counts "35mg" as the same words.
#
# Expected: 〜 between two numbers is how Japanese writes a range; a normaliser of widths and long vowels leaves "3〜5mg" a range, and a metric
#   that uses it tells a dose of 3 to 5 mg from one of 35 mg.
# Happens:  neologdn.normalize("1日3〜5mg") is "1日35mg" by default, as its rules say of tildes in general. The harness's task ja_leaderboard_xlsum normalises
#   reference and summary so before it splits them into words, and gives a summary with the other number a perfect score.
# Where:    neologdn's rule for tildes, which drops all of their kinds wherever they stand; lm_eval/tasks/japanese_leaderboard/
#   ja_leaderboard_xlsum.py, MecabTokenizer.normalize_answer, which calls it without an argument.
# So:       tilde="normalize" leaves "3~5mg".
#
# bash findings/neologdn-ranges.sh: exit 0 while it is so, 1 when it no longer is. neologdn is compiled as it is installed where it has no wheel.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check \
  lm_eval==0.4.13 neologdn==0.5.6 fugashi==1.5.2 unidic-lite==1.0.8 emoji rouge-score==0.1.2
env/bin/python - <<'PYTHON' 2> /dev/null
import sys
from importlib.metadata import version

import neologdn
from lm_eval.tasks.japanese_leaderboard.ja_leaderboard_xlsum import rouge2_agg

print(*(f"{name} {version(name)}" for name in ("neologdn", "lm_eval")))
reference = "医師は1日3〜5mgの投与を勧めた。"
scores = {}
for said in (reference, "医師は1日35mgの投与を勧めた。", "医師は1日3から5mgの投与を勧めた。"):
    scores[said] = rouge2_agg([(reference, said)])
    print(f"{said} → {neologdn.normalize(said)}: ROUGE-2 against the first {scores[said]:.2f}")
kept = neologdn.normalize(reference, tilde="normalize")
print('tilde="normalize":', kept)
right, wrong, other = scores.values()
sys.exit(not (right == wrong == 1 > other and "3~5mg" in kept))
PYTHON
# Seen: 3〜5mg → 35mg; ROUGE-2 of the summary with 35mg 1.00, of one that writes the range out .75; tilde="normalize": 3~5mg
