"""Levels of a log's columns at its start and its end, with t intervals over rows."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from prefeval.metrics.diagnosis.terms import Signal
from prefeval.metrics.stats import Array

TAIL, HEAD = 0.2, 0.05  # shares of the rows that are "the end" and "the start"


def tail(values: Array) -> Array:
    """The last fifth of the finite values; of short logs five, or a third."""
    good = values[np.isfinite(values)]
    return good[-max(math.ceil(TAIL * len(good)), min(5, math.ceil(len(good) / 3))) :]


def head(values: Array) -> Array:
    """The first twentieth of the finite values."""
    good = values[np.isfinite(values)]
    return good[: max(1, math.ceil(HEAD * len(good)))]


def mean(values: Array) -> Signal:
    """A mean over rows with its t interval; without one below three rows."""
    good = values[np.isfinite(values)]
    n = len(good)
    if not n:
        return Signal(math.nan)
    if n < 3:
        return Signal(float(good.mean()), n=n)
    half = float(special.stdtrit(n - 1, 0.975) * good.std(ddof=1) / math.sqrt(n))
    value = float(good.mean())
    return Signal(value, value - half, value + half, n)


def middle(values: Array) -> float:
    """The mean."""
    return float(values.mean())


def difference(late: Array, early: Array) -> Signal:
    """Difference of two means over rows; the spread of ``late`` serves both."""
    n, m = len(late), len(early)
    value = float(late.mean() - early.mean())
    if n < 3:
        return Signal(value, n=n)
    half = float(special.stdtrit(n - 1, 0.975) * late.std(ddof=1) * math.sqrt(1 / n + 1 / m))
    return Signal(value, value - half, value + half, n)


def per(signal: Signal, by: float) -> Signal:
    """``signal`` over a level; undefined where that is 0 or no number."""
    return scaled(signal, 1 / by if by and math.isfinite(by) else math.nan)


def scaled(signal: Signal, factor: float) -> Signal:
    """``signal`` times ``factor``, which may be below 0."""
    low, high = sorted((signal.ci_low * factor, signal.ci_high * factor))
    return Signal(signal.value * factor, low, high, signal.n)


def tail_rows(*columns: Array) -> Array:
    """The tail (rows, columns) of the rows in which every column is finite."""
    rows = np.stack(columns, axis=1)
    good = np.flatnonzero(np.isfinite(rows).all(axis=1))
    return np.asarray(rows[tail(good.astype(np.float64)).astype(int)])


def ratio(rows: Array) -> Signal:
    """-Sum(delta) / |Sum(reference)| over rows (n, 2), and its t interval: batches of long answers
    have more of both, so the ratio of the sums is steadier than the mean of either."""
    n = len(rows)
    total = abs(float(rows[:, 1].sum()))
    if not n or not total:
        return Signal(math.nan)
    value = -float(rows[:, 0].sum()) / total
    if n < 3:
        return Signal(value, n=n)
    left = -rows[:, 0] - value * np.abs(rows[:, 1])
    half = float(special.stdtrit(n - 1, 0.975) * left.std(ddof=1) * math.sqrt(n)) / total
    return Signal(value, value - half, value + half, n)


def absolute(signal: Signal) -> Signal:
    """The size of ``signal``; an interval around 0 begins at 0."""
    low, high = abs(signal.ci_low), abs(signal.ci_high)
    inside = signal.ci_low < 0 < signal.ci_high
    return Signal(abs(signal.value), 0.0 if inside else min(low, high), max(low, high), signal.n)
