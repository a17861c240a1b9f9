"""The repository's address stands in one place, and every other place follows it."""

import re
import subprocess

import pytest

from tests import owner
from xlm_utils.study import ROOT


@pytest.fixture
def copy(tmp_path):
    """The files that hold the address, in another folder, as they are with no account set."""
    (tmp_path / "notebooks").mkdir()
    for path in (ROOT / "pyproject.toml", ROOT / "CITATION.cff", *(ROOT / "notebooks").glob("*.ipynb")):
        (tmp_path / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    owner.write(tmp_path, "")
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def accounts(text):
    return re.findall(r"github(?:\.com)?/([\w.-]+)/xlm-study-kit", text)


def test_no_file_spells_another_address_than_pyproject_toml():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True).stdout
    written = [ROOT / name for name in listed.splitlines() if name.endswith((".py", ".md", ".ipynb", ".toml", ".cff", ".yaml", ".yml", "Makefile"))]
    for path in written:
        if path.is_file() and path.name not in ("owner.py", "test_owner.py"):
            assert set(accounts(path.read_text(encoding="utf-8"))) <= {owner.current()} - {""}, path.name


def test_the_notebooks_are_as_make_owner_writes_them():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        assert owner.in_notebook(text, path.stem, owner.current()) == text, f"{path.name}: run make owner"


def test_an_account_is_written_everywhere_once_and_can_be_another_or_none(copy):
    without = contents(copy)
    assert not [name for name, text in without.items() if accounts(text.decode())]
    assert b"colab-badge" not in b"".join(without.values())
    assert len(owner.write(copy, "some-body")) == 11
    assert owner.write(copy, "some-body") == []
    assert owner.current(copy) == "some-body"
    for name, text in contents(copy).items():
        assert accounts(text.decode()) == ["some-body"] * (2 if name.endswith(".ipynb") else 1), name
        if name.endswith(".ipynb"):
            assert f"/blob/main/notebooks/{name})".encode() in text
    owner.write(copy, "")
    assert contents(copy) == without


@pytest.mark.parametrize("name", ["-a", "a--b", "a/b", "a b", "OWNER'", ""])
def test_a_name_that_no_account_has_is_refused(name):
    assert not owner.ACCOUNT.fullmatch(name)
