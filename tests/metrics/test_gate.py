"""The gate's decision: by hand, by another implementation, by enumeration, and at known changes."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from prefeval import metrics
from prefeval.metrics import comparison, differences, paired
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.gate import decision as gate
from prefeval.metrics.gate import lines as gate_lines
from prefeval.metrics.gate import policy as gate_policy
from prefeval.metrics.gate.anytime import decide_anytime
from prefeval.metrics.gate.decision import Asked, Line, decide
from prefeval.metrics.gate.policy import Policy, Rule
from prefeval.records import PrefevalError

NAN = math.nan


def normal(value: float, stderr: float, name: str = "m", unit: str = "points") -> Line:
    """A line with normal bounds."""

    def bounds(level: float) -> tuple[float, float]:
        half = reference.norm.ppf(0.5 + level / 2) * stderr
        return value - half, value + half

    return Line(name, unit, 50, 50 + value, value, 100, bounds, scatter=stderr * 10)


def changed(value: float, stderr: float, name: str = "m", margin: float = 3.0) -> Asked:
    return Asked(normal(value, stderr, name), "change", 1, -margin)


@pytest.mark.parametrize(
    ("value", "stderr", "outcome"),
    [
        (0.0, 1.0, "pass"),  # lower bound -1.64
        (0.0, 1.9, "inconclusive"),  # -3.13
        (-1.0, 1.2, "pass"),  # -2.97
        (-1.0, 1.25, "inconclusive"),  # -3.06
        (-5.0, 1.2, "fail"),  # upper bound -3.03
        (-5.0, 1.3, "inconclusive"),  # -2.86
        (9.0, 3.0, "pass"),
    ],
)
def test_one_check_is_decided_by_its_one_sided_bounds(value, stderr, outcome):
    (check,) = decide([changed(value, stderr)]).checks
    assert check.outcome == outcome
    assert check.low == pytest.approx(value - 1.6449 * stderr, abs=1e-3)


def test_more_of_a_metric_that_is_better_low_fails_above_its_limit():
    found = decide([Asked(normal(9, 1), "change", -1, 5.0)])
    assert (found.outcome, found.checks[0].p < 1e-3) == ("fail", True)
    assert decide([Asked(normal(-9, 1), "change", -1, 5.0)]).outcome == "pass"


def test_passing_needs_every_check_and_is_not_corrected():
    good = [changed(0.0, 1.8, str(i)) for i in range(20)]  # each by a hair: -2.96
    assert decide(good).outcome == "pass"
    assert decide([*good, changed(0.0, 1.9)]).outcome == "inconclusive"


def test_failing_is_corrected_over_the_checks_by_holm():
    shown = changed(-5.0, 1.0)  # p = .023
    assert decide([shown]).outcome == "fail"
    assert decide([shown, changed(0, 1, "a"), changed(0, 1, "b")]).outcome == "inconclusive"
    three = decide([shown, changed(-9, 1, "a"), changed(-9, 1, "b")])
    assert [c.outcome for c in three.checks] == ["fail"] * 3  # step down: .023 is the last
    assert three.checks[0].p_holm == pytest.approx(reference.norm.sf(2), rel=1e-3)


def test_a_check_without_a_number_leaves_the_gate_inconclusive_with_its_reason():
    none = gate_lines.change_line(differences.none("lc_win_rate", "points", 1, "lengths apart"))
    found = decide([changed(0, 1), Asked(none, "change", 1, -3.0)])
    assert found.outcome == "inconclusive"
    assert found.checks[1].reason == "lengths apart"
    assert decide([changed(-9, 1), Asked(none, "change", 1, -3.0)]).outcome == "fail"
    assert decide([]).outcome == "inconclusive"


def test_p_by_inverting_bounds_is_the_t_tail():
    rng = np.random.default_rng(0)
    a, b = rng.random(40), rng.random(40) * 0.8
    line = gate_lines.change_line(
        differences.mean_difference("m", "points", 1, a, b, np.arange(40))
    )
    found = gate.p_beyond(line.bounds, -3.0, 1)
    d = 100 * (b - a)
    naive = reference.ttest_1samp(d, -3.0, alternative="less").pvalue
    assert found == pytest.approx(naive, rel=1e-3)
    assert gate.p_beyond(line.bounds, -90.0, 1) == 1.0


@pytest.mark.parametrize("cluster", [np.arange(64), np.arange(64) // 2])
def test_a_shares_bounds_and_p_are_those_of_the_paired_change(cluster):
    """Tango's interval and exact tail, with the design effect that the frames would give."""
    rng = np.random.default_rng(3)
    before = np.ones(64)
    now = (rng.random(64) > 0.15).astype(float)
    line = gate_lines.change_line(differences.share_difference("json", 1, before, now, cluster))
    direct = paired.paired_change(now, before, cluster, margin=0.05, level=0.9)
    low, high = line.bounds(0.9)
    assert (low, high) == pytest.approx(
        (100 * direct.change.ci_low, 100 * direct.change.ci_high), abs=1e-6
    )
    assert line.p_lower(-5.0) == pytest.approx(direct.p_worse, rel=1e-6)


