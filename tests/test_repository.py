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

from xlm_utils.study import ROOT, open_study


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
    assert len(readme().split()) <= 900


def commands():
    """The README's commands: blocks line by line with their shell variables filled in, and what stands in single back-ticks."""
    text, variables = readme(), {}
    blocks = [line for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    for line in blocks + re.findall(r"`([a-z][^`\n]* [^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if found := re.fullmatch(r"([A-Z]+)=(\S+)", line):
            variables[found[1]] = found[2]
            continue
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        yield line


def test_every_command_of_the_readme_names_something_that_exists():
    """The commands themselves run in test_notebooks.py (papermill) and in CI (make)."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    lines = list(commands())
    for wanted in ("make demo", "make test", "make study STUDY=open", "python -m xlm_utils.run.pipeline open+"):
        assert any(line.startswith(wanted) for line in lines), wanted
    for line in lines:
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, line
        for study in re.findall(r"(?:STUDY=|-p study |study=|run\.pipeline )([a-z]\S*)", line):
            open_study(study)
        for notebook in re.findall(r"(\d\d_\w+)\.ipynb", line):
            assert (ROOT / "notebooks" / f"{notebook}.ipynb").is_file(), line
        for module, options in re.findall(r"python -m (xlm_utils\.\S+)([^#]*)", line):
            told = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
            assert set(re.findall(r"--\w+", options)) <= set(re.findall(r"--\w+", told)), line


def test_the_map_names_every_notebook_and_every_wing_and_stands_before_any_table_of_numbers():
    map_ = readme().partition("## Map")[2].partition("\n## ")[0]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.name}" in map_
    wings = {path.parent.name for path in (ROOT / "xlm_utils").glob("*/__init__.py")}
    assert wings == {name for row in map_.splitlines() if row.startswith("| ") for name in re.findall(r"`(\w+)`", row.split("|")[3])} - {"xlm_utils"}
    assert "|---" not in readme().partition("## Map")[0]


def test_the_citation_has_the_keys_of_its_format_and_the_project_s_facts():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    known = {"cff-version", "message", "title", "type", "authors", "version", "license", "keywords", "repository-code"}
    assert {"cff-version", "message", "title", "authors"} <= set(citation) <= known
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["authors"] == [{"name": "XLM study kit contributors"}]
    assert (citation["version"], citation["license"]) == (project()["version"], project()["license"])


def test_the_workflow_of_a_fork_runs_make_test_on_a_python_that_the_project_takes():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["test"]["steps"]
    assert "make test" in [step.get("run") for step in steps]
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert all(SpecifierSet(project()["requires-python"]).contains(version) for version in versions)


PAGES = ["README.md", "measure/README.md", "data/demo/README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_nothing_large_is_committed():
    for folder in ("data/demo", "data/results", "figures/demo", "notebooks"):
        total = sum(file.stat().st_size for file in (ROOT / folder).rglob("*") if file.is_file())
        assert total < 20 * 2**20, folder
    adapters = sum(file.stat().st_size for file in (ROOT / "data" / "demo" / "adapters").rglob("*"))
    assert adapters <= 16 * 2**20


def test_every_script_that_measures_has_one_line_that_calls_it():
    page = (ROOT / "measure" / "README.md").read_text(encoding="utf-8")
    called = re.findall(r"^\| \[(\w+\.py)\].*`python measure/(\w+\.py)[^`]*`.* \| \d{4}-\d\d-\d\d \|$", page, flags=re.MULTILINE)
    assert sorted(name for name, _ in called) == sorted(path.name for path in (ROOT / "measure").glob("*.py"))
    assert all(name == command for name, command in called)
