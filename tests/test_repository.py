"""What the repository says about itself is true: its versions agree, its commands exist, its README is short."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from xlm_utils.study import ROOT, presets


def locked():
    """Package → requirement (one version, perhaps a marker) in requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def project():
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


@pytest.mark.parametrize("group", ["dependencies", "demo", "dev"])
def test_the_lock_satisfies_every_requirement(group):
    table, versions = project(), locked()
    wanted = table[group] if group == "dependencies" else table["optional-dependencies"][group]
    for text in wanted:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in requirements.lock"
        version = str(versions[name].specifier).removeprefix("==")
        assert requirement.specifier.contains(Version(version), prereleases=True), text
        assert str(versions[name].marker) == str(requirement.marker), f"{name}: where it exists"


def test_the_lock_has_no_local_build_and_no_address():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "+cpu" not in text
    assert "://" not in text


def environment_yml():
    """Conda's own packages, and the lines of the pip section."""
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return conda, pip["pip"]


def test_environment_yml_installs_the_lock_and_the_project():
    conda, pip = environment_yml()
    assert pip == ["-r requirements.lock", "--editable ."]
    python = next(Requirement(line.replace("=", "==")) for line in conda if line.startswith("python"))
    assert SpecifierSet(project()["requires-python"]).contains(str(python.specifier).removeprefix("=="))
    assert {"pip", "make"} <= set(conda)


def test_environment_yml_s_pip_section_resolves_and_the_project_adds_nothing_to_the_lock():
    """Pip's own resolver, without a network: it stops at a conflict within the lock, and at a package that the lock lacks."""
    _, pip = environment_yml()
    lines = [word for line in pip if "--editable" not in line for word in line.split()]
    table = project()
    wanted = table["dependencies"] + table["optional-dependencies"]["demo"] + table["optional-dependencies"]["dev"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--disable-pip-version-check", *lines, *wanted]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Would install" not in done.stdout
    resolved = set(re.findall(r"Requirement already satisfied: ([\w.-]+)", done.stdout))
    assert {canonicalize_name(name) for name in resolved} - {"setuptools"} == set(locked())  # setuptools comes with Python's own tools


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    prose = re.sub(r"```.*?```|<[^>]+>|\|.*\||\[!\[.*", "", readme(), flags=re.DOTALL)
    assert len(readme().split()) <= 1400
    assert len(prose.split()) <= 900


def test_every_command_of_the_readme_names_something_that_exists():
    """The commands themselves run in test_notebooks.py (papermill) and in CI (make)."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = [line for block in re.findall(r"```bash\n(.*?)```", readme(), flags=re.DOTALL) for line in block.splitlines()]
    assert any(line.startswith("make demo") for line in commands)
    for line in commands:
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, line
        for study in re.findall(r"STUDY=(\w+)|-p study (\w+)", line):
            assert set(filter(None, study)) <= {*presets(), "mine"}, line
        for notebook in re.findall(r"(\d\d_\w+)\.ipynb", line):
            assert (ROOT / "notebooks" / f"{notebook}.ipynb").is_file(), line


def test_the_readme_s_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", readme()):
        path = target[0] or target[1]
        if not path.startswith("http"):
            assert (ROOT / path).exists(), path


def test_nothing_large_is_committed():
    for folder in ("data/demo", "data/published", "figures/demo", "notebooks"):
        total = sum(file.stat().st_size for file in (ROOT / folder).rglob("*") if file.is_file())
        assert total < 20 * 2**20, folder
    adapters = sum(file.stat().st_size for file in (ROOT / "data" / "demo" / "adapters").rglob("*"))
    assert adapters <= 16 * 2**20
