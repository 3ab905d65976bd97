"""A test that may be looked at after every judgment: for adding judgments to one comparison.

Waudby-Smith and Ramdas 2023 (J. R. Stat. Soc. B 86: 1-27, arXiv 2010.09686), the hedged capital
process of section 4.3. Someone who believes that the mean of scores x in [0, 1] is m bets on it

    K+_t(m) = prod_{i <= t} (1 + min(l_i, c/m) (x_i - m))
    K-_t(m) = prod_{i <= t} (1 - min(l_i, c/(1-m)) (x_i - m)),      c = 1/2
    l_i     = sqrt( 2 log(2/alpha) / (s_{i-1}^2 i log(i + 1)) )       (equations 22 to 24)

with s_{i-1} the standard deviation of the scores before x_i. If m is true neither capital is
expected to grow, so that one of them ever reaches 2/alpha has a probability of at most alpha
(Ville's inequality): whenever one stops, the means not ruled out until then hold the truth. Not for
going through checkpoints, whose means differ: each look there is a new question.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from prefeval.metrics.stats import Array

GRID = 1000  # steps of the mean; the interval is rounded outwards to them
BLOCK = 256  # judgments at once


class AnytimeBounds(NamedTuple):
    """After each judgment: (n,) each."""

    ci_low: Array
    ci_high: Array
    e_value: Array
    """against the null mean; 1 / alpha or more rejects it at alpha, whenever one looks"""


def anytime_bounds(scores: ArrayLike, *, level: float = 0.95, null: float = 0.5) -> AnytimeBounds:
    """Confidence sequence of the mean of ``scores`` (n,) in [0, 1], in the order they came.

    Scores must be independent given the past with one mean: a score a prompt (both orders of a
    verdict averaged), prompts in random order. The interval never widens.

    Raises ``ValueError`` for a score outside [0, 1] or NaN.
    """
    x = np.asarray(scores, dtype=np.float64)
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError("scores must lie in [0, 1]")
    alpha = 1 - level
    bets = _bets(x, alpha)
    means = np.unique(np.append(np.linspace(0, 1, GRID + 1), null))
    with np.errstate(divide="ignore"):
        most_up, most_down = 0.5 / means, 0.5 / (1 - means)
    up, down = np.zeros(len(means)), np.zeros(len(means))  # log capitals
    possible = np.ones(len(means), dtype=bool)
    at_null = int(np.searchsorted(means, null))
    low, high, e_value = np.empty(len(x)), np.empty(len(x)), np.empty(len(x))
    for start in range(0, len(x), BLOCK):
        block = slice(start, start + BLOCK)
        gap = x[block, None] - means
        ups = up + np.log1p(np.minimum(bets[block, None], most_up) * gap).cumsum(axis=0)
        downs = down + np.log1p(-np.minimum(bets[block, None], most_down) * gap).cumsum(axis=0)
        alive = np.logical_and.accumulate(
            possible & (np.maximum(ups, downs) < math.log(2 / alpha)), axis=0
        )
        any_left = alive.any(axis=1)
        low[block] = np.where(any_left, means[alive.argmax(axis=1)], 0)
        high[block] = np.where(any_left, means[::-1][alive[:, ::-1].argmax(axis=1)], 1)
        e_value[block] = (np.exp(ups[:, at_null]) + np.exp(downs[:, at_null])) / 2
        up, down, possible = ups[-1], downs[-1], alive[-1]
    # where every mean is ruled out (bad luck, or scores without one mean) the last bounds stay
    low, high = np.maximum.accumulate(low), np.minimum.accumulate(high)
    step = 1 / GRID
    return AnytimeBounds(np.maximum(0, low - step), np.minimum(1, high + step), e_value)


def _bets(x: Array, alpha: float) -> Array:
    """l_i (n,), each from the scores before it: the mean and variance start at 1/2 and 1/4."""
    i = np.arange(1, len(x) + 1)
    mean = (0.5 + x.cumsum()) / (i + 1)
    variance = (0.25 + ((x - mean) ** 2).cumsum()) / (i + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    bets: Array = np.sqrt(2 * math.log(2 / alpha) / (before * i * np.log(i + 1)))
    return bets
