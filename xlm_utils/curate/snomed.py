"""SNOMED CT as it is released (RF2: tab-separated text files, in a folder, in a zip or in both) → labels.

File names, columns and identifiers are those of the SNOMED CT Release File Specifications. Files are streamed and rows that can't be wanted are
dropped on the way, so a national edition fits in 2 GiB.
"""

import re
import zipfile
import zlib
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import yaml
from pyarrow import csv
from pyarrow.compute import Expression, field

from xlm_utils.study import StudyError

REQUIRED = ("Concept", "Description", "Language")  # without the other two, definitions and parents are empty
NAME = re.compile(r"x?(?:sct2_(Concept|Description|TextDefinition|Relationship)_|der2_cRefset_\w*?(Language))\w*?Snapshot[-_].*\.txt")
Member = Path | zipfile.Path  # one text file of a release: on disk, or inside an archive
COLUMNS, DIALECTS = yaml.safe_load(Path(__file__).with_name("rf2.yaml").read_text(encoding="utf-8")).values()
TEXT = ("languageCode", "term")  # all other columns hold numbers, except the id of a refset's row
FULLY_SPECIFIED, SYNONYM, PREFERRED, IS_A = 900000000000003001, 900000000000013009, 900000000000548007, 116680003
TAG = re.compile(r"\s*\(([^()]*)\)$")  # Hollow toe (disorder)


def _archived(file: Path) -> list[Member]:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise StudyError(f"{file.name}: neither a folder nor a whole zip ({error})") from None
    return [zipfile.Path(archive, name) for name in sorted(archive.namelist()) if NAME.fullmatch(name.rpartition("/")[2])]


