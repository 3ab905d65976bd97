"""The verdict on planted truths: windows, vetoes, honesty about the best of many."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as reference

from prefeval.metrics import length_control, usable, verdict
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.pooling import Half, Rules, choosing_half, pooled_rate, recipes_of
from prefeval.metrics.selection import Rate
from prefeval.metrics.stats import Estimate
from prefeval.records import Checkpoint, PrefevalError, Trial, to_jsonable

BEHAVIOURS = {"json": 0.01, "tool": 0.01, "refusal": 0.01}


def select(checkpoints, seed=0, **options):
    return usable.select(checkpoints, rng=np.random.default_rng(seed), n_boot=100, **options)


@pytest.fixture
def sweep(make):
    """Low β wins and breaks formats, the middle is good, high β does nothing."""
    plan = {0.01: (0.9, 0.6, 40.0), 0.05: (0.8, 0.01, 4.0), 0.1: (0.8, 0.01, 2.0), 1.0: (0, 0, 0.1)}
    rng = np.random.default_rng(0)
    return [
        (("dpo", beta, 0, 100), make(rng, quality=q, losses=BEHAVIOURS | {"json": lost}, kl=kl))
        for beta, (q, lost, kl) in plan.items()
    ]


def test_a_planted_window_is_found(sweep):
    got = select(sweep)
    assert [b.state for b in got.betas] == ["not usable", "usable", "usable", "undecided"]
    window = got.windows[0]
    assert (window.low, window.high, window.gaps) == (0.05, 0.1, ())
    assert window.at_edge == ""
    assert window.text == "β from 0.05 to 0.1 is usable"
    assert got.recommended.beta in (0.05, 0.1)
    assert got.verdict.startswith(f"Ship dpo β={got.recommended.beta:g} step 100 seed 0: on 200")


def test_a_damaged_behaviour_vetoes_the_highest_win_rate(sweep):
    got = select(sweep)
    worst = got.betas[0]
    assert worst.reported.ci_low > 50
    assert worst.damaged == ("json",)
    assert worst.reasons[0].startswith("damage: json \u2212")
    assert got.recommended.beta != worst.beta
    assert worst.beta not in [rival.beta for rival in got.recommended.rivals]


def test_printed_numbers_come_from_prompts_that_did_not_choose(sweep):
    got = select(sweep).recommended
    frame = dict(sweep)["dpo", got.beta, 0, 100].judgments
    rest = frame[~choosing_half(frame["cluster"].to_numpy())]
    own = length_control.length_controlled(
        *(rest[c] for c in ("preference", "len_output", "len_baseline", "difficulty")),
        C=length_control.DEFAULT_C,
    )
    assert got.numbers["lc_win_rate"] == pytest.approx(own.lc_win_rate)
    assert got.numbers["win_rate"] == pytest.approx(100 * rest["preference"].mean())
    assert got.numbers["kl_n"] == got.numbers["lc_win_rate_n"] == len(rest) == 200


def test_the_order_of_checkpoints_does_not_matter(sweep):
    assert to_jsonable(select(sweep)) == to_jsonable(select(sweep[::-1]))


def test_a_selection_is_json_without_nan(sweep):
    text = json.dumps(to_jsonable(select(sweep[:1])), allow_nan=False)
    assert json.loads(text)["windows"][0]["low"] is None


def test_flat_truth_is_rarely_recommended_and_the_best_of_many_is_not_flattered(make):
    """30 sweeps of ten equal β without gain, then with: the best looks 2 or more points too good
    on the prompts that chose it, and as good as it is on the others (SE 0.7)."""
    truth = {0.0: 0, 0.6: 0}
    flattered, stated = [], []
    shared = np.random.default_rng(7).normal(0, 0.7, 200)
    for quality in truth:
        rate = 100 * np.mean(1 / (1 + np.exp(-(quality + shared))))
        for seed in range(15):
            rng = np.random.default_rng(seed)
            sweep = [
                (("dpo", beta, 0, 1), make(rng, quality=quality, n=200)) for beta in range(1, 11)
            ]
            got = usable.select(sweep, rng=rng, n_boot=50)
            truth[quality] += got.recommended is not None
            best = max(got.betas, key=lambda b: b.choosing.ci_low)
            flattered.append(best.choosing.lc_win_rate - rate)
            stated.append(best.reported.lc_win_rate - rate)
    assert truth[0.0] <= 1
    assert truth[0.6] >= 12
    assert np.mean(flattered) > 4
    assert abs(np.mean(stated)) < 2


def test_luck_below_the_first_rank_is_not_recommended(sweep):
    good = next(b for b in select(sweep).betas if b.state == "usable")
    flat = Rate(50.0, 45.0, 55.0, 200)
    undecided = replace(good, state="undecided", reported=flat)
    lucky = replace(good, choosing=flat)
    assert usable.place_to_recommend([lucky]) == 0
    assert usable.place_to_recommend([undecided, lucky]) is None
    assert usable.place_to_recommend([undecided, good]) == 1
    said = verdict.sentence(None, [undecided, lucky], 5.0)
    assert said.startswith("No checkpoint is recommended: ")
    assert "by luck" in said


def test_equal_bounds_go_to_the_lower_kl(make):
    twin = make(np.random.default_rng(3), quality=0.8, kl=5.0)
    near = replace(twin, samples=twin.samples.assign(kl=2.0))
    for first, second, lower in ((twin, near, 0.2), (near, twin, 0.1)):
        got = select([(("dpo", 0.1, 0, 1), first), (("dpo", 0.2, 0, 1), second)]).recommended
        assert got.beta == lower


def test_usable_betas_of_equal_truth_are_named_as_indistinguishable(make):
    rng = np.random.default_rng(22)
    got = select([(("dpo", beta, 0, 1), make(rng, quality=1.0)) for beta in (0.1, 0.2)])
    (rival,) = got.recommended.rivals
    assert rival.ci_low < 0 < rival.ci_high
    assert got.recommended.indistinguishable == (f"dpo β={rival.beta:g} step 1",)
    assert f"Not distinguishable from it: dpo β={rival.beta:g} step 1." in got.verdict


def test_a_clearly_worse_usable_beta_is_told_apart(make):
    rng = np.random.default_rng(4)
    sweep = [
        (("dpo", beta, 0, 1), make(rng, quality=q, n=1600)) for beta, q in ((0.1, 1.5), (0.2, 0.4))
    ]
    got = select(sweep)
    assert [b.state for b in got.betas] == ["usable", "usable"]
    (rival,) = got.recommended.rivals
    assert rival.distinguishable
    assert rival.ci_low > 0
    assert got.recommended.indistinguishable == ()


def test_damage_at_the_best_step_vetoes_the_beta_and_an_undamaged_step_is_named(make):
    rng = np.random.default_rng(5)
    early = make(rng, quality=0.8, losses=BEHAVIOURS)
    late = make(rng, quality=1.6, losses=BEHAVIOURS | {"tool": 0.5})
    got = select([(("dpo", 0.1, 0, 100), early), (("dpo", 0.1, 0, 200), late)])
    assert len(got.betas) == 1
    assert (got.betas[0].step, got.betas[0].state) == (200, "not usable")
    assert "damage: tool" in got.betas[0].reasons[0]
    assert got.betas[0].reasons[0].endswith("not at step 100")
    assert got.recommended is None


@pytest.mark.parametrize(
    ("method", "grid", "best", "edge", "extension"),
    [
        ("dpo", (0.05, 0.1, 0.3), 0.3, "high", "--methods dpo --beta 0.3:1"),
        ("dpo", (0.05, 0.1, 0.3), 0.05, "low", "--methods dpo --beta 0.02:0.05"),
        ("simpo", (2, 10), 10, "high", "--methods simpo --beta simpo=10:30"),
        ("ppo", (0.1,), 0.1, "only", "--methods ppo --beta 0.03:0.3"),
        ("kto", (0.05, 0.1, 0.3), 0.1, "", ""),
    ],
)
def test_a_best_point_at_the_edge_of_the_grid_is_said_with_its_extension(
    make, method, grid, best, edge, extension
):
    rng = np.random.default_rng(6)
    sweep = [
        ((method, beta, 0, 1), make(rng, quality=2.0 if beta == best else 0.5)) for beta in grid
    ]
    (window,) = select(sweep).windows
    assert (window.best, window.at_edge, window.extension) == (best, edge, extension)
    assert (extension in window.text) if edge else ("try" not in window.text)


def test_damage_at_every_beta_suggests_more_anchoring_and_explains_itself(make):
    rng = np.random.default_rng(7)
    broken = {"json": 0.6, "tool": 0.01}
    sweep = [(("dpo", b, 0, 1), make(rng, quality=1, losses=broken)) for b in (0.01, 0.03)]
    got = select(sweep)
    assert got.recommended is None
    assert got.verdict == "No checkpoint is recommended: every β is shown to damage json."
    assert got.windows[0].extension == "--methods dpo --beta 0.03:0.1"
    assert math.isnan(got.windows[0].low)


def test_no_gain_shown_names_the_nearest_and_how_many_prompts_would_decide(make):
    got = select([(("dpo", 0.1, 0, 1), make(np.random.default_rng(8), quality=0.1))])
    assert got.recommended is None
    assert "it would take about" in got.verdict
    assert "the nearest is dpo β=0.1 step 1 at" in got.verdict
    assert got.verdict.count(". ") == 0  # one sentence


def test_worse_than_the_reference_is_not_usable(make):
    got = select([(("dpo", 0.1, 0, 1), make(np.random.default_rng(9), quality=-1))])
    assert got.betas[0].state == "not usable"
    assert got.betas[0].reasons[0].startswith("no gain")


def test_a_gap_in_the_window_is_named(make):
    rng = np.random.default_rng(10)
    plan = {0.05: 0.01, 0.1: 0.6, 0.3: 0.01}
    sweep = [
        (("dpo", b, 0, 1), make(rng, quality=1.2, losses={"json": lost}))
        for b, lost in plan.items()
    ]
    (window,) = select(sweep).windows
    assert window.gaps == (0.1,)
    assert "except 0.1" in window.text


def test_lengths_that_do_not_overlap_leave_a_beta_undecided(make):
    far = make(np.random.default_rng(11), quality=1, length_shift=8)
    got = select([(("dpo", 0.1, 0, 1), far)])
    assert got.betas[0].state == "undecided"
    assert "not identified" in got.verdict
    assert "not known" in " ".join(got.warnings)


def test_pooled_seeds_vary_by_prompts_and_by_seeds():
    """Rates .60, .64 by hand: prompts' variance of the mean, plus (.02^2 + .02^2)/1/2."""
    draws = np.random.default_rng(12).normal([0.60, 0.64], 0.03, (500, 2))
    half = Half(np.array([0.60, 0.64]), draws, ("", ""), n=200, clusters=10**6)
    got = pooled_rate(half, [0, 1], 0.95)
    v_prompts, v_seeds = draws.mean(axis=1).var(ddof=1), 0.0004
    df = (v_prompts + v_seeds) ** 2 / (v_seeds**2 / 1)
    assert got.lc_win_rate == pytest.approx(62)
    half_width = reference.t.ppf(0.975, df) * math.sqrt(v_prompts + v_seeds)
    logit = lambda p: math.log(p / (1 - p))  # noqa: E731
    assert logit(got.ci_high / 100) - logit(0.62) == pytest.approx(
        half_width / (0.62 * 0.38), rel=1e-3
    )


