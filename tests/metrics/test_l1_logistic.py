"""The batched solver against a slow general one, and against its optimality conditions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from prefeval.metrics import l1_logistic


def slow_solution(x, y, s, C):
    """w = u - v with u, v >= 0 makes the penalty smooth: any bounded quasi-Newton will do."""

    def objective(both):
        w = both[:3] - both[3:]
        eta = w @ x
        loss = C * np.sum(s * (np.logaddexp(0, eta) - y * eta))
        slope = C * (x @ (s * (1 / (1 + np.exp(-eta)) - y)))
        return both.sum() + loss, np.concatenate([1 + slope, 1 - slope])

    found = optimize.minimize(
        objective,
        np.full(6, 0.1),
        jac=True,
        bounds=[(0, None)] * 6,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
    )
    return found.x[:3] - found.x[3:]


def example(seed, n=60):
    rng = np.random.default_rng(seed)
    x = np.stack([np.tanh(rng.normal(0.5, 1, n)), rng.normal(size=n), np.ones(n)])
    return x, rng.random(n), rng.integers(0, 3, n).astype(float)


@pytest.mark.parametrize("C", [1e-4, 0.05, 0.4, 3.0, 200.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_fit_matches_a_slow_independent_solver(seed, C):
    x, y, s = example(seed)
    got = l1_logistic.fit(x[None], y, s[None], C)[0]
    assert got == pytest.approx(slow_solution(x, y, s, C), abs=2e-5)


def test_a_batch_equals_its_problems_one_by_one():
    x, y, _ = example(2)
    weights = np.random.default_rng(0).integers(0, 3, (7, 60)).astype(float)
    C = np.geomspace(0.01, 100, 7)
    batch = l1_logistic.fit(x[None], y, weights, C)
    single = [l1_logistic.fit(x[None], y, weights[[b]], float(C[b]))[0] for b in range(7)]
    assert batch == pytest.approx(np.array(single), abs=1e-6)


def test_strong_penalty_sets_coefficients_to_exactly_zero():
    x, y, s = example(3)
    assert (l1_logistic.fit(x[None], y, s[None], 1e-4) == 0).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.booleans())
def test_optimality_conditions_hold(seed, C, hard_labels):
    """A soft-part slope of -sign(w) where w is not 0, within [-1, 1] where it is."""
    x, y, s = example(seed, n=25)
    y = np.round(y) if hard_labels else y
    w = l1_logistic.fit(x[None], y, s[None], C)[0]
    slope = C * (x @ (s * (1 / (1 + np.exp(-(w @ x))) - y)))
    limit = 1e-8 * max(1, C * s.sum())
    assert (np.abs(slope[w == 0]) <= 1 + limit).all()
    assert np.abs(slope + np.sign(w))[w != 0] == pytest.approx(0, abs=limit)


def test_separable_labels_still_have_a_finite_solution():
    x, _, _ = example(4)
    w = l1_logistic.fit(x[None], np.ones(60), np.ones((1, 60)), 1000.0)[0]
    assert np.isfinite(w).all()
    assert w == pytest.approx(slow_solution(x, np.ones(60), np.ones(60), 1000.0), abs=1e-3)


def test_a_column_of_zeros_gets_a_zero():
    x, y, s = example(5)
    x[1] = 0
    assert l1_logistic.fit(x[None], y, s[None], 5.0)[0, 1] == 0
