"""The method table against planted effects, naive loops and simulated coverage."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from prefeval.metrics import collapse, method_table, stats, usable
from prefeval.metrics.data_efficiency import NO_GAIN, NO_SIZES, crossings
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.joint_rates import prompts_of
from prefeval.metrics.lever import ONE_BETA, lever_sensitivity, rms_slope
from prefeval.metrics.method_table import ONE_SEED, noise_cost
from prefeval.metrics.seed_spread import sampling_noise, seed_spread
from prefeval.metrics.selection import Key

# -- the lever ---------------------------------------------------------------------------------


def test_rms_slope_is_the_naive_sum_less_the_noise():
    changes, doublings = np.array([3.0, -4.0]), np.array([1.0, 2.0])
    noise = np.array([[1.0, -0.5], [-0.5, 2.0]])
    got = rms_slope(changes, noise, doublings, n=200)
    assert got.value == pytest.approx(math.sqrt((9 + 16 - 3) / (1 + 4)))
    assert got.ci_low < got.value < got.ci_high
    exact = rms_slope(changes, np.zeros((2, 2)), doublings, n=200)
    assert exact.value == exact.ci_low == exact.ci_high == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize("true", [(0.0, 0.0, 0.0), (2.0, 2.0, 2.0), (4.0, 0.0, -4.0), (9.0, 1, 0)])
def test_the_interval_of_the_lever_covers_planted_changes_of_correlated_rates(true):
    """Rates of four β with an SD of 2.5 and a correlation of 0.4, as shared prompts give them."""
    rng = np.random.default_rng(5)
    rates = 2.5**2 * (0.6 * np.eye(4) + 0.4)
    steps = np.diff(np.eye(4), axis=0)
    noise, doublings = steps @ rates @ steps.T, np.full(3, 0.86)
    truth = math.sqrt(np.square(true).sum() / np.square(doublings).sum())
    drawn = rng.multivariate_normal(np.array(true), noise, size=600)
    got = [rms_slope(d, noise, doublings, n=200) for d in drawn]
    assert np.mean([g.ci_low <= truth <= g.ci_high for g in got]) > 0.93
    assert all(g.ci_low <= g.value < g.ci_high for g in got)
    squares = np.mean([g.value**2 for g in got])
    naive = np.mean(np.square(drawn).sum(axis=1)) / np.square(doublings).sum()
    assert abs(squares - truth**2) < abs(naive - truth**2) / 2  # what noise adds is taken out


# -- seeds -------------------------------------------------------------------------------------


def test_seed_spread_of_equal_noise_is_the_mean_variance_less_the_noise():
    values = [np.array([60.0, 64.0]), np.array([55.0, 61.0])]
    covariance = np.array([[5.0, 2.0], [2.0, 5.0]])
    got = seed_spread(values, [covariance] * 2)
    assert got.value == pytest.approx(math.sqrt((8 + 18) / 2 - 3))
    assert got.n == 4
    low, high = ((8 + 18) / reference.chi2.ppf(p, 2) - 3 for p in (0.975, 0.025))
    assert got.ci_low == pytest.approx(math.sqrt(max(0.0, low)))
    assert got.ci_high == pytest.approx(math.sqrt(high))


@pytest.mark.parametrize("sd", [0.0, 1.0, 4.0])
def test_the_interval_covers_a_planted_sd_between_seeds_and_noise_is_taken_out(sd):
    """Four β of three seeds; the prompts' noise is shared in part."""
    rng = np.random.default_rng(8)
    covariance = 2.0**2 * (0.7 * np.eye(3) + 0.3)
    noise = rng.multivariate_normal(np.zeros(3), covariance, size=(1500, 4))
    rates = 60 + rng.normal(0, sd, noise.shape) + noise
    found = [seed_spread(list(r), [covariance] * 4) for r in rates]
    inside = [f.ci_low <= sd <= f.ci_high for f in found]
    assert 0.935 < np.mean(inside) < (0.965 if sd > 2 else 0.99)
    assert all(f.ci_low <= f.value < f.ci_high for f in found)
    squares, naive = np.mean([f.value**2 for f in found]), rates.var(axis=2, ddof=1).mean()
    assert abs(squares - sd**2) < (naive - sd**2) / 4  # what noise adds is taken out


