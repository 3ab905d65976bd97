"""Curves with a planted turning point."""

import math

import numpy as np
import pytest
from scipy import optimize

from prefeval.metrics.overoptimisation import fit

DISTANCES = np.linspace(0.3, 6, 24)
TRUTH = {"rl": (8.0, 4.0), "best_of_n": (8.0, 1.3)}


def gains(form, d, alpha, beta):
    return d * (alpha - beta * (np.log(d) if form == "rl" else d))


@pytest.mark.parametrize("form", ["rl", "best_of_n"])
def test_a_curve_without_noise_is_found_to_the_last_digit(form):
    alpha, beta = TRUTH[form]
    y = gains(form, DISTANCES, alpha, beta)
    got = fit(DISTANCES, y, np.full(24, 0.01), rng=np.random.default_rng(0), form=form)
    assert (got.alpha, got.beta) == pytest.approx((alpha, beta))
    assert got.at(DISTANCES) == pytest.approx(y)
    peak = optimize.minimize_scalar(
        lambda d: -gains(form, d, alpha, beta), bounds=(0.1, 9), method="bounded"
    ).x
    assert got.turning_point == pytest.approx(peak, rel=1e-4)


@pytest.mark.parametrize("form", ["rl", "best_of_n"])
def test_the_turning_points_interval_covers_it(form):
    """400 repeats, SE 1.1 points."""
    rng = np.random.default_rng(1)
    alpha, beta = TRUTH[form]
    true = math.exp(alpha / beta - 1) if form == "rl" else alpha / (2 * beta)
    hits = 0
    for _ in range(400):
        y = gains(form, DISTANCES, alpha, beta) + rng.normal(0, 1, 24)
        got = fit(DISTANCES, y, np.ones(24), rng=rng, form=form)
        hits += got.ci_low <= true <= got.ci_high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_curve_that_still_rises_has_no_turning_point():
    rng = np.random.default_rng(2)
    y = 5 * DISTANCES + rng.normal(0, 1, 24)
    got = fit(DISTANCES, y, np.ones(24), rng=rng)
    assert math.isnan(got.turning_point)
    assert "not shown to turn within the distances reached (up to 6.00)" in got.reason


def test_noise_alone_rarely_turns():
    """200 flat curves: a turning point is claimed at most now and then."""
    rng = np.random.default_rng(3)
    claims = [
        not math.isnan(fit(DISTANCES, rng.normal(0, 1, 24), np.ones(24), rng=rng).turning_point)
        for _ in range(200)
    ]
    assert np.mean(claims) <= 0.1


def test_too_few_distances_say_so():
    got = fit([0, 1, 1, 2, 3], [0, 1, 1, 2, 3], [1] * 5, rng=np.random.default_rng(0))
    assert math.isnan(got.alpha)
    assert "fewer than 4 distances" in got.reason
