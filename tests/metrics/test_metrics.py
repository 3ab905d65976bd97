"""Every metric by hand, and the registry."""

import math
from dataclasses import replace
from importlib.metadata import EntryPoint

import numpy as np
import pandas as pd
import pytest

from prefeval import metrics
from prefeval.metrics import style
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.fall import chosen_fall
from prefeval.metrics.kl import by_position
from prefeval.metrics.retention import changes
from prefeval.records import MetricResult, PrefevalError


def by_name(results):
    return {result.name: result for result in results}


def measure(name, evidence):
    return by_name(metrics.get(name)(evidence, rng=np.random.default_rng(0)))


def judged(first, second, true=None):
    n = len(first)
    first, second = np.array(first, float), np.array(second, float)
    return pd.DataFrame(
        {
            "prompt_id": [f"p{i}" for i in range(n)],
            "cluster": "",
            "behaviour": "about",
            "preference": (first + second) / 2,
            "preference_first": first,
            "preference_second": second,
            "true_preference": np.nan if true is None else true,
            "len_output": np.arange(n) % 7 + 10,
            "len_baseline": np.arange(n) % 5 + 11,
            "difficulty": 0.0,
        }
    )


def test_win_rate_by_hand():
    got = measure(
        "win_rate", Evidence(judgments=judged([1, 1, 0, 0.5], [1, 0, 0, 0.5], [1, 0, 1, 1]))
    )
    assert got["win_rate"].value == 50
    assert got["win_rate"].n == 4
    assert got["win_rate"].ci_low < 50 < got["win_rate"].ci_high
    assert got["true_win_rate"].value == 75


def test_unread_verdicts_are_counted_and_no_ties():
    got = measure("win_rate", Evidence(judgments=judged([1, 1, math.nan], [1, 0, math.nan])))
    assert got["win_rate"].value == 75
    assert got["win_rate"].n == 2
    assert "1 verdicts could not be read" in got["win_rate"].reason


def test_true_win_rate_without_an_oracle_is_nan_and_says_so():
    got = measure("win_rate", Evidence(judgments=judged([1, 0], [1, 0])))["true_win_rate"]
    assert math.isnan(got.value)
    assert "no oracle" in got.reason


def test_judge_rates_by_hand():
    # winners by order: (policy, policy), (policy, reference: a flip to the first shown),
    # (tie, tie), (tie, policy), (reference, policy: a flip to the second shown)
    got = measure("judge", Evidence(judgments=judged([1, 1, 0.5, 0.5, 0], [1, 0, 0.5, 1, 1])))
    assert got["flip_rate"].value == 40
    # first shown wins: 1, 0 | 1, 1 | .5, .5 | .5, 0 | 0, 0 -> mean 4.5/10
    assert got["first_position_rate"].value == pytest.approx(45)
    assert got["tie_rate"].value == pytest.approx(30)


def sampled(**changed):
    frame = pd.DataFrame(
        {
            "prompt_id": ["a", "b", "c"],
            "cluster": "",
            "behaviour": "about",
            "kl": [1.0, 2.0, 6.0],
            "k1": [-1.0, 2.0, 8.0],
            "n_tokens": [10, 20, 30],
            "ref_n_tokens": [10, 10, 20],
            "ended": [1, 1, 0],
            "ref_ended": 1,
            "entropy": [0.6, 0.3, 0.2],
        }
    )
    return frame.assign(**changed)


def test_kl_by_hand():
    further = {"k2": [1, 2, 3], "k3": [0.5, 1, 3], "forward_kl": [2, 4, 6]}
    got = measure("kl", Evidence(samples=sampled(**further)))
    assert {name: r.value for name, r in got.items()} == pytest.approx(
        {
            **{"kl": 3, "k1": 3, "k2": 2, "k3": 1.5, "forward_kl": 4, "sqrt_kl": math.sqrt(3)},
            **{"kl_per_token": 9 / 60, "forward_kl_per_token": 12 / 40, "entropy": 18 / 60},
        }
    )
    assert got["sqrt_kl"].ci_high == pytest.approx(math.sqrt(got["kl"].ci_high))
    assert got["sqrt_kl"].ci_low == 0  # the KL's own interval reaches below 0


def test_length_by_hand():
    got = measure("length", Evidence(samples=sampled()))
    assert {name: r.value for name, r in got.items()} == pytest.approx(
        {"length_ratio": 1.5, "mean_length": 20, "eos_rate": 200 / 3, "truncation_rate": 100 / 3}
    )


