"""Formatting and drawing primitives, by hand-made expectations."""

import doctest
import importlib
import math

import pytest

from prefeval.reports import labels
from prefeval.reports.charts import svg
from prefeval.reports.charts.frontier import pareto
from prefeval.reports.charts.placement import Label, place_labels
from prefeval.reports.quantities import Number, fixed, interval, p_text, significant
from prefeval.reports.run import Key
from prefeval.reports.tables import Footnotes, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(-1.26, "−1.3"), (0.04, "0.0"), (-0.04, "0.0"), (1234.5, "1,234.5"), (math.nan, "—")],
)
def test_a_number_is_printed_with_a_true_minus_and_no_minus_zero(value: float, text: str) -> None:
    assert fixed(value, 1) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (0.9999, "1.000"), (41.96, "42.0"), (77.9, "77.9"), (0.0, "0")],
)
def test_kl_is_printed_in_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_an_interval_needs_both_ends() -> None:
    assert interval(Number(1.0, 0.5, 1.5)) == "[0.5, 1.5]"
    assert interval(Number(1.0, 0.5, math.nan)) == ""


@pytest.mark.parametrize(
    ("p", "text"), [(0.0004, "p < .001"), (0.03, "p = .030"), (0.5, "p = .50")]
)
def test_p_values_are_printed_as_papers_do(p: float, text: str) -> None:
    assert p_text(p) == text


def test_equal_reasons_share_a_footnote_and_new_ones_get_the_next_letter() -> None:
    notes = Footnotes()
    cells = [shown(Number(math.nan, reason=r), notes) for r in ("x", "y", "x")]
    assert [c.mark for c in cells] == ["a", "b", "a"]
    assert notes.items == [("a", "x"), ("b", "y")]


def test_the_twenty_seventh_footnote_is_aa() -> None:
    notes = Footnotes()
    marks = [notes.mark(str(i)) for i in range(28)]
    assert marks[25:] == ["z", "aa", "ab"]


def test_a_linear_scale_maps_its_ends_and_its_middle() -> None:
    scale = svg.Scale(40, 60, 100, 0)
    assert [scale(40), scale(50), scale(60), scale.clamp(99)] == [100, 50, 0, 0]


def test_a_log_scale_puts_the_geometric_mean_in_the_middle() -> None:
    scale = svg.Scale(0.01, 1, 0, 100, log=True)
    assert scale(0.1) == pytest.approx(50)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.05, 0.3, [0.05, 0.1, 0.2]), (0.005, 3, [0.01, 0.1, 1.0]), (2, 10, [2, 5, 10])],
)
def test_log_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert svg.log_ticks(low, high) == ticks


def test_a_range_of_one_value_is_widened_and_of_none_is_the_unit() -> None:
    low, high = svg.padded([3.0])
    assert low < 3 < high
    assert svg.padded([math.nan]) == (0.0, 1.0)


def test_percent_axes_end_at_0_and_100() -> None:
    assert svg.padded([1.0, 99.9], within=svg.PERCENT) == (0.0, 100.0)


def test_text_and_attributes_are_escaped() -> None:
    drawn = svg.el("text", svg.escape("a<b"), data_tip='"><script>')
    assert str(drawn) == '<text data-tip="&#34;&gt;&lt;script&gt;">a&lt;b</text>'


def test_pareto_keeps_what_no_other_point_beats_in_both() -> None:
    points = [(2.0, 55.0), (1.0, 52.0), (1.0, 51.0), (3.0, 54.0), (4.0, 60.0)]
    assert pareto(points) == [(1.0, 52.0), (2.0, 55.0), (4.0, 60.0)]


def test_labels_do_not_cover_each_other_and_the_crowded_out_one_is_hidden() -> None:
    frame = svg.frame(200, 60, (0, 1), (0, 1), margins=(10, 10, 10, 10))
    labels = [Label(100, 30, f"label {i}") for i in range(30)]
    every = place_labels(labels, frame, [])
    assert len(every) == 30
    placed = [p for p in every if "crowded" not in p]
    assert 1 < len(placed) < 30
    assert "label 0" in placed[0]
    assert len({str(p).split("class")[0] for p in placed}) == len(placed)


@pytest.mark.parametrize(
    "name", ["quantities", "charts.svg", "manifest", "samples", "charts.frontier"]
)
def test_the_examples_in_docstrings_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"prefeval.reports.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_a_training_of_unknown_method_and_beta_is_named_without_them() -> None:
    key = Key("train", 0.0, 0, 40)
    assert labels.name(key) == "training, step 40"
    assert labels.short(key) == "training"
    assert labels.name(Key("dpo", 0.1, 0, 40)) == "DPO β = 0.1, step 40"
