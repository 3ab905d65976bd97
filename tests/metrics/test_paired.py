"""Paired changes: Tango's score against a numerical likelihood, the exact test by enumeration."""

import math

import numpy as np
import pytest
from scipy import optimize, special
from scipy import stats as reference

from prefeval.metrics import paired, stats


@pytest.mark.parametrize(
    ("gained", "lost", "n", "change"),
    [(0, 8, 64, -0.05), (3, 9, 64, -0.05), (5, 2, 40, 0.1), (0, 0, 30, -0.05), (2, 7, 50, 0.0)],
)
def test_the_nulls_loss_rate_maximises_the_trinomial_likelihood(gained, lost, n, change):
    def minus_log_likelihood(q):
        rest = 1 - 2 * q - change
        parts = ((gained, q + change), (lost, q), (n - gained - lost, rest))
        return -sum(special.xlogy(count, max(p, 1e-300)) for count, p in parts)

    bounds = (max(0, -change), (1 - change) / 2)
    best = optimize.minimize_scalar(
        minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    assert paired.lost_rate_under(gained, lost, n, change) == pytest.approx(best.x, abs=1e-5)


def test_score_without_change_is_mcnemars_statistic():
    assert paired.score(3, 9, 64, 0.0) == pytest.approx((3 - 9) / math.sqrt(3 + 9))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 8), (3, 9), (9, 3), (60, 4)])
def test_interval_ends_are_where_the_score_is_at_its_quantile(gained, lost):
    low, high = paired.score_interval(gained, lost, 64, 1.96)
    assert low < (gained - lost) / 64 < high
    assert paired.score(gained, lost, 64, low) == pytest.approx(1.96, abs=1e-4)
    assert paired.score(gained, lost, 64, high) == pytest.approx(-1.96, abs=1e-4)


def test_interval_reaches_the_ends_when_everything_changes():
    assert paired.score_interval(0, 20, 20, 1.96)[0] == -1
    assert paired.score_interval(20, 0, 20, 1.96)[1] == 1


def test_swapping_policy_and_reference_mirrors_the_change():
    rng = np.random.default_rng(0)
    now, before = rng.random(50) < 0.7, rng.random(50) < 0.8
    a, b = paired.paired_change(now, before).change, paired.paired_change(before, now).change
    assert (a.value, a.ci_low, a.ci_high) == pytest.approx((-b.value, -b.ci_high, -b.ci_low))


@pytest.mark.parametrize("n", [32, 64])
@pytest.mark.parametrize("gains", [0.0, 0.02, 0.05, 0.2])
def test_damage_test_holds_its_level_at_a_true_loss_of_the_margin(n, gains):
    """Every outcome enumerated: a true change of exactly -5 points, with and without gains."""
    g, m = np.array([(g, m) for g in range(n + 1) for m in range(n + 1 - g)]).T
    rates = np.array([gains, gains + 0.05, 1 - 2 * gains - 0.05])
    chance = reference.multinomial.pmf(np.stack([g, m, n - g - m], axis=1), n, rates)
    likely = chance > 1e-9
    p = np.array(
        [paired.p_worse(int(a), int(b), n, 0.05) for a, b in zip(g[likely], m[likely], strict=True)]
    )
    for level in (0.05, 0.00625):
        assert chance[likely][p <= level].sum() <= 1.1 * level


def test_coverage_of_the_paired_interval_by_enumeration():
    """n = 64, losses 5%, gains 1%: exact coverage of the 95% interval, within the score's error."""
    n, gains, losses = 64, 0.01, 0.05
    g, m = np.array([(g, m) for g in range(8) for m in range(20)]).T
    chance = reference.multinomial.pmf(
        np.stack([g, m, n - g - m], axis=1), n, [gains, losses, 1 - gains - losses]
    )
    ends = np.array(
        [paired.score_interval(int(a), int(b), n, 1.96) for a, b in zip(g, m, strict=True)]
    )
    truth = gains - losses
    assert 0.935 <= chance[(ends[:, 0] <= truth) & (truth <= ends[:, 1])].sum() <= 0.985


def test_a_large_loss_is_shown_and_a_small_one_is_not():
    before = np.ones(64)
    large, small = np.ones(64), np.ones(64)
    large[:20], small[:4] = 0, 0
    assert paired.paired_change(large, before).p_worse < 1e-4
    assert paired.paired_change(small, before).p_worse > 0.2


def test_normal_tail_takes_over_smoothly_for_many_prompts():
    exact = paired.p_worse(5, 25, 250, 0.05)
    normal = float(special.ndtr(paired.score(5, 25, 250, -0.05)))
    assert exact == pytest.approx(normal, abs=0.01)
    assert paired.p_worse(5, 25, 251, 0.05) == pytest.approx(exact, abs=0.01)


def test_clusters_that_fail_together_widen_the_interval():
    before, now = np.ones(60), np.ones(60)
    now[:12] = 0
    family = np.repeat(np.arange(15), 4)  # three whole families lost
    alone, together = paired.paired_change(now, before), paired.paired_change(now, before, family)
    assert together.change.ci_low < alone.change.ci_low
    assert together.p_worse > alone.p_worse
    assert together.change.stderr == pytest.approx(
        stats.clustered_mean(now - before, family).stderr
    )


def test_a_design_effect_of_four_leaves_the_evidence_of_a_quarter_of_the_prompts():
    assert paired.p_worse(0, 20, 80, 0.05, 4.0) == pytest.approx(paired.p_worse(0, 5, 20, 0.05))
    assert paired.p_worse(0, 20, 80, 0.05) < 1e-3 < paired.p_worse(0, 20, 80, 0.05, 4.0)


def test_one_cluster_shows_nothing():
    got = paired.paired_change([0, 0], [1, 1], ["a", "a"])
    assert got.change.value == -1
    assert math.isnan(got.p_worse)
    assert got.change.reason
