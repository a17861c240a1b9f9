"""A bare runtime gets what it lacks and keeps what it has; a drive folder takes a run's files. (`make test-colab` does it for real.)"""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from xlm_utils.study import ROOT, StudyError, notebook, open_study

specification = importlib.util.spec_from_file_location("colab", ROOT / "notebooks" / "colab.py")
colab = importlib.util.module_from_spec(specification)
specification.loader.exec_module(colab)

RUNTIME = {"torch": "2.11.0+cu128", "numpy": "2.0.2", "plotly": "5.24.1", "tqdm": "4.67.1"}


@pytest.fixture
def runtime(monkeypatch):
    """A runtime that wants four packages; the list has what pip was asked for. ``solvable`` is what pip can do."""
    asked = []
    state = SimpleNamespace(asked=asked, solvable=lambda fixed: True)
    versions = [RUNTIME, RUNTIME | {"plotly": "7.1.0", "cma": "4.5.0"}]
    monkeypatch.setattr(colab, "requirements", lambda: [Requirement(r) for r in ("torch>=2.9", "plotly>=6.1", "cma>=4.2", "tqdm>=4")])
    monkeypatch.setattr(colab, "installed", lambda: versions[min(len(asked), 1)])

    def pip_install(wanted, fixed):
        asked.append(([str(r) for r in wanted], fixed))
        return "" if state.solvable(fixed) else "ERROR: no solution"

    monkeypatch.setattr(colab, "pip_install", pip_install)
    return state


def test_only_what_is_missing_or_too_old_is_installed_and_the_rest_is_held(runtime, capsys):
    colab.main()
    assert runtime.asked == [(["plotly>=6.1", "cma>=4.2"], {"torch": "2.11.0+cu128", "numpy": "2.0.2", "tqdm": "4.67.1"})]
    told = capsys.readouterr().out
    assert "plotly 5.24.1 is replaced: the project needs >=6.1" in told
    assert "plotly: 5.24.1 → 7.1.0" in told


def test_where_the_whole_runtime_can_t_be_held_its_core_is_and_the_reason_is_told(runtime, capsys):
    runtime.solvable = lambda fixed: "tqdm" not in fixed
    colab.main()
    assert runtime.asked[1][1] == {"torch": "2.11.0+cu128", "numpy": "2.0.2"}
    assert "only torch, transformers, numpy" in capsys.readouterr().out


def test_an_installation_that_fails_ends_with_pip_s_own_words(runtime):
    runtime.solvable = lambda fixed: False
    with pytest.raises(SystemExit, match="error: pip could not install what the notebooks need:\nERROR: no solution"):
        colab.main()


def test_a_complete_runtime_is_left_alone(monkeypatch, capsys):
    """This one is complete: the lock satisfies pyproject.toml."""
    monkeypatch.setattr(colab, "pip_install", lambda *_: pytest.fail("nothing is missing"))
    colab.main()
    assert "has every package" in capsys.readouterr().out


def test_a_requirement_with_extras_could_be_half_there():
    assert not [r for r in colab.requirements() if r.extras], "name the extra's packages instead: versions tell nothing of extras"


def test_a_drive_folder_takes_runs_and_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_HOME", str(tmp_path / "not here"))
    plan = open_study("demo", drive_dir=str(tmp_path / "xlm"))
    assert plan.folder == tmp_path / "xlm" / "data" / "runs" / "demo"
    assert plan.figures == tmp_path / "xlm" / "figures" / "demo"
    assert plan.models_folder.is_relative_to(tmp_path / "xlm")
    assert plan.changed == {}


def test_the_header_says_where_a_drive_folder_is(tmp_path, capsys):
    open_study("demo", drive_dir=str(tmp_path / "xlm")).show()
    assert f"files        {tmp_path / 'xlm' / 'data' / 'runs' / 'demo'}\n" in capsys.readouterr().out


def test_without_a_drive_folder_nothing_is_mounted_and_files_stay_here(monkeypatch):
    monkeypatch.delenv("XLM_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=SimpleNamespace(mount=lambda _: pytest.fail("mounted"))))
    assert open_study("demo").folder == ROOT / "data" / "runs" / "demo"


def test_a_relative_folder_is_the_project_s_wherever_the_kernel_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert open_study("demo", drive_dir="data/runs/elsewhere").folder == ROOT / "data" / "runs" / "elsewhere" / "data" / "runs" / "demo"


def test_drive_is_mounted_once_when_the_folder_is_on_it(monkeypatch, tmp_path):
    mounted = []
    monkeypatch.setattr(notebook, "DRIVE", tmp_path / "drive")

    def mount(point):
        mounted.append(point)
        (tmp_path / "drive" / "MyDrive").mkdir(parents=True)

    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=SimpleNamespace(mount=mount)))
    for _ in range(2):
        plan = open_study("demo", drive_dir=str(tmp_path / "drive" / "MyDrive" / "xlm"))
    assert mounted == [str(tmp_path / "drive")]
    assert not plan.models_folder.is_relative_to(tmp_path / "drive"), "merges can be made again, and a Drive is small"
    assert plan.replies.is_relative_to(tmp_path / "drive"), "what was paid for stays"


def test_outside_colab_a_path_on_drive_is_one_sentence():
    with pytest.raises(StudyError, match=r"drive_dir = '/content/drive/MyDrive/xlm': only Colab can mount Google Drive"):
        open_study("demo", drive_dir="/content/drive/MyDrive/xlm")


def test_a_runtime_whose_transformers_read_other_tokens_from_the_demo_s_gguf_gets_newer_ones():
    """As Colab's 5.9 (findings/transformers-gguf-gemma.sh)."""
    for version, names in {"5.9.0": ["transformers"], "5.22.2": ["transformers"], "5.23.0": []}.items():
        assert [r.name for r in colab.lacking(colab.requirements(), colab.installed() | {"transformers": version})] == names
