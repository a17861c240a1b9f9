"""The proxy beside ratings: definitions rated 0–10 for this repository, in two passes that saw neither model nor score.

No clinician wrote them. The agreement of the two passes is one reader's consistency, not an agreement between raters.
"""

import pandas as pd

from xlm_utils.ask.cards import load_card
from xlm_utils.judge import judging
from xlm_utils.stats import association
from xlm_utils.study import ROOT, Study

RATINGS = ROOT / "data" / "demo" / "ratings.csv"


def rated(study: Study) -> pd.DataFrame:
    """How far each proxy of the study agrees with the mean rating, and the two passes with each other; empty without the file.

    Returns:
        of, half (``choose``: what forms were chosen by; ``report``), n, spearman, kappa (quadratic); terms that the study does not run are left out.
    """
    rows, file = [], pd.read_csv(RATINGS, keep_default_na=False) if RATINGS.exists() else pd.DataFrame(columns=["term_id"])
    table = judging.graded_terms(study).set_index("term_id")
    file = file[file["term_id"].isin(table.index)].reset_index(drop=True)
    if len(file):
        first, second = file["rating_1"].astype(float), file["rating_2"].astype(float)
        measured = {"two passes of one reader: consistency": (first, second)}
        for name in study.judges:
            card = load_card(name)
            if card.proxy:
                asked = [judging.question(table.loc[row.term_id].to_dict() | {"term_id": row.term_id}, "definition", row.definition)
                         | {"run": "ratings", "reference": "clinician"} for row in file.itertuples()]  # fmt: skip
                scores = pd.DataFrame(judging.scores(study, card, asked)[0])["score"].astype(float)
                measured[f"{card.label} and the mean rating"] = (scores, (first + second) / 2)
        for half in ("choose", "report"):
            own = file["half"] == half
            rows += [{"of": name, "half": half} | association.agreement(a[own], b[own]) for name, (a, b) in measured.items()]
    frame = pd.DataFrame(rows, columns=["of", "half", "n", "spearman", "kappa", "reason"])
    frame.attrs["title"] = "The proxy beside ratings"
    frame.attrs["caption"] = (
        "Definitions of all models, rated 0–10 in two passes that saw neither model nor score; written for this repository, by no clinician. "
        "kappa: quadratic weights. Only the half called report was kept from choosing."
        if rows else "There are no ratings of this study’s terms (data/demo/ratings.csv): how far the proxy agrees with a reader is not known."
    )  # fmt: skip
    return frame
