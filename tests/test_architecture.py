"""The house: each wing imports only wings of lower floors, never a neighbour; rooms are short; notebooks enter by the doors.

``python -m tests.test_architecture`` prints floors, arrows and circles.
"""

import ast
import json
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter

import pytest

from xlm_utils.study import ROOT

FLOORS = [  # from the ground up; a wing may import those of lower floors
    ("study", "stats"),
    ("draw", "curate", "ask", "models"),
    ("translate", "generate", "benchmark"),
    ("merge", "judge"),
    ("report", "why"),
    ("run",),
]
PACKAGE = ROOT / "xlm_utils"
FLOOR = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}
FILES = {str(path.relative_to(PACKAGE).with_suffix("")): path for path in sorted(PACKAGE.glob("*/**/*.py"))}
ROOMS = {name: path for name, path in FILES.items() if not name.endswith("__init__")}
LONGEST = 250


def imported(path):
    """Modules of the package that a file imports, anywhere in it (lazy imports too; one for type hints alone is none), as ``wing/file``."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    hints = [node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    for node in set(ast.walk(tree)) - {inner for block in hints for inner in ast.walk(block)}:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("xlm_utils"):
            continue
        inside = node.module.split(".")[1:]
        for alias in node.names:
            parts = [*inside, alias.name]
            longest = next((parts[:n] for n in range(len(parts), 0, -1) if "/".join(parts[:n]) in FILES), parts[:1])
            if not alias.name.startswith("__"):
                found.add("/".join(longest))
    return found


def wing(name):
    return name.split("/")[0]


def circles(graph):
    """One circle of the graph (name → names it imports), or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [error.args[1]]
    return []


def test_the_floors_hold_every_wing_and_nothing_stands_outside_a_wing():
    assert set(FLOOR) == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_its_own_wing_and_lower_floors(room):
    for other in map(wing, imported(ROOMS[room])):
        assert other == wing(room) or FLOOR[other] < FLOOR[wing(room)], f"{room} imports {other}"


@pytest.mark.parametrize("name", FLOOR)
def test_inside_a_wing_files_import_in_one_direction(name):
    rooms = {room: path for room, path in ROOMS.items() if wing(room) == name}
    assert not circles({room: {other for other in imported(path) if wing(other) == name} for room, path in rooms.items()})


@pytest.mark.parametrize("name", FLOOR)
def test_a_door_says_what_its_wing_is_for_and_holds_no_code(name):
    tree = ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))
    question, *lines = ast.get_docstring(tree).splitlines()
    assert question.endswith("?")
    assert [line.split(":")[0] for line in lines if line] == ["In", "Out", "Notebook"]
    assert all(isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign) for node in tree.body)
    offered = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not offered & {room.split("/")[1] for room in ROOMS if wing(room) == name}, "a name of the door would hide the file of that name"


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_longer_than_250_lines(room):
    assert len(ROOMS[room].read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_enters_by_the_doors_and_takes_no_imported_name_for_its_own(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    python = "\n".join(line for cell in code for line in cell.splitlines() if not line.lstrip().startswith(("!", "%")))
    tree, names, taken = ast.parse(python), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xlm_utils"):
            assert node.module == "xlm_utils" or node.module.split(".")[1:] in [[name] for name in FLOOR], f"{node.module} lies behind a door"
            for alias in node.names:
                door = PACKAGE / alias.name if node.module == "xlm_utils" else PACKAGE / wing(node.module.split(".")[1])
                assert (door / "__init__.py").is_file()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            taken.add(node.id)
    assert not names & taken


def test_every_public_function_is_used_outside_its_own_definition_and_says_what_it_does():
    places = ("xlm_utils/**/*.py", "xlm_utils/**/*.yaml", "notebooks/*.ipynb", "measure/*.py", "Makefile", "Snakefile")
    texts = [path for place in places for path in ROOT.glob(place) if path.name != "__init__.py"]  # a door uses nothing
    words = Counter(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in texts)))
    for room, path in ROOMS.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert words[node.name] > 1, f"{room}: {node.name} is dead"
                if isinstance(node, ast.FunctionDef):
                    assert ast.get_docstring(node), f"{room}: {node.name} has no docstring"


def test_the_tests_mirror_the_wings():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= set(FLOOR)


def main():
    """Print the numbers of the map: rooms, arrows between rooms and between wings, floors, circles."""
    arrows = {room: imported(path) for room, path in ROOMS.items()}
    between = Counter((wing(room), wing(other)) for room, others in arrows.items() for other in others if wing(room) != wing(other))
    inside = {name: {room: {o for o in others if wing(o) == name} for room, others in arrows.items() if wing(room) == name} for name in FLOOR}
    print(f"{len(ROOMS)} rooms in {len(FLOOR)} wings on {len(FLOORS)} floors")
    print(f"{sum(map(len, arrows.values()))} arrows between rooms, of which {sum(between.values())} between wings ({len(between)} pairs of wings)")
    print(f"circles: {[circle for graph in inside.values() for circle in circles(graph)] or 'none'}")
    for number, wings in reversed(list(enumerate(FLOORS, 1))):
        print(f"  {number}  " + "  ".join(f"{name} ({sum(wing(room) == name for room in ROOMS)})" for name in sorted(wings)))


if __name__ == "__main__":
    main()
