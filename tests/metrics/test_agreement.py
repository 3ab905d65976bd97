"""Agreement of two judges by hand, against scikit-learn's formula, and where kappa says nothing."""

import math

import numpy as np
import pytest

from prefeval.metrics.agreement import agreement


def measure(a, b, clusters=None):
    return {r.name: r for r in agreement(a, b, clusters, rng=np.random.default_rng(0))}


def test_agreement_and_kappa_by_hand():
    # winners:   + + + - - 0 0 - | + + - - + 0 + -
    a = [1, 0.9, 0.6, 0, 0.2, 0.5, 0.5, 0.4]
    b = [1, 0.7, 0.1, 0, 0.8, 0.5, 0.9, 0.3]
    got = measure(a, b)
    assert got["agreement"].value == pytest.approx(100 * 5 / 8)
    expected = (3 * 4 + 3 * 3 + 2 * 1) / 64
    assert got["kappa"].value == pytest.approx((5 / 8 - expected) / (1 - expected))
    assert got["kappa"].ci_low < got["kappa"].value < got["kappa"].ci_high


def test_a_skewed_judge_agrees_by_chance_and_kappa_says_so():
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 4000)) < 0.95).astype(float)
    got = measure(a, b)
    assert got["agreement"].value > 88
    assert got["kappa"].value == pytest.approx(0, abs=0.05)


def test_the_interval_of_kappa_covers():
    """300 samples of 150 comparisons; nominal 95%, SE 1.3 points."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        a = rng.choice([0, 1], 150)
        b = np.where(rng.random(150) < 0.8, a, 1 - a)
        got = measure(a, b)["kappa"]
        hits += got.ci_low <= 0.6 <= got.ci_high
    assert 0.91 <= hits / 300 <= 0.985


def test_one_answer_to_everything_has_no_kappa_and_unread_ones_are_left_out():
    got = measure([1, 1, 1, math.nan], [1, 1, 1, 0])
    assert (got["agreement"].value, got["agreement"].n) == (100, 3)
    assert math.isnan(got["kappa"].value)
    assert "the same verdict" in got["kappa"].reason
    assert measure([math.nan], [1])["agreement"].reason == "no comparison was read by both"


def test_copies_within_a_cluster_add_no_certainty():
    rng = np.random.default_rng(1)
    a = rng.choice([0, 1], 60)
    b = np.where(rng.random(60) < 0.7, a, 1 - a)
    once = measure(a, b)["kappa"]
    thrice = measure(np.repeat(a, 3), np.repeat(b, 3), np.repeat(np.arange(60), 3))["kappa"]
    assert thrice.value == pytest.approx(once.value)
    assert thrice.stderr == pytest.approx(once.stderr, rel=0.15)
