"""Where a training curve bends: two straight lines that meet, and whether one would do.

Of a fall of log-probabilities the first question is when it began. A continuous line with one knot
is fitted by least squares over every knot (Hinkley 1971; Feder 1975); whether there is a bend is
Andrews' 1993 sup-F test, its distribution simulated under a straight line, since the knot is sought
in the same data; the knot's interval are the knots that the F test does not reject.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from prefeval.metrics.stats import Array

MIN_POINTS = 20
EDGE = 0.1  # of the points lie before any knot, and as many behind
N_SIMULATED = 999
SEED = 19_710


@dataclass(frozen=True)
class Break:
    """A bend at ``step``, with its interval; slopes in values a step.

    ``p`` is of the test that one straight line would do. Everything is NaN where ``reason`` says
    why there is no answer; without a bend shown, ``step`` is where one would be likeliest.
    """

    step: float
    ci_low: float
    ci_high: float
    slope_before: float
    slope_after: float
    p: float
    n: int
    reason: str = ""

    @property
    def shown(self) -> bool:
        """Whether there is a bend, at 1%."""
        return self.p < 0.01


def break_point(steps: ArrayLike, values: ArrayLike, *, level: float = 0.95) -> Break:
    """The bend of a curve, ``values`` (n,) at ``steps`` (n,); values that are no numbers are left
    out.

    Neighbouring values may depend on each other: the residuals' correlation at lag one, where it
    is positive, widens the interval and weakens the test, as if there were so much less data.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    x, y = x[order := np.argsort(x, kind="stable")], y[order]
    n = len(x)
    if n < MIN_POINTS or len(np.unique(x)) < MIN_POINTS:
        return Break(*(math.nan,) * 6, n, f"fewer than {MIN_POINTS} steps")
    edge = max(2, math.ceil(EDGE * n))
    knots = np.unique(x[edge:-edge])
    line = np.linalg.qr(np.stack([np.ones(n), x - x.mean()], axis=1))[0]
    hinges = np.maximum(x[None] - knots[:, None], 0.0)  # (knots, n)
    hinges -= hinges @ line @ line.T
    hinges /= np.linalg.norm(hinges, axis=1, keepdims=True)

    left = y - line @ (line.T @ y)
    total = float(left @ left)
    if total <= 1e-20 * max(1.0, float(y @ y)):
        return Break(*(math.nan,) * 6, n, "the curve is a straight line")
    found = _unexplained(hinges, left, total)
    best = int(found.argmin())
    spread = max(found[best], 1e-12 * total) / (n - 4)
    residual = left - (hinges[best] @ left) * hinges[best]
    thinned = _dependence(residual)
    kept = knots[(found - found[best]) / spread / thinned <= special.fdtri(1, n - 4, level)]
    draws = np.random.default_rng(SEED).normal(size=(N_SIMULATED, n))
    draws -= draws @ line @ line.T
    totals = (draws**2).sum(1)
    gains = ((draws @ hinges.T) ** 2).max(1)
    simulated = gains / (totals - gains)
    ratio = (total - found[best]) / max(found[best], 1e-12 * total) / thinned
    p = (1 + int((simulated >= ratio).sum())) / (1 + N_SIMULATED)
    basis = np.stack([np.ones(n), x, np.maximum(x - knots[best], 0)], axis=1)
    _, slope, bend = np.linalg.lstsq(basis, y, rcond=None)[0]
    ends = (float(kept.min()), float(kept.max()))
    return Break(float(knots[best]), *ends, float(slope), float(slope + bend), p, n)


def _unexplained(hinges: Array, left: Array, total: float) -> Array:
    """Sum of squares that remains with each knot."""
    return np.asarray(total - (hinges @ left) ** 2)


def _dependence(residual: Array) -> float:
    """How much a positive correlation of neighbours multiplies the variance of a mean."""
    rho = float(residual[1:] @ residual[:-1] / (residual @ residual)) if residual.any() else 0.0
    rho += (2 + 4 * rho) / len(residual)  # what fitting the curve has taken from it, about
    rho = min(max(rho, 0.0), 0.95)
    return (1 + rho) / (1 - rho)
