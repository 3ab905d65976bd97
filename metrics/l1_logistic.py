"""L1-penalised logistic regression with soft labels, solved for many weightings at once.

For each problem b: minimise over w_b  |w_b|_1 + C_b sum_i s_bi CE(y_i, sigmoid(x_bi . w_b)), with
no intercept outside the features, labels y in [0, 1] and CE the cross-entropy. Proximal Newton
(Lee, Sun and Saunders 2014): a step goes to the penalised minimum of a quadratic model. It is
taken whole where the optimality (KKT) conditions come closer by half, and else halved until it
decreases the objective enough. Done when the conditions hold: each partial derivative of the
smooth part is -sign(w_j) where w_j is not 0, and within [-1, 1] where it is.
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
    """Derivatives of the smooth part at some coefficients: gradient (B, F), Hessian (B, F, F)."""

    gradient: Array
    hessian: Array


def predict(coefs: Array, features: Array) -> Array:
    """sigmoid(x . w): ``coefs`` (B, F), ``features`` (B or 1, F, N), result (B, N)."""
    p = _scores(-coefs, features)
    with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0
        np.exp(p, out=p)
    p += 1
    return np.reciprocal(p, out=p)


def _scores(coefs: Array, features: Array) -> Array:
    """x . w: (B, N)."""
    if len(features) == 1:  # shared by all problems: then everything is one matrix product
        return np.asarray(coefs @ features[0])
    return np.asarray(np.matmul(coefs[:, None, :], features)[:, 0, :])


def smooth_part(coefs: Array, features: Array, labels: Array, weights: Array) -> Smooth:
    """Derivatives of the weighted cross-entropy; ``weights`` (B, N) hold C already."""
    p = predict(coefs, features)
    slopes = p - labels
    slopes *= weights
    curvatures = np.subtract(1, p)
    curvatures *= p
    curvatures *= weights
    if len(features) > 1:
        gradient = np.matmul(features, slopes[:, :, None])[:, :, 0]
        scaled = features * curvatures[:, None, :]
        return Smooth(gradient, np.matmul(scaled, features.swapaxes(1, 2)))
    x = features[0]
    products = (x[:, None, :] * x[None, :, :]).reshape(len(x) ** 2, x.shape[1])
    hessian = (curvatures @ products.T).reshape(len(coefs), len(x), len(x))
    return Smooth(slopes @ x.T, hessian)


def objective(coefs: Array, features: Array, labels: Array, weights: Array) -> Array:
    """What is minimised: (B,). ``weights`` (B, N) hold C already."""
    eta = _scores(coefs, features)
    losses = np.logaddexp(0, eta) - labels * eta
    return np.asarray(np.einsum("bn,bn->b", weights, losses) + np.abs(coefs).sum(axis=1))


def kkt_violation(coefs: Array, gradient: Array) -> Array:
    """Largest breach of the optimality conditions of each problem: (B,), 0 at the optimum."""
    at_zero = np.maximum(np.abs(gradient) - 1, 0)
    elsewhere = np.abs(gradient + np.sign(coefs))
    return np.asarray(np.where(coefs == 0, at_zero, elsewhere).max(axis=1))


def _quadratic_minimum(coefs: Array, gradient: Array, hessian: Array) -> Array:
    """Minimise g.(u - w) + (u - w)'H(u - w)/2 + |u|_1 over u.

    With known signs it is a linear system. They are guessed from w, and sweep by sweep of cyclic
    coordinate descent where the system's solution has others or a 0 should not have stayed one.
    """
    found, u, rest = coefs.copy(), coefs.copy(), np.arange(len(coefs))
    # the quadratic is u'Hu/2 - r.u
    r = np.matmul(hessian, coefs[:, :, None])[:, :, 0] - gradient
    diagonal = np.maximum(np.einsum("bjj->bj", hessian), 1e-12)
    for _ in range(MAX_SWEEPS):
        solved, right = _with_signs(np.sign(u), r, hessian)
        found[rest] = np.where(right[:, None], solved, u)
        wrong = ~right
        if not wrong.any():
            break
        rest, u, r = rest[wrong], u[wrong], r[wrong]
        hessian, diagonal = hessian[wrong], diagonal[wrong]
        for j in range(u.shape[1]):
            pull = r[:, j] - (hessian[:, j] * u).sum(axis=1) + diagonal[:, j] * u[:, j]
            u[:, j] = np.sign(pull) * np.maximum(np.abs(pull) - 1, 0) / diagonal[:, j]
    return found


def _with_signs(signs: Array, r: Array, hessian: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The minimum of u'Hu/2 - r.u + |u|_1 if u has these signs (B, F), and whether it has them."""
    active, unit = signs != 0, np.eye(signs.shape[1])
    both = active[:, :, None] & active[:, None, :]
    ridge = 1e-14 * np.einsum("bjj->b", hessian)[:, None, None] + 1e-300  # never singular
    system = np.where(both, hessian, unit) + ridge * unit
    u = np.linalg.solve(system, np.where(active, r - signs, 0)[:, :, None])[:, :, 0]
    slope = np.matmul(hessian, u[:, :, None])[:, :, 0] - r
    wrong = (np.sign(u) != signs) | (~active & (np.abs(slope) > 1))
    return u, ~wrong.any(axis=1)


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
    where, now = np.arange(len(coefs)), coefs  # the problems that are still solved
    here = smooth_part(now, features, labels, weights)
    breach = kkt_violation(now, here.gradient)
    closest = breach  # of each problem so far
    for _ in range(MAX_STEPS):
        open_ = breach > limit[where]
        coefs[where] = now
        if not open_.any():
            return coefs
        if 2 * open_.sum() <= len(where):  # fewer copies than steps saved
            where, now, weights, closest = where[open_], now[open_], weights[open_], closest[open_]
            here = Smooth(*(part[open_] for part in here))
            features = features if len(features) == 1 else features[open_]
        target = _quadratic_minimum(now, here.gradient, here.hessian)
        there = smooth_part(target, features, labels, weights)
        breach = kkt_violation(target, there.gradient)
        far = (breach > closest / 2) & (breach > limit[where])
        if far.any():
            some = features if len(features) == 1 else features[far]
            gradient = here.gradient[far]
            target[far] = _descend(now[far], target[far], gradient, some, labels, weights[far])
            again = smooth_part(target[far], some, labels, weights[far])
            for part, new in zip(there, again, strict=True):
                part[far] = new
            breach[far] = kkt_violation(target[far], again.gradient)
        now, here, closest = target, there, np.minimum(closest, breach)
    coefs[where] = now
    if (breach > 1e3 * limit[where]).any():
        raise ArithmeticError("the penalised logistic regression did not converge")
    return coefs


def _descend(
    coefs: Array, target: Array, gradient: Array, features: Array, labels: Array, weights: Array
) -> Array:
    """Go towards ``target`` as far as the objective decreases enough (Armijo), each by itself."""
    direction = target - coefs
    before = objective(coefs, features, labels, weights)
    penalties = np.abs(target).sum(axis=1) - np.abs(coefs).sum(axis=1)
    promised = (gradient * direction).sum(axis=1) + penalties
    slack = 1e-12 * (1 + np.abs(before))
    size = np.ones(len(coefs))
    for _ in range(MAX_HALVINGS):
        there = coefs + size[:, None] * direction
        # exact at full steps, so that zeros of the target stay zeros
        there = np.where(size[:, None] == 1, target, there)
        change = objective(there, features, labels, weights) - before
        failed = change > 1e-4 * size * promised + slack
        if not failed.any():
            break
        size[failed] /= 2
    return there
