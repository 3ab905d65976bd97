import math
from collections.abc import Sequence

import pytest

from prefeval.harness import judges
from prefeval.harness.judges import judge_both_orders
from prefeval.metrics.evidence import Evidence
from prefeval.records import Comparison, PrefevalError, Prompt, Verdict


def prompt(name, behaviour="prose"):
    return Prompt(
        name, ({"role": "user", "content": f"{name}?"},), behaviour, "win_rate", f"c-{name}"
    )


class Table:
    """A judge that looks the probability of the first answer up."""

    name = "table"
    settings: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, first_wins):
        self.first_wins, self.calls = first_wins, 0

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        self.calls += 1
        return [Verdict(self.first_wins(item)) for item in items]


PROMPTS = [prompt("b"), prompt("a", "trip")]
OUTPUTS, BASELINES = {"a": "long answer", "b": "x"}, {"a": "no", "b": "why"}


def test_both_orders_are_asked_and_both_preferences_are_that_the_output_wins():
    # a judge that gives the longer answer 0.9, and 0.1 more to whichever stands first
    longer = Table(lambda c: 0.9 if len(c.first) > len(c.second) else 0.2)
    frame = judge_both_orders(longer, PROMPTS, OUTPUTS, BASELINES)
    assert frame["prompt_id"].tolist() == ["a", "b"]
    assert frame["cluster"].tolist() == ["c-a", "c-b"]
    assert frame["behaviour"].tolist() == ["trip", "prose"]
    # a: output longer: first 0.9; second: baseline first gets 0.2, so the output 0.8
    assert frame["preference_first"].tolist() == pytest.approx([0.9, 0.2])
    assert frame["preference_second"].tolist() == pytest.approx([0.8, 0.1])
    assert frame["preference"].tolist() == pytest.approx([0.85, 0.15])
    assert frame[["len_output", "len_baseline"]].values.tolist() == [[11, 2], [1, 3]]
    assert longer.calls == 1


def test_a_judge_that_always_takes_the_first_answer_says_one_half():
    frame = judge_both_orders(Table(lambda c: 1.0), PROMPTS, OUTPUTS, BASELINES)
    assert frame["preference_first"].tolist() == [1, 1]
    assert frame["preference_second"].tolist() == [0, 0]
    assert frame["preference"].tolist() == [0.5, 0.5]


def test_a_verdict_that_cannot_be_read_is_nan_and_takes_the_mean_with_it():
    frame = judge_both_orders(
        Table(lambda c: None if c.first == "x" else 1.0), PROMPTS, OUTPUTS, BASELINES
    )
    b = frame.set_index("prompt_id").loc["b"]
    assert math.isnan(b["preference_first"])
    assert b["preference_second"] == 0
    assert math.isnan(b["preference"])


def test_the_frame_is_evidence_and_carries_the_truth_where_there_is_one():
    truth = lambda p, output, baseline: float(len(output) > len(baseline))  # noqa: E731
    frame = judge_both_orders(Table(lambda c: 0.7), PROMPTS, OUTPUTS, BASELINES, truth=truth)
    assert frame["true_preference"].tolist() == [1, 0]
    assert Evidence(judgments=frame).judgments["prompt_id"].tolist() == ["a", "b"]
    assert (
        judge_both_orders(Table(lambda c: 0.7), PROMPTS, OUTPUTS, BASELINES)["true_preference"]
        .isna()
        .all()
    )


def test_no_prompts_make_an_empty_frame_with_all_columns():
    frame = judge_both_orders(Table(lambda c: 0.7), [], {}, {})
    assert frame.empty
    assert list(frame.columns) == judges.COLUMNS


class Short(Table):
    def compare(self, items):
        return super().compare(items)[:-1]


@pytest.mark.parametrize(
    ("judge", "prompts", "outputs", "message"),
    [
        (
            Table(lambda c: 0.5),
            PROMPTS,
            {"a": "x"},
            "1 prompts have no answer of the policy, first 'b'",
        ),
        (Table(lambda c: 0.5), [*PROMPTS, prompt("a")], OUTPUTS, "prompt id 'a' is given twice"),
        (Short(lambda c: 0.5), PROMPTS, OUTPUTS, "gave 3 verdicts on 4 comparisons"),
        (Table(lambda c: 1.5), PROMPTS, OUTPUTS, "gave 1.5 on prompt 'a'.*between 0 and 1"),
        (Table(lambda c: math.nan), PROMPTS, OUTPUTS, "gave nan on prompt 'a'"),
    ],
)
def test_answers_and_verdicts_that_do_not_fit_are_refused(judge, prompts, outputs, message):
    with pytest.raises(PrefevalError, match=message):
        judge_both_orders(judge, prompts, outputs, BASELINES)


def test_an_unknown_judge_is_an_error_that_names_the_known_ones():
    with pytest.raises(PrefevalError, match=r"unknown judge 'gpt'; the judges are .*reward_model"):
        judges.open_judge("gpt:4")


def test_every_registered_judge_can_be_imported():
    for name in judges.JUDGES:
        assert callable(judges.get(name))


class Entry:
    def __init__(self, name, load):
        self.name, self.value, self.load = name, f"package:{name}", load


def test_a_judge_of_another_package_is_found_and_a_broken_one_is_named(monkeypatch):
    def broken():
        raise ImportError("no module")

    entries = [Entry("table", lambda: Table), Entry("broken", broken)]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)
    assert judges.get("table") is Table
    with pytest.raises(
        PrefevalError, match=r"judge plugin 'broken' failed \(ImportError: no module"
    ):
        judges.get("broken")
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [Entry("reward_model", broken)]
    )
    with pytest.raises(PrefevalError, match="has the name of another judge"):
        judges.get("other")
