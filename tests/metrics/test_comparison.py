"""Paired differences against naive loops, planted changes, and A against A."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from prefeval.metrics import comparison, differences, length_control, stats
from prefeval.metrics.evidence import Evidence

Make = Callable[..., Evidence]
BOOT = 200


def compare(a: Evidence, b: Evidence, **options: Any) -> dict[str, differences.Difference]:
    joined = comparison.join(a, b, **options)
    rng = np.random.default_rng(0)
    found = (
        *comparison.measures(joined, rng=rng, n_boot=BOOT),
        *comparison.behaviours(joined),
    )
    return {line.name: line for line in found}


def full(
    rng: np.random.Generator, n: int = 120, clusters: int | None = None, **shift: float
) -> Evidence:
    """Every frame filled; ``shift`` moves what it names. Two seeds make two equal checkpoints."""
    shared = np.random.default_rng(3)
    ids = [f"w{i:03d}" for i in range(n)]
    cluster = [f"c{i % clusters}" for i in range(n)] if clusters else [""] * n
    first, second = (
        np.clip(rng.beta(4, 4, n) + shift.get("win", 0), 0, 1).round(3) for _ in range(2)
    )
    base = shared.integers(20, 60, n)
    tokens = np.maximum(1, (base * (1 + shift.get("length", 0)) + rng.normal(0, 4, n)).round())
    common = {"prompt_id": ids, "cluster": cluster, "behaviour": "about"}
    judgments = pd.DataFrame(
        common
        | {"preference_first": first, "preference_second": second}
        | {"preference": (first + second) / 2, "true_preference": rng.integers(0, 3, n) / 2}
        | {"len_output": 4 * tokens, "len_baseline": 4 * base, "difficulty": shared.normal(0, 1, n)}
    )
    samples = pd.DataFrame(
        common
        | {"kl": rng.gamma(2, 1, n) + shift.get("kl", 0), "k1": 1.0}
        | {"entropy": rng.uniform(0.5, 1, n) + shift.get("entropy", 0), "n_tokens": tokens}
        | {"ref_n_tokens": base, "ended": (rng.random(n) < 0.9 + shift.get("end", 0)).astype(int)}
        | {"ref_ended": 1}
    )
    reference = shared.normal(-40, 5, (2, n))
    pairs = pd.DataFrame(
        {"pair_id": [f"p{i:03d}" for i in range(n)], "cluster": cluster}
        | {"chosen_lengths": 20, "rejected_lengths": 20}
        | {"ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1]}
        | {"chosen_logps": reference[0] + rng.normal(0, 2, n) + shift.get("chosen", 0)}
        | {"rejected_logps": reference[1] + rng.normal(0, 2, n)}
    )
    checks = pd.DataFrame(
        [
            {"prompt_id": f"{name}{i:02d}", "cluster": "", "behaviour": name}
            | {"passed": int(rng.random() < 0.8 - shift.get(name, 0)), "ref_passed": 1}
            for name in ("json", "refusal")
            for i in range(60)
        ]
    )
    diverse = pd.DataFrame(
        [
            {"prompt_id": p, "index": k, "text": f"{rng.integers(0, 6)}", "ref_text": "x"}
            for p in ids[:30]
            for k in range(4)
        ]
    )
    return Evidence(judgments, samples, pairs, checks, diverse=diverse)


@pytest.mark.parametrize("clusters", [None, 25])
def test_means_are_those_of_a_naive_loop_over_prompts(clusters: int | None) -> None:
    a, b = (full(np.random.default_rng(seed), clusters=clusters) for seed in (1, 2))
    found = compare(a, b)
    for name, frame, column in (
        ("win_rate", "judgments", "preference"),
        ("kl", "samples", "kl"),
    ):
        left, right = getattr(a, frame), getattr(b, frame)
        scale = 100 if name == "win_rate" else 1
        sums: dict[str, float] = {}
        gaps = [scale * (right[column][i] - left[column][i]) for i in range(len(left))]
        mean = sum(gaps) / len(gaps)
        for i, gap in enumerate(gaps):
            key = left["cluster"][i]
            sums[key] = sums.get(key, 0.0) + (gap - mean) / len(gaps)
        count = len(sums)
        stderr = math.sqrt(count / (count - 1) * sum(v * v for v in sums.values()))
        line = found[name]
        assert line.difference.value == pytest.approx(mean)
        assert line.difference.stderr == pytest.approx(stderr)
        assert line.p == pytest.approx(2 * scipy_stats.t.sf(abs(mean) / stderr, count - 1))
        assert line.b - line.a == pytest.approx(mean)


def test_without_clusters_a_mean_is_scipys_paired_t_test() -> None:
    a, b = (full(np.random.default_rng(seed)) for seed in (1, 2))
    line = compare(a, b)["kl"]
    test = scipy_stats.ttest_rel(b.samples["kl"], a.samples["kl"])
    assert line.p == pytest.approx(test.pvalue)
    span = test.confidence_interval(0.95)
    assert (line.difference.ci_low, line.difference.ci_high) == pytest.approx(tuple(span))


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_swap_test_counts_every_way_to_swap_clusters(rows: list[tuple[int, int]]) -> None:
    values, clusters = zip(*rows, strict=True)
    sums = [sum(v for v, c in rows if c == k) for k in sorted(set(clusters))]
    seen, all_ways = abs(sum(sums)), list(itertools.product((-1, 1), repeat=len(sums)))
    far = [abs(sum(s * x for s, x in zip(w, sums, strict=True))) >= seen for w in all_ways]
    expected = sum(far) / len(all_ways)
    assert differences.swap_test(values, clusters) == pytest.approx(expected)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_swap_test_of_single_prompts_is_the_exact_mcnemar_test(gained: int, lost: int) -> None:
    values = [1] * gained + [-1] * lost + [0] * 5
    p = differences.swap_test(values, np.arange(len(values)))
    assert p == pytest.approx(stats.mcnemar_exact(gained, lost), rel=1e-9)


def test_the_swap_tests_normal_tail_meets_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([1] * 1080 + [-1] * 980)
    exact = differences.swap_test(values, np.arange(len(values)))
    monkeypatch.setattr(differences, "EXACT_UP_TO", 100)
    assert differences.swap_test(values, np.arange(len(values))) == pytest.approx(exact, rel=0.08)


def test_entropy_is_a_ratio_whose_error_a_jackknife_confirms() -> None:
    a, b = (full(np.random.default_rng(seed), entropy=0.1 * seed) for seed in (1, 2))

    def gap(keep: np.ndarray[Any, Any]) -> float:
        rates = [
            (e.samples["entropy"] * e.samples["n_tokens"])[keep].sum()
            / e.samples["n_tokens"][keep].sum()
            for e in (a, b)
        ]
        return float(rates[1] - rates[0])

    line = compare(a, b)["entropy"]
    n = len(a.samples)
    left = np.array([gap(np.arange(n) != i) for i in range(n)])
    assert line.difference.value == pytest.approx(gap(np.ones(n, dtype=bool)))
    jackknife = math.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    assert line.difference.stderr == pytest.approx(jackknife, rel=0.03)


def test_lengths_are_factors_and_both_agree_with_a_loop() -> None:
    a, b = (full(np.random.default_rng(seed), length=0.3 * (seed == 2)) for seed in (1, 2))
    found = compare(a, b)
    first, second = a.samples["n_tokens"], b.samples["n_tokens"]
    assert found["length_ratio"].difference.value == pytest.approx(second.sum() / first.sum())
    product = sum(math.log(y / x) for x, y in zip(first, second, strict=True)) / len(first)
    assert found["paired_length_ratio"].difference.value == pytest.approx(math.exp(product))
    for name in ("length_ratio", "paired_length_ratio"):
        assert found[name].verdict == "more"
        assert found[name].difference.ci_low > 1.2
        assert found[name].difference.ci_high < 1.4


def test_length_controlled_difference_is_that_of_two_fits_and_a_loop_of_refits() -> None:
    a, b = (full(np.random.default_rng(seed), clusters=40) for seed in (1, 2))
    line = compare(a, b)["lc_win_rate"]
    rates = []
    draw = np.random.default_rng(9)
    codes = stats.cluster_codes(a.judgments["cluster"].to_numpy(), len(a.judgments))
    picks = [draw.integers(0, 40, 40) for _ in range(150)]
    replicates = []
    for evidence in (a, b):
        j = evidence.judgments
        fit = length_control.length_controlled(
            j["preference"], j["len_output"], j["len_baseline"], j["difficulty"],
            C=evidence.calibration.C,
        )  # fmt: skip
        rates.append(fit.lc_win_rate)
        own = []
        for pick in picks:
            rows = np.concatenate([np.flatnonzero(codes == k) for k in pick])
            r = j.iloc[rows]
            again = length_control.length_controlled(
                r["preference"], r["len_output"], r["len_baseline"], r["difficulty"],
                C=evidence.calibration.C, min_near=0,
            )  # fmt: skip
            own.append(again.lc_win_rate)
        replicates.append(np.array(own))
    assert line.difference.value == pytest.approx(rates[1] - rates[0], abs=1e-6)
    spread = float((replicates[1] - replicates[0]).std(ddof=1))
    assert line.difference.stderr == pytest.approx(spread, rel=0.25)


def test_planted_changes_are_found_with_their_signs() -> None:
    a = full(np.random.default_rng(1), n=200)
    planted = {"win": 0.15, "kl": 2.0, "chosen": -3.0, "json": 0.5, "end": -0.3, "entropy": -0.2}
    b = full(np.random.default_rng(2), n=200, **planted)
    found, back = compare(a, b), compare(b, a)
    expected = {
        "win_rate": ("better", "worse"),
        "lc_win_rate": ("better", "worse"),
        "kl": ("more", "less"),
        "delta_chosen": ("less", "more"),
        "json": ("worse", "better"),
        "eos_rate": ("worse", "better"),
        "entropy": ("less", "more"),
        "implicit_accuracy": ("worse", "better"),
    }
    for name, (there, here) in expected.items():
        assert (found[name].verdict, back[name].verdict) == (there, here), name
        assert found[name].difference.value == pytest.approx(-back[name].difference.value, abs=1e-6)
    assert found["refusal"].verdict == found["delta_rejected"].verdict == "no difference shown"
    assert (found["json"].gained, found["json"].lost) == (back["json"].lost, back["json"].gained)
    assert found["json"].p_worse < 0.001
    assert back["json"].p_worse > 0.9


def test_flips_count_verdicts_that_turn_with_the_order() -> None:
    a, b = (full(np.random.default_rng(seed)) for seed in (1, 2))
    line = compare(a, b)["flip_rate"]
    for evidence, share in ((a, line.a), (b, line.b)):
        j = evidence.judgments
        flips = sum(
            (f > 0.5 > s) or (f < 0.5 < s)
            for f, s in zip(j["preference_first"], j["preference_second"], strict=True)
        )
        assert share == pytest.approx(100 * flips / len(j))


def test_a_checkpoint_against_itself_differs_nowhere() -> None:
    a = full(np.random.default_rng(1))
    for line in compare(a, a).values():
        assert line.difference.value == line.null
        assert line.p == 1
        assert line.verdict == "no difference shown"
        assert line.difference.ci_low <= line.null <= line.difference.ci_high


def test_equal_checkpoints_are_told_apart_no_more_often_than_the_level_says() -> None:
    """60 pairs of equal checkpoints: a test at its level has at most 9 alarms, but for 1 in
    1000."""
    alarms: dict[str, int] = {}
    families = {"rates": 0, "behaviours": 0}
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        joined = comparison.join(full(rng, n=60, clusters=30), full(rng, n=60, clusters=30))
        lines = comparison.measures(joined, rng=rng, n_boot=80) + comparison.behaviours(joined)
        found = {line.name: line for line in lines}
        for name, line in found.items():
            alarms[name] = alarms.get(name, 0) + (line.p <= 0.05)
        told = {name for name, line in found.items() if line.verdict != "no difference shown"}
        families["rates"] += bool(told & set(comparison.WIN_RATES))
        families["behaviours"] += bool(told & {"json", "refusal"})
    limit = scipy_stats.binom.ppf(0.999, 60, 0.05)
    assert max(alarms.values()) <= limit, alarms
    assert alarms["kl"] + alarms["win_rate"] + alarms["entropy"] > 3  # and it can alarm at all
    assert max(families.values()) <= limit


def test_an_unread_verdict_is_left_out_and_counted() -> None:
    a, b = (full(np.random.default_rng(seed)) for seed in (1, 2))
    gone = b.judgments.copy()
    gone.loc[:4, ["preference", "preference_first", "preference_second"]] = np.nan
    line = compare(a, Evidence(gone, b.samples, b.pairs, b.checks))["win_rate"]
    assert line.difference.n == 115
    assert "5 prompts without a verdict" in line.difference.reason


def test_a_check_that_raised_in_either_counts_for_neither() -> None:
    a, b = (full(np.random.default_rng(seed)) for seed in (1, 2))
    broken = [a.checks.copy(), b.checks.copy()]
    for k, frame in enumerate(broken):
        frame["passed"] = frame["passed"].astype(float)
        frame.loc[k, "passed"] = np.nan
    line = compare(Evidence(checks=broken[0]), Evidence(checks=broken[1]))["json"]
    assert line.difference.n == 58
    assert "2 prompts on which a check raised" in line.difference.reason


def test_only_rows_of_both_are_joined_and_counted_in_any_order() -> None:
    a, b = (full(np.random.default_rng(seed)) for seed in (1, 2))
    fewer = Evidence(
        b.judgments.iloc[:100].sample(frac=1, random_state=0), b.samples.iloc[20:], b.pairs
    )
    joined = comparison.join(a, fewer, prompts={f"w{i:03d}" for i in range(90)})
    assert joined.rows["judgments"] == (120, 100, 90)
    assert joined.rows["samples"] == (120, 100, 70)
    assert joined.rows["pairs"] == (120, 120, 120)
    assert joined.rows["checks"] == (120, 0, 0)
    assert (joined.a.judgments["prompt_id"] == joined.b.judgments["prompt_id"]).all()
    gap = joined.b.samples["kl"].mean() - joined.a.samples["kl"].mean()
    found = comparison.measures(joined, rng=np.random.default_rng(0), n_boot=20)
    assert next(x for x in found if x.name == "kl").difference.value == pytest.approx(gap)


def test_what_is_missing_has_a_reason_and_no_number() -> None:
    found = compare(Evidence(), Evidence())
    assert set(found) == set(comparison.MEASURES)
    for line in found.values():
        assert math.isnan(line.difference.value)
        assert line.difference.reason
        assert line.verdict == "not compared"
        assert math.isnan(line.p_holm)


def test_a_measure_that_may_not_be_compared_says_why_and_does_not_count_for_holm() -> None:
    a, b = (full(np.random.default_rng(seed)) for seed in (1, 2))
    joined = comparison.join(a, b)
    why = {"win_rate": "the judges differ", "lc_win_rate": "the judges differ"}
    found = comparison.measures(joined, rng=np.random.default_rng(0), without=why)
    lines = {line.name: line for line in found}
    assert lines["win_rate"].difference.reason == "the judges differ"
    assert lines["true_win_rate"].p_holm == lines["true_win_rate"].p


def test_one_cluster_gives_a_difference_but_no_verdict() -> None:
    a, b = (full(np.random.default_rng(seed), clusters=1, win=0.3 * seed) for seed in (0, 1))
    line = compare(a, b)["win_rate"]
    assert line.difference.value > 10
    assert line.difference.reason == stats.ONE_CLUSTER
    assert line.verdict == "not compared"


def test_holm_is_over_each_family_alone() -> None:
    a, b = (full(np.random.default_rng(seed), win=0.05 * seed) for seed in (1, 2))
    found = compare(a, b)
    rates = [found[n] for n in comparison.WIN_RATES]
    assert [x.p_holm for x in rates] == pytest.approx(list(stats.holm([x.p for x in rates])))
    others = [found[n] for n in comparison.MEASURES if n not in comparison.WIN_RATES]
    assert [x.p_holm for x in others] == pytest.approx(list(stats.holm([x.p for x in others])))


def test_how_large_a_difference_may_still_be_is_the_farther_end() -> None:
    point = stats.Estimate(1.0, 1.0, -2.0, 4.0, 9)
    line = differences.Difference("x", "points", 1, 1, 2, point, 0.5, 9, "t")
    assert line.up_to == 4.0
    ratio = differences.Difference(
        "x", "×", 0, 1, 1, stats.Estimate(0.9, 0.1, 0.5, 1.5, 9), 0.5, 9, "t"
    )
    assert ratio.up_to == 2.0


def test_a_fit_that_no_resample_moves_is_no_difference_that_was_measured() -> None:
    """Soft verdicts of 0.5 and a hair: the penalised fits are 50% exactly, and say nothing."""
    a, b = (full(np.random.default_rng(seed), clusters=40) for seed in (1, 2))
    sides = ["preference", "preference_first", "preference_second"]
    flat = [
        replace(e, judgments=e.judgments.assign(**(0.5 + 0.004 * (e.judgments[sides] - 0.5))))
        for e in (a, b)
    ]
    line = compare(*flat)["lc_win_rate"]
    assert math.isnan(line.difference.value)
    assert "differ too little" in line.difference.reason
    assert compare(a, a)["lc_win_rate"].difference.value == 0