def test_log_probability_dynamics_by_hand():
    pairs = pd.DataFrame(
        {
            "pair_id": ["a", "b", "c"],
            "cluster": "",
            "chosen_logps": [-10.0, -21, -30],
            "ref_chosen_logps": [-8.0, -20, -30],
            "rejected_logps": [-15.0, -20, -40],
            "ref_rejected_logps": [-10.0, -20, -40],
            "chosen_lengths": [5, 10, 15],
            "rejected_lengths": [10, 10, 5],
        }
    )
    got = measure("logps", Evidence(pairs=pairs))
    # deltas: chosen -2, -1, 0; rejected -5, 0, 0; right, wrong, equal
    gaps = [got.pop(name) for name in ("off_policy_gap", "ref_off_policy_gap")]
    assert all("not scored" in gap.reason for gap in gaps)
    assert "not known" in got.pop("ches_correlation").reason
    assert {name: r.value for name, r in got.items()} == pytest.approx(
        {
            "delta_chosen": -1,
            "delta_rejected": -5 / 3,
            "delta_chosen_per_token": -3 / 30,
            "delta_rejected_per_token": -5 / 25,
            "margin": 2 / 3,
            "implicit_accuracy": 50,
        }
    )


def test_ches_is_compared_with_the_change_of_the_chosen_answer():
    n = 12
    fall = np.arange(n, dtype=float)
    pairs = pd.DataFrame(
        {
            "pair_id": [f"p{i:02}" for i in range(n)], "cluster": "",
            "chosen_logps": -20 - fall, "ref_chosen_logps": -20.0,
            "rejected_logps": -30.0, "ref_rejected_logps": -20.0,
            "chosen_lengths": 5, "rejected_lengths": 5,
            "ref_ches": -9 + fall**3,  # the likelier to be displaced, the further it fell
        }
    )  # fmt: skip
    assert measure("logps", Evidence(pairs=pairs))["ches_correlation"].value == pytest.approx(-1)
    mixed = pairs.assign(ref_ches=[3.0, 1, 4, 1.5, 9, 2.6, 5, 3.5, 8, 9.7, 9.3, 2.3])
    found = measure("logps", Evidence(pairs=mixed))["ches_correlation"]
    assert found.ci_low < found.value < found.ci_high < 1


def test_diversity_by_hand():
    texts = {"a": ["x y z 1", "x y z 2", "x y z 2", "x y z 2"], "b": ["x y z", "q", "", "r s"]}
    rows = pd.DataFrame(
        [
            {"prompt_id": p, "index": i, "text": t, "ref_text": f"{i}"}
            for p, several in texts.items()
            for i, t in enumerate(several)
        ]
    )
    got = measure("diversity", Evidence(diverse=rows))
    assert got["distinct"].value == 100 * (2 / 4 + 4 / 4) / 2
    assert got["ref_distinct"].value == 100
    assert got["top_opener_share"].value == 100 * 5 / 8
    assert got["top_opener_share"].n == 2


def test_a_judge_that_follows_length_is_seen_to():
    """Five prompts: the longer answer wins three, loses one, and one is of equal lengths."""
    frame = judged([1, 0, 1, 0, 1], [1, 0, 1, 0, 1])
    frame["len_output"] = [9, 2, 9, 9, 5]
    frame["len_baseline"] = [5, 5, 5, 5, 5]
    got = measure("judge", Evidence(judgments=frame))["prefers_longer"]
    assert (got.value, got.n) == (75, 4)
    frame["len_output"] = 5
    got = measure("judge", Evidence(judgments=frame))["prefers_longer"]
    assert math.isnan(got.value)
    assert "different lengths" in got.reason


def test_unread_verdicts_are_a_rate_of_all_prompts():
    got = measure("judge", Evidence(judgments=judged([1, math.nan, 0, 1], [1, 0, math.nan, 1])))
    assert got["unread_rate"].value == 50
    assert got["flip_rate"].n == 2
    none = measure("judge", Evidence(judgments=judged([math.nan], [math.nan])))
    assert none["unread_rate"].value == 100
    assert math.isnan(none["flip_rate"].value)


