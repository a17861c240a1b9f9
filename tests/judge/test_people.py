"""People as a judge: a blind sheet drawn at random, a page that keeps what was rated, and a reader that takes what spreadsheets make of it."""

import csv
import io
import itertools
import json
import time

import pandas as pd
import pytest

from tests.support.browser import Browser
from tests.support.synthetic import add_definitions, make_study
from xlm_utils import report
from xlm_utils.ask import cards
from xlm_utils.ask.cards import load_card
from xlm_utils.draw.canvas import chrome
from xlm_utils.judge import controls, judging, people
from xlm_utils.study import PARAMS, StudyError
from xlm_utils.study.records import read_jsonl

TARGET = ["japanese", "expert.ja", "ancestor.ja", "ties", "linear", "slerp", "task_arithmetic", "dare_ties", "evo_dare_ties"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    made = make_study(tmp_path / "home", monkeypatch)
    add_definitions(made)
    return made


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A function that writes params/judges/people.yaml with other values, and gives the card."""
    folder = tmp_path / "params" / "judges"
    folder.mkdir(parents=True)
    for file in (PARAMS / "judges").glob("*.yaml"):
        (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(cards, "PARAMS", folder.parent)

    def write(**values):
        own = {"label": "People", "client": "people", "model": "none", "sample": 40} | values
        (folder / "people.yaml").write_text(json.dumps(own), encoding="utf-8")
        return load_card("people")

    return write


def key_of(study, name="round1"):
    return pd.read_csv(study.folder / "people" / f"{name}.key.csv", keep_default_na=False)


def sheet_of(study, name="round1"):
    with (study.folder / "people" / f"{name}.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(study, rate, sheet="round1", form="{}.csv", encoding="utf-8-sig", delimiter=","):
    """Put a sheet, rated by a function of its row, into the folder of filled ones."""
    rows = [row | {"rating": rate(row)} for row in sheet_of(study, sheet)]
    text = io.StringIO()
    writer = csv.DictWriter(text, people.COLUMNS, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path = study.folder / "people" / "filled" / form.format(sheet)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def planned(study):
    return judging.plan(study, "people", ["japanese"])


# --- the round --------------------------------------------------------------------------------


def test_a_round_holds_all_models_texts_of_drawn_concepts_blind_shuffled_and_a_tenth_of_them_twice(study, card, capsys):
    card()
    assert planned(study) == {"calls": 0, "usd": 0.0}
    assert "no calls and no cost" in capsys.readouterr().out
    key, sheet = key_of(study), sheet_of(study)
    assert [row["row"] for row in sheet] != sorted(row["row"] for row in key.to_dict("records"))[::-1]
    assert list(sheet[0]) == people.COLUMNS
    assert set(key["run"]) == set(TARGET) & {run for run in set(key["run"])}
    assert "expert" not in set(key["run"])  # its definitions are in English
    for _, texts in key[key["copy"] == 1].groupby("term_id"):  # every model's text, equal ones on one row
        assert sorted(texts["run"]) == sorted(set(key["run"]))
        assert texts.loc[texts["run"].isin(["ties", "linear"]), "row"].nunique() == 1
    once, twice = key.loc[key["copy"] == 1, "row"].nunique(), key.loc[key["copy"] == 2, "row"].nunique()
    assert 32 <= once <= 48  # about 40, in whole concepts
    assert twice == -(-once // 10)
    assert len(sheet) == once + twice
    assert set(key["reference"]) == {"clinician"}
    text = (study.folder / "people" / "round1.csv").read_text(encoding="utf-8")
    page = (study.folder / "people" / "round1.html").read_text(encoding="utf-8")
    for hidden in ("slerp", "linear", "run", "Base Japanese"):  # the made-up texts name their model; nothing else does
        assert hidden not in "\n".join(line.partition("の文")[2] for line in text.splitlines())
    assert "key" not in [path.stem for path in (study.folder / "people").glob("*.html")]
    assert "://" not in page
    terms = [row["term"] for row in sheet]
    assert sum(a == b for a, b in itertools.pairwise(terms)) < len(terms) / 2  # shuffled


def test_a_round_is_drawn_once_and_another_draws_other_terms(study, card):
    card()
    planned(study)
    before = (study.folder / "people" / "round1.csv").read_bytes()
    card(sample=80)
    planned(study)
    assert (study.folder / "people" / "round1.csv").read_bytes() == before
    card(round="round2", sample=80)
    planned(study)
    assert not set(key_of(study)["term_id"]) & set(key_of(study, "round2")["term_id"])
    assert len(people.read(study, load_card("people"))) == key_of(study)["row"].nunique() + key_of(study, "round2")["row"].nunique()
    card(round="round3", sample=10_000)
    planned(study)
    card(round="round4")
    with pytest.raises(StudyError, match=r"people\.yaml: round: no term is left to draw for round4"):
        planned(study)


def test_two_raters_share_the_overlap_and_split_the_rest_and_only_texts_of_one_come_twice(study, card):
    card(raters=2, sample=100, overlap=0.25)
    planned(study)
    key = key_of(study)
    a, b = (set(key.loc[key["rater"] == rater, "term_id"]) for rater in "ab")
    assert len(a & b) == round(0.25 * len(a | b))
    assert abs(len(a) - len(b)) <= 1
    assert not set(key.loc[key["copy"] == 2, "term_id"]) & a & b
    assert {path.name for path in (study.folder / "people").iterdir()} == {
        "round1-a.csv", "round1-a.html", "round1-b.csv", "round1-b.html", "round1.key.csv"}  # fmt: skip


def test_before_all_models_have_defined_the_terms_nothing_is_drawn(study, card, capsys):
    card()
    (study.folder / "definitions" / "ties.jsonl.manifest.json").unlink()
    planned(study)
    assert "drawn when all models have defined" in capsys.readouterr().out
    assert not (study.folder / "people").exists()


def test_a_rubric_that_is_not_there_is_told_before_a_sheet_is_written(study, card):
    card(rubric="data/none.md")
    with pytest.raises(StudyError, match=r"people\.yaml: rubric: there is no file 'data/none\.md'"):
        planned(study)
    assert not (study.folder / "people").exists()


# --- what comes back --------------------------------------------------------------------------


def test_without_a_filled_sheet_the_notebook_goes_on_without_scores(study, card, capsys):
    card()
    planned(study)
    judging.judge(study, "people", "ties")
    assert "nothing is rated yet" in capsys.readouterr().out
    assert not (study.folder / "scores" / "people").exists()
    assert controls.ask_controls(study, "people").empty
    controls.retest(study, "people", ["ties"])
    assert not (study.folder / "scores" / "people").exists()
    assert set(judging.preview(study, "people", "ties", 5)["status"]) <= {"not drawn", "not rated"}
    assert judging.score(study, "term1", "a text", "people")["score"].isna().all()
    assert set(report.load_scores(study)["judge"]) == {"proxy"}


def test_a_filled_sheet_becomes_scores_like_any_judges(study, card):
    card()
    planned(study)
    skipped = sheet_of(study)[0]
    fill(study, lambda row: "" if row["row"] == skipped["row"] else "can’t say" if row["definition"].startswith("slerp") else "7")
    for run in ("ties", "linear", "slerp"):
        judging.judge(study, "people", run)
    ties, linear, slerp = (read_jsonl(study.folder / "scores" / "people" / f"{run}.jsonl") for run in ("ties", "linear", "slerp"))
    assert {row["status"] for row in ties} <= {"ok", "not rated"}
    assert [row["score"] for row in ties] == [row["score"] for row in linear]  # one text, one rating
    assert {(row["score"], row["status"]) for row in slerp} <= {(None, "cant_say"), (None, "not rated")}
    assert {row["judge"] for row in ties} == {"people"}
    scores = report.load_scores(study)
    own = scores[(scores["judge"] == "people") & (scores["run"] == "ties")]
    assert len(own) == 24
    assert set(own["status"]) <= {"ok", "not judged", "not rated"}
    assert own["score"].notna().sum() == sum(row["status"] == "ok" for row in ties)
    table = report.table1(study)
    assert table["People, against the clinicians’ definition", "mean"].dropna().eq(7).all()
    assert "People" in report.missing_table(study).to_string()


def test_awkward_texts_find_their_ratings(study, card):
    card(sample=10_000)
    planned(study)
    fill(study, lambda row: "3")
    judging.judge(study, "people", "japanese")
    rows = read_jsonl(study.folder / "scores" / "people" / "japanese.jsonl")
    assert [row["score"] for row in rows] == [3.0] * 24


def test_a_text_that_a_model_no_longer_says_is_not_scored(study, card):
    card(sample=10_000)
    planned(study)
    fill(study, lambda row: "3")
    path = study.folder / "definitions" / "ties.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("の文 7", "の別の文 7"), encoding="utf-8")
    judging.judge(study, "people", "ties")
    assert len(read_jsonl(study.folder / "scores" / "people" / "ties.jsonl")) == 23


def test_an_unusable_text_outside_the_sample_counts_no_zero(study, card, monkeypatch):
    card()
    planned(study)
    fill(study, lambda row: "7")
    judging.judge(study, "people", "ties")
    every = {("ties", term): "loops" for term in pd.read_csv(study.folder / "terms.csv")["term_id"]}
    monkeypatch.setattr(report.results, "unusable", lambda study, runs: every)
    own = report.load_scores(study).query("judge == 'people' and run == 'ties'")
    assert own.loc[own["status"] == "ok", "counted"].eq(0).all()
    assert own.loc[own["status"] == "not judged", "counted"].isna().all()


def test_two_raters_means_their_agreement_and_each_ones_consistency(study, card):
    card(raters=2, sample=10_000, overlap=0.5)
    planned(study)
    seconds = set(key_of(study).query("copy == 2")["row"])
    fill(study, lambda row: str(6 + (row["row"] in seconds)), "round1-a")
    fill(study, lambda row: str(5 - len(row["definition"]) % 2), "round1-b")
    for run in TARGET:
        judging.judge(study, "people", run)
    rows = [row for run in TARGET for row in read_jsonl(study.folder / "scores" / "people" / f"{run}.jsonl")]
    shared = [row for row in rows if len(json.loads(row["reply"])) == 2]
    assert {row["score"] for row in shared} == {5.5, 5.0}
    assert {row["score"] for row in rows if row not in shared} == {6.0, 5.0, 4.0}
    controls.retest(study, "people", TARGET)
    again = read_jsonl(study.folder / "scores" / "people" / "retest.jsonl")
    texts = key_of(study).query("copy == 2").drop_duplicates("row")
    noise = report.properties(study).set_index(["judge", "property"]).loc[("People", "asked again")]
    assert noise["n"] == len(again) == len(texts)  # equal texts of two models once
    assert noise["points"] == pytest.approx((texts["rater"] == "a").mean())
    found = report.agreements(study).set_index(["first", "second"])
    between = found.loc[("People: rater a", "rater b")]
    assert between["n"] == key_of(study).query("copy == 1").groupby(["term_id", "definition"])["rater"].nunique().eq(2).sum()
    assert between["bias"] == pytest.approx(1.5, abs=0.5)


@pytest.mark.parametrize(
    ("form", "encoding", "delimiter", "rating"),
    [("{}.csv", "utf-8", ";", "7,0"), ("{}.txt", "utf-16", "\t", "7"), ("{} (1).csv", "utf-8-sig", ",", " ７ ")],
    ids=["semicolons and a comma", "UTF-16 with tabs", "a full-width digit"],
)
def test_a_sheet_comes_back_as_spreadsheets_save_it(study, card, form, encoding, delimiter, rating):
    mine = card()
    planned(study)
    fill(study, lambda row: rating, form=form, encoding=encoding, delimiter=delimiter)
    assert people.read(study, mine)["rating"].eq(7).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("round1-a005", "round9-a005"), r"round1\.csv, line 6: row 'round9-a005' is in no key"),
        (lambda text: text.replace("round1-a005", "round1-a004"), r"line 6: row 'round1-a004' is there twice, as in round1\.csv, line 5"),
        (lambda text: text.replace(",7\r\n", ",11\r\n", 1), r"line 2: rating = '11' is neither a whole number from 0 to 10 nor can't say"),
        (lambda text: text.replace(",7\r\n", ",7.5\r\n", 1), r"line 2: rating = '7\.5' is neither"),
        (lambda text: text.replace(",7\r\n", ",-1\r\n", 1), r"line 2: rating = '-1' is neither"),
        (lambda text: text.replace("rating", "score", 1), r"line 1: the columns row and rating are needed"),
        (lambda text: text.rstrip() + '\r\nround1-a999,"open', r"no CSV \(unexpected end of data\)"),
        (lambda text: '"row,rating', r"line 2: no CSV \(unexpected end of data\)"),
        (lambda text: "", r"line 1: the columns row and rating are needed"),
    ],
    ids=["unknown", "twice", "too high", "a fraction", "negative", "no column", "a quote left open", "in the first line", "empty"],
)
def test_every_mistake_is_one_sentence_with_file_and_line(study, card, change, said):
    mine = card()
    planned(study)
    path = fill(study, lambda row: "7", encoding="utf-8")
    text = path.read_bytes().decode()
    path.write_bytes(change(text).encode())
    with pytest.raises(StudyError, match=said):
        people.read(study, mine)


def test_a_sheet_in_an_older_encoding_is_told(study, card):
    mine = card()
    planned(study)
    fill(study, lambda row: "7", encoding="cp932")
    with pytest.raises(StudyError, match="line 2: not UTF-8 text; save the file as UTF-8"):
        people.read(study, mine)


# --- prediction-powered differences -----------------------------------------------------------


def test_people_with_a_judge_who_scored_all_give_prediction_powered_differences(study, card):
    card(sample=10_000)
    planned(study)
    scored = {(row["run"], row["term_id"]): row["score"] for run in TARGET for row in read_jsonl(study.folder / "scores" / "proxy" / f"{run}.jsonl")
              if row["reference"] == "clinician"}  # fmt: skip
    key = key_of(study).drop_duplicates("row").set_index("row")
    part = set(pd.read_csv(study.folder / "terms.csv")["term_id"].sample(16, random_state=0))
    fill(study, lambda row: "" if key.loc[row["row"], "term_id"] not in part else
         str(round(scored[key.loc[row["row"], "run"], key.loc[row["row"], "term_id"]])))  # fmt: skip
    for run in TARGET:
        judging.judge(study, "people", run)
    found = report.differences(study)
    powered = found[found["judge"].str.startswith("People, with Proxy")]
    assert len(powered) == 12  # six merges, two that they are held against
    assert powered["n"].eq(24).all()
    assert powered["n_rated"].eq(16).all()
    assert (powered["high"] - powered["low"] < powered["classical_high"] - powered["classical_low"]).mean() > 0.7
    assert powered[["p_holm", "counted", "counted_p_holm"]].notna().all(axis=None)
    assert found.loc[~found["judge"].str.contains("with"), "lambda"].isna().all()
    assert "validity more than thrift" in found.attrs["caption"]
    assert any(sentence.startswith("People, with Proxy") for sentence in report.claims(study))
    report.forest(study)
    assert "lambda" in report.save_table(study, found, "differences").data


def test_without_people_the_differences_have_no_column_of_theirs(study):
    assert "lambda" not in report.differences(study)


# --- the ratings written for this repository --------------------------------------------------


def test_the_written_ratings_go_through_the_same_reader_and_say_what_they_are(study):
    mine = load_card("written_ratings")
    given = people.read(study, mine)
    assert given.groupby("copy").size().to_dict() == {1: 200, 2: 200}
    assert given["status"].eq("ok").all()
    assert given.query("copy == 1")["half"].value_counts().to_dict() == {"choose": 100, "report": 100}
    assert "written for this repository" in report.results.judge_label("written_ratings")
    assert judging.plan(study, "written_ratings", []) == {"calls": 0, "usd": 0.0}


def test_written_ratings_score_the_texts_they_are_of_and_power_nothing(study, monkeypatch):
    mine = load_card("written_ratings")
    given = people.read(study, mine)
    texts = given.query("copy == 1").drop_duplicates("term_id").head(24)
    answers = people.answers(study, mine, texts.to_dict("records"))[0]
    assert [row["score"] for row in answers] == texts["rating"].tolist()
    assert {row["status"] for row in people.answers(study, mine, texts.assign(definition="another").to_dict("records"))[0]} == {"not drawn"}
    scores = report.load_scores(study)
    written = scores[scores["term_id"].isin(scores["term_id"].unique()[:16])].assign(judge="written_ratings")
    monkeypatch.setattr(report.planned, "load_scores", lambda study: pd.concat([scores, written]))
    found = report.differences(study)
    assert "lambda" not in found
    assert any("written for this repository" in name for name in found["judge"])


# --- the page ---------------------------------------------------------------------------------


@pytest.mark.skipif(not chrome(), reason="no Chrome")
def test_the_page_keeps_what_was_rated_and_exports_what_the_reader_takes(study, card, tmp_path):
    mine = card()
    planned(study)
    folder, downloads = study.folder / "people", study.folder / "people" / "filled"
    downloads.mkdir()

    def opened():
        browser = Browser(tmp_path / "chrome")
        browser.call("Page.enable")
        for _ in range(30):  # one start in ten of Chromium 150 lends its first page a storage that no other page ever sees
            browser.call("Page.navigate", url=(folder / "round1.html").as_uri())
            for _ in range(300):
                if browser.js("return document.readyState === 'complete' && location.protocol === 'file:'"):
                    break
                time.sleep(0.1)
            else:
                raise AssertionError("the page did not load")
            if browser.js("return localStorage.getItem('seen')"):
                return browser
            browser.js("localStorage.setItem('seen', 'before')")
        raise AssertionError("what a page keeps is not there when it is loaded again")

    def rate(browser, rows, rating):
        for _ in range(rows):
            browser.js(f"[...document.querySelectorAll('#scale button')].find(b => b.textContent === {json.dumps(rating)}).click()")
            browser.js("document.getElementById('open').click()")

    browser = opened()
    assert browser.js("return document.getElementById('count').textContent").startswith("0 of")
    assert "0 to 10" in browser.js("return document.getElementById('rubric').textContent")
    rate(browser, 9, "7")
    rate(browser, 1, "can't say")
    storage = tmp_path / "chrome" / "Default" / "Local Storage" / "leveldb"
    for _ in range(300):  # Chromium writes its storage seconds later; an end before that may lose it on a busy machine
        if any(b"can't say" in part.read_bytes() for part in storage.glob("*.l*")):
            break
        time.sleep(0.1)
    browser.close()
    browser = opened()  # another process, as after a night
    assert browser.js("return document.getElementById('count').textContent").startswith("10 of")
    assert browser.js("return document.getElementById('place').textContent").startswith("row 11 of")
    rate(browser, 2, "10")
    assert browser.js("return performance.getEntriesByType('resource').length") == 0  # nothing is fetched
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    browser.js("document.getElementById('export').click()")
    for _ in range(300):
        if list(downloads.glob("*.csv")):
            break
        time.sleep(0.1)
    browser.close()
    given = people.read(study, mine).sort_values("row").reset_index(drop=True)
    assert given["status"].tolist() == ["ok"] * 9 + ["cant_say"] + ["ok"] * 2 + ["not rated"] * (len(given) - 12)
    assert given["rating"].dropna().tolist() == [7] * 9 + [10] * 2