def test_sampling_noise_is_what_independent_draws_add_to_the_variance():
    rng = np.random.default_rng(2)
    covariance = np.array([[3.0, 1.0, 0.5], [1.0, 4.0, 1.5], [0.5, 1.5, 5.0]])
    drawn = rng.multivariate_normal(np.zeros(3), covariance, size=200_000)
    assert drawn.var(axis=1, ddof=1).mean() == pytest.approx(sampling_noise(covariance), rel=0.02)


# -- data efficiency ---------------------------------------------------------------------------


def naive_crossing(gains: list[float], seen: list[float]) -> float:
    half = gains[-1] / 2
    if half <= 0:
        return math.inf
    for i, gain in enumerate(gains):
        if gain >= half:
            if i == 0:
                return seen[0]
            share = (half - gains[i - 1]) / (gain - gains[i - 1])
            return seen[i - 1] + share * (seen[i] - seen[i - 1])
    raise AssertionError("the last has its own half")


@given(st.lists(st.floats(-20, 40), min_size=1, max_size=6))
def test_crossings_are_those_of_a_loop(gains):
    seen = [100.0 * (i + 1) for i in range(len(gains))]
    got = crossings(np.array([gains, gains]), np.array(seen))
    assert got.tolist() == pytest.approx([naive_crossing(gains, seen)] * 2)


# -- mode collapse -----------------------------------------------------------------------------

TEXTS = {
    "a": (["x y z one", "x y z one", "p q r two"], ["x y z a", "p q r b", "s t u c"]),
    "b": (["x y z four", "x y z five", "x y z six"], ["x y z d", "x y z d", "v w k e"]),
}


def diverse() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"prompt_id": p, "index": i, "text": own[i], "ref_text": base[i]}
            for p, (own, base) in TEXTS.items()
            for i in range(3)
        ]
    )


def with_diverse(make, frame: pd.DataFrame) -> Evidence:
    return replace(make(np.random.default_rng(0), n=20), diverse=frame)


def test_collapse_is_the_paired_change_counted_by_hand(make):
    got = collapse.changes([with_diverse(make, diverse())])
    assert got["distinct"].value == pytest.approx(100 * ((2 - 3) / 3 + (3 - 2) / 3) / 2)
    # own: "x y z" 5 of 6; the reference: "x y z" 3 of 6
    assert got["opener"].value == pytest.approx(100 * (5 - 3) / 6)
    assert got["distinct"].n == got["opener"].n == 2
    by_prompt = stats.clustered_mean([100 * (2 - 1) / 3, 100 * (3 - 2) / 3])
    assert got["opener"].ci_high == pytest.approx(by_prompt.ci_high)
    # cut to 2 words: "x y" x 2 and "p q" against three, then one against two of three
    assert got["pairs"].value == pytest.approx(100 * ((2 - 3) / 3 + (1 - 2) / 3) / 2)


def test_a_policy_that_always_says_one_thing_has_collapsed(make):
    frame = diverse().assign(text="one two three four")
    got = collapse.changes([with_diverse(make, frame)])
    assert got["distinct"].value == pytest.approx(100 * ((1 - 3) / 3 + (1 - 2) / 3) / 2)
    assert got["opener"].value == pytest.approx(50.0)


@pytest.mark.parametrize("frame", [pd.DataFrame(), diverse().query("index == 0")])
def test_without_repeated_samples_collapse_is_undefined(make, frame):
    got = collapse.changes([with_diverse(make, frame)])
    assert got["distinct"].reason == got["pairs"].reason == collapse.FEW


# -- the table ---------------------------------------------------------------------------------

PLAN = {0.05: (1.1, 6.0), 0.1: (0.8, 3.0), 0.2: (0.4, 1.0), 0.4: (0.0, 0.1)}


def checkpoints(make, *, seeds=1, seed_sd=0.0, method="dpo", steps=(50, 100), plan=PLAN):
    """Quality falls with β; the first step has 0.9 of it. ``seed_sd`` is in logits."""
    rng = np.random.default_rng(4)
    found = []
    for beta, (quality, kl) in plan.items():
        for seed in range(seeds):
            own = rng.normal(0, seed_sd)
            for i, step in enumerate(steps):
                share = 1.0 if i == len(steps) - 1 else 0.9
                evidence = make(
                    rng, quality=share * quality + own, n=600, clusters=150, kl=kl, losses={"a": 0}
                )
                found.append((Key(method, beta, seed, step), evidence))
    return found


