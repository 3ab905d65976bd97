"""Influences against finite differences, against refits of a bootstrap, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as reference

from prefeval.metrics import joint_rates, length_control, resample, stats
from prefeval.metrics.calibration import GamedRows, gamed_rows
from prefeval.metrics.joint_rates import Influenced, lc_rate, mean_of, over_seeds
from prefeval.metrics.length_control import Problem

C = 2.78


def problem(make, *, quality=0.6, shift=0.4, n=200, clusters=50, gamed=False, unread=0) -> Problem:
    rng = np.random.default_rng(1)
    evidence = make(rng, quality=quality, n=n, clusters=clusters, length_shift=shift)
    found = joint_rates.problem_of(evidence, np.ones(n, dtype=bool))
    preference = found.preference.copy()
    preference[:unread] = np.nan
    return replace(found, preference=preference, gamed=_gamed(rng) if gamed else None)


def _gamed(rng) -> GamedRows:
    longer = rng.normal(0, 30, 150)
    return gamed_rows(1 / (1 + np.exp(-longer / 40)), 300 + longer, np.full(150, 300.0))


def refitted(found: Problem, weights: np.ndarray) -> float:
    coefs = found.fit(weights, C, tolerance=1e-13)
    return float(found.rates(coefs, weights)[0])


@pytest.mark.parametrize(
    "options",
    [{}, {"gamed": True}, {"unread": 9}, {"quality": 2.0, "shift": 1.0, "gamed": True}],
    ids=["plain", "gamed", "unread", "strong"],
)
def test_an_influence_is_the_derivative_of_the_refitted_rate_by_the_prompts_weight(make, options):
    found = problem(make, **options)
    rate, n, h = lc_rate(found, C), len(found.delta), 1e-3
    assert rate.value == pytest.approx(refitted(found, np.ones((1, n))), abs=1e-9)
    for i in (0, 5, 60, n - 1):
        ends = []
        for side in (h, -h):
            weights = np.ones((1, n))
            weights[0, i] += side
            ends.append(refitted(found, weights))
        assert rate.influence[i] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-8)


def test_its_standard_error_and_correlation_are_those_of_bootstrap_refits(make):
    found = problem(make, n=400, clusters=80)
    rate, codes = lc_rate(found, C), np.arange(400) % 80
    weights = resample.cluster_weights(codes, 400, 1500, np.random.default_rng(2))
    coefs = found.fit(np.ones((1, 400)), C, tolerance=1e-9)
    refits = length_control.bootstrap_rates(found, coefs, weights, C)
    own = over_seeds([rate], codes)
    assert own.stderr == pytest.approx(resample.bootstrap_stderr(refits, 80), rel=0.06)
    assert np.corrcoef(refits, weights @ rate.influence)[0, 1] > 0.98


def test_a_rate_held_at_50_by_the_penalty_is_still_uncertain(make):
    found = problem(make, quality=0.0, n=40, clusters=40)
    balanced = replace(found, preference=np.tile([0.45, 0.55], 20), difficulty=np.zeros(40))
    rate = lc_rate(balanced, C)
    assert rate.value == pytest.approx(0.5)
    assert over_seeds([rate], np.arange(40)).stderr > 0.001


def test_the_baseline_is_50_for_certain_and_lengths_apart_identify_nothing(make):
    found = problem(make)
    same = replace(found, delta=np.zeros(200), preference=np.full(200, 0.5))
    assert lc_rate(same, C).value == 0.5
    assert not lc_rate(same, C).influence.any()
    apart = replace(found, delta=np.full(200, -900.0) + np.arange(200) * 0.1)
    assert np.isnan(lc_rate(apart, C).value)
    assert "not identified" in lc_rate(apart, C).reason
    assert over_seeds([lc_rate(apart, C)], np.arange(200)).reason == lc_rate(apart, C).reason


def test_raw_rate_leaves_out_what_was_not_read(make):
    found = problem(make, unread=20)
    rate = joint_rates.raw_rate(found)
    by_hand = stats.clustered_mean(found.preference[20:])
    assert rate.value == pytest.approx(by_hand.value)
    assert np.sqrt((rate.influence**2).sum()) == pytest.approx(by_hand.stderr, rel=0.01)


def test_one_seed_of_a_mean_has_the_clustered_t_interval():
    rng = np.random.default_rng(0)
    x, codes = rng.normal(3, 2, 90), np.arange(90) % 12
    got, by_hand = over_seeds([mean_of(x)], codes), stats.clustered_mean(x, codes)
    for name in ("value", "stderr", "ci_low", "ci_high", "n"):
        assert getattr(got, name) == pytest.approx(getattr(by_hand, name)), name


def test_seeds_that_differ_widen_the_interval_by_satterthwaite():
    flat = np.zeros(30)
    prompts = np.linspace(-1, 1, 30) / 30
    seeds = [Influenced(v, prompts) for v in (1.0, 3.0)]
    got = over_seeds(seeds, np.arange(30))
    shared = 30 / 29 * (prompts**2).sum()
    between = 2.0 / 2
    freedom = (shared + between) ** 2 / (shared**2 / 29 + between**2 / 1)
    half = reference.t.ppf(0.975, freedom) * np.sqrt(shared + between)
    assert (got.value, got.ci_low) == (2.0, pytest.approx(2.0 - half))
    sure = over_seeds([Influenced(1.0, flat)], np.arange(30))
    assert (sure.ci_low, sure.ci_high) == (1.0, 1.0)


def test_one_cluster_has_no_interval():
    got = over_seeds([mean_of(np.arange(5.0))], np.zeros(5, dtype=np.intp))
    assert got.value == 2.0
    assert np.isnan(got.ci_low)
    assert got.reason == stats.ONE_CLUSTER


def test_covariance_is_the_naive_sum_over_clusters():
    rng = np.random.default_rng(3)
    rates = [Influenced(0.0, rng.normal(size=24)) for _ in range(3)]
    codes = np.arange(24) % 6
    got = joint_rates.covariance(rates, codes)
    for i in range(3):
        for j in range(3):
            sums = [
                rates[i].influence[codes == g].sum() * rates[j].influence[codes == g].sum()
                for g in range(6)
            ]
            assert got[i, j] == pytest.approx(6 / 5 * sum(sums))
