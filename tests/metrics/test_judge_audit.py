"""The judge beside the oracle, and its change with distance, against plain loops and matrices."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval.metrics import judge_audit
from prefeval.metrics.judge import longer_wins


def verdicts(rows: list[tuple[float, float, int, int]]) -> pd.DataFrame:
    """(preference, truth, length, baseline's length) a row, each prompt its own cluster."""
    columns = ["preference", "true_preference", "len_output", "len_baseline"]
    return pd.DataFrame(rows, columns=columns).assign(cluster=[f"c{i}" for i in range(len(rows))])


def found(frame: pd.DataFrame) -> dict[str, float]:
    rng = np.random.default_rng(0)
    return {m.name: m.value for m in judge_audit.against_oracle(frame, rng=rng)}


def test_agreement_and_the_errors_of_length_by_hand():
    frame = verdicts(
        [
            (0.9, 1, 30, 20),  # right, longer
            (0.9, 0, 30, 20),  # picks the longer, the shorter is better
            (0.2, 0, 30, 20),  # right, shorter
            (0.2, 1, 30, 20),  # picks the shorter, the longer is better
            (0.8, 0, 25, 20),  # picks the longer, the shorter is better
            (0.5, 1, 10, 20),  # a tie is not the oracle's winner
            (0.7, 0.5, 30, 20),  # the oracle has none
            (math.nan, 1, 30, 20),  # not read
            (0.7, 1, 20, 20),  # right, as long
        ]
    )
    got = found(frame)
    assert got["agreement"] == pytest.approx(100 * 3 / 7)
    # the shorter is better in rows 2, 3, 5, 6 and the longer wins in 2 of them (a tie wins nothing)
    assert got["longer_though_worse"] == pytest.approx(100 * 2 / 4)
    assert got["shorter_though_worse"] == pytest.approx(100 * 1 / 2)


def test_without_an_oracle_all_is_undefined_with_a_reason():
    frame = verdicts([(0.9, math.nan, 30, 20), (0.1, math.nan, 10, 20)])
    results = judge_audit.against_oracle(frame, rng=np.random.default_rng(0))
    assert all(math.isnan(m.value) and m.reason == judge_audit.NO_ORACLE for m in results)
    assert len(results) == 4


def test_an_oracle_that_always_likes_the_longer_leaves_one_error_undefined():
    got = judge_audit.against_oracle(
        verdicts([(0.9, 1, 30, 20), (0.1, 0, 10, 20), (0.1, 1, 30, 20)]),
        rng=np.random.default_rng(0),
    )
    longer = next(m for m in got if m.name == "longer_though_worse")
    assert math.isnan(longer.value)
    assert longer.reason == "the oracle never prefers that one"


def test_a_verdict_that_was_not_read_has_no_longer_winner():
    frame = verdicts([(math.nan, 1, 30, 20), (0.5, 1, 30, 20), (0.7, 1, 20, 20), (0.7, 1, 30, 20)])
    assert np.isnan(longer_wins(frame)).tolist() == [True, True, True, False]


ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, math.nan]), st.booleans(), st.integers(0, 5)),
    min_size=6,
    max_size=60,
)


@given(ROWS)
def test_change_is_a_clustered_regression_on_the_farther_half(
    rows: list[tuple[float, bool, int]],
) -> None:
    """Least squares on an indicator, with the sandwich of cluster sums and its G/(G - 1)."""
    outcome, far, cluster = (np.array(column) for column in zip(*rows, strict=True))
    got = judge_audit.change(outcome, far, cluster)
    known = np.isfinite(outcome)
    y, x, c = outcome[known], far[known].astype(float), cluster[known]
    if not len(y) or x.min() == x.max():
        assert math.isnan(got.value)
        assert got.reason
        return
    design = np.stack([np.ones(len(y)), x], axis=1)
    bread = np.linalg.inv(design.T @ design)
    slope = bread @ design.T @ y
    left = y - design @ slope
    scores = [design[c == k].T @ left[c == k] for k in np.unique(c)]
    assert got.value == pytest.approx(100 * slope[1], abs=1e-9)
    if len(scores) == 1:
        assert math.isnan(got.stderr)
        return
    meat = sum(np.outer(s, s) for s in scores) * len(scores) / (len(scores) - 1)
    variance = max((bread @ meat @ bread)[1, 1], 0.0)
    assert got.stderr == pytest.approx(100 * math.sqrt(variance), abs=1e-6)
    assert got.ci_low <= got.value <= got.ci_high


def test_a_drop_on_the_same_prompts_is_seen_though_prompts_differ_more():
    """Prompts agree in 20 to 100% of cases; out there each loses a tenth."""
    rng = np.random.default_rng(3)
    levels = rng.uniform(0.2, 1.0, size=60)
    far = np.repeat([False, True], 60 * 40)
    cluster = np.tile(np.repeat(np.arange(60), 40), 2)
    chance = levels[cluster] - 0.1 * far
    got = judge_audit.change(rng.random(len(far)) < chance, far, cluster)
    assert got.ci_high < 0
    assert got.ci_low < -10 < got.ci_high
    alone = [judge_audit.share(levels[cluster] > 0.6, cluster, "")]
    assert alone[0].ci_high - alone[0].ci_low > 2 * (got.ci_high - got.ci_low)