def table(found, sizes=None):
    selection = usable.select(found, rng=np.random.default_rng(0), n_boot=100)
    rows = method_table.method_table(
        found,
        selection,
        sizes={"dpo": 32.0} if sizes is None else sizes,
        rng=np.random.default_rng(0),
    )
    return selection, {row.method: row for row in rows}


def test_a_row_repeats_the_verdict_and_measures_the_rest(make):
    selection, rows = table(checkpoints(make))
    row = rows["dpo"]
    best = selection.betas[0]
    assert (row.beta, row.step, row.state) == (best.beta, best.step, "usable")
    assert row.numbers["lc"].value == best.reported.lc_win_rate
    assert row.numbers["kl"].value == pytest.approx(best.kl)
    assert row.numbers["length_ratio"].value == pytest.approx(2.0)  # 20 tokens over 10
    assert row.seen == 32 * row.step
    gained = row.numbers["lc"].value - 50
    assert row.numbers["per_thousand"].value == pytest.approx(1000 * gained / row.seen)
    assert row.numbers["seed"].reason == ONE_SEED
    assert row.compared == 4


def test_a_lever_that_matters_is_told_from_one_that_does_not(make):
    """β from .05 to .4 takes about 23 points in 3 doublings; a flat grid takes none."""
    _, steep = table(checkpoints(make))
    _, flat = table(checkpoints(make, plan=dict.fromkeys(PLAN, (0.6, 1.0))))
    lever = steep["dpo"].numbers["lever"]
    assert lever.ci_low > 3
    assert lever.ci_low < 23 / 3 < lever.ci_high
    assert flat["dpo"].numbers["lever"].ci_low == 0
    assert flat["dpo"].numbers["lever"].value < lever.value / 1.5


def test_what_a_win_rate_owes_to_length_is_positive_where_the_judge_likes_it(make):
    _, rows = table(checkpoints(make))
    assert rows["dpo"].numbers["length_bias"].ci_low > 0


def test_paired_intervals_are_shorter_than_those_of_independent_rates(make):
    """Raw and length-controlled rates share their verdicts."""
    _, rows = table(checkpoints(make))
    bias, rate = rows["dpo"].numbers["length_bias"], rows["dpo"].numbers["lc"]
    assert bias.ci_high - bias.ci_low < 0.7 * (rate.ci_high - rate.ci_low)


def test_half_of_the_gain_by_the_first_checkpoint_is_said_to_be_at_most_there(make):
    _, rows = table(checkpoints(make))
    row = rows["dpo"]
    assert row.half_at_first
    assert row.numbers["half_gain"].value == 32 * 50


def test_a_gain_that_comes_late_is_found_between_its_checkpoints(make):
    rng = np.random.default_rng(1)
    rise = {50: 0.0, 100: 0.45, 150: 1.0, 200: 1.05}
    found = [
        (Key("dpo", 0.1, 0, step), make(rng, quality=q, n=600, clusters=150, losses={"a": 0}))
        for step, q in rise.items()
    ]
    _, rows = table(found)
    row, half = rows["dpo"], rows["dpo"].numbers["half_gain"]
    assert not row.half_at_first
    assert 32 * 50 < half.ci_low < half.value < half.ci_high < 32 * 150


def test_without_a_gain_or_a_size_of_steps_data_efficiency_is_blank(make):
    none = dict.fromkeys((0.1, 0.2), (0.0, 1.0))
    _, rows = table(checkpoints(make, plan=none))
    assert rows["dpo"].numbers["half_gain"].reason == NO_GAIN
    _, rows = table(checkpoints(make), sizes={})
    assert rows["dpo"].numbers["half_gain"].reason == NO_SIZES
    assert rows["dpo"].numbers["per_thousand"].reason == NO_SIZES
    assert math.isnan(rows["dpo"].seen)


