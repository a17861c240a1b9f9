"""Terminology sources → a table of rare nouns and adjectives.

A source yields labels (one row a term); the filters are the paper's: frequency in the Brown corpus (a word's most frequent spelling counts), then
part of speech. ``funnel`` tells how many rows each filter leaves.
"""

import hashlib
import re
from collections import defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

import pandas as pd

from xlm_utils.curate import snomed
from xlm_utils.curate.terminologies import csv_labels, hpo_file, hpo_labels
from xlm_utils.study import ROOT, Step, Study, StudyError, project_path, read_yaml, sha256

WORD = re.compile(r"[^\W\d_]?[^\W\d_A-ZÀ-ÖØ-Þ]+(?:-[^\W\d_]?[^\W\d_A-ZÀ-ÖØ-Þ]+)*")  # no abbreviations such as VUR
TERMS = {"single_word": "single words", "all_words_rare": "made of words", "head_word": "ending in a word"}  # rule → step of the funnel
ABNORMALITY = "HP:0000118"  # phenotypic abnormality; what lies right below it are the organ systems
PAPER_TERMS = 1_782  # of SNOMED CT, in the published study
ADAPTER = "data/demo/adapters/med"  # of the demo's expert
TRAINED_LENGTHS = (20, 240)  # characters of the definitions that the demo's expert was trained on
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
    return pd.Series({word: count for word, count in brown_counts().items() if word[-1].isalpha()}).groupby(spelling).max().to_dict()


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


def is_seen(concept: str, definition: str) -> bool:
    """Whether the demo's ``med`` adapter was trained on this definition: in a half of the ontology by the concept's hash, of no unusual length."""
    shortest, longest = TRAINED_LENGTHS
    return hashlib.sha256(concept.encode()).digest()[0] % 2 == 0 and shortest <= len(definition) <= longest


def counted_words(term: str, rule: str) -> list[str]:
    """Words whose rarity decides about a term, its head last; none if the rule leaves the term out.

    ``single_word``: terms of one word. ``all_words_rare``: terms of words, each of them rare. ``head_word``: terms whose last word, the head of most
    English terms, is rare. The last two keep every term that the first keeps.
    """
    words = term.split()
    counted = words[-1:] if rule == "head_word" else words
    return [] if (rule == "single_word" and len(words) > 1) or not all(map(WORD.fullmatch, counted)) else counted


def source_path(study: Study) -> Path:
    """Where the study's terminology is: ``vocabulary.path``, also relative to the project, or the HPO in its wheel."""
    settings = study.vocabulary
    if settings.source == "hpo" and not settings.path:
        return hpo_file()
    found = project_path(settings.path or "")
    if not settings.path or not found.exists() or (found.is_dir() and settings.source != "snomed"):
        what = {"hpo": "an hp.obo", "snomed": "the folder or the zip of a SNOMED CT release (RF2)", "csv": "a CSV file"}[settings.source]
        there = "a folder" if settings.path and found.is_dir() else "there is no such file"
        raise StudyError(f"vocabulary.path = {settings.path!r}: {there}; source {settings.source} needs {what}")
    return found


def labels(study: Study) -> pd.DataFrame:
    """Every label of the study's terminology, before any filter (columns as in ``hpo_labels``; SNOMED CT adds ``semantic_tag``)."""
    settings, path = study.vocabulary, source_path(study)
    if settings.source == "snomed":
        return snomed.labels(path, settings.labels, settings.language)
    return csv_labels(path) if settings.source == "csv" else hpo_labels(path)


def groups(study: Study) -> dict[str, str]:
    """Concept → what it belongs to: in the HPO its organ system (along each concept's first parent), in SNOMED CT its tag; empty for a list."""
    table = labels(study).drop_duplicates("concept")
    if study.vocabulary.source != "hpo":
        return dict(zip(table["concept"], table["semantic_tag"], strict=True)) if "semantic_tag" in table else {}
    parents, found = dict(zip(table["concept"], table["parent"], strict=True)), {}
    for concept in parents:
        way = [concept]
        while (above := parents[way[-1]]) in parents and above not in (ABNORMALITY, *way):
            way.append(above)
        found[concept] = way[-1]
    return found


