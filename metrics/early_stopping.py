"""When a training no longer gains: patience, with a confidence bound on every comparison.

Checkpoints are measured on the same prompts, so two of them are compared by the paired gain of the
later one. An evaluation is *better* when the lower bound of its gain over the best so far,
one-sided at ``confidence``, lies above ``min_delta``; only then does it become the best so far.
Training no longer gains after ``patience`` evaluations in a row that are not better. Since the best
so far moves by shown gains alone, a slow rise adds up until it is shown.

It stops at once when an evaluation is *shown worse* than the best so far. Such a test is made at
every evaluation, and against a best that was chosen among all before it: "2 SE under the running
peak" fires by luck in 43% of flat runs of 10 checkpoints. So the error rate is spent: evaluation k
(from 0) has ``ALPHA`` / (k (k + 1)), which sums to ``ALPHA`` over any number, and a k-th of it for
each of the k checkpoints that the best may be (Bonferroni).

A high ``confidence`` is no safer: it takes real gains for none, and stops runs that still rise.
What the rule does is simulated in ``benchmarks/early_stopping.py`` and told in docs/callback.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import special

ALPHA = 0.05
"""Chance that a run which never falls is called fallen, over all its evaluations."""
CONFIDENCE = 0.6


@dataclass(frozen=True)
class Gain:
    """How much better one checkpoint is than an earlier one, paired by prompt; > 0 is better.

    ``p`` is two-sided, of no difference; ``clusters`` less 1 are the degrees of freedom. NaN where
    the two do not compare.
    """

    value: float
    stderr: float
    clusters: int
    p: float

    def lower(self, confidence: float) -> float:
        """The one-sided lower bound, by t; NaN where there is none."""
        if self.clusters < 2 or not math.isfinite(self.stderr):
            return math.nan
        return self.value - float(special.stdtrit(self.clusters - 1, confidence)) * self.stderr

    @property
    def p_worse(self) -> float:
        """One-sided, of "no worse"."""
        return self.p / 2 if self.value < 0 else 1 - self.p / 2


@dataclass(frozen=True)
class Decision:
    """Where a training stands after its newest evaluation.

    ``best`` is the place of the best so far that was *shown* better than those before it,
    ``waited`` the evaluations since then. ``why`` is "" unless ``stop``.
    """

    best: int
    waited: int
    stop: bool
    why: str = ""


def spent(k: int) -> float:
    """The level at which evaluation ``k`` >= 1 is tested, against any of the k before it."""
    return ALPHA / (k * (k + 1))


def decide(
    n: int,
    gain: Callable[[int, int], Gain],
    *,
    patience: int,
    confidence: float = CONFIDENCE,
    min_delta: float = 0.0,
) -> Decision:
    """Go through ``n`` >= 1 evaluations in order; ``gain(a, b)`` is that of b over a, a < b.

    A pure function of the evaluations: nothing but them is needed to resume. Stops where a run
    that was decided step by step would have, and looks no further.

    >>> rises = lambda a, b: Gain(3.0 * (b - a), 1.0, 100, 0.003)
    >>> decide(6, rises, patience=2)
    Decision(best=5, waited=0, stop=False, why='')
    >>> decide(6, lambda a, b: Gain(0.0, 1.0, 100, 1.0), patience=2).why
    'not shown better in 2 evaluations'
    """
    best = waited = 0
    for k in range(1, n):
        found = gain(best, k)
        if found.p_worse <= spent(k) / k:
            return Decision(best, waited + 1, True, f"shown worse by {-found.value:.3g}")
        if found.lower(confidence) > min_delta:
            best, waited = k, 0
            continue
        waited += 1
        if waited >= patience:
            words = f"{waited} evaluation{'s' if waited > 1 else ''}"
            return Decision(best, waited, True, f"not shown better in {words}")
    return Decision(best, waited, False)
