"""What a single English word is: its spelling, how often it occurs in everyday text, its part of speech."""

import re
from functools import cache
from pathlib import Path

import pandas as pd

from xlm_utils.study import ROOT, read_yaml

BROWN_COUNTS = ROOT / "data" / "brown_counts.csv.gz"
SPELLINGS = read_yaml(Path(__file__).with_name("spellings.yaml"))
ADJECTIVE = re.compile(r"(?:al|ar|(?<!hol)ic|[ao]ry|ous|ive|less|ent|ile|ian|ute|ed)$")  # a shopaholic is a person
ADVERB = re.compile(rf"{ADJECTIVE.pattern.removesuffix('$')}l?ly$")


@cache
def brown_counts() -> dict[str, int]:
    """Occurrences of each lower-cased word type in the Brown corpus (49,815 types), from the table that ships with the project."""
    return pd.read_csv(BROWN_COUNTS, keep_default_na=False, index_col="word")["count"].to_dict()


@cache
def spelling(term: str) -> str:
    """A key that British and American spelling, singular and plural, with and without hyphen of one term share; not itself a word."""
    words = term.lower().split()
    for pattern, replacement in SPELLINGS.items():
        words = [re.sub(pattern, replacement, word) for word in words]
    return " ".join(words)


@cache
def _by_spelling() -> dict[str, int]:
    counts = pd.Series({word: count for word, count in brown_counts().items() if word[-1].isalpha()})
    return counts.groupby(spelling).max().to_dict()


def frequency(word: str) -> int:
    """Occurrences in Brown of the word's most frequent spelling: tumour counts as tumor does, seizures as seizure."""
    return max(brown_counts().get(word.lower(), 0), _by_spelling().get(spelling(word), 0))


@cache
def _tagger():
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


@cache
def part_of_speech(word: str) -> str:
    """``noun``, ``adjective`` or ``other``, from the word's morphology alone.

    A term in a list has no sentence around it, so a tagger that leans on context does badly. HanTa gives all readings of a form with a score, and its
    *best* one is often wrong for a rare word: an adverb in microcephaly or brachydactyly, an adjective in cardiomyopathy, a verb in clubbing or
    sneeze. So the ending decides where readings compete: an adjective has an ending of adjectives and a reading as one that is as likely as a noun's;
    an adverb is such an adjective with -ly; what else can be a noun is one.
    """
    word = word.lower()
    readings = {tag[:2]: float(score) for tag, score in reversed(_tagger().tag_word(word, cutoff=15))}  # British National Corpus tags
    best = max(readings, key=readings.__getitem__, default="")
    noun, adjective = (readings.get(tag, -1e3) for tag in ("NN", "AJ"))
    if ADVERB.search(word) or set(readings) <= {"AV"} or (best == "VV" and re.search("(?:ize|ise|ify)$", word)):
        return "other"
    if word.endswith("ing"):
        return "noun"
    if ADJECTIVE.search(word) and adjective > noun - 0.5:
        return "adjective"
    if (best == "AJ" and adjective > noun + 5) or (best == "VV" and word.endswith("ate")):
        return "adjective"
    return "noun" if "NN" in readings or best == "VV" else "adjective" if best == "AJ" else "other"
