"""Read a synthetic SNOMED CT release of a large edition's size: seconds and peak memory, as a folder and as a zip.

    python measure/rf2.py                # about five minutes, 1 GB in the system's temporary folder

1.6 million descriptions of half a million concepts in the real format (words are random syllables),
with their language refset and is-a relationships. Reading runs in a process of its own, whose peak
resident memory is its own. The goal: at most 60 s and 2 GiB on two cores.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import rf2  # noqa: E402
from xlm_utils.curate.snomed import COLUMNS, FULLY_SPECIFIED, IS_A, PREFERRED, SYNONYM  # noqa: E402

CONCEPTS, DESCRIPTIONS, WORDS = 500_000, 1_600_000, 60_000
TAGS = ("disorder", "finding", "procedure", "body structure", "organism", "substance", "product", "qualifier value")
READ = """
import json, resource, sys, time
from pathlib import Path
from xlm_utils.curate import snomed
start = time.monotonic()
table = snomed.labels(Path(sys.argv[1]))
seconds = time.monotonic() - start
print(json.dumps([len(table), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""
CURATE = """
import json, resource, sys, time
from types import SimpleNamespace
from xlm_utils.curate import vocabulary
from xlm_utils.study.settings import Vocabulary
study = SimpleNamespace(vocabulary=Vocabulary(source="snomed", path=sys.argv[1], terms=sys.argv[2]))
start = time.monotonic()
table, funnel = vocabulary.rare_terms(study)
seconds = time.monotonic() - start
print(json.dumps([len(table), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


def write_release(folder: Path) -> dict[str, int]:
    """Files of about a real edition's size; returns rows by kind."""
    draw = random.Random(0)
    syllables = [a + b for a in "bcdfghlmnprstvz" for b in ("a", "e", "i", "o", "al", "er", "in", "os")]
    words = list({"".join(draw.choices(syllables, k=draw.randint(2, 5))) for _ in range(WORDS)})
    lengths = (1, 2, 3, 4, 5, 6, 8, 12)
    state = lambda: (draw.randint(20020131, 20250131), int(draw.random() > 0.07), rf2.CORE)  # noqa: E731

    def concepts():
        for n in range(1, CONCEPTS + 1):
            yield rf2.concept_id(n), *state(), rf2.PRIMITIVE

    def descriptions():
        for n in range(1, DESCRIPTIONS + 1):
            concept, name = n % CONCEPTS + 1, " ".join(draw.choices(words, k=draw.choice(lengths))).capitalize()
            full = n <= CONCEPTS
            term = f"{name} ({TAGS[concept % len(TAGS)]})" if full else name
            yield n * 10**9 + 110, *state(), rf2.concept_id(concept), "en", FULLY_SPECIFIED if full else SYNONYM, term, rf2.INSENSITIVE

    def members():
        for n, refset in itertools.product(range(1, DESCRIPTIONS + 1), (rf2.US, rf2.GB)):
            preferred = n <= 2 * CONCEPTS
            yield uuid.UUID(int=draw.getrandbits(128)), *state(), refset, n * 10**9 + 110, PREFERRED if preferred else rf2.ACCEPTABLE

    def relationships():
        for n in range(3 * CONCEPTS):  # half of them is-a
            concept, kind = n % CONCEPTS + 1, IS_A if n % 2 else rf2.concept_id(CONCEPTS + 1)
            yield n * 10**9 + 120, *state(), rf2.concept_id(concept), rf2.concept_id(concept // 2 + 1), 0, kind, rf2.INFERRED, rf2.SOME

    rows = {}
    for kind, lines in {"Concept": concepts, "Description": descriptions, "Language": members, "Relationship": relationships}.items():
        path = folder / f"{rf2.FILES[kind].format('Snapshot')}INT_{rf2.LATE}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="\r\n") as file:
            file.write("\t".join(COLUMNS[kind]) + "\n")
            rows[kind] = 0
            for line in lines():
                file.write("\t".join(map(str, line)) + "\n")
                rows[kind] += 1
        print(f"{kind:14} {rows[kind]:>9,} rows  {path.stat().st_size / 2**20:6.0f} MiB", flush=True)
    return rows


def measure(what: str, code: str, *arguments: str) -> None:
    """One line: what a fresh process needed."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    rows, seconds, gib = json.loads(done.stdout.splitlines()[-1])
    print(f"{what:44} {rows:>9,} rows  {seconds:5.1f} s ({time.monotonic() - start:.1f} with Python's start)  {gib:.2f} GiB", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "release"
        write_release(folder)
        archive = Path(scratch) / "release.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped:
            for path in sorted(folder.rglob("*.txt")):
                zipped.write(path, path.relative_to(folder))
        measure("labels from the folder", READ, str(folder))
        measure("labels from the zip", READ, str(archive))
        for rule in ("single_word", "all_words_rare", "head_word"):
            measure(f"labels and filters, {rule}", CURATE, str(folder), rule)


if __name__ == "__main__":
    main()