def release(path: Path) -> dict[str, tuple[Member, ...]]:
    """Files of a release by kind (``COLUMNS``): an archive, or a folder with text files and archives at any depth.

    The Snapshot files, which every release has. Several files of a kind are read as one: an edition's modules, or an extension beside the
    international release. A file that is there unpacked as well as in an archive is read once. A StudyError: a kind is missing, an archive is none,
    or a file is there in two releases.
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
    members = [member for kind in release(path).values() for member in kind]
    return sorted({Path(member.root.filename) if isinstance(member, zipfile.Path) else member for member in members})


def _number(kind: str, column: str) -> bool:
    return column not in TEXT and (kind, column) != ("Language", "id")


def _fault(member: Member, kind: str) -> str | None:
    """Where a file breaks its format, in words; a slow look at every line, after a fast reader has failed."""
    columns = COLUMNS[kind]
    with member.open("rb") as stream:
        for line, raw in enumerate(stream, 1):
            try:
                cells = raw.decode("utf-8").rstrip("\r\n").split("\t")
            except UnicodeDecodeError:
                return f"{member.name}, line {line}: not UTF-8 text"
            if line == 1 or cells == [""]:
                continue
            if len(cells) != len(columns):
                return f"{member.name}, line {line}: {len(cells)} columns instead of {len(columns)}"
            for column, cell in zip(columns, cells, strict=True):
                if _number(kind, column) and not re.fullmatch("[0-9]{1,18}", cell):
                    return f"{member.name}, line {line}: {column} is {cell!r}, not a number"
                if column == "active" and cell not in ("0", "1"):
                    return f"{member.name}, line {line}: active is {cell!r}, not 0 or 1"
    return None


def _stream(member: Member, kind: str, wanted: list[str], keep: Expression | None) -> list[pa.Table]:
    columns = COLUMNS[kind]
    types = {column: pa.int64() if _number(kind, column) else pa.string() for column in wanted} | {"active": pa.bool_()}
    with member.open("rb") as stream:
        try:
            header = stream.readline().decode("utf-8-sig").split()
        except UnicodeDecodeError:
            raise StudyError(f"{member.name}, line 1: not UTF-8 text") from None
        if header != columns:
            raise StudyError(f"{member.name}, line 1: the columns are {' '.join(header)!r}, not {' '.join(columns)!r}")
        if not stream.peek(1):
            return []  # an extension may bring no row of a kind
        form = csv.ParseOptions(delimiter="\t", quote_char=False)  # a quotation mark is a character
        cells = csv.ConvertOptions(column_types=types, include_columns=wanted, null_values=[], true_values=["1"], false_values=["0"])
        tables = map(pa.Table.from_batches, ([batch] for batch in csv.open_csv(stream, csv.ReadOptions(column_names=columns), form, cells)))
        return [table if keep is None else table.filter(keep) for table in tables]


def read(files: dict[str, tuple[Member, ...]], kind: str, wanted: list[str], keep: Expression | None = None) -> pd.DataFrame:
    """Columns ``wanted`` of the components that are active in their latest state, one row a component.

    ``keep``: rows to look at. It may use ``wanted`` columns that never change over a component's states (its concept, language, type or refset); else
    an old state could stand for the latest. A StudyError: with the file and the line that breaks the format.
    """
    columns, tables = list(dict.fromkeys(["id", "effectiveTime", "active", *wanted])), []
    for member in files.get(kind, ()):
        try:
            tables += _stream(member, kind, columns, keep)
        except pa.ArrowInvalid as error:
            raise StudyError(_fault(member, kind) or f"{member.name}: {error}") from None
        except (zipfile.BadZipFile, zlib.error) as error:
            raise StudyError(f"{Path(member.root.filename).name}: a damaged archive ({error})") from None
    if not tables:
        return pd.DataFrame(columns=wanted)
    states = pa.concat_tables(tables).sort_by("effectiveTime").group_by("id", use_threads=False)
    latest = states.aggregate([(column, "last") for column in columns if column != "id"])
    latest = latest.rename_columns([name.removesuffix("_last") for name in latest.column_names])
    return latest.filter(field("active")).select(wanted).to_pandas()


def labels(path: Path, kind: str = "synonyms", language: str = "en-US") -> pd.DataFrame:
    """Labels of every active concept of a release (see ``release``).

    ``kind``: ``fsn`` (the fully specified name without its tag), ``preferred`` (the preferred term) or ``synonyms`` (it and acceptable synonyms);
    ``language``: a language code, where a label must be preferred or acceptable in any language refset of the release, or a dialect of ``DIALECTS``,
    where it must be so in that one.

    Returns one row a label, by concept, preferred ones first: concept, term, definition ("" if none), is_name (preferred), in_snomed (True), parent
    (the is-a parent with the lowest id, "" if none), semantic_tag. A StudyError: nothing to read, a broken file, or no label left.
    """
    if "-" in language and language not in DIALECTS:
        raise StudyError(f"vocabulary.language = {language!r}: neither a language code such as 'en' nor one of {', '.join(DIALECTS)}")
    return _labels(path, tuple((file, file.stat().st_mtime_ns) for file in sources(path)), kind, language)


@cache  # a large edition takes a while; a file that changed is another argument
def _labels(path: Path, _changed: tuple[tuple[Path, int], ...], kind: str, language: str) -> pd.DataFrame:
    files, code = release(path), language.partition("-")[0]
    for optional, lost in (("TextDefinition", "definitions"), ("Relationship", "parents")):
        if optional not in files:
            print(f"{path.name}: no {optional} file, so {lost} stay empty")
    active = read(files, "Concept", ["id"])["id"]
    wanted = ["id", "conceptId", "languageCode", "typeId", "term"]
    names = read(files, "Description", wanted, (field("languageCode") == code) | (field("typeId") == FULLY_SPECIFIED))
    names = names[names["conceptId"].isin(active)]
    dialect = field("refsetId") == DIALECTS[language] if language in DIALECTS else None
    accepted = read(files, "Language", ["refsetId", "referencedComponentId", "acceptabilityId"], dialect)
    acceptable = accepted["referencedComponentId"]
    preferred = acceptable[accepted["acceptabilityId"] == PREFERRED]

    full = names[names["typeId"] == FULLY_SPECIFIED]
    full = full.assign(foreign=full["languageCode"] != code).sort_values(["foreign", "id"]).drop_duplicates("conceptId")
    tags = full.set_index("conceptId")["term"].str.extract(TAG, expand=False).fillna("")
    rows = names[(names["languageCode"] == code) & names["id"].isin(acceptable)]
    rows = rows[rows["typeId"] == (FULLY_SPECIFIED if kind == "fsn" else SYNONYM)]
    rows = rows.assign(is_name=rows["id"].isin(preferred), term=rows["term"].str.strip().str.normalize("NFC"))
    if kind == "fsn":
        rows["term"] = rows["term"].str.replace(TAG, "", regex=True)
    elif kind == "preferred":
        rows = rows[rows["is_name"]]
    if rows.empty:
        there = ", ".join(sorted(read(files, "Description", ["languageCode"])["languageCode"].unique()))
        raise StudyError(f"{path.name}: no active label ({kind}) in {language!r}; the release has descriptions in {there or 'no language'}")
    rows = rows.sort_values(["conceptId", "is_name", "id"], ascending=[True, False, True]).drop_duplicates(["conceptId", "term"])

    texts = read(files, "TextDefinition", ["id", "conceptId", "languageCode", "term"], field("languageCode") == code)
    texts = texts[texts["id"].isin(acceptable)].sort_values("id").drop_duplicates("conceptId").set_index("conceptId")["term"].str.strip()
    parents = read(files, "Relationship", ["sourceId", "destinationId", "typeId"], field("typeId") == IS_A)
    parents = parents.groupby("sourceId")["destinationId"].min().astype(str)
    definition, parent, tag = (own.reindex(rows["conceptId"], fill_value="").to_numpy() for own in (texts, parents, tags))
    columns = {"concept": rows["conceptId"].astype(str), "term": rows["term"], "definition": definition, "is_name": rows["is_name"]}
    return pd.DataFrame(columns | {"in_snomed": True, "parent": parent, "semantic_tag": tag}).reset_index(drop=True)
