"""The table of the measure without a judge: means, chance and paired differences worked out by hand."""

import pandas as pd
import pytest

from tests.support.synthetic import make_study, write_lines
from xlm_utils.draw.pages import table_html
from xlm_utils.report import planned

MARGINS = {"japanese": [0.1, 0.2, 0.3, 0.4], "expert.ja": [0.0, 0.1, 0.0, 0.1], "ties": [0.5, 0.5, 0.7, 0.7], "expert": [1.0, 2.0, 1.0, 2.0],
           "expert.unrelated": [0.2, -0.2, 0.1, -0.1]}  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    study = make_study(tmp_path, monkeypatch, terms=4)
    for run, margins in MARGINS.items():
        rows = [{"run": run, "term_id": f"t{i}", "margin": m, "correct": m > 0.3, "logp": m - 3, "tokens": 9} for i, m in enumerate(margins)]
        write_lines(study.folder / "transfer" / f"{run}.jsonl", rows)
    return study


def test_means_accuracy_and_differences_are_those_of_the_rows(study):
    table = planned.transfer(study)
    expert = "Baseline (English expert)"
    assert list(table.index) == [expert, f"{expert}, unrelated", "Expert with Japanese terms", "Base Japanese", "TIES"]
    assert table["", "margin"].round(3).tolist() == [1.5, 0.0, 0.05, 0.25, 0.6]
    assert table["", "accuracy"].tolist() == [1.0, 0.0, 0.0, 0.25, 1.0]
    assert table["", "logp"].round(3).tolist() == [-1.5, -3.0, -2.95, -2.75, -2.4]
    ties = table.loc["TIES"]
    assert ties["minus Base Japanese", "difference"] == pytest.approx(0.35)
    assert ties["minus Expert with Japanese terms", "difference"] == pytest.approx(0.55)
    assert ties["minus Base Japanese", "p_holm"] == pytest.approx(0.25), "two comparisons, each p = 2 / 2⁴"
    assert table.drop("TIES")["minus Base Japanese"].isna().all(axis=None)
    assert "chance 0.250" in table.attrs["caption"], "three rivals in the demo"
    assert table["", "note"].iloc[:2].tolist() == ["control: asked in English", "control: behind other terms’ prompts: chance"]
    assert "TIES" in table_html(table)


def test_without_rows_it_is_empty_and_can_still_be_shown(study):
    for file in (study.folder / "transfer").glob("*"):
        file.unlink()
    assert isinstance(planned.transfer(study), pd.DataFrame)
    assert planned.transfer(study).empty
    assert "Definitions tied" in table_html(planned.transfer(study))
