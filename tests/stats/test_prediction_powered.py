"""Prediction-powered means: the formula by hand, another implementation, and intervals that hold where a biased judge's own do not."""

import importlib

import numpy as np
import pytest
from scipy import stats

from measure.prediction_powered import coverage, simulated
from xlm_utils.stats.statistics import prediction_powered

NAN = float("nan")


def test_the_mean_is_the_judges_over_all_corrected_where_people_rated():
    people, judge = np.array([3, 5, 1, NAN, NAN, NAN]), np.array([4, 7, 1, 2, 6, 3])
    found = prediction_powered(people, judge)
    tuned = found["lambda"]
    assert 0 < tuned < 1
    assert found["difference"] == pytest.approx(tuned * judge.mean() + (people[:3] - tuned * judge[:3]).mean())
    assert (found["n"], found["n_rated"]) == (6, 3)
    assert found["low"] < found["difference"] < found["high"]


def test_without_clusters_and_weights_people_alone_are_the_t_interval():
    draw = np.random.default_rng(0)
    people = np.where(np.arange(60) < 20, draw.normal(size=60), NAN)
    found = prediction_powered(people, draw.normal(size=60))
    low, high = stats.t.interval(0.95, 19, people[:20].mean(), stats.sem(people[:20]))
    assert (found["classical_low"], found["classical_high"]) == pytest.approx((low, high))


def test_clusters_of_copies_are_worth_one_value_each():
    draw = np.random.default_rng(1)
    people, judge, names = np.where(np.arange(30) < 12, draw.normal(size=30), NAN), draw.normal(size=30), np.arange(30)
    alone, copied = prediction_powered(people, judge), prediction_powered(*(np.repeat(part, 3) for part in (people, judge, names)))
    assert [copied[key] for key in ("difference", "low", "high", "p", "lambda")] == pytest.approx(
        [alone[key] for key in ("difference", "low", "high", "p", "lambda")])  # fmt: skip


def test_a_judge_that_tells_nothing_leaves_peoples_mean_and_one_with_all_rated_too():
    draw = np.random.default_rng(2)
    people = np.where(np.arange(400) < 100, draw.normal(size=400), NAN)
    for judge in (np.ones(400), -np.nan_to_num(people)):
        found = prediction_powered(people, judge)
        assert found["lambda"] == 0
        assert found["difference"] == pytest.approx(np.nanmean(people))
        assert (found["low"], found["high"]) == pytest.approx((found["classical_low"], found["classical_high"]))
    found = prediction_powered(people[:100], people[:100] + 1)
    assert (found["lambda"], found["difference"]) == (0, pytest.approx(people[:100].mean()))


def test_what_can_not_be_had_says_why():
    assert prediction_powered([], [])["reason"] == "fewer than three rated clusters"
    found = prediction_powered([1, 2, 5, NAN], [1, 2, 3, 4], ["a", "a", "b", "c"])
    assert np.isnan(found["difference"])
    assert found["reason"] == "fewer than three rated clusters"
    found = prediction_powered([2, 2, 2, NAN], [1, 1, 1, 1])
    assert (found["difference"], found["reason"]) == (2, "no spread between clusters")
    assert prediction_powered([1, 2, 4], [NAN, 1, 2])["n"] == 2  # without the judge's score a term is left out


def test_another_implementation_gives_the_same_mean_and_interval():
    if importlib.util.find_spec("ppi_py") is None:
        pytest.skip("ppi-python is not installed: pip install -e '.[dev]'")
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

    draw = np.random.default_rng(4)
    truth = draw.normal(0.3, 1, 3000)
    judge = 0.8 * truth + draw.normal(0.5, 0.7, 3000)
    people = np.where(np.arange(3000) < 600, truth, NAN)
    found = prediction_powered(people, judge)
    # theirs takes the judge's mean over the terms that people did not rate, which is ours at a smaller λ
    parts, same = (truth[:600], judge[:600], judge[600:]), found["lambda"] * 2400 / 3000
    assert found["difference"] == pytest.approx(float(ppi_mean_pointestimate(*parts, lam=same).item()), abs=1e-9)
    assert found["difference"] == pytest.approx(float(ppi_mean_pointestimate(*parts).item()), abs=2e-3)  # λ tuned by theirs
    low, high = (float(end.item()) for end in ppi_mean_ci(*parts, alpha=0.05))
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=3e-3)


def test_intervals_hold_where_the_judges_own_miss():
    """200 concepts of two terms, 40 of them rated, a judge that is .5 points too kind to one model."""
    found = coverage(300, 40, bias=0.5, noise=1.0)
    assert found["powered"] >= 0.93
    assert found["judge"] < 0.6
    assert found["people"] >= 0.93
    assert found["powered_width"] < 0.85 * found["people_width"]


def test_the_simulation_is_seeded_and_its_judge_biased():
    people, judge, _ = simulated(np.random.default_rng(5), 40, 0.5, 0.0)
    again = simulated(np.random.default_rng(5), 40, 0.5, 0.0)
    np.testing.assert_array_equal(people, again[0])
    assert np.nanmean(judge - people) == pytest.approx(0.5)
