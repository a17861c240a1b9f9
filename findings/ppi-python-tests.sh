#!/usr/bin/env bash
# ppi-python 0.2.3 installs its tests as a package called `tests`, and a project's own folder of that name can't be imported any more.
#
# Expected: a wheel installs its own package, and a project whose `tests` folder has no __init__.py (a namespace package, as pytest
#   allows it) imports its helpers after installing the wheel as before.
# Happens:  site-packages gets tests/__init__.py and the files beside it. A regular package goes before a namespace package wherever it
#   stands on the path, so `python -m tests.helper` in the project's own folder ends in ModuleNotFoundError.
# Where:    the wheel's RECORD lists tests/__init__.py and others; the build takes every package that it finds in the repository.
# So:       an __init__.py in one's own tests folder, which then is first on the path.
#
# bash findings/ppi-python-tests.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
mkdir -p project/tests
echo 'print("the project'"'"'s own helper")' > project/tests/helper.py
cd project
echo "before: $(../env/bin/python -m tests.helper)"
../env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps ppi-python==0.2.3
../env/bin/python -c "from importlib.metadata import files, version; print('ppi-python', version('ppi-python')); print(*[f for f in files('ppi-python') if str(f) == 'tests/__init__.py'])"
if said=$(../env/bin/python -m tests.helper 2>&1); then
  echo "after: $said"
  exit 1
fi
echo "after: $said"
touch tests/__init__.py
echo "with an __init__.py of its own: $(../env/bin/python -m tests.helper)"
# Seen: before: the project's own helper; ppi-python 0.2.3, tests/__init__.py; after: No module named tests.helper; with an
# __init__.py of its own: the project's own helper