def test_the_difference_a_judge_can_show_is_shown_four_times_in_five():
    """500 samples of 300 prompts at that true distance from 50; SE of the power 1.8 points."""
    rng = np.random.default_rng(0)
    pilot = rng.choice([0, 0.5, 1], 300, p=[0.35, 0.3, 0.35])
    detectable = measure("judge", Evidence(judgments=judged(pilot, pilot)))["win_rate_detectable"]
    shift = detectable.value / 100
    shown = 0
    for _ in range(500):
        p = [0.35 - shift, 0.3, 0.35 + shift]
        sample = rng.choice([0, 0.5, 1], 300, p=p)
        rate = measure("win_rate", Evidence(judgments=judged(sample, sample)))["win_rate"]
        shown += rate.ci_low > 50
    assert shown / 500 == pytest.approx(0.8, abs=0.06)


def test_distinct_needs_repeated_samples():
    row = pd.DataFrame({"prompt_id": ["a"], "index": 0, "text": "t", "ref_text": "r"})
    got = measure("diversity", Evidence(diverse=row))["distinct"]
    assert math.isnan(got.value)
    assert "at least 2 samples" in got.reason


def checked(losses):
    """64 prompts a behaviour, all passed by the reference, so many lost by the policy."""
    return pd.concat(
        pd.DataFrame(
            {
                "prompt_id": [f"{name}{i}" for i in range(64)],
                "cluster": "",
                "behaviour": name,
                "passed": (np.arange(64) >= lost).astype(int),
                "ref_passed": 1,
            }
        )
        for name, lost in losses.items()
    )


def test_retention_by_hand():
    got = measure("retention", Evidence(checks=checked({"json": 16, "tool": 0})))
    assert got["retention_json"].value == 75
    assert got["change_json"].value == -25
    assert got["change_json"].unit == "points"
    assert got["retention_tool"].value == 100
    assert got["change_tool"].value == 0
    assert got["change_tool"].ci_low == pytest.approx(-5.66, abs=0.01)  # 3.84/(64 + 3.84)


def test_prompts_on_which_a_check_raised_count_for_neither_model():
    asked = checked({"json": 16, "tool": 0})
    asked.loc[asked["prompt_id"].isin(["json0", "json63"]), "passed"] = np.nan
    asked.loc[asked["prompt_id"] == "json1", "ref_passed"] = np.nan
    got = measure("retention", Evidence(checks=asked))
    assert (got["unchecked_json"].value, got["unchecked_json"].n) == (3, 64)
    assert (got["change_json"].n, got["retention_json"].n) == (61, 61)
    assert got["change_json"].value == pytest.approx(-100 * 14 / 61)
    assert "unchecked_tool" not in got
    left = asked[~asked["prompt_id"].isin(["json0", "json1", "json63"])]
    assert changes(Evidence(checks=asked).checks) == changes(Evidence(checks=left).checks)


def test_a_behaviour_whose_every_check_raised_is_undefined_and_never_0():
    asked = checked({"json": 0})
    asked["passed"] = None
    got = measure("retention", Evidence(checks=asked))
    for name in ("retention_json", "change_json"):
        assert math.isnan(got[name].value)
        assert got[name].reason
    (change,) = changes(Evidence(checks=asked).checks)
    assert (change.n, change.ruled_out) == (0, False)


def test_changes_are_corrected_over_the_behaviours():
    alone = changes(Evidence(checks=checked({"json": 9})).checks)
    among = changes(Evidence(checks=checked({"json": 9, "a": 0, "b": 0, "c": 0})).checks)
    json = {c.behaviour: c for c in among}["json"]
    assert json.p_worse == alone[0].p_worse
    assert json.p_worse_holm == pytest.approx(4 * json.p_worse)
    assert (json.gained, json.lost, json.ruled_out) == (0, 9, False)


def test_nothing_measured_gives_nan_with_a_reason_everywhere():
    results = metrics.compute(Evidence(), np.random.default_rng(0))
    assert {r.name for r in results} >= {"win_rate", "lc_win_rate", "kl", "distinct", "flip_rate"}
    for result in results:
        assert math.isnan(result.value), result.name
        assert result.reason, result.name
        assert result.n == 0


def test_all_metrics_have_n_and_an_interval_around_their_value(make):
    evidence = make(np.random.default_rng(0), quality=0.3, losses={"json": 0.1})
    results = by_name(metrics.compute(evidence, np.random.default_rng(0)))
    for name in ("win_rate", "lc_win_rate", "retention_json", "change_json"):
        result = results[name]
        assert result.n == (64 if name.endswith("json") else 400)
        assert result.ci_low < result.value < result.ci_high