def test_several_seeds_are_pooled_and_one_of_them_is_shipped(make):
    rng = np.random.default_rng(13)
    sweep = [(("dpo", 0.1, s, 1), make(rng, quality=1.0, losses=BEHAVIOURS)) for s in range(3)]
    got = select(sweep)
    assert len(got.betas) == 1
    assert got.betas[0].seeds == (0, 1, 2)
    assert got.betas[0].behaviours[0].n == 3 * 64
    assert got.recommended.seed in (0, 1, 2)
    assert "Over its 3 seeds" in got.verdict
    assert verdict.PROMPTS_NOT_TRAINING not in got.verdict
    assert verdict.PROMPTS_NOT_TRAINING in select(sweep[:1]).verdict


def test_seeds_that_disagree_are_not_usable_together(make):
    rng = np.random.default_rng(14)
    sweep = [(("dpo", 0.1, s, 1), make(rng, quality=q)) for s, q in enumerate((2.0, 0.4))]
    assert select(sweep).betas[0].state == "undecided"
    assert select(sweep[:1]).betas[0].state == "usable"


def test_a_step_that_one_seed_did_not_reach_is_not_chosen(make):
    rng = np.random.default_rng(15)
    keys = [("dpo", 0.1, 0, 1), ("dpo", 0.1, 1, 1), ("dpo", 0.1, 0, 2)]
    sweep = [(key, make(rng, quality=2.0 if key[3] == 2 else 0.8)) for key in keys]
    assert select(sweep).betas[0].step == 1


