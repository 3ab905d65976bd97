"""Bends of curves: planted ones, none, and a naive search."""

import numpy as np
import pytest

from prefeval.metrics.bends import break_point


def test_a_bend_without_noise_is_found_where_it_is():
    x = np.arange(1, 101)
    found = break_point(x, 3 + 0.1 * x - 0.7 * np.maximum(x - 40, 0))
    assert (found.step, found.ci_low, found.ci_high) == (40, 40, 40)
    assert (found.slope_before, found.slope_after) == pytest.approx((0.1, -0.6))
    assert found.shown


def test_the_knot_is_the_one_that_a_search_over_all_finds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = np.sort(rng.choice(500, 60, replace=False)).astype(float)
        y = np.cumsum(rng.normal(size=60)) - 0.05 * np.maximum(x - 300, 0)

        def remains(knot, x=x, y=y):
            basis = np.stack([np.ones(60), x, np.maximum(x - knot, 0)], axis=1)
            return float(np.square(y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]).sum())

        found = break_point(x, y)
        assert remains(found.step) == pytest.approx(min(remains(k) for k in x[6:-6]))


@pytest.mark.parametrize(("rho", "at_most"), [(0.0, 0.03), (0.5, 0.06)])
def test_a_straight_line_seldom_has_a_bend(rho, at_most):
    """Nominally 1%; noise that depends on itself is allowed for only in part."""
    rng, x = np.random.default_rng(1), np.arange(150)
    shown = 0
    for _ in range(300):
        noise = np.zeros(150)
        for i, e in enumerate(rng.normal(size=150)):
            noise[i] = (rho * noise[i - 1] if i else 0) + e
        shown += break_point(x, -0.02 * x + noise).shown
    assert shown / 300 <= at_most


def test_the_interval_covers_the_bend_and_a_clear_one_is_shown():
    rng, x, covered, shown = np.random.default_rng(2), np.arange(200), 0, 0
    for _ in range(300):
        knot = rng.integers(50, 150)
        found = break_point(x, -0.05 * np.maximum(x - knot, 0) + rng.normal(size=200))
        covered += found.ci_low <= knot <= found.ci_high
        shown += found.shown and found.slope_after < found.slope_before
    assert covered / 300 >= 0.91
    assert shown / 300 >= 0.9


def test_what_has_no_answer_says_why():
    assert "fewer than 20" in break_point(range(10), range(10)).reason
    assert "straight line" in break_point(range(50), np.zeros(50)).reason
    gaps = break_point(range(50), [np.nan] * 35 + [1.0] * 15)
    assert "fewer than 20" in gaps.reason
    assert gaps.n == 15
    assert not gaps.shown
