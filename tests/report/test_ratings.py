"""Ratings are drawn without model or score, and read without calling consistency an agreement."""

import pandas as pd
import pytest

from tests.rating_sheet import COLUMNS, rating_sheet
from tests.support.synthetic import JAPANESE, make_study, write_lines
from xlm_utils.report import ratings
from xlm_utils.study.records import digest, write_json


@pytest.fixture
def study(tmp_path, monkeypatch):
    made = make_study(tmp_path, monkeypatch)
    table = pd.read_csv(made.folder / "terms.csv").assign(definition=[f"Definition of number {i}, {word}." for i, word in enumerate(JAPANESE * 2)])
    table.to_csv(made.folder / "terms.csv", index=False)
    for run in ("expert.reference", "japanese", "ties", "linear"):
        texts = [f"{'ties' if run == 'linear' else run}の文 {i}" for i in range(24)]
        path = made.folder / "definitions" / f"{run}.jsonl"
        write_lines(path, [{"term_id": term, "run": run, "definition": text} for term, text in zip(table["term_id"], texts, strict=True)])
        write_json(path.with_name(f"{path.name}.manifest.json"), {"sha256": digest(path), "key": run})
    return made


def test_a_sheet_names_no_model_counts_equal_texts_once_and_repeats_itself(study):
    sheet = rating_sheet(study, 40)
    assert list(sheet.columns) == COLUMNS
    assert len(sheet) == 40 == len(sheet.drop_duplicates(["term_id", "definition"]))
    assert sheet["half"].value_counts().to_dict() == {"report": 20, "choose": 20}
    assert len(rating_sheet(study)) == 48  # the two equal runs count once
    pd.testing.assert_frame_equal(sheet, rating_sheet(study, 40))


def test_without_the_file_the_table_says_so(study, monkeypatch, tmp_path):
    monkeypatch.setattr(ratings, "RATINGS", tmp_path / "none.csv")
    found = ratings.rated(study)
    assert found.empty
    assert "no ratings" in found.attrs["caption"]


def test_the_proxy_is_held_against_the_mean_of_both_passes_in_each_half(study, monkeypatch, tmp_path):
    sheet = rating_sheet(study, 40)
    sheet["rating_1"], sheet["rating_2"] = [i % 11 for i in range(40)], [min(10, i % 11 + i % 2) for i in range(40)]
    sheet.to_csv(tmp_path / "ratings.csv", index=False)
    monkeypatch.setattr(ratings, "RATINGS", tmp_path / "ratings.csv")
    found = ratings.rated(study).set_index(["of", "half"])
    assert found["n"].tolist() == [20] * 4
    assert found.loc[("two passes of one reader: consistency", "report"), "spearman"] > 0.9
    assert abs(found.loc[("Proxy (sentence encoder) and the mean rating", "report"), "spearman"]) < 0.6