def test_lc_win_rate_sees_through_length(make):
    evidence = make(np.random.default_rng(1), quality=0.0, length_shift=1.0, length_effect=1.0)
    got = by_name(metrics.compute(evidence, np.random.default_rng(0)))
    assert got["win_rate"].ci_low > 55
    assert got["lc_win_rate"].ci_low < 50 < got["lc_win_rate"].ci_high
    assert got["lc_coef_length"].value < 0  # of the baseline's extra length
    assert 5 < got["lc_overlap"].value < 20


def test_a_metrics_numbers_do_not_depend_on_which_others_run(make):
    evidence = make(np.random.default_rng(2))
    full = by_name(metrics.compute(evidence, np.random.default_rng(5)))
    alone = by_name(metrics.compute(evidence, np.random.default_rng(5), ["lc_win_rate"]))
    assert alone["lc_win_rate"] == full["lc_win_rate"]


def test_row_names_the_interval_of_the_controlled_rate_by_its_own_columns():
    results = [
        MetricResult("lc_win_rate", 55.0, 400, ci_low=51.0, ci_high=59.0),
        MetricResult("kl", 1.0, 300, ci_low=0.5, ci_high=1.5),
    ]
    assert metrics.row(results) == {
        **{"lc_win_rate": 55.0, "lc_ci_low": 51.0, "lc_ci_high": 59.0, "lc_win_rate_n": 400},
        **{"kl": 1.0, "kl_ci_low": 0.5, "kl_ci_high": 1.5, "kl_n": 300},
    }


def test_every_registered_metric_loads():
    for name in metrics.METRICS:
        assert callable(metrics.get(name))


def test_an_unknown_metric_is_named_with_the_known_ones():
    with pytest.raises(PrefevalError, match="unknown metric 'wins'; the metrics are win_rate"):
        metrics.get("wins")


def plug(monkeypatch, name, value):
    entry = EntryPoint(name=name, value=value, group=metrics.ENTRY_POINTS)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])


def test_a_plugin_runs_beside_the_built_in_ones(monkeypatch):
    plug(monkeypatch, "mine", "prefeval.metrics.kl:kl")
    got = metrics.compute(Evidence(samples=sampled()), np.random.default_rng(0), ["mine"])
    assert got[0].value == 3


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("mine", "no_such_package:metric", "metric plugin 'mine' failed .ModuleNotFoundError"),
        ("mine", "math:sqrt", "metric plugin 'mine' failed .TypeError"),
        ("mine", "prefeval.metrics.kl:kl", "'mine' reports 'kl', which another metric reports"),
        ("kl", "prefeval.metrics.kl:kl", "metric plugin 'kl' .* has the name of another metric"),
    ],
)
def test_a_broken_plugin_raises_with_its_name(monkeypatch, name, value, said):
    plug(monkeypatch, name, value)
    with pytest.raises(PrefevalError, match=said):
        metrics.compute(Evidence(), np.random.default_rng(0))


def styled(evidence, rng, *, effect):
    """A judge that pays ``effect`` for bold words, of which the policy has more."""
    frame = evidence.judgments
    n = len(frame)
    counts = dict.fromkeys(style.COLUMNS, 0)
    ours, theirs = rng.poisson(3, n), rng.poisson(1, n)
    gap = (ours - theirs) / np.maximum(ours + theirs, 1)
    won = (rng.random(n) < 1 / (1 + np.exp(-effect * gap))).astype(float)
    preferences = dict.fromkeys(("preference", "preference_first", "preference_second"), won)
    columns = counts | {"bold_output": ours, "bold_baseline": theirs} | preferences
    return replace(evidence, judgments=frame.assign(**columns))


def test_style_win_rate_sees_through_bold_words(make):
    rng = np.random.default_rng(3)
    got = measure_all(styled(make(rng, length_effect=0.0), rng, effect=1.5))
    assert got["win_rate"].ci_low > 55
    assert got["lc_win_rate"].ci_low > 55  # length is not what was paid for
    assert got["style_win_rate"].ci_low < 50 < got["style_win_rate"].ci_high


