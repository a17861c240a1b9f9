#!/usr/bin/env bash
# papermill 2.7.0 can make infinity of a commit's hash that is all digits but an e, and makes true of -p flag false.
#
# Expected: -p revision 5e21407 gives the notebook the text "5e21407", as its default "main" is a text; -p sweep false gives what is false in Python.
# Happens:  whatever int() or float() can read is a number: 5e21407 is inf, 12e45 is 1.2e+46, 0012 is 12, 1_000 is 1000 and nan is not a number.
#   false, in contrast, is the text "false", which `if sweep:` takes for true; False is false. Of seven-digit hashes
#   one in eighteen is such a number: decimal digits alone, or with one e between them.
# Where:    papermill/cli.py, _resolve_type.
# So:       -r revision 5e21407 for texts, -y "sweep: false" for all else.
#
# bash findings/papermill-hash-number.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check papermill==2.7.0 ipykernel==7.4.0
env/bin/python - <<'PYTHON'
import nbformat

lines = 'revision = "main"\nsweep = False'
parameters = nbformat.v4.new_code_cell(lines, metadata={"tags": ["parameters"]})
cells = [parameters, nbformat.v4.new_code_cell("print('got', repr(revision), 'and', repr(sweep) + ', which is', bool(sweep))")]
kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), "asked.ipynb")
PYTHON
echo "papermill 2.7.0"
ask() { # the line's parameters
  env/bin/python -m papermill --no-progress-bar --log-output "$@" asked.ipynb out.ipynb 2>&1 | grep -o 'got .*' | sed "s/^/$*: /" | tee -a seen
}
ask -p revision 5e21407 -p sweep false
ask -p revision 0012345 -p sweep False
ask -r revision 5e21407 -y "sweep: false"
diff seen - <<'SEEN'
-p revision 5e21407 -p sweep false: got inf and 'false', which is True
-p revision 0012345 -p sweep False: got 12345 and False, which is False
-r revision 5e21407 -y sweep: false: got '5e21407' and False, which is False
SEEN
# Seen: inf and 'false'; 12345 and False; '5e21407' and False
