"""Where more distance from the reference stops helping: gold and proxy against d = sqrt(KL).

Gao, Schulman and Hilton 2022 (arXiv 2210.10760, section 3): a reward gained at distance d follows
R(d) = d (alpha - beta d) under best-of-n and R(d) = d (alpha - beta log d) under reinforcement
learning; Rafailov et al. 2024 (arXiv 2406.02900) find the second for DPO and its like. Where
beta > 0 the curve turns, at d = alpha / (2 beta) and d = exp(alpha / beta - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from prefeval.metrics import INTERVAL_COLUMNS
from prefeval.metrics.stats import Array

Form = Literal["rl", "best_of_n"]
BENDS: Mapping[Form, Callable[[Array], Array]] = {"rl": np.log, "best_of_n": lambda d: d}
MIN_POINTS = 4
N_BOOT = 2000


@dataclass(frozen=True)
class Curve:
    """A fitted curve through 0, in the unit of the gains, and where it turns.

    ``turning_point`` is in sqrt(nats/sequence), with its interval; NaN with a ``reason`` where the
    points do not show that the curve turns within them.
    """

    form: Form
    alpha: float
    beta: float
    turning_point: float
    ci_low: float
    ci_high: float
    n: int
    reason: str = ""

    def at(self, d: ArrayLike) -> Array:
        """The fitted gain at distances d > 0."""
        x = np.asarray(d, dtype=np.float64)
        return np.asarray(x * (self.alpha - self.beta * BENDS[self.form](x)))


def fit(
    sqrt_kl: ArrayLike,
    gain: ArrayLike,
    stderr: ArrayLike,
    *,
    rng: np.random.Generator,
    form: Form = "rl",
    level: float = 0.95,
) -> Curve:
    """The curve nearest to some checkpoints' gains, by weighted least squares.

    Parameters
    ----------
    sqrt_kl
        (n,) distances from the reference; points at 0 say nothing and are left out.
    gain
        (n,) gold or proxy less what it is at the reference (a win rate less 50).
    stderr
        (n,) standard errors of ``gain``.
    level
        Of the turning point's interval, from ``N_BOOT`` draws of the gains around the curve, with
        the standard errors or the scatter about the curve, whichever is larger. Checkpoints of one
        run share prompts, so it is approximate.
    """
    d, y, s = (np.asarray(x, dtype=np.float64) for x in (sqrt_kl, gain, stderr))
    good = np.isfinite(d) & np.isfinite(y) & np.isfinite(s) & (d > 0) & (s > 0)
    d, y, s = d[good], y[good], s[good]
    nan = (math.nan,) * 5
    if len(np.unique(d)) < MIN_POINTS:
        return Curve(form, *nan, len(d), f"fewer than {MIN_POINTS} distances from the reference")
    x = np.stack([d, -d * BENDS[form](d)], axis=1) / s[:, None]
    solve = np.linalg.pinv(x)
    alpha, beta = solve @ (y / s)
    left = y / s - x @ np.array([alpha, beta])
    scale = max(1.0, float(np.sqrt((left**2).sum() / max(1, len(d) - 2))))
    draws = (x @ np.array([alpha, beta]))[:, None] + scale * rng.normal(size=(len(d), N_BOOT))
    alphas, betas = solve @ draws
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    turns = betas > 0
    points = np.full(N_BOOT, np.inf)
    points[turns] = _turning_point(form, alphas[turns], betas[turns])
    low, high = np.quantile(points, ends, method="nearest")
    found = float(_turning_point(form, alpha, beta)) if beta > 0 else math.inf
    reason = ""
    if high > d.max():
        reason = f"not shown to turn within the distances reached (up to {d.max():.2f})"
    elif found < d.min():
        reason = f"falling already at the nearest distance ({d.min():.2f})"
    if reason:
        found = low = high = math.nan
    return Curve(form, float(alpha), float(beta), found, float(low), float(high), len(d), reason)


def _turning_point(form: Form, alpha: ArrayLike, beta: ArrayLike) -> Array:
    a, b = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(a / b - 1) if form == "rl" else a / (2 * b))


def of_method(rows: Sequence[Mapping[str, Any]], *, rng: np.random.Generator) -> dict[str, Any]:
    """Gold and proxy of one method's checkpoints, ready for JSON.

    ``rows`` are ``metrics.row``s. Gold is the true win rate where an oracle gave one, else the
    length-controlled one; the proxy is the raw win rate, which the judge's faults flatter.
    """
    oracle = any(math.isfinite(row.get("true_win_rate", math.nan)) for row in rows)
    gold = "true_win_rate" if oracle else "lc_win_rate"
    return {
        "gold": gold,
        "gold_curve": _rate_curve(rows, gold, rng),
        "proxy": "win_rate",
        "proxy_curve": _rate_curve(rows, "win_rate", rng),
    }


def _rate_curve(rows: Sequence[Mapping[str, Any]], name: str, rng: np.random.Generator) -> Curve:
    low, high = INTERVAL_COLUMNS.get(name, (f"{name}_ci_low", f"{name}_ci_high"))
    width = [(row.get(high, math.nan) - row.get(low, math.nan)) / (2 * 1.96) for row in rows]
    gain = [row.get(name, math.nan) - 50 for row in rows]
    return fit([row.get("sqrt_kl", math.nan) for row in rows], gain, width, rng=rng)