@pytest.mark.parametrize("counted", [True, False])
def test_style_win_rate_says_why_there_is_none(make, counted):
    evidence = make(np.random.default_rng(4))
    if counted:
        columns = dict.fromkeys(style.COLUMNS, 0)
        evidence = replace(evidence, judgments=evidence.judgments.assign(**columns))
    got = measure("style_win_rate", evidence)["style_win_rate"]
    assert math.isnan(got.value)
    assert ("no answer has headings" if counted else "were not counted") in got.reason


def test_a_style_count_below_zero_is_refused(make):
    columns = dict.fromkeys(style.COLUMNS, -1)
    evidence = make(np.random.default_rng(4))
    with pytest.raises(PrefevalError, match="headings_output must be 0 or more"):
        replace(evidence, judgments=evidence.judgments.assign(**columns))


def measure_all(evidence):
    return by_name(metrics.compute(evidence, np.random.default_rng(0)))


def test_what_was_not_measured_is_undefined_and_never_0():
    got = measure("kl", Evidence(samples=sampled()))
    for name in ("k2", "k3", "forward_kl", "forward_kl_per_token"):
        assert math.isnan(got[name].value)
        assert got[name].reason


def test_off_policy_gaps_by_hand():
    """Per token: the pairs' answers -1 and -2 (policy, reference), own samples -0.5 and -0.75."""
    pairs = pd.DataFrame(
        {
            "pair_id": ["a", "b"], "cluster": "",
            "chosen_logps": [-10.0, -10], "rejected_logps": [-5.0, -5],
            "ref_chosen_logps": [-20.0, -20], "ref_rejected_logps": [-10.0, -10],
            "chosen_lengths": [10, 10], "rejected_lengths": [5, 5],
        }
    )  # fmt: skip
    own = sampled(logps=[-5.0, -10, -15], ref_logps=[-7.5, -15, -22.5])
    got = measure("logps", Evidence(pairs=pairs, samples=own))
    assert got["off_policy_gap"].value == pytest.approx(-0.5)
    assert got["ref_off_policy_gap"].value == pytest.approx(-1.25)
    assert got["off_policy_gap"].ci_low <= -0.5 <= got["off_policy_gap"].ci_high


def test_where_in_an_answer_the_kl_lies_by_hand():
    """Stretches 1, 2-3 and 4-5 of answers of 5, 2 and 1 tokens."""
    terms = [[1.0, 0.5, 0.25, 0.1, 0.1], [3.0, 0.75], [2.0]]
    got = by_position(terms, ["a", "b", "c"])
    assert [(s.first, s.last, s.n_tokens) for s in got] == [(1, 1, 3), (2, 3, 3), (4, 5, 2)]
    assert [s.kl.value for s in got] == pytest.approx([2, 0.5, 0.1])
    assert sum(s.kl.value * s.n_tokens for s in got) == pytest.approx(sum(map(sum, terms)))
    assert by_position([], []) == []


def answers(texts, refs):
    """K samples a prompt: a list of texts for each."""
    rows = [
        {"prompt_id": f"p{p}", "index": i, "text": text, "ref_text": refs[p][i]}
        for p, group in enumerate(texts)
        for i, text in enumerate(group)
    ]
    return Evidence(diverse=pd.DataFrame(rows))


def test_diversity_at_equal_length_by_hand():
    """All texts have 4 words and the cut is at 2: one pair of words each."""
    texts = [["a b c d", "a b x y"], ["e f g h", "i j k l"]]
    got = measure("diversity", answers(texts, [["q r s t", "q r s t"], ["q r s t", "u v w x"]]))
    assert got["distinct_within"].value == pytest.approx(100 * (1 / 2 + 2 / 2) / 2)
    assert got["ref_distinct_within"].value == pytest.approx(75)
    assert got["distinct_across"].value == 100  # ab, ef
    assert got["ref_distinct_across"].value == 50  # qr twice


def test_being_longer_does_not_look_like_repeating_oneself():
    """The reference's texts, and the same ones with as much again behind them."""
    rng = np.random.default_rng(6)
    words = [f"w{i}" for i in range(50)]
    refs = [[" ".join(rng.choice(words, 30)) for _ in range(4)] for _ in range(12)]
    longer = [[f"{t} {' '.join(rng.choice(words, 30))}" for t in group] for group in refs]
    got = measure("diversity", answers(longer, refs))
    for name in ("distinct_within", "distinct_across"):
        assert got[name].value == pytest.approx(got[f"ref_{name}"].value)
        assert got[name].ci_low < got[name].value < got[name].ci_high


