"""A hand-made SNOMED CT release in the real format (RF2), all concepts invented, to test against without a licence.

The national module comes in files of its own, as in an extension. What a row is there to show is
said beside it; every identifier outside the metadata is in a namespace that is not assigned.
"""

from __future__ import annotations

import uuid
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from xlm_utils.curate.snomed import COLUMNS, DIALECTS, FULLY_SPECIFIED, IS_A, PREFERRED, SYNONYM

CORE, NATIONAL = 900000000000207008, 99999991000199102
ACCEPTABLE, DEFINITION, INFERRED = 900000000000549004, 900000000000550004, 900000000000011006
PRIMITIVE, INSENSITIVE, SOME = 900000000000074008, 900000000000448009, 900000000000451002
US, GB, ELSEWHERE = DIALECTS["en-US"], DIALECTS["en-GB"], 99999991000199110
EARLY, LATE = 20240131, 20250131
FILES = {
    "Concept": "Terminology/sct2_Concept_{}_",
    "Description": "Terminology/sct2_Description_{}-en_",
    "Language": "Refset/Language/der2_cRefset_Language{}-en_",
    "TextDefinition": "Terminology/sct2_TextDefinition_{}-en_",
    "Relationship": "Terminology/sct2_Relationship_{}_",
}
MODULES = ("INT", "XX9999999")

# concept number, parent, tag, preferred term, acceptable synonyms
CONCEPTS = [
    (1, 0, "disorder", "Disease", []),
    (2, 1, "disorder", "Glomulitis", ["Inflammation of glomus"]),
    (3, 1, "disorder", "Cardiothrombia", ["Heart thrombia", "CTB"]),
    (4, 3, "disorder", "Acute cardiothrombia", []),
    (5, 1, "disorder", "Fever", ["Pyrexosis"]),  # a common word with a rare synonym
    (6, 1, "disorder", "Ménvière", ["Ménvière disease"]),  # unicode
    (7, 1, "finding", "Xanthosis", ['The "yellow" sign']),  # a quotation mark is a character
    (8, 1, "finding", "Bradyphonia", ["Slow voice"]),
    (9, 1, "finding", "Hyposthenic gait", []),
    (10, 0, "body structure", "Nephridium", ["Kidney unit"]),
    (11, 10, "body structure", "Paranephric", []),
    (12, 10, "body structure", "Left nephridium", []),
    (13, 0, "procedure", "Nephridectomy", ["Removal of nephridium"]),
    (14, 13, "procedure", "Osteoplexy", ["Plexy"]),
    (15, 0, "organism", "Pseudobacillus", []),
    (16, 15, "organism", "Pseudobacillus rubrum", []),
    (17, 0, "substance", "Zolbumine", ["Zolbumine 20 mg"]),
    (18, 0, "qualifier value", "Hyposthenically", []),  # a rare adverb
    (19, 1, "disorder", "Dermatoclasis", []),
    (20, 1, "disorder", "Alpha-lysosis", []),
    (21, 1, "disorder", "Hepatothrombia", []),
    (22, 1, "disorder", "Renal hepatothrombia", []),
    (23, 1, "disorder", "Glossoptosia", []),
    (24, 1, "disorder", "Cranioplegia", []),
]


def concept_id(number: int) -> int:
    """An identifier of the valid shape in a namespace that is not assigned (its check digit is not computed)."""
    return int(f"{number}9999999100")