def test_halves_hold_whole_clusters_and_do_not_depend_on_order():
    names = np.array([f"c{i // 3}" for i in range(300)])
    side = choosing_half(names)
    assert abs(int(side.sum()) - 150) <= 3
    assert all(len(set(side[names == name])) == 1 for name in np.unique(names))
    order = np.random.default_rng(0).permutation(300)
    assert (choosing_half(names[order]) == side[order]).all()


def test_recipes_pool_their_checks_by_prompt(make):
    rng = np.random.default_rng(16)
    one = make(rng, losses={"json": 0.3})
    keys = [usable.Key("dpo", 0.1, s, 1) for s in (0, 1)]
    half = Half(np.full(2, 0.5), np.full((10, 2), 0.5), ("", ""), 200, 200)
    (twice,) = recipes_of(keys, [one, one], half, half, Rules())
    (once,) = recipes_of(keys[:1], [one], half, half, Rules())
    assert twice.behaviours[0].ci_low == pytest.approx(once.behaviours[0].ci_low, abs=0.5)


def test_checkpoint_records_serve_as_keys(make):
    key = Checkpoint(Trial("dpo", 0.1, 3), 40, "somewhere")
    got = select([(key, make(np.random.default_rng(17), quality=1))]).betas[0]
    assert (got.method, got.beta, got.seeds, got.step) == ("dpo", 0.1, (3,), 40)