def test_an_answer_that_loops_is_repetition():
    loop, plain = "so it goes on " * 25, " ".join(f"w{i}" for i in range(100))
    got = measure("diversity", answers([[loop, loop], [plain, plain]], [[plain] * 2] * 2))
    # 97 groups of four words in 100, of which 4 differ in the loop
    assert got["repetition"].value == pytest.approx(100 * (1 - 4 / 97) / 2)
    assert got["ref_repetition"].value == 0


def pairs_with(rng, chosen, rejected, n=200):
    """Held-out pairs of 20 tokens whose log-ratios are normal around ``chosen``, ``rejected``."""
    return pd.DataFrame(
        {
            "pair_id": [f"q{i}" for i in range(n)], "cluster": "",
            "chosen_logps": -40 + rng.normal(chosen, 1, n), "ref_chosen_logps": -40.0,
            "rejected_logps": -40 + rng.normal(rejected, 1, n), "ref_rejected_logps": -40.0,
            "chosen_lengths": 20, "rejected_lengths": 20,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "rejected", "lost", "kind"),
    [
        (1.0, -1.0, 0.0, "none"),
        (-1.0, -3.0, 0.0, "benign"),
        (-9.0, -20.0, 0.0, "displacement"),
        (-9.0, -20.0, 0.5, "collapse"),
        (-1.0, -3.0, 0.5, "collapse"),
    ],
)
def test_a_benign_fall_is_told_from_a_collapse(make, chosen, rejected, lost, kind):
    rng = np.random.default_rng(7)
    evidence = make(rng, losses={"json": lost, "tool": 0.0})
    got = chosen_fall(replace(evidence, pairs=pairs_with(rng, chosen, rejected)))
    assert got.kind == kind
    assert any("json -" in said for said in got.evidence) == (kind == "collapse")


def test_a_fall_without_checks_says_that_damage_could_not_be_seen(make):
    evidence = make(np.random.default_rng(8))
    got = chosen_fall(replace(evidence, pairs=pairs_with(np.random.default_rng(8), -1, -3)))
    assert got.kind == "benign"
    assert "no behaviour was checked, so damage could not be seen" in got.evidence
    assert chosen_fall(evidence).kind == "unknown"


def test_a_loose_reading_is_reported_where_there_is_one():
    frame = checked({"json": 16, "tool": 4})
    loose = (np.arange(len(frame)) >= 8).astype(int)  # the json rows come first
    json = frame["behaviour"] == "json"
    frame = frame.assign(passed_loose=np.where(json, loose, np.nan))
    frame = frame.assign(ref_passed_loose=np.where(json, 1, np.nan))
    got = measure("retention", Evidence(checks=frame))
    assert (got["retention_json"].value, got["loose_retention_json"].value) == (75, 87.5)
    assert got["loose_change_json"].value == -12.5
    assert "loose_retention_tool" not in got


@pytest.mark.parametrize("plain", [0, 1, 4])
def test_style_that_never_matches_is_not_extrapolated(make, plain):
    """Every answer of the policy but a few is marked, none of the reference's."""
    rng = np.random.default_rng(9)
    evidence = styled(make(rng), rng, effect=0.0)
    marked = np.where(np.arange(400) < plain, 0, 3)
    frame = evidence.judgments.assign(bold_output=marked, bold_baseline=0)
    got = measure("style_win_rate", replace(evidence, judgments=frame))["style_win_rate"]
    assert math.isnan(got.value)
    assert (
        f"only {plain / 4:.1f}% of prompts have answers with similar numbers of bold" in got.reason
    )


def test_being_shorter_does_not_look_like_saying_more():
    """Both draw from 60 words; most of the policy's answers are too short to be compared."""
    rng = np.random.default_rng(10)
    words = [f"w{i}" for i in range(60)]

    def text(n):
        return " ".join(rng.choice(words, n))

    refs = [[text(100) for _ in range(4)] for _ in range(32)]
    own = [[text(15 if rng.random() < 0.7 else 100) for _ in range(4)] for _ in range(32)]
    got = measure("diversity", answers(own, refs))
    for name in ("distinct_within", "distinct_across"):
        a, b = got[name], got[f"ref_{name}"]
        assert a.n == b.n
        assert a.ci_low < b.ci_high
        assert b.ci_low < a.ci_high
