"""`make test-colab`: notebooks on a bare runtime, as a click on a badge starts them.

A fresh virtual environment with the packages and versions that Colab brings, an empty folder, one notebook
file. The setup cell's own lines clone the project (git turns its address into this repository: the last
commit is what runs) and install what is missing. Downloads gigabytes, so it is no part of `make test`.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import papermill

from tests import owner
from xlm_utils.study import ROOT

# of Colab's runtime, those that the notebooks touch; its torch is 2.11 with CUDA, which changes nothing here
PINS = [
    "torch==2.13.0", "transformers==5.9.0", "numpy==2.0.2", "pandas==2.2.2", "plotly==5.24.1", "scipy==1.16.3", "scikit-learn==1.6.1",
    "statsmodels==0.14.5", "pyarrow==18.1.0", "protobuf==5.29.5", "nltk==3.9.1", "ipykernel==6.17.1", "ipython==7.34.0", "ipywidgets==7.7.1",
    "tornado==6.5.1", "requests==2.32.4", "datasets==4.0.0", "python-dateutil==2.9.0.post0", "tenacity==9.1.2",
]  # fmt: skip
HELD = ("torch", "numpy", "pandas", "scipy", "ipykernel", "ipython", "tornado")
TRIED = {"04_generate": {"method": "linear"}, "01_curate": {}, "02_translate": {}}  # the first finds nothing and installs


def versions(python: Path) -> dict[str, str]:
    """Package → version of an environment, without local parts such as +cpu."""
    listing = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True).stdout
    return {package["name"].lower(): package["version"].partition("+")[0] for package in json.loads(listing)}


def build(scratch: Path) -> Path:
    """A bare runtime in a folder; its Python."""
    python = scratch / "runtime" / "bin" / "python"
    venv.create(scratch / "runtime", with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS], check=True)
    kernel = scratch / "jupyter" / "kernels" / "bare"
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "bare", "language": "python"}))
    return python


def environment(scratch: Path) -> None:
    """Environment variables of the kernels: where git finds the project, and which kernels there are."""
    git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf", "GIT_CONFIG_VALUE_0": owner.address("somebody")}
    os.environ |= git | {"XLM_SMOKE": "1", "JUPYTER_PATH": str(scratch / "jupyter"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    for name in ("XLM_HOME", "XLM_CACHE", "PYTHONPATH", "VIRTUAL_ENV"):
        os.environ.pop(name, None)


def run(scratch: Path, python: Path) -> None:
    """Every notebook of ``TRIED`` in an empty folder; exits if a package that must stay was replaced."""
    environment(scratch)
    before = versions(python)
    for notebook, parameters in TRIED.items():
        empty, drive = scratch / notebook, scratch / "drive" / notebook
        empty.mkdir()
        output = empty / f"{notebook}.ipynb"
        source = (ROOT / "notebooks" / output.name).read_text(encoding="utf-8")
        output.write_text(owner.in_notebook(source, notebook, "somebody"), encoding="utf-8")  # an address to clone from, whoever hosts it
        parameters = parameters | {"drive_dir": str(drive)}
        executed = papermill.execute_notebook(output, scratch / output.name, parameters, kernel_name="bare", cwd=empty, progress_bar=False)
        setup = next(cell for cell in executed.cells if cell.cell_type == "code")
        print(f"{notebook}: ran\n" + "".join(o.text for o in setup.outputs if o.output_type == "stream"), flush=True)
        if not list(drive.rglob("*.csv")) or (empty / "xlm-study-kit" / "data" / "runs").exists():
            sys.exit(f"{notebook}: its files are not in drive_dir")
    after = versions(python)
    if replaced := [f"{name} {before[name]} → {after[name]}" for name in HELD if after[name] != before[name]]:
        sys.exit(f"replaced in the runtime: {', '.join(replaced)}")
    print(f"kept: {', '.join(f'{name} {after[name]}' for name in HELD)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), build(Path(name)))
