"""What one measured checkpoint gained over another, paired by prompt, in any metric that pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prefeval.harness import measured as saved
from prefeval.metrics import comparison, differences
from prefeval.metrics.early_stopping import Gain
from prefeval.metrics.evidence import Evidence
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from prefeval.harness.watch.stream import Measured, Stream

SEED = 20_260_101
REFITS = 400  # of the length-controlled rates, for a standard error
CHANGE = ("change_", "retention_")


def evidence_of(stream: Stream, found: Measured) -> Evidence:
    """Every prompt's judgments, samples and checks of one measured checkpoint."""
    task = stream.run.task
    return saved.read_evidence(found.folder, task, saved.read_calibration(task))


def require_paired(metric: str) -> None:
    """Raise ``PrefevalError`` for a metric in which two checkpoints are not compared by prompt."""
    if metric not in comparison.MEASURES and not metric.startswith(CHANGE):
        names = ", ".join(comparison.MEASURES)
        raise PrefevalError(
            f"checkpoints are not compared in {metric!r}; use one of {names}, change_<behaviour>"
        )


class Gains:
    """Paired gains between the checkpoints of one training, in order; each computed once.

    ``sign`` is 1 where more of the metric is better, -1 where less is.
    """

    def __init__(
        self, stream: Stream, measured: Sequence[Measured], metric: str, sign: float
    ) -> None:
        require_paired(metric)
        self._stream, self._measured, self._metric, self._sign = stream, measured, metric, sign

    def between(self, a: int, b: int) -> Gain:
        """What checkpoint ``b`` gained over ``a``."""
        first, second = (evidence_of(self._stream, self._measured[i]) for i in (a, b))
        return as_gain(difference(comparison.join(first, second), self._metric), self._sign)


def difference(joined: comparison.Joined, metric: str) -> differences.Difference:
    """The line of one metric."""
    rng = np.random.default_rng(SEED)
    if metric.startswith(CHANGE):
        name = metric.partition("_")[2]
        found = {line.name: line for line in comparison.behaviours(joined)}
        if name not in found:
            raise PrefevalError(
                f"no behaviour {name!r} is checked; there are {', '.join(found) or 'none'}"
            )
        return found[name]
    if metric == "lc_win_rate":
        return comparison.length_controlled(joined, rng=rng, n_boot=REFITS)
    lines = comparison.measures(joined, rng=rng, without={"lc_win_rate": "not asked for"})
    return next(line for line in lines if line.name == metric)


def as_gain(line: differences.Difference, sign: float) -> Gain:
    """A difference as a gain; of factors, their logarithm."""
    found = line.difference
    value, stderr = found.value, found.stderr
    if line.unit == differences.TIMES and value > 0:
        value, stderr = math.log(value), stderr / value
    return Gain(sign * value, stderr, line.clusters, line.p)