def test_missing_retention_is_warned_of(make):
    got = select([(("dpo", 0.1, 0, 1), make(np.random.default_rng(18), quality=1))])
    assert any("No behaviour was checked" in w for w in got.warnings)


def test_a_single_checkpoint_is_judged_on_all_prompts(make):
    got = select([(("dpo", 0.1, 0, 1), make(np.random.default_rng(20), quality=0.5))])
    assert (got.prompts_choosing, got.prompts_reporting) == (0, 400)
    assert got.recommended.numbers["lc_win_rate_n"] == got.recommended.numbers["kl_n"] == 400
    assert "played no part" not in got.verdict


def test_nothing_and_doubles_and_other_prompts_are_refused(make):
    rng = np.random.default_rng(19)
    one, two = make(rng), make(rng, n=390)
    with pytest.raises(PrefevalError, match="no checkpoint to select from"):
        select([])
    with pytest.raises(PrefevalError, match=r"dpo β=0.1 step 1 seed 0 occurs twice"):
        select([(("dpo", 0.1, 0, 1), one)] * 2)
    with pytest.raises(PrefevalError, match="w0390, w0391, w0392 and 7 more"):
        select([(("dpo", 0.1, 0, 1), one), (("dpo", 0.2, 0, 1), two)])


def test_no_judgments_leave_everything_undecided(make):
    got = select([(("dpo", beta, 0, 1), Evidence()) for beta in (0.1, 0.2)])
    assert [b.state for b in got.betas] == ["undecided", "undecided"]
    assert got.verdict.startswith("No checkpoint is recommended: gain not shown: fewer than 2")


def test_a_policy_that_is_its_reference_shows_no_gain(make):
    one = make(np.random.default_rng(21))
    ties = dict.fromkeys(("preference", "preference_first", "preference_second"), 0.5)
    same = one.judgments.assign(**ties, len_output=one.judgments["len_baseline"])
    got = select([(("dpo", b, 0, 1), replace(one, judgments=same)) for b in (0.1, 0.2)])
    assert {b.reported.lc_win_rate for b in got.betas} == {50}
    assert {b.state for b in got.betas} == {"not usable"}


def test_what_the_prompts_do_not_resolve_is_said_with_the_n_that_would(make):
    """Two β alike: the warning's n is (2.8 standard errors / the difference)^2 times theirs."""
    rng = np.random.default_rng(21)
    got = select([(("dpo", b, 0, 1), make(rng, quality=q)) for b, q in ((0.05, 1.0), (0.1, 1.3))])
    (rival,) = got.recommended.rivals
    assert not rival.distinguishable
    (said,) = [w for w in got.warnings if "do not tell it from" in w]
    assert f"would take about {rival.needed} prompts" in said
    half_width = (rival.ci_high - rival.ci_low) / 2  # one rival: no wider than a plain interval
    by_hand = 200 * (2.8 * half_width / 1.96 / abs(rival.difference)) ** 2
    assert rival.needed == pytest.approx(by_hand, rel=0.15)


def test_a_judge_that_prefers_the_reference_to_itself_is_warned_of(make):
    evidence = make(np.random.default_rng(22), quality=1)
    for interval, warned in (((50.4, 53.0), True), ((49.0, 52.0), False)):
        again = Estimate(51.0, 0.7, *interval, 800)
        noisy = replace(evidence, calibration=replace(evidence.calibration, self_play=again))
        got = select([(("dpo", 0.1, 0, 1), noisy)])
        assert any("where 50 is due" in w for w in got.warnings) == warned
        assert got.self_play == again
