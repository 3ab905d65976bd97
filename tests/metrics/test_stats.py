"""Means, rates and their intervals, against hand values, naive loops, scipy and simulation."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats as reference

from prefeval.metrics import stats


def test_clustered_mean_of_singletons_is_the_classical_t_interval():
    x = np.array([1.0, 2.0, 4.0, 8.0, 9.0])
    got = stats.clustered_mean(x)
    low, high = reference.t.interval(0.95, 4, loc=x.mean(), scale=reference.sem(x))
    assert (got.value, got.n) == (4.8, 5)
    assert got.stderr == pytest.approx(reference.sem(x))
    assert (got.ci_low, got.ci_high) == (pytest.approx(low), pytest.approx(high))


def test_clustered_stderr_by_hand():
    # mean 2; residual sums: a = (1-2)+(2-2) = -1, b = (3-2) = 1, c = (2-2) = 0
    # variance = 3/2 * (1 + 1 + 0) / 4^2 = 0.1875
    got = stats.clustered_mean([1.0, 2.0, 3.0, 2.0], ["a", "a", "b", "c"])
    assert got.stderr == pytest.approx(math.sqrt(0.1875))


def test_copies_within_a_cluster_add_no_certainty():
    once = stats.clustered_mean([0.0, 1.0, 5.0])
    thrice = stats.clustered_mean(
        [0.0] * 3 + [1.0] * 3 + [5.0] * 3, ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    )
    assert thrice.stderr == pytest.approx(once.stderr)
    assert (thrice.ci_low, thrice.ci_high) == pytest.approx((once.ci_low, once.ci_high))


def test_one_cluster_gives_a_value_without_an_interval_and_says_why():
    got = stats.clustered_mean([1.0, 2.0], ["a", "a"])
    assert got.value == 1.5
    assert math.isnan(got.ci_low)
    assert "one cluster" in got.reason


@pytest.mark.parametrize("function", [stats.clustered_mean, stats.proportion, stats.bounded_mean])
def test_nothing_observed_is_nan_with_a_reason(function):
    got = function([])
    assert math.isnan(got.value)
    assert got.n == 0
    assert got.reason


def test_ratio_of_means_by_hand_and_by_jackknife():
    top, bottom = np.array([3.0, 5.0, 4.0, 9.0]), np.array([1.0, 2.0, 2.0, 3.0])
    got = stats.ratio_of_means(top, bottom)
    assert got.value == 21 / 8
    left_out = np.array([np.delete(top, i).sum() / np.delete(bottom, i).sum() for i in range(4)])
    jackknife = math.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum())
    assert got.stderr == pytest.approx(jackknife, rel=0.15)  # equal to first order


def test_log_scale_interval_of_a_ratio_is_inverted_with_it():
    top, bottom = np.array([3.0, 5.0, 4.0, 9.0]), np.array([1.0, 2.0, 2.0, 3.0])
    a = stats.ratio_of_means(top, bottom, log_scale=True)
    b = stats.ratio_of_means(bottom, top, log_scale=True)
    assert (1 / a.ci_high, 1 / a.ci_low) == pytest.approx((b.ci_low, b.ci_high))


def test_wilson_matches_scipy():
    for k, n in ((0, 10), (3, 10), (10, 10), (37, 64)):
        low, high = stats.wilson(k / n, n, stats.z_quantile(0.95))
        want = reference.binomtest(k, n).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((want.low, want.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 50), (1, 200), (50, 50), (796, 800)])
def test_binomial_interval_is_exact_near_the_ends(k, n):
    exact = reference.binomtest(k, n).proportion_ci(method="exact")
    got = stats.binomial_interval(k / n, n, stats.z_quantile(0.95))
    assert got == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 50), (7, 20), (180, 200), (3, 3)])
def test_binomial_interval_leaves_half_of_what_was_seen_in_each_tail(k, n):
    """Summed over the binomial: P(X < k) + P(X = k)/2 is 2.5% at the upper end."""
    low, high = stats.binomial_interval(k / n, n, stats.z_quantile(0.95))
    counts = np.arange(n + 1)
    weight = np.where(counts == k, 0.5, 1.0)
    if k < n:
        below = reference.binom.pmf(counts, n, high) * weight
        assert below[counts <= k].sum() == pytest.approx(0.025)
    if k > 0:
        above = reference.binom.pmf(counts, n, low) * weight
        assert above[counts >= k].sum() == pytest.approx(0.025)
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


@given(st.floats(0, 1), st.floats(0.2, 1e5), st.floats(0.5, 40))
@example(0.5, 34832.0, 8.0)  # a tail that 1 less itself would round away
@example(0.25857775295644436, 5.630411543019514, 33.65432459147596)
def test_binomial_interval_holds_its_rate_for_any_size(p, n, quantile):
    low, high = stats.binomial_interval(p, n, quantile)
    assert 0 <= low <= p + 1e-9
    assert p - 1e-9 <= high <= 1


@pytest.mark.parametrize("n", [50, 64, 100, 200, 400, 800])
def test_proportion_intervals_cover_any_rate(n):
    """Exact coverage, summed over the binomial, of 95% intervals.

    Between 10 and 90% the chance of a rate is lumpy: at n = 50 single rates go down to 93.3% and
    up to 97.3%. Nearer 0 and 1 nothing is below 93.5%.
    """
    k = np.arange(n + 1)
    z = stats.z_quantile(0.95)
    ends = np.array([stats.binomial_interval(x / n, n, z) for x in k])

    def cover(rate: float) -> float:
        inside = (ends[:, 0] <= rate) & (rate <= ends[:, 1])
        return float(reference.binom.pmf(k, n, rate)[inside].sum())

    stated = [cover(rate / 100) for rate in range(10, 91, 5)]
    assert 0.935 <= min(stated) <= max(stated) <= 0.965 or n == 64
    near = [cover(rate) for rate in np.arange(0.0005, 0.1, 0.0005)]
    assert min(near) >= 0.935
    every = [cover(rate) for rate in np.linspace(0.1, 0.9, 161)]
    assert 0.93 <= min(every) <= max(every) <= (0.975 if n < 200 else 0.965)
    assert 0.945 <= np.mean(every) <= 0.96


@pytest.mark.parametrize(("p", "clusters"), [(0.05, 40), (0.3, 40), (0.6, 16)])
def test_clustered_intervals_cover_when_prompts_of_a_family_agree(p, clusters):
    """64 prompts in families whose rates are Beta(8p, 8(1-p)); 4000 repeats, SE 0.35 points."""
    rng = np.random.default_rng(1)
    family = np.arange(64) % clusters
    hits = np.zeros(2)
    for _ in range(4000):
        rate = rng.beta(8 * p, 8 * (1 - p), clusters)[family]
        wins = (rng.random((2, 64)) < rate).astype(float)
        share = stats.proportion(wins[0], family)
        mean = stats.bounded_mean(wins.mean(axis=0), family)
        hits += [share.ci_low <= p <= share.ci_high, mean.ci_low <= p <= mean.ci_high]
    assert (hits / 4000 >= 0.93).all()
    assert (hits / 4000 <= (0.995 if p < 0.1 else 0.97)).all()  # near 0: conservative allowed


@pytest.mark.parametrize("n", [50, 200])
def test_mean_intervals_cover_a_skewed_score(n):
    """Gamma(2) scores such as a KL; 2000 repeats, SE 0.5 points."""
    x = np.random.default_rng(2).gamma(2, 1, (2000, n))
    ends = [(e.ci_low, e.ci_high) for e in map(stats.clustered_mean, x)]
    cover = np.mean([low <= 2 <= high for low, high in ends])
    assert 0.93 <= cover <= 0.965


def test_bounded_mean_of_zeros_and_ones_is_nearly_wilson():
    x = np.array([1.0] * 30 + [0.0] * 20)
    got = stats.bounded_mean(x)
    want = reference.binomtest(30, 50).proportion_ci(method="wilson")
    assert (got.ci_low, got.ci_high) == pytest.approx((want.low, want.high), abs=0.006)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
@example([0.0, 8e-156])  # whose n* squared is no float
def test_bounded_mean_stays_in_bounds_and_around_its_value(scores):
    got = stats.bounded_mean(scores)
    assert 0 <= got.ci_low <= got.value + 1e-9
    assert got.value - 1e-9 <= got.ci_high <= 1


def test_design_effect_by_hand():
    # two clusters of two equal values: variance of the mean doubles, and 4/3 -> 2/1 by ddof
    got = stats.design_effect([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"])
    plain = np.var([0, 0, 1, 1], ddof=1) / 4  # 1/12
    clustered = 2 / 1 * (0.25**2 + 0.25**2)  # residual sums +-1/2 * 2 / 4
    assert got == pytest.approx(clustered / plain)


def test_mcnemar_matches_the_binomial_test():
    for gained, lost in ((1, 5), (0, 6), (4, 4), (12, 3)):
        want = reference.binomtest(gained, gained + lost, 0.5).pvalue
        assert stats.mcnemar_exact(gained, lost) == pytest.approx(want)
    assert stats.mcnemar_exact(0, 0) == 1


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert len(stats.holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_benjamini_hochberg_matches_scipy(p_values):
    want = reference.false_discovery_control(p_values)
    assert stats.benjamini_hochberg(p_values) == pytest.approx(want)
    assert len(stats.benjamini_hochberg([])) == 0


def test_false_discoveries_are_at_most_the_share_promised():
    """15 true nulls beside 5 real effects; 2000 boards."""
    rng = np.random.default_rng(3)
    z = rng.normal(0, 1, (2000, 20))
    z[:, :5] += 3
    p = 2 * reference.norm.sf(np.abs(z))
    called = np.array([stats.benjamini_hochberg(row) for row in p]) <= 0.1
    false = called[:, 5:].sum(axis=1) / np.maximum(called.sum(axis=1), 1)
    assert 0.06 <= false.mean() <= 0.085  # 0.1 times the share of true nulls, 0.75
    assert called[:, :5].mean() > 0.6


def test_the_detectable_effect_is_found_as_often_as_promised():
    """4000 samples of 200 differences whose mean is the effect; SE of the power 0.6 points."""
    effect = stats.detectable_effect(0.4, 200)
    assert stats.required_n(0.4, effect) in (200, 201)
    x = np.random.default_rng(4).normal(effect, 0.4, (4000, 200))
    shown = np.abs(x.mean(axis=1)) > 1.96 * x.std(axis=1, ddof=1) / math.sqrt(200)
    assert shown.mean() == pytest.approx(0.8, abs=0.02)
    with pytest.raises(ValueError):
        stats.required_n(0.4, 0)


@pytest.mark.parametrize("n", [50, 200, 800])
@pytest.mark.parametrize("kind", ["normal", "verdicts", "uniform", "weighted"])
def test_intervals_of_continuous_scores_cover(n, kind):
    """4000 repeats, SE 0.35 points; preferences from a judge as well as scores without bounds."""
    rng = np.random.default_rng(5)
    x, truth, interval = {
        "normal": lambda: (rng.normal(1, 2, (4000, n)), 1.0, stats.clustered_mean),
        "uniform": lambda: (rng.random((4000, n)), 0.5, stats.bounded_mean),
        "verdicts": lambda: (
            rng.choice([0, 0.5, 1], (4000, n), p=[0.3, 0.2, 0.5]), 0.6, stats.bounded_mean),
        "weighted": lambda: (rng.beta(0.4, 0.6, (4000, n)), 0.4, stats.bounded_mean),
    }[kind]()  # fmt: skip
    hits = [e.ci_low <= truth <= e.ci_high for e in map(interval, x)]
    assert 0.935 <= np.mean(hits) <= 0.965


def test_scaling_an_estimate_scales_all_but_n():
    got = stats.clustered_mean([0.1, 0.2, 0.4]).scaled(100)
    plain = stats.clustered_mean([0.1, 0.2, 0.4])
    assert got.n == 3
    assert (got.value, got.stderr, got.ci_low) == pytest.approx(
        (100 * plain.value, 100 * plain.stderr, 100 * plain.ci_low)
    )


@pytest.mark.parametrize(
    ("n", "a_cluster", "rho"), [(60, 1, 0.0), (60, 1, 0.6), (128, 2, -0.4), (128, 4, 0.5)]
)
def test_rank_correlation_covers_that_of_normal_variables(n, a_cluster, rho):
    """Of two normal variables it is 6/pi asin(rho/2) (Pearson 1907)."""
    rng, truth, runs = np.random.default_rng(0), 6 / np.pi * np.arcsin(rho / 2), 800
    clusters = np.repeat(np.arange(n // a_cluster), a_cluster)
    covered = 0
    for _ in range(runs):
        common = rng.normal(size=(2, n // a_cluster, 1))
        own = rng.normal(size=(2, n // a_cluster, a_cluster))
        x, noise = (common + own) if a_cluster > 1 else own
        y = rho * x + np.sqrt(1 - rho**2) * noise
        found = stats.rank_correlation(x.ravel(), y.ravel(), clusters)
        covered += found.ci_low <= truth <= found.ci_high
    assert 0.92 <= covered / runs <= 0.97


def test_rank_correlation_is_scipys_and_undefined_without_spread():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 5, 40)
    y = x + rng.integers(0, 5, 40)
    assert stats.rank_correlation(x, y).value == pytest.approx(reference.spearmanr(x, y)[0])
    assert np.isnan(stats.rank_correlation(np.ones(9), np.arange(9)).value)