def test_seeds_that_differ_show_and_equal_ones_do_not(make):
    _, apart = table(checkpoints(make, seeds=3, seed_sd=0.5, steps=(100,)))
    _, alike = table(checkpoints(make, seeds=3, steps=(100,)))
    sd = apart["dpo"].numbers["seed"]
    assert sd.n == 12
    assert sd.ci_low < 100 * 0.5 * 0.22 < sd.ci_high  # 0.5 logits near a share of 0.65
    assert sd.ci_low > alike["dpo"].numbers["seed"].value
    assert alike["dpo"].numbers["seed"].ci_low in (0, pytest.approx(0, abs=1.5))


def test_one_beta_has_no_lever_and_a_method_without_a_best_beta_only_spans_its_grid(make):
    _, rows = table(checkpoints(make, plan={0.1: (0.8, 3.0)}))
    assert rows["dpo"].numbers["lever"].reason == ONE_BETA
    rng = np.random.default_rng(0)
    broken = [
        (Key("simpo", beta, 0, 10), make(rng, quality=0.5, losses={"json": 0.9}))
        for beta in (2.0, 4.0)
    ]
    _, rows = table(broken)
    assert rows["simpo"].seeds == ()
    assert set(rows["simpo"].numbers) == {"lever", "seed"}


def test_a_beta_that_is_not_identified_is_left_out_of_the_lever_and_counted(make):
    found = checkpoints(make)
    apart = make(np.random.default_rng(9), n=600, clusters=150, length_shift=30, losses={"a": 0})
    found = [(k, apart if k.beta == 0.4 else e) for k, e in found]
    selection, rows = table(found)
    assert rows["dpo"].compared == 3
    prompts = prompts_of(dict(found), reporting=True)
    kept = [b for b in selection.betas if b.beta != 0.4]
    assert lever_sensitivity(kept, prompts)[0] == rows["dpo"].numbers["lever"]


def test_planted_noise_is_the_paired_difference_of_the_same_prompts(make):
    """0.8 against 0.3 logits: about 11 points are lost."""
    keys = [Key("dpo", beta, seed, 100) for beta in (0.1, 0.3) for seed in (0, 1)]
    rng = np.random.default_rng(3)
    clean = {k: make(rng, quality=0.8, n=800, clusters=200) for k in keys}
    noisy = {k: make(rng, quality=0.3, n=800, clusters=200) for k in keys}
    pair = [prompts_of(e, reporting=False) for e in (clean, noisy)]
    got, betas = noise_cost({0.1: keys[:2], 0.3: keys[2:]}, *pair)
    by_hand = np.mean([pair[1].lc(k).value - pair[0].lc(k).value for k in keys])
    assert betas == (0.1, 0.3)
    assert got.value == pytest.approx(by_hand)
    assert got.ci_low < -11 < got.ci_high < 0
    assert noise_cost({0.1: keys[:2]}, pair[0], pair[0])[0].value == 0


def test_equal_inputs_give_equal_rows(make):
    first, second = (table(checkpoints(make))[1] for _ in range(2))
    assert repr(first) == repr(second)


def test_a_beta_that_noise_left_unidentified_is_not_compared(make):
    keys = {b: [Key("dpo", b, 0, 100)] for b in (0.1, 0.3)}
    rng = np.random.default_rng(3)
    clean = {k: make(rng, quality=0.8) for found in keys.values() for k in found}
    noisy = {k: make(rng, length_shift=30 if k.beta == 0.1 else 0.5) for k in clean}
    pair = [prompts_of(e, reporting=False) for e in (clean, noisy)]
    assert noise_cost(keys, *pair)[1] == (0.3,)
    cost, betas = noise_cost({0.1: keys[0.1]}, *pair)
    assert betas == ()
    assert "not identified" in cost.reason


def test_equal_seeds_have_no_spread_and_seeds_alike_by_luck_an_interval():
    same = seed_spread([np.array([60.0, 60.0])], [np.zeros((2, 2))])
    assert (same.value, same.ci_low, same.ci_high) == (0, 0, 0)
    lucky = seed_spread([np.array([60.0, 60.0])], [4 * np.eye(2)])
    usual = seed_spread([np.array([60.0, 60.0 + math.sqrt(8)])], [4 * np.eye(2)])
    assert lucky.value == 0
    assert lucky.ci_high == pytest.approx(usual.ci_high)
