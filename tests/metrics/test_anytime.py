"""A test that may be looked at any time: its level at every look, its power, a naive loop."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.metrics.anytime import anytime_bounds

REPEATS = 1000


def naive_e_value(x: list[float], null: float, alpha: float) -> float:
    """The capitals of one null mean, from their definitions."""
    up = down = 1.0
    for i, score in enumerate(x, 1):
        past = x[: i - 1]
        means = [(0.5 + sum(past[: j + 1])) / (j + 2) for j in range(len(past))]
        variance = (0.25 + sum((a - m) ** 2 for a, m in zip(past, means, strict=True))) / i
        bet = math.sqrt(2 * math.log(2 / alpha) / (variance * i * math.log(i + 1)))
        up *= 1 + min(bet, 0.5 / null) * (score - null)
        down *= 1 - min(bet, 0.5 / (1 - null)) * (score - null)
    return (up + down) / 2


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from([0.3, 0.5, 0.777]))
def test_the_e_value_is_the_naive_loops(scores, null):
    got = anytime_bounds(scores, null=null).e_value
    assert got[-1] == pytest.approx(naive_e_value(scores, null, 0.05), rel=1e-9)


@pytest.mark.parametrize("kind", ["coin", "skewed", "verdicts"])
def test_looking_after_every_judgment_keeps_the_level(kind):
    """400 judgments, a look after each: the truth is lost, or the null rejected, in at most 5%.

    Of 1000 repeats, 5% plus three standard errors of 0.7 points. A t interval looked at as often
    loses it in a quarter: the negative control.
    """
    rng = np.random.default_rng(0)
    lost = rejected = naive = 0
    for _ in range(REPEATS):
        match kind:
            case "coin":
                x, mean = (rng.random(400) < 0.5).astype(float), 0.5
            case "skewed":
                x, mean = rng.beta(0.5, 4.5, 400), 0.1
            case _:
                x, mean = rng.choice([0, 0.5, 1], 400, p=[0.3, 0.4, 0.3]), 0.5
        got = anytime_bounds(x, null=mean)
        lost += bool((got.ci_low > mean).any() or (got.ci_high < mean).any())
        rejected += bool((got.e_value >= 20).any())
        i = np.arange(1, 401)
        running = x.cumsum() / i
        se = np.sqrt(np.maximum((x**2).cumsum() / i - running**2, 1e-12) / i)
        naive += bool((np.abs(running - mean) > 1.96 * se)[20:].any())
    assert lost / REPEATS <= 0.071
    assert rejected / REPEATS <= 0.071
    assert naive / REPEATS > 0.2


def test_a_real_difference_is_found_and_the_interval_narrows():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        x = (rng.random(1500) < 0.6).astype(float)
        got = anytime_bounds(x)
        assert (np.diff(got.ci_low) >= 0).all()
        assert (np.diff(got.ci_high) <= 0).all()
        found.append(got.ci_low[-1] > 0.5)
    assert np.mean(found) > 0.95
    assert got.ci_high[-1] - got.ci_low[-1] < 0.12


def test_swapping_sides_mirrors_the_bounds():
    x = np.random.default_rng(2).random(100)
    a, b = anytime_bounds(x), anytime_bounds(1 - x)
    assert a.ci_low == pytest.approx(1 - b.ci_high, abs=1e-9)
    assert a.e_value == pytest.approx(b.e_value)


@pytest.mark.parametrize("bad", [[0.5, 1.2], [-0.1], [math.nan]])
def test_scores_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        anytime_bounds(bad)
