"""`make owner OWNER=name`: the account that hosts the repository, written into every place that needs its address.

pyproject.toml holds it (the Repository of its URLs), the rest follows: the notebooks' badges, the line of their
setup cell that clones the project, and CITATION.cff. Without an account there is no badge and no clone: a dead
link helps nobody. `make owner` alone writes what pyproject.toml says, so after a merge of notebooks run it again.
Standard library only: it runs before anything is installed.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/"
HOME = '    HOME = Path("xlm-study-kit").resolve()'  # the setup cell's line above the one that depends on the account
CLONE = "    !test -d {HOME} || git clone -q --depth 1 "
NO_CLONE = '    assert HOME.is_dir(), "put the project\'s folder xlm-study-kit beside this notebook"'
ACCOUNT = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}")  # GitHub's rule


def address(name: str) -> str:
    """Where the repository of an account is."""
    return f"https://github.com/{name}/xlm-study-kit"


def current(root: Path = ROOT) -> str:
    """The account in pyproject.toml, or an empty string."""
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    return urls["Repository"].removeprefix("https://github.com/").partition("/")[0] if "Repository" in urls else ""


def in_notebook(text: str, stem: str, name: str) -> str:
    """A notebook's file with its badge and its setup cell for this account; without an account, with neither badge nor clone."""
    notebook = json.loads(text)
    head, setup = notebook["cells"][:2]
    lines = "".join(head["source"]).split("\n")
    if old := [i for i, line in enumerate(lines) if line.startswith(BADGE)]:
        del lines[old[0] : old[0] + 2]
    if name:
        lines[2:2] = [f"{BADGE}github/{name}/xlm-study-kit/blob/main/notebooks/{stem}.ipynb)", ""]
    head["source"] = "\n".join(lines).splitlines(keepends=True)
    lines = "".join(setup["source"]).split("\n")
    lines[lines.index(HOME) + 1] = CLONE + address(name) if name else NO_CLONE
    setup["source"] = "\n".join(lines).splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def in_toml(text: str, name: str) -> str:
    """pyproject.toml with this account's address, or none."""
    line = f'Repository = "{address(name)}"\n' if name else ""
    return re.sub(r"(\[project\.urls\].*\n)(Repository = .*\n)?", lambda found: found[1] + line, text)


def in_citation(text: str, name: str) -> str:
    """CITATION.cff with this account's address, or none."""
    return re.sub(r"^repository-code: .*\n", "", text, flags=re.MULTILINE) + (f"repository-code: {address(name)}\n" if name else "")


def write(root: Path, name: str) -> list[str]:
    """Write the account into every place; the files that changed."""
    texts = {root / "pyproject.toml": in_toml, root / "CITATION.cff": in_citation}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        texts[path] = lambda text, name, stem=path.stem: in_notebook(text, stem, name)
    changed = []
    for path, change in texts.items():
        before = path.read_text(encoding="utf-8")
        if (after := change(before, name)) != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path.name)
    return changed


def main() -> None:
    """Command line: the account, or nothing to write again what pyproject.toml says."""
    name = next(filter(None, sys.argv[1:]), "") or current()
    if name and not ACCOUNT.fullmatch(name):
        sys.exit(f"OWNER = {name!r} is no name of an account: letters, digits and single hyphens")
    changed = write(ROOT, name)
    print(f"{address(name) if name else 'no account is set: make owner OWNER=name'}: {', '.join(changed) or 'nothing to change'}")


if __name__ == "__main__":
    main()
