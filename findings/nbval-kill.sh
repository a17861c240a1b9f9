#!/usr/bin/env bash
# nbval 0.11.0 kills a notebook's kernel instead of shutting it down, so what a notebook leaves for its end never happens, and the test passes.
#
# Expected: when the last cell has run, the kernel is asked to end, as papermill asks it: functions of atexit and weakref.finalize
#   run, temporary folders are removed, buffered files are flushed.
# Happens:  nothing of that. A file that was opened and not closed is empty, and a TemporaryDirectory stays behind in every run of the tests;
#   under papermill the same notebook writes the one and removes the other.
# Where:    nbval/kernel.py, RunningKernel.stop: shutdown_kernel(now=True), which is SIGKILL.
# So:       let the notebook's last cell do what has to be done, or look at such things with papermill.
#
# bash findings/nbval-kill.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check nbval==0.11.0 pytest==9.0.2 papermill==2.7.0 ipykernel==6.31.0
env/bin/python - <<'PYTHON'
import nbformat

source = """import atexit, os, tempfile
out = os.environ["OUT"]
left = open(f"{out}.rows", "w")
left.write("one row")
folder = tempfile.TemporaryDirectory(dir=".", prefix=f"{out}-")
atexit.register(open(f"{out}.end", "w").write, "the end");"""
kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata={"kernelspec": kernel}), "book.ipynb")
PYTHON
export IPYTHONDIR="$scratch/ipython"
OUT=nbval env/bin/python -m pytest -q --nbval-lax book.ipynb > test.log 2>&1 && echo "nbval: $(tail -1 test.log | grep -o '1 passed')"
OUT=papermill env/bin/python -m papermill --no-progress-bar book.ipynb out.ipynb 2> /dev/null
for name in nbval papermill; do
  echo "$name: $(wc -c < $name.rows) bytes of the open file, $(wc -c < $name.end) of atexit's, $(ls -d $name-* 2> /dev/null | wc -l) temporary folders left" | tee -a seen
done
diff seen - <<'SEEN'
nbval: 0 bytes of the open file, 0 of atexit's, 1 temporary folders left
papermill: 7 bytes of the open file, 7 of atexit's, 0 temporary folders left
SEEN
# Seen: nbval: 0 bytes of the open file, 0 of atexit's, 1 temporary folder left; papermill: 7, 7 and none
