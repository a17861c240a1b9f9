#!/usr/bin/env bash
# obonet ends a definition at the first " ! " inside its quotes, and the ontology loads without a word.
#
# Expected: in OBO (1.4) an exclamation mark begins a comment outside of quoted strings; a definition or a synonym that holds one is read
#   whole, as fastobo reads it.
# Happens:  def: "Beats ! faster than 100 a minute." comes back as '"Beats', with its opening quote and without its source.
# Where:    obonet/read.py, tag_line_pattern: what stands behind the first exclamation mark without a backslash is the line's comment, before
#   anybody looks for quotes.
# So:       fastobo.
#
# bash findings/obonet-exclamation.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check obonet==1.3.0 fastobo==0.14.2
cat > tiny.obo <<'OBO'
format-version: 1.4
ontology: tiny

[Term]
id: XX:0000001
name: fast heart
def: "Beats ! faster than 100 a minute." [XX:books]
synonym: "racing ! heart" EXACT []
is_a: XX:0000000 ! heart
OBO
env/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import fastobo
import obonet

print(*(f"{name} {version(name)}" for name in ("obonet", "fastobo")))
term = obonet.read_obo("tiny.obo").nodes["XX:0000001"]
print("obonet: def", repr(term["def"]), "synonym", term["synonym"])
(frame,) = fastobo.load("tiny.obo")
clauses = {type(clause).__name__: clause for clause in frame}
whole = str(clauses["DefClause"].definition)
print("fastobo: def", repr(whole), "synonym", repr(clauses["SynonymClause"].synonym.desc))
sys.exit(not (term["def"] == '"Beats' and "100 a minute" in whole))
PYTHON
# Seen: obonet: def '"Beats' synonym ['"racing']; fastobo: both whole
