"""Chosen answers have become less likely: is that harmless, or is the model coming apart?

A falling log-probability of chosen answers is common and can be benign: the objective asks for a
margin, not for likely answers (Rafailov et al. 2024, arXiv 2404.12358). It is displacement where
the probability goes to something else altogether (Razin et al. 2024, arXiv 2410.08847), and a
collapse where behaviour is lost with it. No curve of a trainer's log tells these apart: the damage
must be measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prefeval.metrics.evidence import Evidence
from prefeval.metrics.logps import logps
from prefeval.metrics.retention import MARGIN, changes
from prefeval.records import MetricResult

Kind = Literal["unknown", "none", "benign", "displacement", "damage", "collapse"]
SEVERE = -0.2  # nats/token (ours)


@dataclass(frozen=True)
class Fall:
    """What the fall of chosen answers is, and the numbers that say so."""

    kind: Kind
    evidence: tuple[str, ...]


def chosen_fall(evidence: Evidence, *, margin: float = MARGIN, level: float = 0.95) -> Fall:
    """Tell a benign fall from displacement and from a collapse.

    - *none*: the interval of Delta_w reaches 0 or above.
    - *collapse*: Delta_w and Delta_l are both shown below 0 and a checked behaviour is shown worse
      than the reference by more than ``margin`` points (Holm over behaviours).
    - *damage*: the same, but rejected answers are not shown to have become less likely.
    - *displacement*: Delta_w is below -0.2 nats/token, and no damage is shown.
    - *benign*: a smaller fall without damage shown. Where nothing was checked the evidence says so.
    """
    found = {r.name: r for r in logps(evidence, rng=np.random.default_rng(0))}
    chosen, rejected = found["delta_chosen"], found["delta_rejected"]
    per_token = found["delta_chosen_per_token"]
    if not math.isfinite(chosen.ci_high):
        return Fall("unknown", (chosen.reason or "too few held-out pairs",))
    said = [
        f"chosen {_shown(chosen)} nats/sequence, {per_token.value:.3f} nats/token",
        f"rejected {_shown(rejected)} nats/sequence",
        f"margin {_shown(found['margin'])} nats/sequence",
    ]
    if chosen.ci_high >= 0:
        return Fall("none", tuple(said))
    behaviours = changes(evidence.checks, margin=margin, level=level)
    damaged = [b for b in behaviours if b.p_worse_holm < 1 - level]
    said += [
        f"{b.behaviour} {b.change:+.1f} [{b.ci_low:+.1f}, {b.ci_high:+.1f}] points" for b in damaged
    ]
    if not behaviours:
        said.append("no behaviour was checked, so damage could not be seen")
    elif not damaged:
        said.append(f"none of {len(behaviours)} behaviours shown more than {margin:g} points worse")
    if damaged:
        return Fall("collapse" if rejected.ci_high < 0 else "damage", tuple(said))
    return Fall("displacement" if per_token.value < SEVERE else "benign", tuple(said))


def _shown(result: MetricResult) -> str:
    return f"{result.value:+.2f} [{result.ci_low:+.2f}, {result.ci_high:+.2f}]"