def test_a_share_in_which_nothing_changed_passes_from_the_n_that_is_said():
    """z^2 (1 - m)/m = 2.706 * .95/.05 = 51.4: 52 prompts, as Tango's bound of no change says."""
    outcomes = {}
    for n in (50, 51, 52, 53):
        same = differences.share_difference("json", 1, np.ones(n), np.ones(n), np.arange(n))
        found = decide([Asked(gate_lines.change_line(same), "change", 1, -5.0)])
        outcomes[n] = found.outcome
        assert found.checks[0].needed == 52
    assert outcomes == {50: "inconclusive", 51: "inconclusive", 52: "pass", 53: "pass"}


def test_needed_is_the_n_of_80_percent_power():
    """((1.645 + 0.842) sd / margin)^2 with sd = 10 and margin 3: 68.7."""
    assert decide([changed(0, 1)]).checks[0].needed == 69
    floor = Asked(normal(55, 2, unit="percent"), "floor", 1, 50.0)  # sd 20, room 5: 98.9
    assert decide([floor]).checks[0].needed == 99
    under = Asked(normal(45, 2, unit="percent"), "floor", 1, 50.0)
    assert math.isnan(decide([under]).checks[0].needed)


@pytest.mark.parametrize(("n", "gains"), [(64, 0.0), (64, 0.02), (250, 0.02)])
def test_at_a_loss_of_the_margin_a_behaviour_is_passed_or_failed_in_5_percent(n, gains):
    """Every outcome's probability, summed: no simulation. 5.3% is the worst of docs/gate.md."""
    g, m = (x.ravel() for x in np.indices((n + 1, n + 1)))
    chance = reference.multinomial.pmf(
        np.stack([g, m, n - g - m], axis=1), n, [gains, gains + 0.05, 0.95 - 2 * gains]
    )
    wrong = {"pass": 0.0, "fail": 0.0, "inconclusive": 0.0}
    likely = chance > 1e-6
    for gained, lost, p in zip(g[likely], m[likely], chance[likely], strict=True):
        now, before = np.ones(n), np.ones(n)
        before[:gained], now[gained : gained + lost] = 0, 0
        line = differences.share_difference("json", 1, before, now, np.arange(n))
        outcome = decide([Asked(gate_lines.change_line(line), "change", 1, -5.0)]).outcome
        wrong[outcome] += p
    assert wrong["pass"] < 0.0505
    assert wrong["fail"] < 0.0535


def test_error_rates_of_a_win_rate_at_known_changes():
    """1000 repeats, clustered: 5% plus three standard errors of .7 points; at 0 it mostly passes.

    Negative control: two-sided 50% bounds would pass a quarter at -margin.
    """
    loose = right = power = failed = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        cluster = np.arange(300) // 3
        noise = rng.normal(0, 15, 300) + rng.normal(0, 8, 100)[cluster]
        for change in (0.0, -3.0):
            line = gate_lines.change_line(
                differences.mean_difference(
                    "m", "points", 1, np.zeros(300), (noise + change) / 100, cluster
                )
            )
            outcome = decide([Asked(line, "change", 1, -3.0)]).outcome
            if change:
                right += outcome == "pass"
                failed += outcome == "fail"
                loose += line.bounds(0.5)[0] > -3.0
            else:
                power += outcome == "pass"
    assert 30 <= right <= 71
    assert 30 <= failed <= 71
    assert loose > 200
    assert power > 700


# -- looking after every judgment ------------------------------------------------------------------


