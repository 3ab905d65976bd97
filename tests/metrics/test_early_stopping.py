"""Runs with a planted truth: when they are stopped, and how often by luck."""

import math

import numpy as np
import pytest

from prefeval.metrics.early_stopping import ALPHA, Decision, Gain, decide, spent

PROMPTS, CHECKPOINTS = 400, 10
RISE, PEAK = 52 + 2.0 * np.arange(10), 61 - 3.0 * np.abs(np.arange(10) - 3)
FLAT = np.full(20, 55.0)


def outcome(curve: np.ndarray, rng: np.random.Generator, **rule: float) -> Decision:
    """One run whose true win rates are ``curve``: prompts of different difficulty, shared by all
    checkpoints, and an independent part in each."""
    difficulty = rng.normal(0, 25, PROMPTS)
    scores = curve[:, None] + difficulty + rng.normal(0, 31, (len(curve), PROMPTS))

    def gain(a: int, b: int) -> Gain:
        change = scores[b] - scores[a]
        stderr = change.std(ddof=1) / math.sqrt(PROMPTS)
        p = math.erfc(abs(change.mean() / stderr) / math.sqrt(2))
        return Gain(float(change.mean()), float(stderr), PROMPTS, p)

    return decide(len(curve), gain, **{"patience": 3, **rule})


def share(curve: np.ndarray, what: str, runs: int = 300, **rule: float) -> float:
    """In how many of 100 runs ``why`` has these words."""
    rng = np.random.default_rng(7)
    return 100 * sum(what in outcome(curve, rng, **rule).why for _ in range(runs)) / runs


def test_a_run_that_rises_by_two_points_an_evaluation_is_hardly_ever_stopped() -> None:
    assert share(RISE, "shown") <= 5


def test_a_run_that_has_peaked_is_stopped_and_its_best_is_near_the_peak() -> None:
    rng = np.random.default_rng(3)
    ends = [outcome(PEAK, rng) for _ in range(300)]
    assert all(end.stop for end in ends)
    lost = np.mean([PEAK.max() - PEAK[end.best] for end in ends])
    assert lost < 1


def test_patience_stops_a_flat_run() -> None:
    assert share(FLAT, "not shown better") > 90


def test_shown_worse_fires_in_few_flat_runs_where_two_errors_under_the_peak_fires_in_most() -> None:
    by_luck = 100 * math.sqrt(ALPHA * (1 - ALPHA) / 1000)  # standard error of the share below
    assert share(FLAT, "shown worse", runs=1000, patience=99) <= 100 * ALPHA + 2 * by_luck
    rng = np.random.default_rng(7)
    fired = 0
    for _ in range(300):
        means = FLAT + rng.normal(0, 31 / math.sqrt(PROMPTS), len(FLAT))
        peak = np.maximum.accumulate(means)[:-1]
        fired += bool((means[1:] < peak - 2 * 31 / math.sqrt(PROMPTS)).any())
    assert 100 * fired / 300 > 60


def test_asking_for_certainty_stops_runs_that_rise() -> None:
    assert share(RISE, "shown", confidence=0.95) > 25 > 5 >= share(RISE, "shown")


def test_a_rise_too_slow_for_one_step_adds_up_against_the_best_that_was_shown() -> None:
    slow = lambda a, b: Gain(0.6 * (b - a), 1.0, 1000, 0.5)  # noqa: E731
    found = decide(12, slow, patience=4, confidence=0.9)
    assert (found.best, found.stop) == (9, False)


def test_a_fall_stops_at_once_and_is_given_in_the_metrics_unit() -> None:
    fall = lambda a, b: Gain(-20.0, 2.0, 400, 1e-12)  # noqa: E731
    assert decide(2, fall, patience=5) == Decision(0, 1, True, "shown worse by 20")


def test_what_does_not_compare_counts_as_no_better_and_never_as_worse() -> None:
    lost = lambda a, b: Gain(math.nan, math.nan, 0, math.nan)  # noqa: E731
    assert not decide(3, lost, patience=3).stop
    assert decide(4, lost, patience=3).why == "not shown better in 3 evaluations"


def test_one_evaluation_decides_nothing() -> None:
    assert decide(1, lambda a, b: pytest.fail("there is nothing to compare"), patience=1) == (
        Decision(0, 0, False)
    )


@pytest.mark.parametrize("min_delta", [0.0, 2.0])
def test_a_gain_must_pass_min_delta(min_delta: float) -> None:
    gain = lambda a, b: Gain(2.0, 0.5, 500, 1e-4)  # noqa: E731
    assert (decide(2, gain, patience=1, min_delta=min_delta).best == 1) is (min_delta < 2)


def test_the_error_rate_is_spent_over_any_number_of_evaluations() -> None:
    total = sum(spent(k) for k in range(1, 100_000))
    assert total < ALPHA
    assert math.isclose(total, ALPHA, rel_tol=1e-4)
