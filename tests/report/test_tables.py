"""Tables from files made by hand or by ``synthetic.make_study``; numbers in the tables are checked against a calculation of their own."""

import json
import math
import re
import time
import warnings

import numpy as np
import pandas as pd
import pytest

from tests.support.synthetic import make_study, write_lines
from xlm_utils.draw import pages
from xlm_utils.judge import controls
from xlm_utils.report import figures, planned, results, tables
from xlm_utils.study import StudyError, open_study
from xlm_utils.study.records import read_jsonl

EXPERT = "Proxy (sentence encoder), against the expert’s definition"
CLINICIAN = "Proxy (sentence encoder), against the clinicians’ definition"
GPT = "GPT-4o, against the expert’s definition"


@pytest.fixture(autouse=True)
def _no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def study(tmp_path, monkeypatch):
    return make_study(tmp_path, monkeypatch, judges=("proxy", "gpt-4o"))


def rewrite(study, judge: str, run: str, change) -> None:
    path = study.folder / "scores" / judge / f"{run}.jsonl"
    write_lines(path, [row for old in read_jsonl(path) if (row := change(old))])


def test_table1_has_the_papers_rows_in_its_order_with_the_control_under_the_baseline(study):
    assert list(tables.table1(study).index) == [
        "Baseline (English expert)", "Expert with Japanese terms", "Ancestor with Japanese terms", "Base Japanese",
        *(study.label(m) for m in study.methods),
    ]  # fmt: skip


def test_table1_numbers_are_those_of_the_files(study):
    rows = read_jsonl(study.folder / "scores" / "gpt-4o" / "ties.jsonl")
    scores = [row["score"] for row in rows if row["reference"] == "expert" and row["score"] is not None]
    found = tables.table1(study).loc["TIES", GPT]
    assert (found["mean"], found["median"], found["std"]) == (np.mean(scores), np.median(scores), pytest.approx(np.std(scores, ddof=1)))
    assert (found["n"], found["missing"]) == (len(scores), 24 - len(scores))
    assert found["low"] < found["mean"] < found["high"]


def test_published_numbers_stand_beside_in_columns_of_their_own(study):
    frame = tables.table1(study)
    assert frame.loc["SLERP", ("published: Gemini 1.5 Pro", "mean")] == 5.32
    assert frame.loc["Baseline (English expert)", ("published: GPT-4o", "std")] == 1.66
    assert math.isnan(frame.loc["Expert with Japanese terms", ("published: GPT-4o", "mean")])
    assert planned.table2(study).loc["Linear", ("STS", "published")] == 0.511


def test_a_study_that_repeats_nothing_shows_no_published_number(study):
    study.settings = study.settings.model_copy(update={"repeats": ""})
    for table in (tables.table1(study), planned.table2(study)):
        assert not re.search("publi", f"{list(table.columns)} {table.attrs['caption']}", re.IGNORECASE)
    for fig in (figures.forest(study), figures.benchmark_gaps(study)):
        assert not re.search("published", fig.to_json(), re.IGNORECASE)


def test_published_numbers_belong_to_the_published_base_only(study):
    assert results.kept_key(study, "ties") == results.kept_key(study, "ties@japanese#2") == "ties"
    assert results.kept_key(study, "ties~density=0.3@ancestor") == "ties~density=0.3@ancestor"
    assert results.kept_key(study, "japanese") == "general"
    assert results.kept_key(study, "expert.ja") == "expert.ja"
    study.settings = study.settings.model_copy(update={"base": "ancestor"})
    assert results.kept_key(study, "ties") == "ties@ancestor"
    assert results.kept_key(study, "ties@japanese") == "ties"
    assert results.kept_key(study, "slerp") == "slerp"


def test_scores_of_a_model_that_the_study_no_longer_has_are_left_out_and_named(study, capsys):
    path = study.folder / "scores" / "proxy" / "linear.jsonl"
    write_lines(path.with_name("former.jsonl"), [row | {"run": "former"} for row in read_jsonl(path)])
    assert "former" not in set(results.load_scores(study)["run"])
    assert "scores of former are left out" in capsys.readouterr().out


