import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.harness.judges import judge_both_orders, open_judge
from prefeval.harness.judges.reward_model import audit, train
from prefeval.metrics.evidence import Evidence
from prefeval.minitrainers.loop import TrainConfig
from prefeval.records import Comparison, PreferencePair, PrefevalError, Prompt


def rng():
    return np.random.default_rng(0)


def test_audit_on_five_pairs_by_hand():
    # scores: right, wrong, right, tie, right; lengths: longer, longer, shorter, equal, longer
    report = audit([2, 0, 1, 1, 3], [1, 1, 0, 1, 0], [5, 4, 1, 2, 9], [3, 1, 2, 2, 3], rng=rng())
    assert report.accuracy.value == pytest.approx(70)  # (1 + 0 + 1 + 1/2 + 1) / 5
    assert report.accuracy.n == 5
    assert (report.accuracy_chosen_shorter.value, report.accuracy_chosen_shorter.n) == (100, 1)
    assert report.accuracy_chosen_longer.value == pytest.approx(200 / 3)
    assert report.length_accuracy.value == pytest.approx(70)  # (1 + 1 + 0 + 1/2 + 1) / 5
    # ds = 1 -1 1 0 3; dl = 2 3 -1 0 6: products 2 - 3 - 1 + 18 = 16; squares 12 and 50
    assert report.length_correlation.value == pytest.approx(16 / math.sqrt(12 * 50))
    assert report.accuracy.ci_low < 70 < report.accuracy.ci_high


def test_a_judge_of_length_alone_is_shown_as_one():
    draw = rng()
    chosen, rejected = draw.integers(1, 100, 300), draw.integers(1, 100, 300)
    report = audit(chosen, rejected, chosen, rejected, rng=rng())
    assert report.length_correlation.value == pytest.approx(1)
    assert report.accuracy_chosen_shorter.value == 0
    assert report.accuracy_chosen_longer.value == 100
    assert report.accuracy.value == report.length_accuracy.value


def test_the_correlation_does_not_depend_on_which_answer_is_named_first():
    draw = rng()
    s, l = draw.normal(size=(2, 40)), draw.integers(1, 50, (2, 40))  # noqa: E741
    flip = draw.random(40) < 0.5
    turned = [np.where(flip, x[::-1], x) for x in (s, l)]
    one = audit(*s, *l, rng=rng()).length_correlation
    other = audit(*turned[0], *turned[1], rng=rng()).length_correlation
    assert one.value == pytest.approx(other.value)
    assert (one.ci_low, one.ci_high) == pytest.approx((other.ci_low, other.ci_high))


def test_the_interval_of_the_correlation_covers_the_truth_in_about_95_of_100_samples():
    # ds = dl + noise of the same size: the correlation about 0 is 1/sqrt(2)
    covered = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        length = draw.normal(size=80)
        score = length + draw.normal(size=80)
        found = audit(score, np.zeros(80), length, np.zeros(80), rng=draw).length_correlation
        covered += found.ci_low <= 1 / math.sqrt(2) <= found.ci_high
    assert 180 <= covered <= 199  # 190 expected, four standard errors are 12


def test_an_untrained_judge_has_no_correlation_and_says_why():
    report = audit([1, 1, 1], [1, 1, 1], [3, 2, 1], [1, 1, 1], rng=rng())
    assert report.accuracy.value == 50
    assert math.isnan(report.length_correlation.value)
    assert "scores of all pairs are equal" in report.length_correlation.reason
    nothing = audit([], [], [], [], rng=rng())
    assert math.isnan(nothing.accuracy.value)
    assert nothing.accuracy.reason


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 4), st.integers(0, 4)),
        min_size=1,
        max_size=30,
    )
)
def test_every_rate_lies_between_0_and_100_with_its_interval(rows):
    report = audit(*np.array(rows).T, rng=rng())
    for rate in (report.accuracy, report.accuracy_chosen_shorter, report.length_accuracy):
        if not math.isnan(rate.ci_low):
            assert 0 <= rate.ci_low <= rate.value + 1e-9
            assert rate.value - 1e-9 <= rate.ci_high <= 100
    correlation = report.length_correlation.value
    assert math.isnan(correlation) or abs(correlation) <= 1 + 1e-9


