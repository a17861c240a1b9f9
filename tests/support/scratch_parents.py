"""Bad models, adapters and terminologies for ``bad_input``, each from a good one with something done to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support import rf2
from tests.support.scratch import Case, Scratch, at
from xlm_utils.curate import vocabulary
from xlm_utils.run.preflight import preflight
from xlm_utils.study import open_study

FOLDER = TemporaryDirectory()


@cache
def models() -> Path:
    """Tiny siblings in folders, and a LoRA of the expert, made once."""
    from tests.merge.test_planning import WIDE, siblings
    from tests.models.test_adapters import lora

    root = Path(FOLDER.name)
    siblings(root, "Llama", WIDE)
    lora(root / "expert", root / "adapter")
    return root


def rename(file: Path, old: str = "", new: str = "", narrow: bool = False) -> None:
    """The tensors of a safetensors file under other names, or half as wide."""
    from safetensors.torch import load_file, save_file

    save_file({key.replace(old, new): t[..., ::2].contiguous() if narrow else t for key, t in load_file(file).items()}, file)


def change(file: Path, **changes: object) -> None:
    """Keys of a JSON file, changed."""
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def model(id: str, damage: Callable[[Path], object], right: str | tuple, *, adapter: bool = False) -> Case:
    """A case of the expert's folder, or of an adapter that makes it out of itself, through ``--check``."""

    def act(s: Scratch) -> object:
        root, name = models(), "adapter" if adapter else "expert"
        damage(shutil.copytree(root / name, s.folder / name))
        preset = s.demo()
        for key, constituent in preset["constituents"].items():
            constituent |= {"weights": str(root / key), "adapter": None, "tokens": None}
        preset["constituents"]["expert"] |= {"adapter": str(s.folder / name)} if adapter else {"weights": str(s.folder / name)}
        said = StringIO()
        with redirect_stdout(said):
            preflight(open_study(str(s.write("case.yaml", preset))), ["03_merge"])
        return [line.replace(str(root), "…") for line in said.getvalue().splitlines() if "as its base" in line]

    return Case(id, act, right)


def terms(id: str, source: str, write: Callable[[Path], Path], right: str | tuple, column: str = "term") -> Case:
    """A case of a terminology: a column of the vocabulary that is made of it, or read back from its file."""

    def act(s: Scratch) -> list[str]:
        found = open_study(str(s.write("case.yaml", s.demo(at("vocabulary", {"source": source, "path": str(write(s.folder))})))))
        return sorted(vocabulary.read_terms(vocabulary.curate(found))[column])

    return Case(id, act, right)


def text(content: str) -> Callable[[Path], Path]:
    """A terminology of one file."""

    def write(folder: Path) -> Path:
        (folder / "terms.txt").write_text(content, encoding="utf-8")
        return folder / "terms.txt"

    return write


def release(edit: Callable[[Path, str], object]) -> Callable[[Path], Path]:
    """A release of SNOMED CT, its file of concepts (and its date) handed to ``edit``."""

    def write(folder: Path) -> Path:
        edit(next(rf2.example().write(folder / "release").rglob("sct2_Concept_*INT*")), str(rf2.LATE))
        return folder / "release"

    return write
