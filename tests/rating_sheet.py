"""Write the sheet for two passes of ratings: ``python -m tests.rating_sheet demo sheet.csv``; see the rubric beside data/demo/ratings.csv."""

import sys
from pathlib import Path

import pandas as pd

from xlm_utils.generate import rows, runs
from xlm_utils.judge import judging
from xlm_utils.study import Study, open_study
from xlm_utils.study.records import read_manifest

COLUMNS = ["term_id", "term", "translation", "clinicians", "definition", "rating_1", "rating_2", "half"]


def rating_sheet(study: Study, n: int = 200) -> pd.DataFrame:
    """Definitions to be rated, drawn with the study's seed over all finished runs in the target language, without model or score.

    Equal texts on one term count once. The halves alternate over the shuffled rows.

    Returns:
        ``COLUMNS``, the ratings empty.
    """
    folder = study.folder / "definitions"
    names = [run.name for run in runs(study) if run.language.code == study.target.code and read_manifest(folder / f"{run.name}.jsonl")]
    table = judging.graded_terms(study).set_index("term_id")
    texts = rows(study, names).astype({"term_id": str}).drop_duplicates(["term_id", "definition"])
    drawn = texts.sample(min(n, len(texts)), random_state=study.seed).reset_index(drop=True)
    facts = table.loc[drawn["term_id"], ["term", "translation", "definition"]].rename(columns={"definition": "clinicians"}).reset_index()
    halves = ["choose" if i % 2 else "report" for i in range(len(drawn))]
    return facts.assign(definition=drawn["definition"], rating_1="", rating_2="", half=halves)[COLUMNS]


def main(study: str = "demo", file: str = "sheet.csv") -> None:
    """Draw 200 definitions of a study that notebook 04 has run."""
    sheet = rating_sheet(open_study(study))
    sheet.to_csv(Path(file), index=False)
    print(f"{file}: {len(sheet)} definitions on {sheet['term_id'].nunique()} terms, without model or score")


if __name__ == "__main__":
    main(*sys.argv[1:])
