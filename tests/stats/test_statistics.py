"""Each expectation is worked out by hand in the test or its comment."""

import math
import warnings

import krippendorff
import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from xlm_utils.stats import paired
from xlm_utils.stats import statistics as st

NAN = math.nan


@pytest.fixture(autouse=True)
def _no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_describe_leaves_missing_scores_out_and_bounds_what_they_could_do():
    found = st.describe([2, 4, 9, NAN, NAN], ["ok", "ok", "ok", "refusal", "length"])
    assert (found["n"], found["missing"], found["statuses"]) == (3, 2, {"refusal": 1, "length": 1})
    assert (found["median"], found["mean"]) == (4, 5)
    assert found["std"] == pytest.approx(math.sqrt((9 + 1 + 16) / 2))  # ddof 1
    assert (found["mean_low"], found["mean_high"]) == (15 / 5, 35 / 5)


def test_describe_of_only_missing_scores_is_nan_with_a_reason_and_the_whole_range():
    found = st.describe([NAN, NAN])
    assert math.isnan(found["mean"])
    assert (found["mean_low"], found["mean_high"], found["reason"]) == (0, 10, "no score")


@pytest.mark.parametrize(("values", "reason"), [
    ([], "fewer than two scores"), ([3.0], "fewer than two scores"), ([NAN, NAN, 1], "fewer than two scores"),
    ([5, 5, 5, 5], "all 4 scores are equal"),
])  # fmt: skip
def test_no_interval_is_nan_and_a_reason(values, reason):
    low, high, why = st.mean_interval(values)
    assert math.isnan(low)
    assert math.isnan(high)
    assert why == reason


def test_mean_interval_of_four_terms_lies_inside_their_range_around_the_mean():
    low, high, reason = st.mean_interval([0, 2, 4, 10])
    assert 0 <= low < 4 < high <= 10
    assert reason == ""


def test_mean_interval_of_symmetric_data_is_near_the_normal_one_and_repeats_with_its_seed():
    values = np.tile(np.arange(11.0), 100)
    low, high, _ = st.mean_interval(values, seed=3)
    half = 1.96 * math.sqrt(10 / 1100)  # variance of 0..10 is 10
    assert (low, high) == (pytest.approx(5 - half, abs=0.02), pytest.approx(5 + half, abs=0.02))
    assert st.mean_interval(values, seed=3) == (low, high, "")


def test_bca_reaches_further_into_the_tail_than_the_percentiles_do():
    values = np.array([0.0] * 18 + [10, 10])
    low, high, _ = st.mean_interval(values)
    plain = scipy_stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert high > plain.high + 0.4
    assert low >= plain.low


def test_rank_biserial_ranks_zeros_and_then_leaves_them_out():
    # |d| 0 1 2 3 have ranks 1 2 3 4: up 2 + 4, down 3 → (6 − 3) / 9
    assert st.rank_biserial([0, 1, -2, 3]) == pytest.approx(3 / 9)
    assert st.rank_biserial([1, 2, 3]) == 1
    assert math.isnan(st.rank_biserial([0, 0]))


def test_wilcoxon_of_four_equal_signs_is_exact():
    # no ties, no zeros: P(all four signs equal) = 2 / 2⁴
    assert st.compare([1, 2, 3, 4], [0, 0, 0, 0])["p"] == pytest.approx(2 / 16)


def test_wilcoxon_uses_pratts_zeros():
    # |d| 0 1 2: ranks 1 2 3, up 2 + 3 of the four sign patterns {5, −1, 1, −5}: P = 2/4 two-sided
    assert st.compare([0, 1, 2], [0, 0, 0])["p"] == pytest.approx(2 / 4)
    ignoring = scipy_stats.wilcoxon(np.r_[np.zeros(20), np.arange(1, 41.0)], zero_method="wilcox").pvalue
    assert st.compare(np.r_[np.zeros(20), np.arange(1, 41.0)], np.zeros(60))["p"] != pytest.approx(ignoring)


@pytest.mark.parametrize(("changes", "p"), [([1, 2, 3, 4, 5], 2 / 32), ([1, 2, 3, -4, 5], 10 / 32), ([5], 1)])
def test_few_changes_among_many_ties_are_counted_through(changes, p):
    """SciPy's own choice, a normal approximation, has .026 for the first (findings/scipy-wilcoxon-pratt-exact.sh)."""
    assert st.compare([*changes, *[0] * 20], [0] * (len(changes) + 20))["p"] == pytest.approx(p)


