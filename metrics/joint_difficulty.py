"""Each prompt's difficulty, estimated from many models' judgments where no table of it is given.

A ridge on the difficulties of one logistic model over all rows (the joint fit of AlpacaEval 2.0,
arXiv 2404.04475, section 3, has the same terms):

    P(model m wins on prompt i) = sigmoid(a_m tanh(D_mi / sd_m(D)) + b_m + d_i)
    minimise  sum CE + strength / 2 sum_i d_i^2

Difficulties of prompts are apart from each other given the models' coefficients, and the other way
round, so the two are solved in turn by Newton's method. A table from these models moves when
another joins: freeze it (`prefeval winrate --save-difficulty`) to compare later ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from prefeval.metrics.stats import Array

STRENGTH = 1.0  # a prior of N(0, 1) on each difficulty, in logits
ROUNDS = 5000
TOLERANCE = 1e-8  # logits, of a round


class JointFit(NamedTuple):
    """``difficulty`` (I,) in logits, about 0; ``length`` and ``model`` (M,): a_m and b_m."""

    difficulty: Array
    length: Array
    model: Array


def joint_difficulty(
    preference: ArrayLike,
    length: ArrayLike,
    model: NDArray[np.intp],
    prompt: NDArray[np.intp],
    *,
    strength: float = STRENGTH,
) -> JointFit:
    """Fit the rows (n,) of M >= 2 models on I prompts, NaN preferences left out.

    ``length`` is tanh of the standardised difference of lengths within a model; ``model`` and
    ``prompt`` are codes from 0. Larger difficulty: models win more, as in the published table.
    A model that won or lost everything keeps a finite coefficient by a ridge of 1e-3 on a and b.

    Raises ``ArithmeticError`` when the fit does not settle.
    """
    y, x = np.asarray(preference, dtype=np.float64), np.asarray(length, dtype=np.float64)
    models, prompts = int(model.max()) + 1, int(prompt.max()) + 1
    read = np.isfinite(y)
    y, x, model, prompt = y[read], x[read], model[read], prompt[read]
    a, b, d = np.zeros(models), np.zeros(models), np.zeros(prompts)
    for _ in range(ROUNDS):
        before = np.concatenate([a, b, d])
        p, weight = _mean_and_weight(a[model] * x + b[model] + d[prompt])
        gap = y - p
        slope_a, slope_b = _sum(model, gap * x, models), _sum(model, gap, models)
        aa = _sum(model, weight * x * x, models) + 1e-3
        ab = _sum(model, weight * x, models)
        bb = _sum(model, weight, models) + 1e-3
        slope_a, slope_b = slope_a - 1e-3 * a, slope_b - 1e-3 * b
        determinant = aa * bb - ab * ab
        a = a + np.clip((bb * slope_a - ab * slope_b) / determinant, -2, 2)
        b = b + np.clip((aa * slope_b - ab * slope_a) / determinant, -2, 2)
        p, weight = _mean_and_weight(a[model] * x + b[model] + d[prompt])
        slope = _sum(prompt, y - p, prompts) - strength * d
        d = d + np.clip(slope / (_sum(prompt, weight, prompts) + strength), -2, 2)
        if np.abs(np.concatenate([a, b, d]) - before).max() < TOLERANCE:
            return JointFit(d, a, b)
    raise ArithmeticError("the joint fit of difficulties did not settle")


def _mean_and_weight(logit: Array) -> tuple[Array, Array]:
    p = special.expit(logit)
    return p, p * (1 - p)


def _sum(code: NDArray[np.intp], values: Array, count: int) -> Array:
    return np.bincount(code, weights=values, minlength=count).astype(np.float64)
