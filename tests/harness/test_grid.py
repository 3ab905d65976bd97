from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval.harness import grid
from prefeval.records import PrefevalError


def test_range_is_four_log_spaced_points_with_both_ends() -> None:
    values = grid.parse_range("0.05:0.3")
    assert values == (0.05, 0.0909, 0.165, 0.3)
    ratios = [b / a for a, b in pairwise(values)]
    assert all(math.isclose(r, 6 ** (1 / 3), rel_tol=0.01) for r in ratios)


def test_range_takes_a_count_and_linear_spacing() -> None:
    assert grid.parse_range("0.1:0.4:4:lin") == (0.1, 0.2, 0.3, 0.4)
    assert len(grid.parse_range("0.005:3:6")) == 6


@given(
    st.floats(1e-4, 10).map(lambda x: float(f"{x:.4g}")),
    st.floats(1.5, 1000),
    st.integers(2, 9),
)
def test_any_range_is_increasing_and_keeps_its_ends(low: float, ratio: float, n: int) -> None:
    high = float(f"{low * ratio:.4g}")
    values = grid.parse_range(f"{low}:{high}:{n}")
    assert len(values) == n
    assert values[0] == low
    assert values[-1] == high
    assert list(values) == sorted(set(values))


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("0.3:0.05", "write 0.05:0.3"),
        ("-0.1", "beta must be a number > 0"),
        ("0", "0.05:0.3"),
        ("nan:1", "beta must be a number > 0"),
        ("inf", "beta must be a number > 0"),
        ("a:b", "cannot read 'a'"),
        ("0.1:0.3:x", "whole number"),
        ("0.1:0.3:4:log2", "a:b:n:lin"),
        ("0.1:0.3:4:lin:5", "a:b:n:lin"),
        ("0.1,0.1", "twice"),
        ("0.1:0.1", "one point"),
        ("", "cannot read"),
    ],
)
def test_unreadable_range_is_one_line_with_the_mend(text: str, mend: str) -> None:
    with pytest.raises(PrefevalError) as error:
        grid.parse_range(text)
    assert mend in str(error.value)
    assert "\n" not in str(error.value)


def test_one_range_sets_the_anchored_methods_and_simpo_keeps_its_own_grid() -> None:
    betas = grid.parse_betas("0.1,0.2", ["dpo", "simpo"])
    assert betas["dpo"] == (0.1, 0.2)
    assert betas["simpo"] == grid.OWN_GRID["simpo"]
    assert grid.parse_betas("2,4", ["simpo"]) == {"simpo": (2.0, 4.0)}


def test_named_ranges_set_each_method() -> None:
    betas = grid.parse_betas("dpo=0.05:0.3,simpo=2/4", ["dpo", "simpo"])
    assert betas == {"dpo": (0.05, 0.0909, 0.165, 0.3), "simpo": (2.0, 4.0)}
    with pytest.raises(PrefevalError, match="no range for simpo"):
        grid.parse_betas("dpo=0.1", ["dpo", "simpo"])


def test_methods_and_seeds_are_read_and_refused_by_name() -> None:
    assert grid.parse_methods("DPO, kto,dpo") == ("dpo", "kto")
    with pytest.raises(PrefevalError, match=r"unknown method 'dop'; choose from dpo, ipo"):
        grid.parse_methods("dop")
    assert grid.parse_seeds("3") == (0, 1, 2)
    assert grid.parse_seeds("0,5") == (0, 5)
    with pytest.raises(PrefevalError, match="at least 1"):
        grid.parse_seeds("0")
    with pytest.raises(PrefevalError, match="cannot read seeds"):
        grid.parse_seeds("many")