def test_the_proxy_says_so_in_every_header_and_an_llm_judge_does_not(study):
    headers = tables.table1(study).columns.get_level_values(0).unique()
    assert [h for h in headers if "proxy" in h.lower()] == [EXPERT, CLINICIAN]
    assert set(planned.differences(study)["judge"]) == {"Proxy (sentence encoder)", "GPT-4o"}


def test_proxy_scores_filed_under_an_llm_judge_are_refused(study):
    source = study.folder / "scores" / "proxy" / "ties.jsonl"
    (study.folder / "scores" / "gpt-4o" / "ties.jsonl").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(StudyError, match=r"gpt-4o.*ties\.jsonl|judge 'proxy'"):
        results.load_scores(study)


def test_the_expert_is_marked_as_judged_against_itself_and_not_ranked(study):
    frame = tables.table1(study)
    assert frame.loc["Baseline (English expert)", ("", "note")] == "control: judged against itself under the expert’s definition"
    assert list(frame["", "note"] != "") == [True, True, True] + [False] * 7
    html = pages.table_html(frame)
    best = frame[EXPERT, "mean"].iloc[2:].max()
    assert f"<b>{best:.2f}</b>" in html
    assert f"<b>{frame.loc['Baseline (English expert)', (EXPERT, 'mean')]:.2f}</b>" not in html


def test_a_score_without_status_ok_is_missing_and_never_a_number(study):
    rewrite(study, "gpt-4o", "ties", lambda row: row | {"score": 0, "status": "out_of_range"})
    found = tables.table1(study).loc["TIES", GPT]
    assert (found["n"], found["missing"]) == (0, 24)
    assert pd.isna(found["mean"])
    assert "TIES (gpt-4o, expert): no score" in tables.table1(study).attrs["caption"]
    assert tables.missing_table(study).loc["TIES", (GPT, "out_of_range")] == 24


def test_a_term_without_a_row_counts_as_not_judged(study):
    rewrite(study, "gpt-4o", "ties", lambda row: row if row["term_id"] != "HP:0000003:term3" else None)
    assert tables.missing_table(study).loc["TIES", (GPT, "not judged")] == 1


def test_missing_scores_bound_the_mean(study):
    found = tables.missing_table(study).loc["TIES", GPT]
    whole = tables.table1(study).loc["TIES", GPT]
    assert found["mean, all 0"] == pytest.approx(whole["mean"] * whole["n"] / 24)
    assert found["mean, all 10"] == pytest.approx((whole["mean"] * whole["n"] + 10 * whole["missing"]) / 24)


def test_differences_are_paired_by_term_against_the_general_model(study):
    scores = results.load_scores(study)
    block = scores[(scores["judge"] == "gpt-4o") & (scores["reference"] == "expert")].pivot(index="term_id", columns="run", values="score")
    gap = (block["slerp"] - block["japanese"]).dropna()
    found = planned.differences(study).query("judge == 'GPT-4o' and reference == 'expert' and model == 'SLERP'").iloc[0]
    assert (found["n"], found["clusters"]) == (len(gap), 8)
    assert found["difference"] == pytest.approx(gap.mean())


def test_holms_family_is_the_six_merges_against_both_of_one_judge_and_reference(study):
    frame = planned.differences(study)
    assert set(frame["minus"]) == {"Base Japanese", "Expert with Japanese terms"}
    for _, block in frame.groupby(["judge", "reference"]):
        assert len(block) == 12
        assert block["p_holm"].min() == pytest.approx(min(1, 12 * block["p"].min()))


def spoil(study, run: str, terms: int) -> None:
    """Definitions of a run of which the first so many are in another language."""
    rows = read_jsonl(study.folder / "scores" / "proxy" / f"{run}.jsonl")[:24]
    made = [{"term_id": row["term_id"], "run": run, "definition": "x", "language": "ja", "output_language": "en" if i < terms else "ja",
             "finish": "stop", "tokens": 9} for i, row in enumerate(rows)]  # fmt: skip
    write_lines(study.folder / "definitions" / f"{run}.jsonl", made)


def test_output_that_is_no_definition_counts_as_0_in_the_second_mean_only(study):
    spoil(study, "ties", 6)
    scores = results.load_scores(study).query("judge == 'proxy' and reference == 'expert' and run == 'ties'")
    assert scores["unusable"].tolist() == ["another language"] * 6 + [""] * 18
    found = tables.table1(study).loc["TIES"]
    assert found[EXPERT, "mean"] == pytest.approx(scores["score"].mean())
    assert found[EXPERT, "counted"] == pytest.approx(scores["score"].iloc[6:].sum() / 24)
    assert found["no definition", "another language"] == 6
    assert pd.isna(tables.table1(study).loc["SLERP", ("no definition", "loops")])