@dataclass
class Release:
    """Rows of a release by kind and by file; ``write`` writes them."""

    rows: dict[tuple[str, str], list[tuple]] = field(default_factory=dict)
    serial: int = 0

    def add(self, kind: str, *cells: object, file: str = "INT", id: object = None, time: int = EARLY, active: int = 1) -> int:
        """One state of one component; its id, given or new, is returned."""
        self.serial += 1
        id = id or (str(uuid.UUID(int=self.serial)) if kind == "Language" else int(f"{self.serial}9999999110"))
        row = (id, time, active, CORE if file == "INT" else NATIONAL, *cells)
        assert len(row) == len(COLUMNS[kind])
        self.rows.setdefault((kind, file), []).append(row)
        return id

    def term(self, concept: int, text: str, kind: int, accepted: dict[int, int], language: str = "en", file: str = "INT", **state: int) -> int:
        """A description and its rows in the language refsets: refset → acceptability."""
        id = self.add("Description", concept, language, kind, text, INSENSITIVE, file=file, **state)
        for refset, acceptability in accepted.items():
            self.add("Language", refset, id, acceptability, file=file)
        return id

    def concept(self, number: int, parent: int, tag: str, name: str, synonyms: list[str], file: str = "INT", **state: int) -> int:
        """A concept as most are: its name in both dialects, its synonyms, one parent."""
        concept = self.add("Concept", PRIMITIVE, file=file, id=concept_id(number), **state)
        self.term(concept, f"{name} ({tag})", FULLY_SPECIFIED, {US: PREFERRED, GB: PREFERRED}, file=file)
        self.term(concept, name, SYNONYM, {US: PREFERRED, GB: PREFERRED}, file=file)
        for synonym in synonyms:
            self.term(concept, synonym, SYNONYM, {US: ACCEPTABLE, GB: ACCEPTABLE}, file=file)
        if parent:
            self.add("Relationship", concept, concept_id(parent), 0, IS_A, INFERRED, SOME, file=file)
        return concept

    def text(self, kind: str, file: str, newline: str = "\r\n") -> str:
        """One file, as text."""
        lines = [COLUMNS[kind], *self.rows.get((kind, file), [])]
        return "".join("\t".join(map(str, line)) + newline for line in lines)

    def write(self, folder: Path, state: str = "Snapshot") -> Path:
        """All files in the folders of a release."""
        for kind, pattern in FILES.items():
            for file in MODULES:
                path = folder / state / f"{pattern.format(state)}{file}_{LATE}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.text(kind, file).encode())
        return folder


def example() -> Release:
    """Thirty concepts in two modules, with the rows that a reader gets wrong when it is careless."""
    release = Release()
    for concept in CONCEPTS:
        release.concept(*concept)
    # inactive: a concept with active descriptions, a description, a membership, a parent
    release.concept(25, 1, "disorder", "Obsoletia", [], active=0)
    two, ten = concept_id(2), concept_id(10)
    release.term(two, "Glomulosis", SYNONYM, {US: ACCEPTABLE}, active=0)
    unaccepted = release.term(two, "Glomulopathy", SYNONYM, {})
    release.add("Language", US, unaccepted, ACCEPTABLE, active=0)
    release.add("Relationship", two, concept_id(3), 0, IS_A, INFERRED, SOME, active=0)
    release.add("Relationship", two, ten, 1, concept_id(99), INFERRED, SOME)  # another relation
    # two spellings, each preferred in its dialect
    anemic = release.add("Concept", PRIMITIVE, id=concept_id(26))
    release.term(anemic, "Pseudoanemia (disorder)", FULLY_SPECIFIED, {US: PREFERRED, GB: PREFERRED})
    release.term(anemic, "Pseudoanemia", SYNONYM, {US: PREFERRED})
    release.term(anemic, "Pseudoanaemia", SYNONYM, {GB: PREFERRED})
    # definitions: each is a component with its own memberships
    for text, refsets in (("Swelling of the glomus, with color change.", [US]), ("Swelling of the glomus, with colour change.", [GB])):
        id = release.add("TextDefinition", two, "en", DEFINITION, text, INSENSITIVE)
        for refset in refsets:
            release.add("Language", refset, id, PREFERRED)
    # the national module: a concept of its own, another language, a retired and a new state of international rows
    national = MODULES[1]
    release.concept(27, 10, "body structure", "Septulum", [], file=national)
    release.term(two, "グロムル炎", SYNONYM, {ELSEWHERE: PREFERRED}, language="ja", file=national)
    release.term(ten, "Nephridion", SYNONYM, {ELSEWHERE: ACCEPTABLE}, file=national)  # English, accepted only there
    release.add("Concept", PRIMITIVE, file=national, id=concept_id(24), time=LATE, active=0)
    # a concept without a parent, one whose name is another's synonym, one with two parents
    release.concept(28, 0, "disorder", "Plexy", [])
    release.concept(29, 13, "procedure", "Septulotomy", [])
    release.add("Relationship", concept_id(29), ten, 0, IS_A, INFERRED, SOME)
    release.concept(30, 1, "disorder", "Glossoptosia", [])  # a name that two concepts share
    return release


def zipped(folder: Path) -> Path:
    """The release as it is downloaded: everything in one folder of an archive, with what macOS adds."""
    file = folder.with_suffix(".zip")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.txt")):
            archive.write(path, f"SnomedCT_HandMade_{LATE}T120000Z/{path.relative_to(folder)}")
            archive.writestr(f"__MACOSX/._{path.name}", b"\x00\x05\x16\x07")
    return file
