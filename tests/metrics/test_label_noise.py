"""Bounds and estimates of flipped labels, where the flips are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefeval.metrics import label_noise


def simulated(
    rng: np.random.Generator, n: int, flips: float, *, strength: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels drawn from them (logistic), and which were flipped afterwards."""
    scores = strength * rng.normal(size=n)
    labels = np.where(rng.random(n) < 1 / (1 + np.exp(-scores)), 1.0, -1.0)
    flipped = rng.random(n) < flips
    return scores, np.where(flipped, -labels, labels), flipped


@pytest.mark.parametrize("strength", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("flips", [0.0, 0.1, 0.3])
def test_bound_lies_above_the_flip_rate_as_often_as_it_says(strength: float, flips: float) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        scores, labels, _ = simulated(rng, 300, flips, strength=strength)
        held += label_noise.at_most(scores, labels, np.arange(300)).high >= flips
    assert held >= 0.93 * 200  # of 95%, less two standard errors


def test_bound_comes_near_where_labels_follow_from_the_scores() -> None:
    scores, labels, _ = simulated(np.random.default_rng(1), 4000, 0.1, strength=30)
    bound = label_noise.at_most(scores, labels, np.arange(4000))
    assert 0.1 <= bound.high < 0.13


def test_scores_without_meaning_bound_nothing() -> None:
    rng = np.random.default_rng(2)
    bound = label_noise.at_most(rng.normal(size=500), np.ones(500), np.arange(500) % 50)
    assert bound.high > 0.45
    few = label_noise.at_most(np.ones(10), np.ones(10), np.arange(10))
    assert math.isnan(few.high)
    assert few.reason == "fewer than 30 rows"


def test_contradictions_count_the_rarer_label_of_each_group() -> None:
    groups = np.array(["a", "a", "a", "b", "b", "c"])
    labels = np.array([1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    assert label_noise.contradictions(groups, labels).value == 2 / 6


def test_retest_finds_the_flip_rate_of_pairs_labelled_twice() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(4000), 2)
    labels = np.where(rng.random(8000) < 0.2, -1.0, 1.0)
    found = label_noise.retest(groups, labels)
    assert found.n == 4000
    assert found.ci_low < 0.2 < found.ci_high
    assert found.ci_high - found.ci_low < 0.06


def test_retest_of_a_file_without_repeats_is_unknown() -> None:
    found = label_noise.retest(np.arange(50), np.ones(50))
    assert math.isnan(found.value)
    assert "labelled twice" in found.reason


@pytest.mark.parametrize("flips", [0.0, 0.1, 0.2, 0.4])
def test_rate_beside_trusted_labels_is_right_and_its_interval_covers(flips: float) -> None:
    rng = np.random.default_rng(4)
    trusted = np.arange(1200) >= 600
    errors, inside = [], 0
    for _ in range(200):
        scores, labels, _ = simulated(rng, 1200, 0.0, strength=1.0)
        labels = np.where((rng.random(1200) < flips) & ~trusted, -labels, labels)
        found = label_noise.beside_trusted(scores, labels, np.arange(1200), trusted)
        errors.append(found.value - flips)
        inside += found.ci_low <= flips <= found.ci_high
    assert abs(np.mean(errors)) < 3 * np.std(errors) / math.sqrt(200) + 0.003
    assert inside >= 0.91 * 200


def test_nothing_is_said_where_nothing_predicts_the_trusted_labels() -> None:
    rng = np.random.default_rng(5)
    labels = np.where(rng.random(400) < 0.5, 1.0, -1.0)
    trusted = np.arange(400) >= 200
    labels[trusted] = np.where(np.arange(200) % 2, 1.0, -1.0)
    scores = np.ones(400)
    found = label_noise.beside_trusted(scores, labels, np.arange(400), trusted)
    assert math.isnan(found.value)
    assert "too little predicts the trusted labels" in found.reason


def test_suspects_are_the_labels_that_scores_contradict_most() -> None:
    scores = np.array([3.0, -2.0, 0.5, -0.1, 4.0])
    labels = np.array([1.0, 1.0, -1.0, 1.0, -1.0])
    assert label_noise.suspects(scores, labels, 3).tolist() == [4, 1, 2]
    assert label_noise.suspects(scores, labels, 9).tolist() == [4, 1, 2, 3]
