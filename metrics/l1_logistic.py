"""L1-penalised logistic regression with soft labels, solved for many weightings at once.

For each problem b: minimise over w_b  |w_b|_1 + C_b sum_i s_bi CE(y_i, sigmoid(x_bi . w_b)), with
no intercept outside the features, labels y in [0, 1] and CE the cross-entropy. Proximal Newton
(Lee, Sun and Saunders 2014): a quadratic model whose penalised minimum comes from coordinate
descent, then a step halved until it decreases the objective enough. Done when the optimality
(KKT) conditions hold: each partial derivative of the smooth part is -sign(w_j) where w_j is not
0, and within [-1, 1] where it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefeval.metrics.stats import Array

MAX_STEPS = 1000  # a few do, but where features are collinear
MAX_HALVINGS = 40
MAX_SWEEPS = 200


class Smooth(NamedTuple):
    """The smooth part at some coefficients: value (B,), gradient (B, F), Hessian (B, F, F)."""

    value: Array
    gradient: Array
    hessian: Array


def predict(coefs: Array, features: Array) -> Array:
    """sigmoid(x . w): ``coefs`` (B, F), ``features`` (B or 1, F, N), result (B, N)."""
    eta = np.matmul(coefs[:, None, :], features)[:, 0, :]
    return np.asarray(1 / (1 + np.exp(-np.clip(eta, -500, 500))))


def smooth_part(coefs: Array, features: Array, labels: Array, weights: Array) -> Smooth:
    """Weighted cross-entropy and its derivatives; ``weights`` (B, N) hold C already."""
    shared = len(features) == 1  # by all problems: then everything is one matrix product
    eta = coefs @ features[0] if shared else np.matmul(coefs[:, None, :], features)[:, 0, :]
    larger = 1 / (1 + np.exp(-np.abs(eta)))  # probability of the likelier side; never overflows
    losses = np.maximum(eta, 0)
    losses -= np.log(larger)
    losses -= labels * eta
    value = np.einsum("bn,bn->b", weights, losses)
    slopes = np.copysign(larger - 0.5, eta)  # p - 1/2
    slopes += 0.5 - labels
    slopes *= weights
    curvatures = larger * (1 - larger)
    curvatures *= weights
    if not shared:
        gradient = np.matmul(features, slopes[:, :, None])[:, :, 0]
        scaled = features * curvatures[:, None, :]
        return Smooth(value, gradient, np.matmul(scaled, features.swapaxes(1, 2)))
    x = features[0]
    products = (x[:, None, :] * x[None, :, :]).reshape(-1, x.shape[1])
    hessian = (curvatures @ products.T).reshape(len(coefs), len(x), len(x))
    return Smooth(value, slopes @ x.T, hessian)


def kkt_violation(coefs: Array, gradient: Array) -> Array:
    """Largest breach of the optimality conditions of each problem: (B,), 0 at the optimum."""
    at_zero = np.maximum(np.abs(gradient) - 1, 0)
    elsewhere = np.abs(gradient + np.sign(coefs))
    return np.asarray(np.where(coefs == 0, at_zero, elsewhere).max(axis=1))


def _quadratic_minimum(coefs: Array, gradient: Array, hessian: Array) -> Array:
    """Minimise g.(u - w) + (u - w)'H(u - w)/2 + |u|_1 over u by cyclic coordinate descent."""
    u = coefs.copy()
    slope = gradient.copy()  # of the quadratic at u
    diagonal = np.maximum(np.einsum("bjj->bj", hessian), 1e-12)
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for j in range(u.shape[1]):
            raw = diagonal[:, j] * u[:, j] - slope[:, j]
            new = np.sign(raw) * np.maximum(np.abs(raw) - 1, 0) / diagonal[:, j]
            move = new - u[:, j]
            u[:, j] = new
            slope += hessian[:, :, j] * move[:, None]
            largest = max(largest, float(np.abs(move * diagonal[:, j]).max(initial=0.0)))
        if largest < 1e-9:
            break
    return u


def fit(
    features: Array,
    labels: Array,
    weights: Array,
    C: float | NDArray[np.float64] = 1.0,
    *,
    start: Array | None = None,
    tolerance: float = 1e-9,
) -> Array:
    """Coefficients (B, F) of B problems.

    ``features`` (B or 1, F, N); ``labels`` (N,) in [0, 1]; ``weights`` (B, N) >= 0; ``C`` one or
    (B,) > 0; ``start`` (F,) or (B, F). Ends when the KKT conditions hold to ``tolerance`` times
    the weight C sum(s) of the problem. Raises ``ArithmeticError`` when they cannot be met.
    """
    weights = weights * np.broadcast_to(np.asarray(C, dtype=np.float64), len(weights))[:, None]
    shape = (len(weights), features.shape[1])
    coefs = np.zeros(shape) if start is None else np.broadcast_to(start, shape).copy()
    limit = tolerance * np.maximum(1, weights.sum(axis=1))
    here = smooth_part(coefs, features, labels, weights)
    where, now = np.arange(len(coefs)), coefs  # the problems that are still solved
    for _ in range(MAX_STEPS):
        open_ = kkt_violation(now, here.gradient) > limit[where]
        coefs[where] = now
        if not open_.any():
            return coefs
        if 2 * open_.sum() <= len(where):  # fewer copies than steps saved
            where, now, weights = where[open_], now[open_], weights[open_]
            here = Smooth(*(part[open_] for part in here))
            features = features if len(features) == 1 else features[open_]
        target = _quadratic_minimum(now, here.gradient, here.hessian)
        now, here = _step(now, target, here, features, labels, weights)
    coefs[where] = now
    if (kkt_violation(now, here.gradient) > 1e3 * limit[where]).any():
        raise ArithmeticError("the penalised logistic regression did not converge")
    return coefs


def _step(
    coefs: Array, target: Array, here: Smooth, features: Array, labels: Array, weights: Array
) -> tuple[Array, Smooth]:
    """Go towards ``target`` as far as the objective decreases enough (Armijo), each by itself."""
    direction = target - coefs
    penalty = np.abs(coefs).sum(axis=1)
    promised = (here.gradient * direction).sum(axis=1) + np.abs(target).sum(axis=1) - penalty
    slack = 1e-12 * (1 + np.abs(here.value))
    size = np.ones(len(coefs))
    for _ in range(MAX_HALVINGS):
        there = coefs + size[:, None] * direction
        # exact at full steps, so that zeros of the target stay zeros
        there = np.where(size[:, None] == 1, target, there)
        smooth = smooth_part(there, features, labels, weights)
        change = smooth.value - here.value + np.abs(there).sum(axis=1) - penalty
        failed = change > 1e-4 * size * promised + slack
        if not failed.any():
            break
        size[failed] /= 2
    return there, smooth
