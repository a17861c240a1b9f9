"""Packages that a bare runtime such as Colab's lacks, added beside its own: ``python notebooks/colab.py``.

The setup cells call this right after the clone and before ``xlm_utils`` can be imported, so only the standard library, pip and ``packaging`` (which
every kernel needs) are there. A runtime's torch, numpy and pandas fit its driver and each other: they stay.
"""

import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SERVER = ("jupyterlab", "ipykernel", "ipywidgets")  # the runtime is a notebook server itself
CORE = ("torch", "transformers", "numpy", "pandas", "scipy", "ipykernel", "ipython", "tornado")  # held, unless the project needs others


def installed() -> dict[str, str]:
    """Package → version. (``pip freeze`` would give the address that a package came from, and pip would fetch it again.)"""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if distribution.name:
            found.setdefault(canonicalize_name(distribution.name), distribution.version)  # the first on the path is the one imported
    return found


def requirements() -> list[Requirement]:
    """What the demo needs on this machine, from pyproject.toml, but for the notebook server's own packages."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = map(Requirement, project["dependencies"] + project["optional-dependencies"]["demo"])
    return [r for r in wanted if canonicalize_name(r.name) not in SERVER and (r.marker is None or r.marker.evaluate())]


def lacking(wanted: list[Requirement], there: dict[str, str]) -> list[Requirement]:
    """Requirements that are not met: the package is missing, or its version does not do."""
    versions = [there.get(canonicalize_name(r.name)) for r in wanted]
    return [r for r, version in zip(wanted, versions, strict=True) if not version or not r.specifier.contains(version, prereleases=True)]


def pip_install(wanted: list[Requirement], fixed: dict[str, str]) -> str:
    """Install with the ``fixed`` packages held where they are; pip's last words if that fails, else nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in sorted(fixed.items())), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints), *map(str, wanted)]
        done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    return "\n".join(said[-8:]) or f"pip ended with {done.returncode}" if done.returncode else ""


def main() -> None:
    """Install what is missing, with every other package of the runtime as a constraint, and say what changed.

    A version that the project can't work with is replaced. Where the runtime's whole set leaves pip no
    solution, only ``CORE`` is held.
    """
    before = installed()
    missing = lacking(requirements(), before)
    if not missing:
        print("this runtime has every package that the notebooks need")
        return
    names = {canonicalize_name(r.name) for r in missing}
    for r in missing:
        if version := before.get(canonicalize_name(r.name)):
            print(f"{r.name} {version} is replaced: the project needs {r.specifier}")
    print(f"installing {len(missing)} packages that this runtime lacks (some minutes): {', '.join(r.name for r in missing)}", flush=True)
    fixed = {name: version for name, version in before.items() if name not in names}
    if why := pip_install(missing, fixed):
        print(f"pip finds no versions that fit all of this runtime's packages, so only {', '.join(CORE)} are held; pip said:\n{why}", flush=True)
        if why := pip_install(missing, {name: version for name, version in fixed.items() if name in CORE}):
            sys.exit(f"error: pip could not install what the notebooks need:\n{why}")
    after = installed()
    changed = {name: version for name, version in before.items() if after.get(name) != version}
    print(f"installed {len(after.keys() - before.keys())} packages, with those that they need")
    for name, version in sorted(changed.items()):
        print(f"{name}: {version} → {after.get(name, 'removed')}")


if __name__ == "__main__":
    main()
