#!/usr/bin/env bash
# papermill 2.7.0 loses a parameter whose line holds a second equals sign, in its comment or its value, and calls it unknown when it is given.
#
# Expected: `limit = 0  # 0 = all terms` in the parameters cell is a parameter: --help-notebook lists it, and -p limit 3 sets it without a word.
# Happens:  --help-notebook leaves it out, beside a warning that the line can't be parsed, and -p limit 3 is answered by "Passed unknown parameter:
#   limit", although it then takes effect. So whoever trusts the warning looks for a typing mistake that isn't there, and whoever has learnt to
#   overlook it overlooks the next real one: a mistyped name is told by the same line, and runs with the defaults. `limit = "n=0"` is lost, too.
# Where:    papermill/translators.py, PythonTranslator.inspect: a line is given up if it has more than one "=", wherever they stand.
# So:       no equals signs in comments and defaults of the parameters cell.
#
# bash findings/papermill-help-comment.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check papermill==2.7.0 ipykernel==6.31.0
env/bin/python - <<'PYTHON'
import nbformat

for name, line in (("plain", "limit = 0  # all terms, if 0"), ("comment", "limit = 0  # 0 = all terms"), ("value", 'limit = "n=0"')):
    parameters = nbformat.v4.new_code_cell(line, metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell("print('limit is', limit)")]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), f"{name}.ipynb")
PYTHON
for name in plain comment value; do
  env/bin/python -m papermill --help-notebook $name.ipynb > $name.help 2>&1
  env/bin/python -m papermill --no-progress-bar --log-output -p limit 3 $name.ipynb out.ipynb > $name.run 2>&1
  listed=$(grep -c 'limit: Unknown type' $name.help || true)
  told=$(grep -c 'Passed unknown parameter: limit' $name.run || true)
  echo "$name: listed $listed times, called unknown $told times; $(grep -o 'limit is .*' $name.run)" | tee -a seen
done
diff seen - <<'SEEN'
plain: listed 1 times, called unknown 0 times; limit is 3
comment: listed 0 times, called unknown 1 times; limit is 3
value: listed 0 times, called unknown 1 times; limit is 3
SEEN
# Seen: plain: listed once, never called unknown; with an equals sign in comment or value: not listed, called unknown once; limit is 3 each time
