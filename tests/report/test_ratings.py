"""The proxy beside the ratings written for this repository: consistency is not called an agreement, and the committed numbers come from the file."""

import pandas as pd
import pytest

from tests.support.synthetic import add_definitions, make_study
from xlm_utils import report
from xlm_utils.ask.cards import load_card
from xlm_utils.judge import people
from xlm_utils.study import ROOT, StudyError


@pytest.fixture
def study(tmp_path, monkeypatch):
    made = make_study(tmp_path, monkeypatch)
    add_definitions(made)
    return made


def written(study, monkeypatch, tmp_path, rows=40):
    """A list of ratings of the study's terms, in the form of data/demo/ratings.csv."""
    terms = pd.read_csv(study.folder / "terms.csv")["term_id"]
    lines = [
        {"row": f"w{copy}-{i}", "rater": "a", "copy": copy, "term_id": terms[i % 24], "reference": "clinician", "definition": f"text {i}",
         "rating": i % 11 if copy == 1 else min(10, i % 11 + i % 2), "half": ("report", "choose")[i // 2 % 2]}
        for copy in (1, 2) for i in range(rows)]  # fmt: skip
    pd.DataFrame(lines).to_csv(tmp_path / "ratings.csv", index=False)
    card = load_card("written_ratings").model_copy(update={"sheet": str(tmp_path / "ratings.csv")})
    monkeypatch.setattr(report.tables, "load_card", lambda name: card if name == "written_ratings" else load_card(name))
    return card


def test_without_ratings_of_its_terms_the_table_says_so(study):
    found = report.rated(study)  # the demo's file rates other terms
    assert found.empty
    assert "no ratings" in found.attrs["caption"]


def test_a_list_that_is_not_there_is_told(study, monkeypatch, tmp_path):
    card = load_card("written_ratings").model_copy(update={"sheet": "data/none.csv"})
    with pytest.raises(StudyError, match=r"written_ratings\.yaml: sheet: there is no file 'data/none\.csv'"):
        people.read(study, card)


def test_the_proxy_is_held_against_the_mean_of_both_passes_in_each_half(study, monkeypatch, tmp_path):
    written(study, monkeypatch, tmp_path)
    found = report.rated(study).set_index(["of", "half"])
    assert found["n"].tolist() == [20] * 4
    assert found.loc[("two passes of one reader: consistency", "report"), "spearman"] > 0.9
    assert abs(found.loc[("Proxy (sentence encoder) and the mean rating", "report"), "spearman"]) < 0.6
    assert "by no clinician" in found.attrs["caption"]


def test_the_committed_consistency_is_the_files(study):
    given = people.read(study, load_card("written_ratings")).pivot(index=["definition", "term_id", "half"], columns="copy", values="rating")
    committed = pd.read_csv(ROOT / "figures" / "demo" / "ratings.csv").set_index(["of", "half"])
    for half in ("choose", "report"):
        own = given.xs(half, level="half")
        expected = committed.loc[("two passes of one reader: consistency", half)]
        assert (len(own), round(own[1].corr(own[2], method="spearman"), 6)) == (expected["n"], expected["spearman"])
