"""A judge's own properties: against values that were put there."""

import numpy as np
import pytest

from tests.support.synthetic import make_study, write_lines
from xlm_utils.draw.pages import table_html
from xlm_utils.report import tables
from xlm_utils.report.results import load_scores
from xlm_utils.stats import paired
from xlm_utils.study.records import read_jsonl


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Scores that rise by a point with every doubling of a definition's length, whatever the term; +1.5 for the target language, .5 for an echo."""
    study, draw = make_study(tmp_path, monkeypatch, terms=12), np.random.default_rng(0)
    for run in ("japanese", "ties", "linear"):
        rows, texts = read_jsonl(study.folder / "scores" / "proxy" / f"{run}.jsonl"), []
        doublings = draw.integers(0, 4, 12)
        for number, row in enumerate(rows):
            row["score"] = float(1 + number % 3 + doublings[number % 12])
        for number, row in enumerate(rows[:12]):
            texts.append({"term_id": row["term_id"], "run": run, "definition": "あ" * 2 ** int(doublings[number])})
        write_lines(study.folder / "scores" / "proxy" / f"{run}.jsonl", rows)
        write_lines(study.folder / "definitions" / f"{run}.jsonl", texts)
    asked = []
    for number in range(8):
        given = {"language_source": 5 + number % 2, "language_target": 6.5 + number % 2 * 1.2, "echo_target": number % 2, "reference_itself": 10}
        for control, score in given.items():
            asked.append({"term_id": f"p{number}", "control": control, "score": score, "status": "ok"})
    write_lines(study.folder / "scores" / "proxy" / "controls.jsonl", asked)
    return study


def test_each_property_is_the_one_that_was_put_there(study):
    table = tables.properties(study).set_index("property")
    assert list(table.index) == ["language", "echo", "length", "asked again", "order", "wording"]
    assert table.loc["language", "points"] == pytest.approx(1.6)
    assert table.loc["language", "low"] < 1.6 < table.loc["language", "high"]
    assert (table.loc["echo", "points"], table.loc["echo", "n"]) == (0.5, 8)
    assert table.loc["length", "points"] == pytest.approx(1.0)
    assert table.loc["length", "n"] == 36
    assert table["judge"].str.startswith("Proxy").all(), "never without that word"
    assert table.loc[["asked again", "order", "wording"], "points"].isna().all()
    assert table.loc["order", "remark"] == "an encoder: it has no prompt, and computes the same again"
    assert "<b>" not in table_html(tables.properties(study)).partition("<table>")[2].partition("</table>")[0]  # no best, no worst


def test_second_judgements_have_their_shift_its_interval_and_their_noise(tmp_path, monkeypatch):
    study = make_study(tmp_path, monkeypatch, terms=12, judges=("gpt-4o",))
    folder = study.folder / "scores" / "gpt-4o"
    rows = [row for row in read_jsonl(folder / "ties.jsonl") if row["status"] == "ok"][:7]
    for file, moves in {"retest": [0, 0, 0, 1, 2, -2, None], "order": [-2, -2, -3, -3, -2, -3, None]}.items():
        given = [row | ({"score": row["score"] + by} if by is not None else {"score": None}) for row, by in zip(rows, moves, strict=True)]
        write_lines(folder / f"{file}.jsonl", given)
    table = tables.properties(study).set_index("property")
    # differences 0, 0, 0, 1, 2, −2: mean 1/6, sum of squares 9 − 6·(1/6)² = 8.833, over 5, over 2; the seventh has no second score
    again, order = table.loc["asked again"], table.loc["order"]
    assert (again["n"], again["points"], again["noise"]) == (6, pytest.approx(1 / 6), pytest.approx(np.sqrt((9 - 1 / 6) / 5 / 2)))
    assert again["low"] < 0 < again["high"]
    assert (order["points"], order["noise"]) == (-2.5, pytest.approx(np.sqrt(6 * 0.25 / 5 / 2)))
    assert order["high"] < -2
    assert table.loc["wording", "remark"] == "not asked yet"
    assert not {"retest", "order"} & set(load_scores(study)["run"])


def test_a_slope_inside_groups_ignores_what_sets_groups_apart():
    """Two groups with the same slope of 2 and levels that would turn the sign of a slope over all."""
    x, y = [0, 1, 2, 10, 11, 12], [100, 102, 104, 0, 2, 4]
    found = paired.within_slope(x, y, list("aaabbb"))
    assert (found["n"], found["value"]) == (6, pytest.approx(2))
    assert np.isnan(paired.within_slope([1, 1, 2, 2], [1, 2, 3, 4], list("aabb"))["value"]), "no spread in x inside a group"
    assert paired.within_slope([1, 2, 3], [1, np.nan, 3], list("aab"))["n"] == 0