def test_looking_after_every_judgment_passes_a_change_of_minus_margin_in_at_most_5_percent():
    wrong = {"pass": 0, "fail": 0, "inconclusive": 0}
    for seed in range(300):
        gaps = np.clip(np.random.default_rng(seed).normal(-10, 30, 600), -100, 100)
        wrong[decide_anytime(list(gaps), "win_rate", -10.0)[0].outcome] += 1
    assert max(wrong["pass"], wrong["fail"]) <= 26  # 5% of 300 plus three standard errors


@pytest.mark.parametrize(("change", "outcome"), [(0.0, "pass"), (-12.0, "fail")])
def test_looking_on_decides_and_the_first_decision_stands(change, outcome):
    gaps = list(np.random.default_rng(1).normal(change, 20, 2000).clip(-100, 100))
    found, after = decide_anytime(gaps, "win_rate", -6.0)
    assert found.outcome == outcome
    assert 0 < after < 2000
    before, none = decide_anytime(gaps[: after - 1], "win_rate", -6.0)
    assert (before.outcome, none) == ("inconclusive", 0)
    turned = [*gaps, *[100.0 if outcome == "fail" else -100.0] * 3000]
    assert decide_anytime(turned, "win_rate", -6.0)[1] == after
    assert decide_anytime(turned, "win_rate", -6.0)[0].outcome == outcome


def test_no_judgments_are_inconclusive():
    found, after = decide_anytime([], "win_rate", -3.0)
    assert (found.outcome, after) == ("inconclusive", 0)
    assert found.checks[0].reason


# -- the policy on evidence ------------------------------------------------------------------------


def evidence(seed: int, *, win: float = 0.5, lost: int = 0, n: int = 60) -> Evidence:
    rng = np.random.default_rng(seed)
    ids = [f"p{i:03d}" for i in range(n)]
    p = np.clip(rng.normal(win, 0.2, n), 0, 1)
    shared = {"cluster": ids, "behaviour": "about"}
    judged = pd.DataFrame(
        {"prompt_id": ids, **shared, "preference": p, "preference_first": p}
        | {"preference_second": p, "true_preference": NAN, "difficulty": 0.0}
        | {"len_output": rng.integers(20, 60, n), "len_baseline": rng.integers(20, 60, n)}
    )
    samples = pd.DataFrame(
        {"prompt_id": ids, **shared, "kl": rng.random(n) + 1, "k1": 1.0, "entropy": 1.0}
        | {"n_tokens": rng.integers(5, 15, n), "ref_n_tokens": 10, "ended": 1, "ref_ended": 1}
    )
    checks = pd.DataFrame(
        {"prompt_id": ids, "cluster": ids, "behaviour": "json", "ref_passed": 1}
        | {"passed": (np.arange(n) >= lost).astype(int)}
    )
    return Evidence(judgments=judged, samples=samples, checks=checks)


def asked(policy: Policy, a: Evidence, b: Evidence) -> list[Asked]:
    return gate_policy.checks(policy, comparison.join(a, b), b, np.random.default_rng(0))


def test_the_usual_policy_asks_the_rate_every_behaviour_length_and_ends():
    found = asked(Policy(), evidence(0), evidence(1, lost=20))
    assert {(a.line.name, a.better, a.limit) for a in found} == {
        ("lc_win_rate", 1, -3.0), ("json", 1, -5.0), ("length_ratio", -1, 1.25),
        ("eos_rate", 1, -5.0),
    }  # fmt: skip
    assert [c.name for c in decide(found).of("fail")] == ["json"]


def test_a_behaviours_own_rule_comes_before_that_of_all_behaviours():
    rules = {"behaviours": Rule(5.0), "json": Rule(40.0)}
    (found,) = asked(Policy(rules), evidence(0), evidence(1, lost=10))
    assert found.limit == -40.0
    assert decide([found]).outcome == "pass"


def test_kl_has_a_margin_in_nats_or_relative_to_the_baseline():
    a, b = evidence(0), evidence(1)
    b = replace(b, samples=b.samples.assign(kl=2 * a.samples["kl"]))
    (nats,) = asked(Policy({"kl": Rule(0.5)}), a, b)
    (share,) = asked(Policy({"kl": Rule(0.5, relative=True)}), a, b)
    mean = a.samples["kl"].mean()
    assert (nats.line.value, nats.limit) == (pytest.approx(mean), 0.5)
    assert (share.line.value, share.limit) == (pytest.approx(2.0), 1.5)
    assert decide([share]).outcome == "fail"