def test_whole_scores_of_a_study_s_first_hour_are_counted_through_and_many_terms_are_scipy_s():
    draw = np.random.default_rng(5)
    few, many = draw.integers(-2, 4, 24), draw.normal(0.3, 1, 160)
    ranks = st.signed_ranks(few.astype(float))
    drawn = np.abs(draw.choice([-1, 1], (100_000, len(ranks))) @ ranks) >= abs(ranks.sum())
    assert st.compare(few, np.zeros(24))["p"] == pytest.approx(drawn.mean(), abs=0.005)
    assert st.compare(many, np.zeros(160))["p"] == pytest.approx(scipy_stats.wilcoxon(np.round(many, 9), zero_method="pratt").pvalue)


def test_comparison_pairs_by_term_and_drops_terms_with_one_score_missing():
    found = st.compare([1, NAN, 5, 4], [0, 3, NAN, 1])
    assert (found["n"], found["difference"], found["ties"]) == (2, (1 + 3) / 2, 0)


def test_differences_equal_on_paper_tie():
    found = st.compare([0.3, 0.4, 0.9], [0.1, 0.2, 0.7])  # .2 each, unequal in binary
    assert found["reason"] == "all 3 differences are equal"


@pytest.mark.parametrize(("a", "b", "reason"), [
    ([NAN] * 4, [1, 2, 3, 4], "fewer than two differences"),
    ([1, 2, 3, 4], [1, 2, 3, 4], "all 4 differences are equal"),
    ([], [], "fewer than two differences"),
])  # fmt: skip
def test_nothing_to_compare_is_nan_with_a_reason(a, b, reason):
    found = st.compare(a, b)
    assert found["reason"] == reason
    assert all(math.isnan(found[key]) for key in ("low", "p", "rank_biserial", "cluster_low", "detectable"))


def test_cluster_interval_is_the_hand_worked_one():
    # clusters of residuals from the mean 3: (−2, −1), (0, 0), (3) → sums −3, 0, 3 → meat 18
    # variance = 18 / 5² · G/(G−1) · (n−1)/(n−k) = 18/25 · 3/2 · 4/4; t with 2 degrees of freedom: 4.3027
    interval, count = st.cluster_interval([1, 2, 3, 3, 6], ["a", "a", "b", "b", "c"])
    half = 4.302652729 * math.sqrt(18 / 25 * 3 / 2)
    assert count == 3
    assert interval[:2] == (pytest.approx(3 - half), pytest.approx(3 + half))


def test_a_term_without_a_parent_is_a_cluster_of_its_own():
    assert st.cluster_interval([1, 2, 3, 4], ["", None, NAN, "a"])[1] == 4


def test_one_cluster_or_clusters_that_agree_give_no_interval():
    interval, count = st.cluster_interval([1, 2, 3], ["a", "a", "a"])
    assert (count, interval.reason) == (1, "one cluster only")
    assert st.cluster_interval([-1, 1, -1, 1], ["a", "a", "b", "b"])[0].reason == "no spread between clusters"


def test_correlated_terms_widen_the_cluster_interval():
    values = np.repeat([-2.0, -1, 0, 1, 2, 3], 10)
    robust, _ = st.cluster_interval(values, np.repeat(list("abcdef"), 10))
    alone, _ = st.cluster_interval(values, [""] * 60)
    assert robust.high - robust.low > 2 * (alone.high - alone.low)


def test_holm_steps_down_and_counts_the_untestable():
    # sorted .01 .03 .04 → ·3, ·2, ·1 → .03 .06 .04, made monotone: .06
    assert st.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    adjusted = st.holm([0.01, NAN])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    assert len(st.holm([])) == 0


def test_holm_is_statsmodels_and_does_not_collect_garbage(monkeypatch):
    collected = []
    monkeypatch.setattr("gc.collect", lambda *_: collected.append(1))  # beside a study's data it takes seconds
    drawn = np.random.default_rng(0).random((50, 12)).round(2) ** 3  # some are equal
    found = [st.holm(row) for row in drawn]
    assert not collected
    assert np.array_equal(found, [multipletests(row, method="holm")[1] for row in drawn])


def test_detectable_difference_is_the_planning_formula():
    # large n: (1.96 + .8416) · sd / √n
    differences = np.tile([-1.0, 1.0], 5000)
    assert st.detectable_difference(differences) == pytest.approx(2.8016 / 100, rel=1e-3)
    assert st.detectable_difference([0, 1, 2, 5]) > 1
    assert math.isnan(st.detectable_difference([1, 2]))


