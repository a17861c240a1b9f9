"""What the README says of the demo is what figures/demo/*.csv hold: each claim is recomputed from its cell.

A claim's text is made from the cell and must stand in the README as it is. Rows are named by the values of some columns.
"""

import json

import pandas as pd
import pytest

from xlm_utils.study import ROOT

EXPERT, CLINICIAN = (f"Proxy (sentence encoder), against the {who} definition" for who in ("expert’s", "clinicians’"))
DARE = {"reference": "clinician", "model": "DARE TIES", "minus": "Base Japanese"}
RATED = {"of": "Proxy (sentence encoder) and the mean rating", "half": "report"}
CLAIMS = [  # {csv, row, column, format}; a column may be a list, of which the format takes each in turn
    {"csv": "differences", "row": DARE, "column": ["difference", "low", "high"], "format": "{:.2f} [{:.2f}, {:.2f}] points over"},
    {"csv": "differences", "row": DARE, "column": "p_holm", "format": "p = {:.3f} after Holm, clinicians’"},
    {"csv": "differences", "row": DARE, "column": ["counted", "counted_low", "counted_high"], "format": "{:.2f} [{:.2f}, {:.2f}] once"},
    {"csv": "controls", "row": {"control": "echo_target"}, "column": "middle", "format": "echo of the term earns {:.1f} in the median"},
    {"csv": "controls", "row": {"control": "detail"}, "column": "average", "format": "wrong number or side in {:.0%} of 40"},
    {"csv": "ratings", "row": RATED, "column": ["spearman", "kappa"], "format": "it ranks at ρ = {:.2f}, but far too high: κ = {:.2f}."},
    {"csv": "table2", "row": {"model": "Base Japanese"}, "column": "JSQuAD: value", "format": "extraction falls from {:.2f} to"},
    {"csv": "table2", "row": {"model": "TIES"}, "column": "JSQuAD: value", "format": "to {:.2f} (JSQuAD)"},
    {"csv": "table2", "row": {"model": "Base Japanese"}, "column": "XL-Sum: value", "format": "summaries from {:.2f} to"},
    {"csv": "table2", "row": {"model": "TIES"}, "column": "XL-Sum: value", "format": "to {:.2f} (XL"},
]


def test_no_merge_helps_on_both_means():
    """The README's first bullet: none is above both baselines after Holm by both means; and of twelve controls one fails."""
    table = pd.read_csv(ROOT / "figures" / "demo" / "differences.csv")
    beats = (table["difference"] > 0) & (table["p_holm"] < 0.05) & (table["counted"] > 0) & (table["counted_p_holm"] < 0.05)
    assert not beats.groupby([table["reference"], table["model"]]).all().any()
    controls = pd.read_csv(ROOT / "figures" / "demo" / "controls.csv")["verdict"]
    assert (len(controls), (controls == "passed").sum()) == (12, 11)


def test_two_benchmark_columns_fall_with_ties_and_two_lie_at_chance():
    """The README's third bullet."""
    found = pd.read_csv(ROOT / "figures" / "demo" / "column_differences.csv")
    firm = found[found["p_holm"] < 0.05]
    assert found["p"].notna().sum() == 54
    assert list(zip(firm["column"], firm["model"], strict=True)) == [("JSQuAD", "TIES"), ("XL-Sum", "TIES")]
    table = pd.read_csv(ROOT / "figures" / "demo" / "table2.csv")
    table = table[~table["model"].str.contains("before format training")]
    for column in ("MCQA", "DC"):
        assert table[f"{column}: chance"].between(table[f"{column}: low"], table[f"{column}: high"]).all()


def test_the_exercises_answers_about_the_demo_are_what_it_holds():
    """Notebooks 06 and 07: what always answering yes earns; the first comparison with the other parent; how many times as many terms."""
    items = ROOT / "data" / "demo" / "benchmarks" / "pubmedqa_test.jsonl"
    gold = [json.loads(line)["final_decision"] for line in items.read_text(encoding="utf-8").splitlines()]
    assert (gold.count("yes"), len(gold)) == (48, 120)
    table = pd.read_csv(ROOT / "figures" / "demo" / "differences.csv")
    other = table[(table["reference"] == "clinician") & (table["model"] == "SLERP") & (table["minus"] == "Expert with Japanese terms")].iloc[0]
    assert other["low"] < 0 < other["difference"]
    assert other["p"] > 0.05
    assert round((table["detectable"].max() / 0.5) ** 2) == 3


def text_of(claim, folder=None):
    """The claim as the README must print it."""
    table = pd.read_csv((folder or ROOT / "figures" / "demo") / f"{claim['csv']}.csv")
    rows = table
    for column, value in claim["row"].items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, f"{claim['csv']}.csv has {len(rows)} rows with {claim['row']}"
    columns = [claim["column"]] if isinstance(claim["column"], str) else claim["column"]
    return claim["format"].format(*rows[columns].iloc[0]).replace("-", "−").replace("%", " %")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim['csv']}: {claim['column']}")
def test_the_readme_says_what_the_demos_tables_hold(claim):
    assert text_of(claim) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_claim_is_the_cell_in_its_format(tmp_path):
    pd.DataFrame({"model": ["TIES", "Linear"], "low": [-0.126, 1], "high": [0.5, 2]}).to_csv(tmp_path / "t.csv", index=False)
    claim = {"csv": "t", "row": {"model": "TIES"}, "column": ["low", "high"], "format": "[{:.2f}, {:.2f}]"}
    assert text_of(claim, tmp_path) == "[−0.13, 0.50]"
    with pytest.raises(AssertionError, match="0 rows"):
        text_of(claim | {"row": {"model": "SLERP"}}, tmp_path)
