"""What a gate may look at: each metric's direction and usual margin, and its bounds at any level.

Changes are the paired differences of ``comparison``, the checkpoint less its baseline on the same
prompts; their standard errors and counts give bounds at the gate's level. A floor or ceiling is of
the checkpoint's own value against the reference, with the intervals of ``stats``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from prefeval.metrics import comparison, differences, paired, pooling, stats
from prefeval.metrics.comparison import Joined
from prefeval.metrics.differences import NATS, TIMES, Difference
from prefeval.metrics.evidence import Evidence, checked
from prefeval.metrics.gate.decision import Line
from prefeval.metrics.stats import Estimate

Estimator = Callable[[float], Estimate]
"""A value with its interval at a level."""


SAME = 1e-4  # relative: what log-probabilities of the same weights differ by between machines


class Kind(NamedTuple):
    """Whether more of a metric is better (1) or worse (-1); its margin unless told otherwise.

    ``margin`` is in points, or a share of the baseline where ``relative``.
    """

    better: int
    margin: float
    relative: bool = False
    meaning: str = ""


KINDS: Mapping[str, Kind] = {
    "lc_win_rate": Kind(1, 3, meaning="length-controlled win rate against the reference, points"),
    "win_rate": Kind(1, 3, meaning="raw win rate against the reference, points"),
    "true_win_rate": Kind(1, 3, meaning="win rate by the lab's oracle, points"),
    "flip_rate": Kind(-1, 5, meaning="verdicts whose winner changes with the order, points"),
    "kl": Kind(-1, 0.5, True, "reverse KL from the reference: nats/sequence, or % of the baseline"),
    "length_ratio": Kind(-1, 0.25, True, "mean tokens, % of the baseline"),
    "eos_rate": Kind(1, 5, meaning="answers that end by themselves, points"),
    "distinct": Kind(1, 10, meaning="different texts among the samples of a prompt, points"),
    "implicit_accuracy": Kind(1, 5, meaning="held-out pairs with Δchosen > Δrejected, points"),
}
BEHAVIOUR = Kind(1, 5, meaning="checks passed, points")
"""3 points of win rate need about 430 prompts for a power of 80% where one prompt's preferences
differ by 25 points (standard deviation), and 640 by 30; the lab's neighbouring checkpoints have 18
to 29. A smaller margin is dear: n goes with its square."""


def changes(
    joined: Joined, names: Collection[str], *, rng: np.random.Generator, relative_kl: bool = True
) -> dict[str, Line]:
    """The change of each of ``names`` and of every behaviour, checkpoint (B) less baseline (A)."""
    left_out = dict.fromkeys(set(comparison.MEASURES) - set(names), "not in the policy")
    found = list(comparison.measures(joined, rng=rng, without=left_out))
    if relative_kl and "kl" in names:
        kl = [e.samples["kl"] for e in (joined.a, joined.b)]
        cluster = joined.a.samples["cluster"].to_numpy()
        found = [d for d in found if d.name != "kl"]
        found.append(differences.factor("kl", kl[0], kl[1], cluster, paired=False))
    lines = {d.name: change_line(d) for d in found if d.name in names}
    return lines | {d.name: change_line(d) for d in comparison.behaviours(joined)}


def change_line(found: Difference) -> Line:
    """A paired difference with bounds at any level."""
    d = found.difference
    plain = (found.name, found.unit, found.a, found.b, d.value, d.n)
    if not math.isfinite(d.value) or not math.isfinite(d.stderr):
        return Line(*plain, lambda _: (math.nan, math.nan), reason=d.reason or "undefined")
    if found.gained is not None and found.lost is not None:
        return _share(found, found.gained, found.lost)
    factor = found.unit == TIMES
    centre, stderr = (math.log(d.value), d.stderr / d.value) if factor else (d.value, d.stderr)

    def bounds(level: float) -> tuple[float, float]:
        half = stats.t_quantile(found.clusters, level) * stderr
        low, high = centre - half, centre + half
        return (math.exp(low), math.exp(high)) if factor else (low, high)

    return Line(*plain, bounds, scatter=stderr * math.sqrt(d.n))


def unchanged(line: Line) -> Line:
    """The line of a checkpoint all of whose answers are its baseline's: no change, for certain."""
    zero = 1.0 if line.unit == TIMES else 0.0
    if not math.isfinite(line.a):
        return line
    return replace(
        line, b=line.a, value=zero, bounds=lambda _: (zero, zero), scatter=0.0, reason="",
        p_lower=None, p_higher=None,
    )  # fmt: skip


JUDGED = ("lc_win_rate", "win_rate")


def undiscerning(joined: Joined, margin: float) -> str:
    """Why the judge cannot show a loss of ``margin`` points; "" where it can.

    A judge whose soft verdicts hardly differ (a reward model after a few steps: 50 ± 0.5) gives any
    two checkpoints nearly the same win rate, and a narrow interval with it. Its verdicts have to
    spread by at least the margin from prompt to prompt, of one checkpoint or the other (the rule is
    prefeval's own: verdicts of 0, ½ and 1 spread by some 35 points or more, the lab's by 20).
    """
    sides = (e.judgments["preference"].dropna() for e in (joined.a, joined.b))
    spread = max((100 * float(np.std(side)) for side in sides if len(side)), default=math.nan)
    if not spread < margin:
        return ""
    return (
        f"the judge's verdicts spread by {spread:.2g} points from prompt to prompt, less than the "
        f"margin of {margin:g}: it tells answers too little apart; name another judge"
    )