@pytest.mark.parametrize(
    ("name", "metric"),
    [("win_rate", "win_rate"), ("lc_win_rate", "lc_win_rate"), ("kl", "kl"),
     ("length_ratio", "length_ratio"), ("eos_rate", "eos_rate"), ("json", "retention_json")],
)  # fmt: skip
def test_a_value_and_its_interval_are_those_of_the_metrics(name, metric):
    """Floors are held against what ``prefeval eval`` prints; LC refits its own resamples."""
    own = evidence(2, win=0.6, lost=7)
    line = gate_lines.Own(own, np.random.default_rng(0)).line(name)
    table = {r.name: r for r in metrics.compute(own, np.random.default_rng(0))}
    loose = {"rel": 0.05} if name == "lc_win_rate" else {"rel": 1e-6}
    assert line.value == pytest.approx(table[metric].value)
    assert line.bounds(0.95) == pytest.approx(
        (table[metric].ci_low, table[metric].ci_high), **loose
    )


def test_floors_and_ceilings_are_of_the_checkpoint_itself():
    rules = {"win_rate": Rule(floor=50.0), "kl": Rule(ceiling=1.2), "json": Rule(floor=80.0)}
    found = decide(asked(Policy(rules), evidence(0), evidence(1, win=0.7, lost=1)))
    named = {c.name: c for c in found.checks}
    assert named["win_rate"].outcome == "pass"
    assert (named["kl"].outcome, named["kl"].kind) == ("fail", "ceiling")
    assert named["json"].outcome == "pass"


def test_the_same_answers_settle_what_is_measured_of_answers_and_not_of_weights():
    one = evidence(1, n=20)
    other = replace(one, samples=one.samples.assign(kl=one.samples["kl"] * 3))
    policy = Policy({"win_rate": Rule(3), "kl": Rule(0.5, relative=True), "eos_rate": Rule(5)})

    def outcomes(now: Evidence) -> dict[str, str]:
        rng = np.random.default_rng(0)
        asked = gate_policy.checks(policy, comparison.join(one, now), now, rng, same_answers=True)
        return {check.name: check.outcome for check in decide(asked).checks}

    assert set(outcomes(one).values()) == {"pass"}
    assert outcomes(other) == {"win_rate": "pass", "kl": "fail", "eos_rate": "pass"}


def test_a_judge_that_tells_answers_too_little_apart_passes_no_win_rate():
    """50 ± 0.5 points whatever is judged: no checkpoint, however bad, could lose 3 points."""

    def squeezed(one: Evidence) -> Evidence:
        sides = ["preference", "preference_first", "preference_second"]
        soft = 0.5 + 0.02 * (one.judgments[sides] - 0.5)
        return replace(one, judgments=one.judgments.assign(**soft))

    policy = Policy({"win_rate": Rule(3), "lc_win_rate": Rule(3)})
    good, bad = evidence(0, win=0.7), evidence(1, win=0.2)
    assert {c.outcome for c in decide(asked(policy, good, bad)).checks} == {"fail"}
    found = decide(asked(policy, squeezed(good), squeezed(bad)))
    assert found.outcome == "inconclusive"
    for check in found.checks:
        assert (check.outcome, "too little apart" in check.reason) == ("inconclusive", True)
    loose = decide(asked(Policy({"win_rate": Rule(0.1)}), squeezed(good), squeezed(bad)))
    assert loose.outcome == "fail"


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    for wrong, near in (("lc_winrate", "lc_win_rate"), ("jsno", "json")):
        with pytest.raises(PrefevalError, match=f"{wrong}.*did you mean '{near}'"):
            asked(Policy({wrong: Rule(3.0)}), evidence(0), evidence(1))


def test_the_reference_as_a_baseline_ties_with_itself():
    own = evidence(4, win=0.7, lost=9)
    base = gate_policy.of_reference(own)
    lines = gate_lines.changes(
        comparison.join(base, own), ("lc_win_rate", "win_rate"), rng=np.random.default_rng(0)
    )
    assert lines["win_rate"].a == 50.0
    assert lines["lc_win_rate"].a == pytest.approx(50.0)
    assert lines["json"].value == pytest.approx(-100 * 9 / 60)
    again = gate_lines.changes(
        comparison.join(base, base), ("lc_win_rate",), rng=np.random.default_rng(0)
    )
    assert {line.value for line in again.values()} == {0.0}
