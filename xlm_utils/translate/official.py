"""HPO's official translations: a babelon file says for each concept its name in another language, and who stands behind it.

The files are made by the HPO Internationalisation Effort. A study whose terms they translate can't be measured against them.
"""

import io
import unicodedata
import urllib.request
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from xlm_utils.curate.vocabulary import labels
from xlm_utils.study import ROOT, Study, StudyError, project_path, read_text, write_text
from xlm_utils.study.records import cache_folder

ADDRESS = "https://raw.githubusercontent.com/obophenotype/hpo-translations/main/babelon/hp-{code}.babelon.tsv"
NEEDED = ("subject_id", "translation_value", "translation_status")
SLIPS = ROOT / "data" / "hpo" / "slips.csv"  # known ones, with the right word, or none


def babelon_file(study: Study) -> Path:
    """The study's ``translation.path``, or the target language's file, fetched once into the cache. A StudyError: there is none, or no network."""
    if path := study.translation.path:
        if not (found := project_path(path)).is_file():
            raise StudyError(f"translation.path = {path!r}: there is no such file; a babelon TSV of HPO's translations is needed")
        return found
    url = ADDRESS.format(code=study.target.code)
    file = cache_folder() / url.rpartition("/")[2]
    if not file.exists():
        print(f"fetching {url} (once)")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                write_text(file, answer.read().decode("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"translator: {url} can't be had ({error}); give a file as translation.path, or name an LLM's card") from None
    return file


def read_names(file: Path, language: str, allowed: Collection[str]) -> pd.DataFrame:
    """Names of concepts in a language (its code): concept, translation, status, granted (the status is an allowed one, which comes before others).

    A StudyError: not a babelon file, or none of its rows is such a name.
    """
    try:
        table = pd.read_csv(io.StringIO(read_text(file)), sep="\t", dtype=str, keep_default_na=False, quoting=3)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise StudyError(f"{file.name}: not a table with tabs ({str(error).strip()})") from None
    if absent := [column for column in NEEDED if column not in table]:
        raise StudyError(f"{file.name}, line 1: no column {absent[0]!r}; a babelon file has {', '.join(NEEDED)}")
    for column, value in (("predicate_id", "rdfs:label"), ("translation_language", language)):
        table = table[table[column] == value] if column in table else table
    values = table["translation_value"].map(lambda text: unicodedata.normalize("NFC", text.strip()))
    names = pd.DataFrame({"concept": table["subject_id"], "translation": values, "status": table["translation_status"]})
    names = names[names["translation"] != ""].assign(granted=names["status"].isin(allowed))
    if names.empty:
        raise StudyError(f"{file.name}: no row is a name in the language {language!r}")
    return names.sort_values("granted", ascending=False, kind="stable").drop_duplicates("concept")


def official(study: Study, vocabulary: pd.DataFrame) -> pd.DataFrame:
    """Translations of the vocabulary's terms that are their concept's preferred label; synonyms have none of their own.

    A name that two concepts share is dropped, a known slip (``SLIPS``) replaced. Counts, of concepts, are printed.

    Returns:
        one row a translated term: term (lower case), translation, kind (the status, such as ``official``), candidates (1).
    """
    file, code, allowed, all_labels = babelon_file(study), study.target.code, study.translation.status, labels(study)
    preferred = all_labels[all_labels["is_name"]].set_index("concept")["term"]
    names, slips = read_names(file, code, allowed), pd.read_csv(SLIPS, keep_default_na=False)
    names = names[names["concept"].isin(preferred.index)]  # an obsolete concept's name makes no other ambiguous
    right = slips[slips["language"] == code].set_index(["concept", "slip"])["right"].to_dict()
    keys = list(zip(names["concept"], names["translation"], strict=True))
    names = names.assign(translation=[right.get(key, key[1]) for key in keys], slip=[key in right for key in keys])
    usable = names[names["granted"]]
    shared = usable.loc[usable.duplicated("translation", keep=False), "concept"]
    own = vocabulary[vocabulary["concept"].map(preferred) == vocabulary["term"]].merge(names, on="concept")
    granted, single = own["granted"], ~own["concept"].isin(shared)
    found = own[granted & single & (own["translation"] != "")]
    print(
        f"{file.name}: {len(found):,} of {vocabulary['concept'].nunique():,} concepts have a translation; {len(own):,} are in the file and have their"
        f" preferred label in the vocabulary, {granted.sum() / max(1, len(own)):.0%} with status {' or '.join(allowed)};"
        f" {(granted & ~single).sum()} share their translation with another concept: dropped; {own['slip'].sum()} known slips mended or dropped"
    )
    return found.assign(term=found["term"].str.lower(), kind=found["status"].str.lower(), candidates=1)[["term", "translation", "kind", "candidates"]]