def unknown(line: Line, reason: str) -> Line:
    """The line without a number, and why."""
    return replace(
        line, value=math.nan, bounds=lambda _: (math.nan, math.nan), reason=reason,
        p_lower=None, p_higher=None,
    )  # fmt: skip


def moved(joined: Joined) -> set[str]:
    """The metrics that are measured of the weights and differ anywhere: two checkpoints may answer
    alike and give what they say, or held-out pairs, other probabilities."""
    a, b = joined.a, joined.b
    kl = a.samples["kl"].to_numpy(), b.samples["kl"].to_numpy()
    sides = ["chosen_logps", "rejected_logps"]
    pairs = a.pairs[sides].to_numpy(), b.pairs[sides].to_numpy()
    found = {"kl": kl, "implicit_accuracy": pairs}
    return {n for n, both in found.items() if not np.allclose(*both, rtol=SAME, equal_nan=True)}


def _share(found: Difference, gained: int, lost: int) -> Line:
    """A change in a share: Tango's bounds, and its exact tail (see ``paired``)."""
    d, n = found.difference, found.difference.n
    change = gained - lost
    variance = ((gained + lost) - change**2 / n) / (n - 1) if n > 1 else 0.0
    # the design effect that ``paired.paired_change`` put into the standard error; n/G as there
    # where all prompts changed alike
    flat = variance <= 1e-12
    effect = n / found.clusters if flat else max(1.0, (d.stderr / 100) ** 2 * n / variance)

    def bounds(level: float) -> tuple[float, float]:
        alone = found.clusters == n
        q = stats.z_quantile(level) if alone else stats.t_quantile(found.clusters, level)
        low, high = paired.score_interval(gained, lost, n, q * math.sqrt(effect))
        return 100 * low, 100 * high

    return Line(
        found.name, found.unit, found.a, found.b, d.value, n, bounds,
        scatter=100 * math.sqrt((gained + lost) / n * effect),  # as if no more lost than gained
        p_lower=lambda limit: paired.p_worse(gained, lost, n, -limit / 100, effect),
        p_higher=lambda limit: paired.p_worse(lost, gained, n, limit / 100, effect),
        effect=effect,
    )  # fmt: skip


# -- the checkpoint's own values ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Own:
    """One checkpoint's values, each with bounds at any level."""

    evidence: Evidence
    rng: np.random.Generator

    def line(self, name: str) -> Line:
        """The value of ``name``, as ``prefeval eval`` has it; NaN with a reason without data."""
        unit = {"kl": NATS, "length_ratio": TIMES}.get(name, "percent")
        estimate = self._estimator(name)
        found = estimate(0.9)
        stderr = found.stderr / found.value if unit == TIMES else found.stderr

        def bounds(level: float) -> tuple[float, float]:
            at = estimate(level)
            return at.ci_low, at.ci_high

        scatter = stderr * math.sqrt(found.n) if math.isfinite(stderr) else math.nan
        return Line(name, unit, math.nan, found.value, found.value, found.n, bounds, scatter,
                    found.reason)  # fmt: skip

    def _estimator(self, name: str) -> Estimator:
        judged, samples = self.evidence.judgments, self.evidence.samples
        match name:
            case "lc_win_rate":
                return self._length_controlled()
            case "win_rate" | "true_win_rate":
                rows = judged["preference" if name == "win_rate" else "true_preference"].dropna()
                return _of(stats.bounded_mean, rows, judged["cluster"].loc[rows.index])
            case "flip_rate":
                rows = comparison.flips(judged).dropna()
                return _of(stats.proportion, rows, judged["cluster"].loc[rows.index])
            case "eos_rate":
                return _of(stats.proportion, samples["ended"], samples["cluster"])
            case "kl":
                return _of(stats.clustered_mean, samples["kl"], samples["cluster"], 1)
            case "length_ratio":
                both = samples["n_tokens"], samples["ref_n_tokens"]
                return lambda level: stats.ratio_of_means(
                    *both, samples["cluster"].to_numpy(), level, log_scale=True
                )
        checks = self.evidence.checks
        asked = checked(checks[checks["behaviour"] == name])
        return _of(stats.proportion, asked["passed"], asked["cluster"])

    def _length_controlled(self) -> Estimator:
        n = len(self.evidence.judgments)
        if not n:
            return lambda _: stats.undefined("no prompt was judged")
        rules = pooling.Rules(n_boot=comparison.N_BOOT)
        half = pooling.rates_of_half([self.evidence], np.ones(n, dtype=bool), rules, self.rng)

        def estimate(level: float) -> Estimate:
            rate = pooling.pooled_rate(half, [0], level)
            width = 2 * stats.t_quantile(half.clusters, level)
            stderr = (rate.ci_high - rate.ci_low) / width
            return Estimate(rate.lc_win_rate, stderr, rate.ci_low, rate.ci_high, n, rate.reason)

        return estimate


def _of(
    interval: Callable[..., Estimate], rows: Any, cluster: Any, scale: float = 100
) -> Estimator:
    """``interval`` of ``rows`` (n,), in percent unless told otherwise."""
    return lambda level: interval(rows.to_numpy(), cluster.to_numpy(), level).scaled(scale)


FLOORS = tuple(name for name in KINDS if name not in ("distinct", "implicit_accuracy"))
"""The metrics, beside behaviours, that may have a floor or a ceiling."""
