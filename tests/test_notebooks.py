"""Every notebook: shaped as the house says, executable cell by cell (nbval), steerable by Papermill.

The notebooks run at smoke size (XLM_SMOKE=1) in a fresh run folder; models unpacked from wheels are
kept in the project's cache, where `make demo` finds them too.
"""

import ast
import os
import re
import statistics
import subprocess
import sys

import nbformat
import pytest

from tests.clean_notebooks import KERNEL
from xlm_utils.study import ROOT

NUMBERED = ["01_curate", "02_translate", "03_merge", "04_generate", "05_judge", "06_benchmark", "07_figures", "08_why"]
ALL = ["00_demo_models", *NUMBERED]


def cells(name, kind):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def python_of(cell):
    """A cell's source without IPython's own lines."""
    return "\n".join(re.sub(r"^(\s*)[!%].*", r"\1pass", line) for line in cell.source.splitlines())


@pytest.mark.parametrize("name", ALL)
def test_notebook_has_the_shape_of_the_house(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code, prose = cells(name, "code"), cells(name, "markdown")
    assert 12 <= len(notebook.cells) <= 60
    assert notebook.metadata.kernelspec == KERNEL, "as JupyterLab writes it, or opening a notebook changes it"
    assert notebook.metadata.language_info.pygments_lexer == "ipython3"
    assert prose[0].source.startswith(f"# {name[:2]} · ")
    assert any(cell.source.startswith("## What we learned") for cell in prose)
    for cell in code:
        assert len(cell.source.splitlines()) <= 25
        assert max(map(len, cell.source.splitlines())) <= 100, "longer lines scroll on the web"
        ast.parse(python_of(cell))
        for node in ast.walk(ast.parse(python_of(cell))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 10, "a longer function belongs to xlm_utils"


@pytest.mark.parametrize("name", NUMBERED)
def test_prose_reads_in_a_breath_and_ends_with_two_exercises(name):
    opening, *prose = [cell.source for cell in cells(name, "markdown")]
    words = [len(text.split()) for text in prose]
    assert statistics.median(words) <= 20
    assert max(words) <= 60
    assert len(opening.split()) <= 80
    assert all(f"**{number}.**" in text and "<details>" in text for number, text in enumerate(prose[-2:], 1))


@pytest.mark.parametrize("name", ALL)
def test_parameters_are_plain_commented_one_line_literals_that_the_next_cell_takes(name):
    code = cells(name, "code")
    tagged = [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [1], "setup first, then one parameters cell"
    names = set()
    for line in code[1].source.splitlines():
        assignment, comment = line.split("  # ", 1)
        assert "=" not in comment, "a comment with = breaks papermill --help-notebook"
        name_, value = assignment.split(" = ", 1)
        ast.literal_eval(value)
        names.add(name_)
    calls = [node for node in ast.walk(ast.parse(python_of(code[2]))) if isinstance(node, ast.Call)]
    call = next(node for node in calls if getattr(node.func, "id", "") == "open_study")
    taken = {arg.id for arg in call.args} | {keyword.arg for keyword in call.keywords}
    assert taken == names


@pytest.mark.parametrize("name", ALL)
def test_committed_outputs_are_clean(name):
    for count, cell in enumerate(cells(name, "code"), 1):
        assert cell.execution_count in (count, None), "counts are 1, 2, 3 …, the same after every run"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert not (output.output_type == "stream" and output.name == "stderr"), output.text
            text = str(output)
            assert str(ROOT) not in text
            assert not re.search(r"(/home/|/root/|/tmp/|/Users/)", text)


def test_the_setup_cell_and_the_drive_folder_are_the_same_everywhere():
    assert len({cells(name, "code")[0].source for name in ALL}) == 1
    assert len({cells(name, "code")[1].source.splitlines()[-1] for name in ALL}) == 1


@pytest.mark.parametrize("name", ALL)
def test_committed_outputs_are_the_demo_s_and_hold_no_licensed_term(name):
    header = "".join(output.get("text", "") for output in cells(name, "code")[2].outputs)
    assert not header or (re.match(r"study +demo \(the offline demo\)", header) and "snomed" not in header)


@pytest.mark.parametrize("name", NUMBERED)
def test_committed_notebook_was_executed(name):
    code = cells(name, "code")
    assert sum(bool(cell.outputs) for cell in code) >= len(code) / 2


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    home = tmp_path_factory.mktemp("study")
    return {**os.environ, "XLM_SMOKE": "1", "XLM_HOME": str(home), "XLM_CACHE": os.environ.get("XLM_CACHE", str(ROOT / "data" / "cache"))}


@pytest.mark.timeout(900)
def test_every_cell_of_every_notebook_executes_twice_in_one_kernel(environment, tmp_path):
    """nbval over the numbered notebooks, in order, in one fresh run folder; what the first pass finished, the second keeps."""
    for folder in ("xlm_utils", "data"):  # what the setup cell looks for
        (tmp_path / folder).symlink_to(ROOT / folder)
    files = []
    for name in NUMBERED:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        again = [nbformat.from_dict({**cell, "id": f"{cell.id}-2"}) for cell in notebook.cells if cell.cell_type == "code"]
        notebook.cells += again
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        files.append(str(tmp_path / f"{name}.ipynb"))
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-cell-timeout=300", "-p", "no:cacheprovider", "-q", *files]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def papermill(folder, environment, notebook, output, *parameters):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", notebook, str(output)]
    for key, value in zip(parameters[::2], parameters[1::2], strict=True):
        command += ["-p", key, value]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_the_user_s_own_line_works_without_any_earlier_notebook(environment, tmp_path):
    """`papermill 04_generate.ipynb out.ipynb -p method linear` in notebooks/, in an empty run folder."""
    empty = {**environment, "XLM_HOME": str(tmp_path / "empty")}
    done = papermill(ROOT / "notebooks", empty, "04_generate.ipynb", tmp_path / "out.ipynb", "method", "linear")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = (tmp_path / "empty" / "data" / "runs" / "demo+smoke=1" / "definitions" / "linear.jsonl").read_text(encoding="utf-8")
    assert len(rows.splitlines()) == 4


@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        ("methd", "ties", ["no parameter 'methd'", "method", "study", "limit"]),
        ("method", "tie", ["'tie' is not one of", "linear"]),
        ("limit", "-3", ["limit = -3", "greater than or equal to 0"]),
        ("study", "nosuch", ["'nosuch' is not one of", "demo"]),
    ],
)
def test_a_mistyped_parameter_stops_at_once_with_one_sentence(environment, tmp_path, parameter, value, words):
    """From the repository root, too."""
    done = papermill(ROOT, environment, "notebooks/04_generate.ipynb", tmp_path / "out.ipynb", parameter, value)
    assert done.returncode != 0
    sentence = [line for line in done.stderr.splitlines() if line.startswith("StudyError: ")]
    assert len(sentence) == 1
    for word in words:
        assert word in sentence[0]


def test_help_lists_every_parameter(environment):
    command = [sys.executable, "-m", "papermill", "--help-notebook", "notebooks/04_generate.ipynb"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    for name in ("study", "method", "limit", "max_new_tokens"):
        assert re.search(rf"{name}: .*\n.+", done.stdout), done.stdout + done.stderr


def test_no_table_and_figure_share_a_file_name():
    """Both are written as ``<name>.html``; the later one would replace the earlier."""
    code = "\n".join(cell.source for name in NUMBERED for cell in cells(name, "code"))
    drawn, tabled = re.findall(r'"(\w+)", plan\.figures\)', code), re.findall(r'save_table\(.*, "(\w+)"\)', code)
    assert len(drawn) > 4
    assert len(tabled) > 8
    assert not set(drawn) & set(tabled)
