"""Cluster bootstrap and simultaneous intervals."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from prefeval.metrics import resample, stats


def test_members_of_a_cluster_share_their_weight_and_clusters_sum_to_their_number():
    clusters = np.array(["a", "b", "a", "c", "c"])
    w = resample.cluster_weights(clusters, 5, 200, np.random.default_rng(0))
    assert w.shape == (200, 5)
    assert (w[:, 0] == w[:, 2]).all()
    assert (w[:, 3] == w[:, 4]).all()
    assert (w[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_bootstrap_stderr_of_a_mean_is_the_clustered_stderr():
    """Also with six clusters, where the bootstrap's own variance is 5/6 of it."""
    rng = np.random.default_rng(1)
    family = np.repeat(np.arange(6), 5)
    x = rng.normal(size=30) + rng.normal(size=6)[family]
    w = resample.cluster_weights(family, 30, 20000, rng)
    means = (w * x).sum(axis=1) / w.sum(axis=1)
    want = stats.clustered_mean(x, family).stderr
    assert resample.bootstrap_stderr(means, 6) == pytest.approx(want, rel=0.03)


def test_logit_interval_is_symmetric_in_the_odds_and_stays_inside():
    low, high = resample.logit_interval(0.9, 0.05, 1.96)
    odds = lambda p: p / (1 - p)  # noqa: E731
    assert odds(low) * odds(high) == pytest.approx(odds(0.9) ** 2)
    assert 0 < resample.logit_interval(0.999, 0.2, 1.96)[0] < 0.999
    assert math.isnan(resample.logit_interval(math.nan, 0.1, 1.96)[0])


def test_max_t_of_one_estimate_is_its_own_interval():
    draws = np.random.default_rng(2).normal(0, 2, (20000, 1))
    got = resample.max_t([1.0], draws)
    assert got.critical == pytest.approx(1.96, abs=0.04)
    assert (got.ci_low[0], got.ci_high[0]) == pytest.approx((1 - 3.92, 1 + 3.92), abs=0.12)


def test_max_t_critical_value_of_independent_estimates_is_sidaks():
    draws = np.random.default_rng(3).normal(size=(20000, 10))
    sidak = reference.norm.ppf(0.5 + 0.95 ** (1 / 10) / 2)
    assert resample.max_t(np.zeros(10), draws).critical == pytest.approx(sidak, abs=0.05)


def test_max_t_pays_nothing_for_copies_of_one_estimate():
    draws = np.repeat(np.random.default_rng(4).normal(size=(20000, 1)), 10, axis=1)
    assert resample.max_t(np.zeros(10), draws).critical == pytest.approx(1.96, abs=0.04)


def test_max_t_intervals_hold_together_at_their_level():
    """Ten correlated means, 60 prompts, 600 repeats (SE 0.9 points)."""
    rng = np.random.default_rng(5)
    mixed = np.full((10, 10), 0.5) + 0.5 * np.eye(10)
    root = np.linalg.cholesky(mixed)
    hits = 0
    for _ in range(600):
        x = rng.normal(size=(60, 10)) @ root.T
        w = resample.cluster_weights(None, 60, 300, rng)
        got = resample.max_t(x.mean(axis=0), w @ x / 60)
        hits += bool(((got.ci_low <= 0) & (got.ci_high >= 0)).all())
    assert 0.91 <= hits / 600 <= 0.97


def test_an_estimate_that_never_varies_is_known_exactly():
    draws = np.stack([np.zeros(100), np.random.default_rng(6).normal(size=100)], axis=1)
    got = resample.max_t([0.0, 1.0], draws)
    assert (got.ci_low[0], got.ci_high[0]) == (0, 0)
    assert got.ci_high[1] > 1
