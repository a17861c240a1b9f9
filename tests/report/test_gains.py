"""Terms gained and lost by a merge: against counts and ranks done by hand."""

import pytest

from tests.support.synthetic import make_study, write_lines
from xlm_utils.report import tables
from xlm_utils.stats import paired
from xlm_utils.study import StudyError
from xlm_utils.study.records import read_jsonl


@pytest.fixture
def study(tmp_path, monkeypatch):
    study = make_study(tmp_path, monkeypatch, terms=8)
    ids = [row["term_id"] for row in read_jsonl(study.folder / "scores" / "proxy" / "ties.jsonl")][:8]
    for run in ("japanese", "ties"):
        write_lines(study.folder / "definitions" / f"{run}.jsonl", [{"term_id": i, "run": run, "definition": f"{run} {i}"} for i in ids])
    return study


def rescore(study, run, scores):
    path = study.folder / "scores" / "proxy" / f"{run}.jsonl"
    rows = [row | {"score": scores[int(row["term_id"].removeprefix("HP:")[:7])]} for row in read_jsonl(path)]
    write_lines(path, [row | {"status": "ok" if row["score"] is not None else "refusal"} for row in rows])


def test_gain_is_after_minus_before_over_terms_with_both_scores(study):
    rescore(study, "japanese", [1, 2, 3, 4, 5, 6, 7, None])
    rescore(study, "ties", [2, 2, 2, None, 9, 6, 7, 8])
    table = tables.extremes(study, "ties")
    assert dict(zip(table["term"], table["after"] - table["before"], strict=True)) == {"term4": 4, "term0": 1, "term2": -1}
    assert list(table)[:4] == ["term", "translation", "before", "after"]


def test_extremes_show_both_texts_of_the_terms_that_moved_most(study):
    rescore(study, "japanese", [5] * 8)
    rescore(study, "ties", [9, 5, 5, 5, 5, 5, 5, 1])
    found = tables.extremes(study, "ties")
    assert list(found["term"]) == ["term0", "term7"]
    assert list(found["Base Japanese"]) == ["japanese HP:0000000:term0", "japanese HP:0000007:term7"]
    assert list(found["after"]) == [9, 1]


def test_a_run_that_was_not_scored_is_named(study):
    with pytest.raises(StudyError, match="proxy has not scored nuslerp"):
        tables.extremes(study, "nuslerp")


def test_spearman_by_hand_with_an_exact_p_for_few_models():
    """Ranks 1 2 3 4 5 against 2 1 4 3 5: Σd² = 4, ρ = 1 − 6·4/(5·24) = .8; of 120 orders 16 are as far from 0 as that."""
    assert paired.correlate([10, 20, 30, 40, 50], [2, 1, 4, 3, 5]) == pytest.approx((0.8, 16 / 120))