def _filter(study: Study, rule: str) -> tuple[list[tuple[str, pd.DataFrame]], dict[str, pd.Series]]:
    """Rows that each filter leaves, in order, by the filter's name; and frequency and part of speech of those that got so far; no rule: no filter."""
    settings, table = study.vocabulary, labels(study)
    first = {"hpo": "names and exact synonyms", "snomed": f"labels ({settings.labels})", "csv": "different terms of the list"}
    steps = [(first[settings.source], table)]

    def keep(step: str, mask: pd.Series) -> None:
        rows = steps[-1][1]
        steps.append((step, rows[mask.reindex(rows.index)]))

    if settings.source == "hpo":
        keep("with a definition", table["definition"] != "")
    if settings.semantic_tags:
        there = table["semantic_tag"].value_counts()
        if unknown := [tag for tag in settings.semantic_tags if tag not in there]:
            common = ", ".join([tag for tag in there.index if tag][:12])
            raise StudyError(f"vocabulary.semantic_tags: no label is tagged {unknown[0]!r}; the most frequent tags are {common}")
        keep(f"tagged {', '.join(settings.semantic_tags)}", table["semantic_tag"].isin(settings.semantic_tags))
    if not rule:
        words = steps[-1][1]["term"].str.split()
        count = words.map(lambda own: max(map(frequency, own)))
        return steps, {"frequency": count, "part_of_speech": words.map(lambda own: part_of_speech(own[-1].lower()))}
    words = steps[-1][1]["term"].map(lambda term: counted_words(term, rule))
    keep(TERMS[rule], words.map(len) > 0)
    count = words[steps[-1][1].index].map(lambda counted: max(map(frequency, counted)))
    often = {0: "never", 1: "at most once"}.get(settings.max_frequency, f"at most {settings.max_frequency} times")
    keep(f"{often} in the Brown corpus", count <= settings.max_frequency)
    pos = words[steps[-1][1].index].map(lambda counted: part_of_speech(counted[-1].lower()))
    keep("nouns and adjectives", pos.isin(settings.parts_of_speech))
    # names before synonyms, so that a word which labels two concepts stays with the one it names; the shorter spelling of a synonym
    rows = steps[-1][1]
    ordered = rows.assign(long=rows["term"].str.len()).sort_values(["is_name", "long"], ascending=[False, True], kind="stable")
    keep("different words", ~ordered["term"].map(spelling).duplicated())
    return steps, {"frequency": count, "part_of_speech": pos}


def rare_terms(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rare nouns and adjectives of the study's terminology.

    Returns the vocabulary (term_id, concept, term, definition, part_of_speech, frequency, in_snomed, seen, parent; one row a term), and the funnel
    (step, rows, concepts after each filter). A StudyError: no term is left, with the filter that took the last ones.
    """
    source = study.vocabulary.source
    steps, found = _filter(study, study.vocabulary.terms if study.vocabulary.filtered else "")
    rows = steps[-1][1].sort_index()
    if rows.empty:
        (_, before), (name, _) = next(pair for pair in pairwise(steps) if pair[1][1].empty)
        raise StudyError(f"{source_path(study).name}: no term is left; the filter {name!r} took the last {len(before):,}")
    demo = source == "hpo" and study.constituents[study.by_role("expert")].adapter == ADAPTER
    seen = [demo and is_seen(*pair) for pair in zip(rows["concept"], rows["definition"], strict=True)]
    rows = rows.assign(**found, seen=seen, term_id=rows["concept"] + ":" + rows["term"].str.lower())
    columns = ["term_id", "concept", "term", "definition", "part_of_speech", "frequency", "in_snomed", "seen", "parent"]
    columns += [c for c in ("semantic_tag", "translation") if c in rows]
    funnel = pd.DataFrame([(name, len(left), left["concept"].nunique()) for name, left in steps], columns=["step", "rows", "concepts"])
    return rows[columns].reset_index(drop=True), funnel


def compare_rules(study: Study) -> pd.DataFrame:
    """The funnel under each rule for terms of several words: a row a filter, a column a rule, terms left in the cells."""
    funnels = {rule: [(name, len(rows)) for name, rows in _filter(study, rule)[0]] for rule in TERMS}
    same = {TERMS[rule]: "words that the rule allows" for rule in TERMS}
    return pd.DataFrame({rule: {same.get(name, name): rows for name, rows in funnel} for rule, funnel in funnels.items()}).rename_axis("filter")


def curate(study: Study) -> Path:
    """Write ``vocabulary.csv`` and ``funnel.csv`` of a study; does nothing if they are there.

    A StudyError: as ``rare_terms``, or a reference of the judges is the vocabulary's definition, and no term has one.
    """
    settings, path = study.vocabulary, source_path(study)
    source = [sha256(file) for file in snomed.sources(path)] if settings.source == "snomed" else sha256(path)
    step = Step(study.folder / "vocabulary.csv", settings=settings.model_dump(exclude={"sample"}), source=source)
    with step:
        if step.done:
            print("vocabulary.csv: done before, kept")
        else:
            table, funnel = rare_terms(study)
            funnel.to_csv(study.folder / "funnel.csv", index=False)
            table.to_csv(step.partial, index=False)
            step.finish(rows=len(table))
    if (asked := {*study.judging.references} - {"expert"}) and not read_terms(step.path)["definition"].any():
        raise StudyError(f"{path.name}: no term has a definition, and judging.references names {min(asked)}; add definitions, or take [expert] alone")
    return step.path


def read_terms(file: Path) -> pd.DataFrame:
    """A table of terms as it was written (``vocabulary.csv``, ``translated.csv``, ``terms.csv``): words and identifiers are text, 007 and 1E5 too."""
    types: dict[str, type] = {"frequency": int, "in_snomed": bool, "seen": bool}
    return pd.read_csv(file, keep_default_na=False, dtype=defaultdict(lambda: str, types))
