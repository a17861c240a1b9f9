"""The text files of a SNOMED CT release (RF2), in a folder, in a zip or in both."""

import re
import zipfile
from pathlib import Path

from xlm_utils.study import StudyError

REQUIRED = ("Concept", "Description", "Language")  # without the other two, definitions and parents are empty
NAME = re.compile(r"x?(?:sct2_(Concept|Description|TextDefinition|Relationship)_|der2_cRefset_\w*?(Language))\w*?Snapshot[-_].*\.txt")
Member = Path | zipfile.Path  # one text file of a release: on disk, or inside an archive


def on_disk(member: Member) -> Path:
    """The file that a member is, or lies in."""
    return Path(member.root.filename) if isinstance(member, zipfile.Path) else member


def _archived(file: Path) -> list[Member]:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise StudyError(f"{file.name}: neither a folder nor a whole zip ({error})") from None
    return [zipfile.Path(archive, name) for name in sorted(archive.namelist()) if NAME.fullmatch(name.rpartition("/")[2])]


def release(path: Path) -> dict[str, tuple[Member, ...]]:
    """Files of a release by kind (``snomed.COLUMNS``): an archive, or a folder with text files and archives at any depth.

    The Snapshot files, which every release has. Several files of a kind are read as one: an edition's modules, or an
    extension beside the international release. A file that is there unpacked as well as in an archive is read once.

    A StudyError: a kind is missing, an archive is none, or a file is there in two releases.
    """
    if path.is_dir():
        unpacked = [file for file in sorted(path.rglob("*.txt")) if NAME.fullmatch(file.name)]
        packed = [member for file in sorted(path.rglob("*.zip")) for member in _archived(file)]
        found = list({member.name: member for member in [*packed, *unpacked]}.values())
    else:
        found = _archived(path)
    dated: dict[str, str] = {}
    for name in sorted(member.name for member in found):
        if (other := dated.setdefault(re.sub(r"_\d{8}.*", "", name), name)) != name:
            raise StudyError(f"{path.name}: {other} and {name} are one file of two releases; keep one release in the folder")
    files: dict[str, tuple[Member, ...]] = {}
    for member in found:
        kind = next(filter(None, NAME.fullmatch(member.name).groups()))
        files[kind] = (*files.get(kind, ()), member)
    if missing := [kind for kind in REQUIRED if kind not in files]:
        raise StudyError(f"{path.name}: no Snapshot file for {', '.join(missing)}; a SNOMED CT release has {', '.join(REQUIRED)}")
    return files


def sources(path: Path) -> list[Path]:
    """The files on disk that ``labels`` reads, for a manifest."""
    return sorted({on_disk(member) for members in release(path).values() for member in members})
