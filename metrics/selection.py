"""What a sweep's verdict holds: the records that ``usable.select`` returns, ready for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from prefeval.metrics.retention import BehaviourChange
from prefeval.metrics.stats import Estimate

State = Literal["usable", "not usable", "undecided"]


class Key(NamedTuple):
    """What names a checkpoint. ``beta`` is each method's own lever (PPO: its KL coefficient)."""

    method: str
    beta: float
    seed: int
    step: int


@dataclass(frozen=True)
class Rate:
    """A length-controlled win rate and its interval, percent, on ``n`` prompts."""

    lc_win_rate: float
    ci_low: float
    ci_high: float
    n: int
    reason: str = ""


@dataclass(frozen=True)
class BetaVerdict:
    """One β of one method, by its chosen checkpoint. ``seeds`` are the seeds pooled.

    ``choosing`` is the rate on the half that chose; ``reported`` the one to state. ``damaged``
    names the behaviours shown worse by more than the margin.
    """

    method: str
    beta: float
    step: int
    seeds: tuple[int, ...]
    state: State
    reasons: tuple[str, ...]
    choosing: Rate
    reported: Rate
    kl: float
    damaged: tuple[str, ...]
    behaviours: tuple[BehaviourChange, ...]


@dataclass(frozen=True)
class Rival:
    """Another β's checkpoint beside the recommended one: recommended less rival, points.

    The interval is simultaneous over all rivals; ``distinguishable`` is whether it excludes 0
    and below. ``needed`` is how many prompts of this kind would show the difference by itself with
    a power of 80%, were it as measured; None where there is none to show.
    """

    method: str
    beta: float
    step: int
    state: State
    difference: float
    ci_low: float
    ci_high: float
    distinguishable: bool
    needed: int | None = None


@dataclass(frozen=True)
class Recommendation:
    """The checkpoint to ship. ``numbers`` are metric columns on the reporting half.

    ``not_ruled_out`` names behaviours whose interval still allows a loss over the margin.
    """

    method: str
    beta: float
    seed: int
    step: int
    numbers: dict[str, float]
    pooled: Rate
    behaviours: tuple[BehaviourChange, ...]
    not_ruled_out: tuple[str, ...]
    rivals: tuple[Rival, ...]
    indistinguishable: tuple[str, ...]


@dataclass(frozen=True)
class Window:
    """The usable β of one method: lowest and highest of the grid, NaN where there is none.

    ``gaps`` are grid points between them that are not usable. ``at_edge`` says whether the best
    point is the "low" or "high" end of the grid (or its "only" point); ``extension`` is then the
    option to run next.
    """

    method: str
    grid: tuple[float, ...]
    usable: tuple[float, ...]
    low: float
    high: float
    gaps: tuple[float, ...]
    best: float
    at_edge: Literal["", "low", "high", "only"]
    extension: str
    text: str


@dataclass(frozen=True)
class Selection:
    """The verdict of a sweep, ready for JSON. ``verdict`` is for a person to read."""

    recommended: Recommendation | None
    verdict: str
    betas: tuple[BetaVerdict, ...]
    windows: tuple[Window, ...]
    warnings: tuple[str, ...]
    prompts_choosing: int
    prompts_reporting: int
    margin: float
    level: float
    n_boot: int
    estimator: str
    self_play: Estimate | None = None
    """the reference's fresh samples against its own answers, percent: the judge's noise"""
