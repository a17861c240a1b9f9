#!/usr/bin/env bash
# Importing nbformat, and with it papermill, nbval or plotly.io, compiles 39 grammars of web addresses wherever JupyterLab is installed.
#
# Expected: reading a notebook's format takes a tenth of a second to import, as it does where JupyterLab is not installed, and a grammar is
#   compiled when an address is first checked against it.
# Happens:  `import nbformat` takes some .8 s, nearly all of it in jsonschema's import of rfc3987_syntax, which builds 39 parsers of Lark. One of
#   them serves jsonschema's two checks (iri, iri-reference), none of which nbformat's schemas ask for. Every kernel that draws with plotly, every
#   papermill and every nbval pays it.
# Where:    rfc3987_syntax/syntax_helpers.py makes a Lark parser for each rule of the standard at import; jsonschema/_format.py imports it if it is
#   there (since 4.25.0); jupyter-events, which JupyterLab's server needs, asks for jsonschema[format-nongpl], which brings it.
# So:       jsonschema<4.25, whose extra doesn't have it.
#
# bash findings/jsonschema-iri-import.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
cat > import.py <<'PYTHON'
import importlib.util
import sys
import time
from importlib.metadata import version
from pathlib import Path

grammars = []
if importlib.util.find_spec("lark"):
    import lark

    build = lark.Lark.__init__

    def counted(self, *args, **options):
        grammars.append(options.get("start"))
        build(self, *args, **options)

    lark.Lark.__init__ = counted
started = time.perf_counter()
import nbformat

taken = time.perf_counter() - started
schemas = "".join(path.read_text(encoding="utf-8") for path in Path(nbformat.__file__).parent.glob("v*/*.schema.json"))
print(f"nbformat {version('nbformat')}, jsonschema {version('jsonschema')}: {taken:.2f} s, {len(grammars)} grammars; "
      f"\"iri\" in nbformat's schemas: {schemas.count(chr(34) + 'iri')} times")
sys.exit(0 if len(grammars) == int(sys.argv[1]) else 1)
PYTHON
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check nbformat==5.11.1 jsonschema==4.26.0
env/bin/python import.py 0
env/bin/python -m pip install --quiet --disable-pip-version-check jupyter-events==0.12.1 jsonschema==4.26.0 rfc3987-syntax==1.1.0 lark==1.3.1
env/bin/python -c 'import nbformat'  # once more before the clock: files are cached, as in the first environment
env/bin/python import.py 39
env/bin/python -m pip install --quiet --disable-pip-version-check jsonschema==4.24.1
env/bin/python import.py 0
# Seen: jsonschema 4.26.0 without JupyterLab's packages: .05 s, 0 grammars; with jupyter-events 0.12.1: .72 s, 39 grammars; jsonschema 4.24.1
# beside them: .07 s, 0 grammars; "iri" in nbformat's schemas: 0 times
