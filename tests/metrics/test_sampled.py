"""Sampled retention and pass@k, against enumeration and by hand."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval import metrics
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.sampled import pass_at_k


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(
    st.just(n), st.integers(0, n), st.integers(1, n))))  # fmt: skip
def test_pass_at_k_is_the_share_of_draws_with_a_pass(drawn):
    n, passed, k = drawn
    outcomes = [i < passed for i in range(n)]
    draws = [any(draw) for draw in combinations(outcomes, k)]
    assert float(pass_at_k(n, passed, k)) == pytest.approx(np.mean(draws))


def test_pass_at_k_wants_k_samples():
    with pytest.raises(ValueError, match="at least 3 samples"):
        pass_at_k([4, 2], [1, 1], 3)


def frame(outcomes, reference, behaviour="maths"):
    """A row a sample; ``outcomes`` and ``reference`` map a prompt to its samples' passes."""
    return pd.DataFrame(
        [
            {"prompt_id": p, "index": i, "cluster": "", "behaviour": behaviour,
             "passed": int(x), "ref_passed": int(y)}
            for p in outcomes
            for i, (x, y) in enumerate(zip(outcomes[p], reference[p], strict=True))
        ]
    )  # fmt: skip


def measure(rows):
    found = metrics.compute(Evidence(sampled=rows), np.random.default_rng(0), ["sampled"])
    return {r.name: r for r in found}


def test_a_prompt_with_a_sample_whose_check_raised_is_left_out():
    policy = {"a": [1, 1, 0, 0], "b": [0, 0, 0, 1]}
    both = frame({**policy, "c": [1, 1, 1, 1]}, {**policy, "c": [0, 0, 0, 0]})
    both.loc[(both["prompt_id"] == "c") & (both["index"] == 2), "passed"] = np.nan
    got, without = measure(both), measure(frame(policy, policy))
    assert got["sampled_retention_maths"] == without["sampled_retention_maths"]
    assert got["pass_at_4_maths"] == without["pass_at_4_maths"]


def test_samples_by_hand():
    policy = {"a": [1, 1, 0, 0], "b": [0, 0, 0, 1], "c": [1, 1, 1, 1]}
    reference = {"a": [1, 0, 0, 0], "b": [0, 1, 1, 0], "c": [1, 1, 1, 0]}
    got = measure(frame(policy, reference))
    assert got["sampled_retention_maths"].value == pytest.approx(100 * 7 / 12)
    assert got["sampled_change_maths"].value == pytest.approx(100 * 1 / 12)
    assert got["sampled_change_maths"].n == 3
    # pass@2: 1 - C(2,2)/C(4,2) = 5/6, 1/2, 1; the reference's 1/2, 5/6, 1
    assert got["pass_at_2_maths"].value == pytest.approx(100 * 7 / 9)
    assert got["pass_at_2_change_maths"].value == pytest.approx(0, abs=1e-9)
    assert got["pass_at_4_maths"].value == 100
    assert "no prompt changed" in got["pass_at_4_change_maths"].reason
    assert "pass_at_8_maths" not in got
    assert not any(name.startswith("loose_") for name in got)


def test_a_narrowed_policy_gains_in_the_mean_and_loses_in_pass_at_k():
    rng = np.random.default_rng(0)
    prompts = [f"p{i}" for i in range(60)]
    reference = {p: rng.random(8) < 0.4 for p in prompts}
    policy = {p: np.full(8, rng.random() < 0.6) for p in prompts}  # always or never
    got = measure(frame(policy, reference))
    assert got["sampled_change_maths"].value > 10
    assert got["pass_at_8_change_maths"].ci_high < -10


def test_the_interval_of_a_change_covers_it():
    """Prompts differ in how hard they are and how much training helps."""
    rng, covered, runs = np.random.default_rng(1), 0, 400
    for _ in range(runs):
        before = rng.beta(2, 2, 40)
        now = np.clip(before + rng.choice([-0.2, 0.0, 0.3], 40), 0, 1)
        rows = frame(
            {f"p{i}": rng.random(4) < now[i] for i in range(40)},
            {f"p{i}": rng.random(4) < before[i] for i in range(40)},
        )
        found = measure(rows)["sampled_change_maths"]
        covered += found.ci_low <= 100 * float((now - before).mean()) <= found.ci_high
    assert covered / runs >= 0.93


def test_without_samples_there_is_no_behaviour():
    assert measure(pd.DataFrame()) == {}