def polite_pairs(start, count):
    """Pairs whose chosen answer says please: a rule that a tiny model can learn."""
    return [
        PreferencePair(
            f"p{i}", ({"role": "user", "content": f"Ask {i}?"},), f"{i} please", f"{i} now!!"
        )
        for i in range(start, start + count)
    ]


CONFIG = TrainConfig("reward", lr=1e-2, epochs=4, batch_size=16, max_length=64)


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("judge")
    return train(tiny_folder, polite_pairs(0, 64), polite_pairs(64, 32), CONFIG, out_dir=out), out


def prompt(name):
    return Prompt(name, ({"role": "user", "content": f"Ask {name}?"},), "prose", "win_rate", name)


def test_a_trained_judge_knows_the_rule_of_its_data_on_pairs_that_it_never_saw(trained):
    found, _ = trained
    assert found.audit.accuracy.value >= 90
    assert found.audit.accuracy.n == 32
    assert found.too_long == 0
    assert "agrees with" in found.audit.describe()


def test_the_saved_judge_gives_the_same_verdicts(trained):
    found, out = trained
    again = open_judge(f"reward_model:{out / 'model'}")
    items = [Comparison(prompt("7"), "7 please", "7 now!!"), Comparison(prompt("8"), "a", "b")]
    assert again.compare(items) == found.judge.compare(items)
    assert again.settings["weights"] == found.judge.settings["weights"]
    assert json.loads(json.dumps(again.settings)) == again.settings


def test_the_two_orders_agree_and_a_tie_is_one_half(trained):
    outputs, baselines = {"1": "1 please", "2": "same"}, {"1": "1 now!!", "2": "same"}
    frame = judge_both_orders(trained[0].judge, [prompt("1"), prompt("2")], outputs, baselines)
    assert frame["preference_first"].tolist() == pytest.approx(frame["preference_second"].tolist())
    assert frame["preference"][0] > 0.9
    assert frame["preference"][1] == 0.5
    assert len(Evidence(judgments=frame).judgments) == 2


def test_each_answer_is_scored_once(trained, monkeypatch):
    from prefeval.minitrainers import reward

    seen = []
    score = reward.score
    monkeypatch.setattr(
        reward, "score", lambda m, t, items, **k: seen.append(len(items)) or score(m, t, items, **k)
    )
    judge_both_orders(trained[0].judge, [prompt("1")], {"1": "a"}, {"1": "b"})
    assert seen == [2]


def test_a_score_that_is_no_number_is_no_verdict(trained, monkeypatch):
    monkeypatch.setattr("prefeval.minitrainers.reward.score", lambda *a, **k: [float("nan"), 1.0])
    verdict = trained[0].judge.compare([Comparison(prompt("1"), "a", "b")])[0]
    assert verdict.preference is None


def test_pairs_that_share_a_conversation_with_the_training_are_refused(tiny_folder, tmp_path):
    pairs = polite_pairs(0, 4)
    held = [replace(pairs[2], id="other", chosen="x")]
    with pytest.raises(PrefevalError, match=r"1 held-out pairs share a conversation.*'other'"):
        train(tiny_folder, pairs, held, CONFIG, out_dir=tmp_path)


def test_pairs_whose_prompt_fills_the_context_are_left_out_and_counted(tiny_folder, tmp_path):
    long = replace(polite_pairs(9, 1)[0], prompt=({"role": "user", "content": "x" * 200},))
    config = replace(CONFIG, max_steps=1)
    found = train(tiny_folder, [*polite_pairs(0, 4), long], [], config, out_dir=tmp_path)
    assert found.too_long == 1
    with pytest.raises(PrefevalError, match="no pairs to train on"):
        train(tiny_folder, [long], [], config, out_dir=tmp_path)


def test_a_folder_without_a_score_head_is_no_judge(tiny_folder):
    with pytest.raises(PrefevalError, match="is no reward model"):
        open_judge(f"reward_model:{tiny_folder}")
    with pytest.raises(PrefevalError, match="needs a folder"):
        open_judge("reward_model")