def test_kappa_is_over_the_whole_scale_and_matches_the_hand_worked_table():
    # one disagreement by 2 in 4; weights (i − j)²: observed 4/4, expected of the margins a {0 0 10 10}, b {0 2 10 10}
    # pairs of margins: 0 against 0 2 10 10 → 0+4+100+100, twice; 10 against → 100+64+0+0, twice: 736/16
    found = paired.agreement([0, 0, 10, 10], [0, 2, 10, 10])
    assert found["kappa"] == pytest.approx(1 - (4 / 4) / (736 / 16))
    assert found["bias"] == -0.5


def test_scores_that_never_occur_still_count_as_steps_of_the_scale():
    # without the labels 0..10 the scores 0 and 10 would be neighbours, as 0 and 1 are
    close, far = paired.agreement([0, 0, 1, 10], [0, 1, 1, 10]), paired.agreement([0, 0, 10, 10], [0, 10, 10, 10])
    assert close["kappa"] > 0.9 > far["kappa"]


def test_perfect_agreement_is_one_by_every_coefficient():
    found = paired.agreement([1, 5, 9, NAN], [1, 5, 9, 3])
    assert (found["n"], found["kappa"], found["spearman"], found["bias"]) == (3, 1, pytest.approx(1), 0)
    assert found["alpha"] == pytest.approx(1)


def test_ordinal_alpha_is_that_of_the_package_krippendorff_with_missing_scores_and_any_number_of_judges():
    draw = np.random.default_rng(7)
    for judges, answers, missing in [(2, 40, 0), (2, 40, 0.3), (3, 25, 0.2), (5, 8, 0.5)]:
        truth = draw.integers(0, 11, answers)
        scores = np.clip(truth + draw.integers(-3, 4, (judges, answers)), 0, 10).astype(float)
        scores[draw.random(scores.shape) < missing] = NAN
        known = krippendorff.alpha(scores, value_domain=list(range(11)), level_of_measurement="ordinal")
        assert paired.ordinal_alpha(scores) == pytest.approx(known, abs=1e-12)


@pytest.mark.parametrize("scores", [[[7, 7, 7], [7, 7, 7]], [[1, NAN], [NAN, 2]], [[NAN, NAN], [NAN, NAN]], [[], []], [[3, 3, 9], [3, 3, NAN]]])
def test_ordinal_alpha_of_judges_that_share_no_answer_or_give_one_score_to_all_is_nan(scores):
    assert math.isnan(paired.ordinal_alpha(scores))


def test_krippendorffs_published_ordinal_example():
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", C and D without their missing units
    c = [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN]
    d = [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN]
    pairs = [(x, y) for x, y in zip(c, d, strict=True) if x == x and y == y]
    values = [x for pair in pairs for x in pair]
    count = {v: values.count(v) for v in set(values)}

    def distance(x, y):  # ordinal metric: (sum of the counts from x to y − half the ends)²
        low, high = sorted((x, y))
        return (sum(count.get(v, 0) for v in range(int(low), int(high) + 1)) - (count[low] + count[high]) / 2) ** 2 if x != y else 0

    observed = 2 * sum(distance(x, y) for x, y in pairs)
    expected = sum(distance(x, y) for x in values for y in values) / (len(values) - 1)
    assert paired.agreement(c, d)["alpha"] == pytest.approx(1 - observed / expected)


@pytest.mark.parametrize(("a", "b", "reason"), [
    ([NAN, 1], [1, NAN], "fewer than two answers with both scores"),
    ([5, 5, 5], [5, 5, 5], "the first and the second judge gives one score to everything"),
    ([5, 5, 5], [1, 2, 3], "the first judge gives one score to everything"),
])  # fmt: skip
def test_a_judge_without_variation_has_no_rank_correlation_and_a_reason(a, b, reason):
    found = paired.agreement(a, b)
    assert math.isnan(found["spearman"])
    assert found["reason"] == reason


def test_models_in_reverse_order_have_tau_minus_one():
    assert paired.same_order([1, 2, 3, 4], [4, 3, 2, 1])["tau"] == -1
    assert paired.same_order([1, 2, 3], [1, 3, 2])["tau"] == pytest.approx(1 / 3)  # 2 of 3 pairs agree: (2 − 1) / 3
    assert math.isnan(paired.same_order([1, NAN], [1, 2])["tau"])
    assert math.isnan(paired.same_order([1, 1], [1, 2])["tau"])


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_tiny_samples_of_every_shape_neither_warn_nor_fail(n):
    draw = np.random.default_rng(n)
    for _ in range(25):
        a, b = draw.integers(0, 3, (2, n)).astype(float)
        a[draw.random(n) < 0.3] = NAN
        st.describe(a)
        st.mean_interval(a)
        st.compare(a, b, clusters=["p", "p", "q", "", None][:n])
        paired.agreement(a, b)
        paired.same_order(a, b)
