"""Differences of benchmark columns: against McNemar's test, hand-worked cases and a plain loop."""

import math

import numpy as np
import pytest
from scipy import stats

from xlm_utils.stats import paired
from xlm_utils.stats.paired import compare_correlations, compare_means


@pytest.mark.parametrize(("better", "worse"), [(6, 0), (5, 1), (9, 3), (4, 4)])
def test_for_right_or_wrong_answers_the_test_is_mcnemars(better, worse):
    a = [1.0] * better + [0.0] * worse + [1.0] * 10
    b = [0.0] * better + [1.0] * worse + [1.0] * 10
    found = compare_means([(a, b)])
    assert found["p"] == pytest.approx(stats.binomtest(better, better + worse).pvalue, abs=0.015)
    assert (found["n"], found["difference"]) == (better + worse + 10, pytest.approx((better - worse) / (better + worse + 10)))


def test_a_column_is_the_unweighted_mean_of_its_data_sets_and_items_stay_in_theirs():
    small, large = ([1.0, 1.0], [0.0, 0.0]), ([0.0] * 100, [0.0] * 100)
    found = compare_means([small, large])
    # 1 and 0, whatever their sizes: .5; within each set all items say the same, so no resample differs and there is no interval
    assert (found["n"], found["difference"]) == (102, 0.5)
    assert math.isnan(found["low"])
    assert found["reason"] == "all differences are equal"
    assert found["p"] == pytest.approx(0.5, abs=0.02)  # of four ways to swap two items, two are as far from 0


def test_the_interval_of_a_mean_difference_is_that_of_scipys_bootstrap():
    draw = np.random.default_rng(3)
    a, b = draw.random(200), draw.random(200)
    found = compare_means([(a, b)])
    known = stats.bootstrap((a - b,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert (found["low"], found["high"]) == pytest.approx(tuple(known), abs=0.005)


def test_equal_models_do_not_differ_and_missing_items_are_left_out():
    found = compare_means([([1, 0, math.nan, 1], [1, 0, 1, math.nan])])
    assert (found["n"], found["difference"], found["p"]) == (2, 0, 1)
    assert compare_means([([math.nan], [1.0])])["reason"] == "no items with both scores"


def test_a_difference_of_correlations_is_the_difference_of_two_correlations_and_its_test_a_loop_of_swaps():
    draw = np.random.default_rng(5)
    gold = draw.integers(0, 6, 60).astype(float)
    a = np.clip(gold + draw.integers(-1, 2, 60), 0, 5)
    b = draw.integers(0, 6, 60).astype(float)
    found = compare_correlations(a, b, gold)
    observed = stats.pearsonr(a, gold)[0] - stats.pearsonr(b, gold)[0]
    assert (found["n"], found["difference"]) == (60, pytest.approx(observed))
    assert found["low"] < observed < found["high"]
    assert found["low"] > 0
    assert found["p"] < 0.001
    b = np.where(draw.random(60) < 0.2, draw.integers(0, 6, 60), a)  # nearly the same model
    found, beyond = compare_correlations(a, b, gold), 0
    observed = abs(stats.pearsonr(a, gold)[0] - stats.pearsonr(b, gold)[0])
    for _ in range(2000):
        swap = draw.random(60) < 0.5
        one, other = np.where(swap, b, a), np.where(swap, a, b)
        beyond += abs(stats.pearsonr(one, gold)[0] - stats.pearsonr(other, gold)[0]) >= observed - 1e-9
    assert found["p"] == pytest.approx(beyond / 2000, abs=0.03)


def test_an_undefined_correlation_is_missing_and_an_undefined_resample_no_evidence():
    found = compare_correlations([1, 1, 1], [1, 2, 3], [1, 2, 3])
    assert math.isnan(found["difference"])
    assert math.isnan(found["p"])
    assert "one side is constant" in found["reason"]
    assert compare_correlations([], [], [])["n"] == 0
    few = compare_correlations([0, 5], [5, 0], [0, 5])  # r of 1 and −1; swapping one of two items makes both undefined
    assert (few["difference"], few["p"]) == (pytest.approx(2), 1)


def test_a_false_alarm_is_as_rare_as_promised(monkeypatch):
    monkeypatch.setattr(paired, "RESAMPLES", 499)
    draw, alarms = np.random.default_rng(0), 0
    for seed in range(300):
        sets = [(draw.random(30) < 0.6, draw.random(30) < 0.6) for _ in range(3)]
        alarms += compare_means(sets, seed)["p"] < 0.05
    assert alarms <= 24  # 15 expected; 24 or fewer with a probability of .99
