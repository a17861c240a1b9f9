"""The house: every room imports only rooms above it, none is longer than 250 lines, and nothing is defined that nobody uses."""

import ast
import re
from collections import Counter

import pytest

from xlm_utils.study import ROOT

# from the ground up: a room may import those before it
ROOMS = [
    "settings", "overrides", "notebook", "records", "names", "study", "colab", "hub", "models", "snomed", "terminologies", "vocabulary", "training",
    "clients", "judges", "pacing", "replies", "calls", "translation", "methods", "weights", "chunked", "merging", "tasks", "benchmarks",
    "fitness", "workers", "evolution", "decoding", "generation", "definitions", "proxy", "statistics", "association", "resampling", "judging",
    "controls", "results", "published", "gains", "pages", "tables", "table2", "canvas", "charts",
    "comparisons", "spreads", "figures", "budget", "preflight", "pipeline",
]  # fmt: skip
FILES = {path.stem: path for path in sorted((ROOT / "xlm_utils").glob("*.py")) if path.stem != "__init__"}


def imported(path):
    """Rooms that a file imports, anywhere in it (a lazy import inside a function is an import too; one for type hints alone is none)."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    hints = [node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    for node in set(ast.walk(tree)) - {inner for block in hints for inner in ast.walk(block)}:
        if isinstance(node, ast.ImportFrom) and node.module == "xlm_utils":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xlm_utils."):
            found.add(node.module.split(".")[1])
    return found


def test_every_room_has_its_place():
    assert set(FILES) | {"tasks"} == set(ROOMS)


@pytest.mark.parametrize("room", FILES)
def test_a_room_imports_only_rooms_above_it(room):
    assert imported(FILES[room]) <= set(ROOMS[: ROOMS.index(room)])


@pytest.mark.parametrize("path", [*FILES.values(), *sorted((ROOT / "xlm_utils" / "tasks").glob("*.py"))], ids=lambda path: path.stem)
def test_no_room_is_longer_than_250_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250


def test_every_public_function_is_used_outside_its_own_definition_and_says_what_it_does():
    places = ("xlm_utils/**/*.py", "xlm_utils/tasks/*.yaml", "notebooks/*.ipynb", "benchmarks/*.py", "Makefile", "Snakefile")
    words = Counter(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for place in places for path in ROOT.glob(place))))
    for room, path in FILES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert words[node.name] > 1, f"{room}.{node.name} is dead"
                if isinstance(node, ast.FunctionDef):
                    assert ast.get_docstring(node), f"{room}.{node.name} has no docstring"