def test_a_merge_helps_only_where_it_beats_both_on_both_means(study):
    def helps(model):
        found = planned.helped(planned.differences(study)).query("judge == 'Proxy (sentence encoder)' and reference == 'expert'")
        return found.set_index("model")["helps"][model]

    def give(run, level):
        rewrite(study, "proxy", run, lambda row: row | {"score": level + int(row["term_id"][-1]) % 3 / 10})

    for run, level in {"japanese": 4, "expert.ja": 3, "ties": 6, "linear": 3.5}.items():
        give(run, level)
    assert helps("TIES")
    assert not helps("Linear")  # it beats the expert, and not the general model
    assert any("TIES" in claim and "score above both Base Japanese and Expert with Japanese terms" in claim for claim in planned.claims(study))
    give("expert.ja", 7)
    assert not helps("TIES")
    give("expert.ja", 3)
    spoil(study, "ties", 16)
    assert not helps("TIES")  # two thirds of its texts are in another language
    for run in study.methods:
        give(run, 4)
    assert all("no merge is shown to score above both" in claim for claim in planned.claims(study) if "Proxy" in claim and "expert’s" in claim)


def test_seen_and_unseen_compare_gains_with_the_interactions_interval(study):
    rewrite(study, "proxy", "japanese", lambda row: row | {"score": 2})
    seen = set(results.load_scores(study).query("seen")["term_id"])
    rewrite(study, "proxy", "ties", lambda row: row | {"score": (6 if row["term_id"] in seen else 3) + int(row["term_id"][-1]) // 2 % 2 / 5})
    found = planned.seen_unseen(study).query("judge == 'Proxy (sentence encoder)' and reference == 'expert'").set_index("model").loc["TIES"]
    assert (found["n_seen"], found["n_unseen"]) == (12, 12)
    assert found["interaction"] == pytest.approx(found["seen"] - found["unseen"])
    assert 2.5 < found["low"] < found["interaction"] < found["high"] < 3.2
    assert found["p_holm"] < 0.001


def test_agreement_leaves_controls_out_and_says_where_a_judge_gives_one_score(study):
    assert list(tables.agreements(study)["models"]) == [7, 7]
    for run in results.row_order(study):
        rewrite(study, "gpt-4o", run, lambda row: row | {"score": 5, "status": "ok"})
    frame = tables.agreements(study)
    assert frame["kappa"].abs().max() < 0.3
    assert set(frame["reason"]) == {"the second judge gives one score to everything"}


def test_table2_keeps_the_papers_columns_and_shows_a_missing_column_as_a_dash(study):
    frame = planned.table2(study)
    names = ["PubMedQA", "JAQKET v2", "JComQA", "JSQuAD", "XWinograd", "XL-Sum", "MCQA", "DC", "STS"]
    assert list(frame.columns.get_level_values(0).unique()) == names
    assert math.isnan(frame.loc["Baseline (English expert)", ("STS", "value")])
    assert '<td class="start">–</td>' in pages.table_html(frame)


def items(model: str, dataset: str, answers: list[str], golds: list[str], correlated: bool = False) -> list[dict]:
    return [
        {"model": model, "dataset": dataset, "item": i, "prediction": answer, "gold": gold, "score": None if correlated else float(answer == gold)}
        for i, (answer, gold) in enumerate(zip(answers, golds, strict=True))
    ]  # fmt: skip


def test_table2_stars_what_differs_from_the_general_model_by_more_than_noise(study):
    golds = [str(i % 6) for i in range(48)]
    wrong, half = ["9"] * 48, [gold if i % 2 else "9" for i, gold in enumerate(golds)]
    for model in study.models:
        right = {"slerp": golds, "ties": half}.get(model, wrong)
        similar = {"slerp": golds, "ties": golds[::-1]}.get(model, ["3"] * 47 + ["2"])
        rows = [row for dataset in ("crade", "rrtnm", "smdis") for row in items(model, dataset, right, golds)]
        if model != "linear":
            rows += items(model, "jcsts_likelihood", similar, golds, correlated=True)
        write_lines(study.folder / "benchmarks" / f"{model}.samples.jsonl", rows)
    found = planned.column_differences(study).set_index(["column", "model"])
    assert found.loc[("DC", "SLERP"), ["n", "difference", "reason"]].tolist() == [144, 1, "all differences are equal"]
    assert found.loc[("DC", "TIES"), "difference"] == 0.5
    assert found.loc[("DC", "SLERP"), "p_holm"] == pytest.approx(6 * 2 * 0.5**144)  # all of 144 swaps one way, exact; times six merges
    assert found.loc[("DC", "Linear"), ["difference", "p_holm"]].tolist() == [0, 1]
    assert set(found.index.get_level_values("column")) == {"DC", "STS"}
    assert found.loc[("STS", "SLERP"), "p_holm"] < 0.05
    assert ("STS", "Linear") not in found.index  # it has no answers to that set
    frame = planned.table2(study)
    stars = {name: frame.index[frame[name, "p_holm"] < 0.05].tolist() for name in ("DC", "STS", "MCQA")}
    assert stars["DC"] == ["SLERP", "TIES"]
    assert stars["MCQA"] == []
    starred = pages.number(frame.loc["TIES", ("DC", "value")], "value")
    html = pages.table_html(frame)
    assert f"{starred}*" in re.sub("</?[bu]>", "", html)
    assert html.count("*<br>") + html.count("*</td>") == sum(map(len, stars.values()))
    assert "p_holm" not in html
    assert "differs from Base Japanese" in html


def test_the_controls_stand_beside_with_their_verdict_in_words(study):
    assert tables.controls_table(study).empty
    rows = [{"term_id": "T", "control": control, "score": 5} for control in controls.EXPECTED]
    pairs = [(i, side) for i in range(9) for side in ("source", "target")]
    rows += [{"term_id": f"P{i}", "control": f"language_{side}", "score": i if side == "source" else i / 2} for i, side in pairs]
    write_lines(study.folder / "scores" / "gpt-4o" / "controls.jsonl", rows)
    found = tables.controls_table(study).set_index("control")
    assert set(found["judge"]) == {"GPT-4o"}
    assert "<b>" not in pages.table_html(tables.controls_table(study)).partition("<table>")[2].partition("</table>")[0]  # no best, no worst
    assert "Japanese minus in English, judged against the clinicians’ definition: GPT-4o −2.00 [" in tables.table1(study).attrs["caption"]
    assert found.loc["language", "verdict"] == "FAILED"
    assert found.loc[["nearest_neighbour", "shuffled"], "verdict"].tolist() == ["passed", "FAILED"]


def test_the_offset_is_taken_off_what_is_in_the_target_language_with_both_intervals(study):
    """An offset of 2 [1.5, 2.6]; a quarter of the texts of TIES are in English, all of the expert's, and nobody knows about SLERP's."""
    pairs = [(i, side) for i in range(9) for side in ("source", "target")]
    rows = [{"term_id": f"P{i}", "control": f"language_{side}", "score": i / 2 if side == "source" else i / 2 + 1 + i / 4} for i, side in pairs]
    write_lines(study.folder / "scores" / "proxy" / "controls.jsonl", rows)
    spoil(study, "ties", 6)
    spoil(study, "expert", 24)
    offset = tables.controls_table(study).set_index("control").loc["language"]
    assert offset["average"] == pytest.approx(2)
    frame = tables.table1(study)
    ties, expert = frame.loc["TIES", EXPERT], frame.loc["Baseline (English expert)", EXPERT]
    assert ties["offset_off"] == pytest.approx(ties["mean"] - 0.75 * 2)
    below = math.hypot(ties["mean"] - ties["low"], 0.75 * (offset["high"] - 2))
    above = math.hypot(ties["high"] - ties["mean"], 0.75 * (2 - offset["low"]))
    assert (ties["offset_off_low"], ties["offset_off_high"]) == pytest.approx((ties["offset_off"] - below, ties["offset_off"] + above))
    assert list(expert[["offset_off", "offset_off_low", "offset_off_high"]]) == pytest.approx(list(expert[["mean", "low", "high"]]))
    assert math.isnan(frame.loc["SLERP", (EXPERT, "offset_off")])
    assert (GPT, "offset_off") not in frame  # of this judge no offset is known
    html = pages.table_html(frame)
    assert html.count("mean<br>offset off</th>") == 2
    assert f"<i>{pages.number(ties['offset_off'], 'mean')}<br><small>[" in html  # under the mean: the table is no wider for it
    assert "what is left with that taken off every text that is in Japanese" in frame.attrs["caption"]


def test_the_ends_of_two_intervals_add_up_in_squares():
    means = pd.DataFrame({"mean": [5.0, 5, 5], "low": [4.7, 4.7, np.nan], "high": [5.4, 5.4, np.nan], "in_target": [1, 0.5, 1]})
    found = tables.without_offset(means, pd.Series({"average": 1.0, "low": 0.7, "high": 1.4}))
    assert found["offset_off"].tolist() == [4, 4.5, 4]
    # distances .3 and .4 below (the offset may be 1.4), .4 and .3 above: .5 each; with half of the texts .3 and .2, .4 and .15
    assert found["offset_off_low"].tolist() == pytest.approx([3.5, 4.5 - math.sqrt(0.13), math.nan], nan_ok=True)
    assert found["offset_off_high"].tolist() == pytest.approx([4.5, 4.5 + math.sqrt(0.1825), math.nan], nan_ok=True)


def test_without_results_one_sentence_names_the_notebook(tmp_path, monkeypatch):
    study = make_study(tmp_path, monkeypatch)
    for path in [*(study.folder / "scores").glob("*/*"), *(study.folder / "benchmarks").glob("*")]:
        path.unlink()
    with pytest.raises(StudyError, match=r"05_judge\.ipynb"):
        tables.table1(study)
    with pytest.raises(StudyError, match=r"06_benchmark\.ipynb"):
        planned.table2(study)


def test_a_half_finished_study_has_rows_of_dashes(study):
    (study.folder / "scores" / "gpt-4o" / "ties.jsonl").unlink()
    (study.folder / "benchmarks" / "ties.json").unlink()
    assert pd.isna(tables.table1(study).loc["TIES", (GPT, "n")])
    assert math.isnan(planned.table2(study).loc["TIES", ("DC", "value")])
    assert len(planned.differences(study)) == 2 * (6 * 4 - 2)
    tables.save_table(study, tables.table1(study), "table1")


@pytest.mark.parametrize("scores", [[3, 3, 3, 3], [None] * 4, [0, 10, None, 5], [10, None, None, None]])
def test_four_terms_of_any_kind_give_every_table(tmp_path, monkeypatch, scores):
    study = make_study(tmp_path, monkeypatch, terms=4)
    for path in (study.folder / "scores" / "proxy").glob("*.jsonl"):
        rows = [row | {"score": scores[i % 4], "status": "length" if scores[i % 4] is None else "ok"} for i, row in enumerate(read_jsonl(path))]
        write_lines(path, rows)
    for table in (tables.table1, tables.missing_table, planned.seen_unseen, planned.differences, tables.agreements):
        frame = table(study)
        tables.save_table(study, frame, table.__name__)
        assert "nan" not in (study.figures / f"{table.__name__}.html").read_text(encoding="utf-8").lower()


def test_saved_tables_are_a_csv_of_numbers_and_a_page_that_needs_nothing_else(study):
    shown = tables.save_table(study, tables.table1(study), "table1")
    table = pd.read_csv(study.figures / "table1.csv")
    assert table[f"{EXPERT}: mean"].dtype == float
    page = (study.figures / "table1.html").read_text(encoding="utf-8")
    assert shown.data in page
    assert study.proxy.partition(";")[0] in page
    assert "9,999 resamples" in page
    assert "color-scheme: light dark" in page
    assert "http" not in page
    assert "<script" not in page


def test_text_in_a_table_is_not_markup():
    frame = pd.DataFrame({"model": ["<b>x</b>"], "n": [3]})
    assert "&lt;b&gt;x&lt;/b&gt;" in pages.table_html(frame)


@pytest.mark.parametrize(("value", "column", "text"), [
    (0.8042, "value", ".804"), (-0.12, "value", "−.120"), (1.0, "value", "1.000"), (6.0, "median", "6.0"), (5.456, "mean", "5.46"),
    (float("nan"), "mean", "–"), (None, "mean", "–"), (pd.NA, "n", "–"), (1782, "n", "1,782"), (0.0001, "p", "<.001"), (0.0304, "p_holm", ".030"),
    (2.0, "difference", "2.00"), (10.5, "mean", "10.50"),
])  # fmt: skip
def test_numbers_print_with_the_digits_of_their_column(value, column, text):
    assert pages.number(value, column) == text


def test_ties_for_the_best_are_all_bold_and_equal_columns_unmarked():
    frame = pd.DataFrame({("a", "mean"): [1.001, 3.004, 2.0, 3.001], ("a", "median"): [5.0] * 4}, index=list("wxyz"))
    html = pages.table_html(frame)
    assert html.count("<b>3.00</b>") == 2
    assert html.count("<u>1.00</u>") == 1
    assert "<b>5.0</b>" not in html


def test_the_published_files_add_up_to_the_papers_tables():
    scores, benchmarks = (pd.read_csv(results.PUBLISHED / name) for name in ("table1.csv", "table2.csv"))
    # GPT-4o: 9.48 + 5.46 + 5.64 + 5.33 + 5.33 + 5.14 + 5.20 + 5.13; Gemini: 9.30 + 5.14 + 5.32 + 5.18 + 5.09 + 4.95 + 4.90 + 4.88
    assert scores.groupby("judge", sort=False)["mean"].sum().tolist() == pytest.approx([46.71, 44.76])
    assert list(benchmarks.columns) == ["model", *results.BENCHMARKS]
    rows = {"expert": 4.474, "general": 5.002, "slerp": 4.938, "ties": 4.642, "linear": 4.927,
            "task_arithmetic": 4.519, "dare_ties": 4.523, "evo_dare_ties": 4.566}  # fmt: skip
    assert benchmarks.set_index("model").sum(axis=1).to_dict() == pytest.approx(rows)


def test_the_papers_size_takes_less_than_thirty_seconds(tmp_path, monkeypatch):
    study = make_study(tmp_path, monkeypatch, terms=1782, judges=("gpt-4o", "gemini-1.5-pro"))
    for path in (study.folder / "scores").glob("*/*.jsonl"):  # one reference, as published
        write_lines(path, [row for row in read_jsonl(path) if row["reference"] == "expert"])
    started = time.process_time()
    for table in (tables.table1, tables.missing_table, planned.seen_unseen, planned.differences, tables.agreements):
        table(study)
    assert time.process_time() - started < 30
    assert json.loads(json.dumps(tables.table1(study).attrs))  # attributes are plain text


def test_the_status_of_a_translation_is_not_taken_for_a_score_s(study):
    """An LLM's translations bring columns of the same names into terms.csv."""
    path = study.folder / "terms.csv"
    before = results.load_scores(study)
    pd.read_csv(path, keep_default_na=False).assign(status="unparsable", served_model="a translator").to_csv(path, index=False)
    pd.testing.assert_frame_equal(results.load_scores(study), before)


def test_an_item_is_read_where_a_trial_on_few_terms_has_its_benchmarks(tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_HOME", str(tmp_path))
    trial = open_study("demo", limit=4)
    assert trial.benchmarks_folder != trial.folder / "benchmarks"
    row = {"model": "japanese", "dataset": "igakuqa", "item": 2, "prediction": "a", "gold": "b", "score": 0.0}
    write_lines(trial.benchmarks_folder / "japanese.samples.jsonl", [row | {"item": 1}, row])
    assert planned._items(trial).loc[1, ["model", "item", "prediction", "gold"]].to_list() == ["japanese", 2, "a", "b"]


def test_tables_name_who_wrote_the_definitions(study):
    assert results.reference_label(study, "clinician") == "the clinicians’ definition"
    for by, label in (("NASA", "the NASA’s definition"), ("astronomers", "the astronomers’ definition")):
        own = study.vocabulary.model_copy(update={"definitions_by": by})
        study.settings = study.settings.model_copy(update={"vocabulary": own})
        assert results.group_label(study, "gpt-4o", "vocabulary") == f"GPT-4o, against {label}"
        assert f"Graded against {label} where" in tables.controls_table(study).attrs["caption"]
    assert results.group_label(study, "gpt-4o", "expert") == "GPT-4o, against the expert’s definition"
