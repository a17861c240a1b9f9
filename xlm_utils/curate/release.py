"""The text files of a SNOMED CT release (RF2), in a folder, in a zip or in both."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xlm_utils.study import StudyError

REQUIRED = ("Concept", "Description", "Language")  # without the other two, definitions and parents are empty
NAME = re.compile(r"x?(?:sct2_(Concept|Description|TextDefinition|Relationship)_|der2_cRefset_\w*?(Language))\w*?(Snapshot|Full)[-_].*\.txt")


@dataclass(frozen=True)
class Member:
    """One text file of a release: on disk, or inside an archive."""

    file: Path
    modified: int
    inside: str = ""

    @property
    def name(self) -> str:
        return (self.inside or self.file.name).rpartition("/")[2]

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        if not self.inside:
            with self.file.open("rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(self.file) as archive, archive.open(self.inside) as stream:
                yield stream


def _archived(file: Path) -> list[Member]:
    try:
        with zipfile.ZipFile(file) as archive:
            return [Member(file, file.stat().st_mtime_ns, name) for name in sorted(archive.namelist()) if NAME.fullmatch(name.rpartition("/")[2])]
    except zipfile.BadZipFile as error:
        raise StudyError(f"{file.name}: neither a folder nor a whole zip ({error})") from None


def release(path: Path) -> dict[str, tuple[Member, ...]]:
    """Files of a release by kind (``snomed.COLUMNS``): an archive, or a folder with text files and archives at any depth.

    The Snapshot files, or the Full ones (every state since 2002) where there is no Snapshot. Several
    files of a kind are read as one: an edition's modules, or an extension beside the international
    release. A file that is there unpacked as well as in an archive is read once.

    A StudyError: a kind is missing, an archive is none, or a file is there in two releases.
    """
    if path.is_dir():
        unpacked = [Member(file, file.stat().st_mtime_ns) for file in sorted(path.rglob("*.txt")) if NAME.fullmatch(file.name)]
        packed = [member for file in sorted(path.rglob("*.zip")) for member in _archived(file)]
        found = list({member.name: member for member in [*packed, *unpacked]}.values())
    else:
        found = _archived(path)
    dated: dict[str, str] = {}
    for name in sorted(member.name for member in found):
        if (other := dated.setdefault(re.sub(r"_\d{8}.*", "", name), name)) != name:
            raise StudyError(f"{path.name}: {other} and {name} are one file of two releases; keep one release in the folder")
    states: dict[str, dict[str, tuple[Member, ...]]] = {"Snapshot": {}, "Full": {}}
    for member in found:
        component, refset, state = NAME.fullmatch(member.name).groups()
        states[state][component or refset] = (*states[state].get(component or refset, ()), member)
    state = max(states, key=lambda state: sum(kind in states[state] for kind in REQUIRED))  # the first of equals
    missing = [kind for kind in REQUIRED if kind not in states[state]]
    if missing:
        raise StudyError(f"{path.name}: no {state} file for {', '.join(missing)}; a SNOMED CT release has {', '.join(REQUIRED)}")
    return states[state]


def sources(path: Path) -> list[Path]:
    """The files on disk that ``labels`` reads, for a manifest."""
    return sorted({member.file for members in release(path).values() for member in members})
