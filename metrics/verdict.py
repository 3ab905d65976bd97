"""A selection in words: names, reasons, the window of each method, the verdict's sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from prefeval.metrics.evidence import Evidence
from prefeval.metrics.next_command import OFFLINE, ROLLOUTS
from prefeval.metrics.retention import BehaviourChange
from prefeval.metrics.selection import BetaVerdict, Rate, Recommendation, Window

NICE = (1.0, 2.0, 3.0, 5.0)
OWN_SCALE = ("simpo",)  # methods that --beta moves only when it names them
HALF_A_DECADE = math.sqrt(10)
PROMPTS_NOT_TRAINING = "With one training seed the intervals cover prompts, not training."


def name_of(key: Any) -> str:
    """How a checkpoint is written: "dpo β=0.1 step 200 seed 0" (no seed where they are pooled)."""
    text = f"{key.method} β={key.beta:.3g} step {key.step}"
    return f"{text} seed {key.seed}" if hasattr(key, "seed") else text


def rate(value: Rate) -> str:
    """A rate with its interval: "60.3% (55.2 to 65.2)"."""
    return f"{value.lc_win_rate:.1f}% ({value.ci_low:.1f} to {value.ci_high:.1f})"


def loss(change: BehaviourChange) -> str:
    """A behaviour's change: "json −31.2 points (p = 0.002)"."""
    p = "< 0.001" if change.p_worse_holm < 0.001 else f"= {change.p_worse_holm:.2g}"
    return f"{change.behaviour} {_signed(change.change)} points (p {p})"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\u2212")


def _join(items: Sequence[str]) -> str:
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else "".join(items)


def _few(items: Sequence[str], most: int = 3) -> list[str]:
    more = len(items) - most
    return [*items[:most], f"{more} more"] if more > 0 else list(items)


def nice(value: float) -> float:
    """The nearest of 1, 2, 3, 5 times a power of ten, on the log scale.

    >>> nice(0.95), nice(0.0158)
    (1.0, 0.02)
    """
    decade = math.floor(math.log10(value))
    steps = [n * 10.0**d for d in (decade, decade + 1) for n in NICE]
    return float(f"{min(steps, key=lambda s: abs(math.log(s / value))):.3g}")


def windows(betas: Sequence[BetaVerdict]) -> tuple[Window, ...]:
    """The window of each method, by name. ``betas`` come best first."""
    methods = sorted({b.method for b in betas})
    return tuple(_window([b for b in betas if b.method == m]) for m in methods)


def _window(ranked: Sequence[BetaVerdict]) -> Window:
    method = ranked[0].method
    grid = tuple(sorted(b.beta for b in ranked))
    usable = tuple(sorted(b.beta for b in ranked if b.state == "usable"))
    low, high = (usable[0], usable[-1]) if usable else (math.nan, math.nan)
    gaps = tuple(b for b in grid if low < b < high and b not in usable)
    best, edge = _best_point(ranked, grid)
    extension = _extension(method, best, edge)
    return Window(
        method=method,
        grid=grid,
        usable=usable,
        low=low,
        high=high,
        gaps=gaps,
        best=best,
        at_edge=edge,
        extension=extension,
        text=_window_text(ranked, usable, gaps, best, edge, extension),
    )


def _best_point(
    ranked: Sequence[BetaVerdict], grid: tuple[float, ...]
) -> tuple[float, Literal["", "low", "high", "only"]]:
    """The best usable β, or the best undamaged one; where all are damaged, the most anchored."""
    sound = [b for b in ranked if not b.damaged and math.isfinite(b.choosing.ci_low)]
    usable = [b for b in sound if b.state == "usable"]
    if not sound:
        damaged = all(b.damaged for b in ranked) and ranked[0].method not in OWN_SCALE
        return (grid[-1], "high") if damaged and len(grid) > 1 else (math.nan, "")
    best = (usable or sound)[0].beta
    if len(grid) == 1:
        return best, "only"
    return best, "low" if best == grid[0] else "high" if best == grid[-1] else ""


def _extension(method: str, best: float, edge: str) -> str:
    """The grid to run next, half a decade on: "--methods dpo --beta 0.3:1"."""
    if not edge or not best > 0 or method not in OFFLINE | ROLLOUTS:  # a sweep runs no other
        return ""
    low = nice(best / HALF_A_DECADE) if edge in ("low", "only") else best
    high = nice(best * HALF_A_DECADE) if edge in ("high", "only") else best
    prefix = f"{method}=" if method in OWN_SCALE else ""
    return f"--methods {method} --beta {prefix}{low:.3g}:{high:.3g}"


def _window_text(
    ranked: Sequence[BetaVerdict],
    usable: tuple[float, ...],
    gaps: tuple[float, ...],
    best: float,
    edge: str,
    extension: str,
) -> str:
    if not usable:
        counts = {s: sum(b.state == s for b in ranked) for s in ("not usable", "undecided")}
        text = "no usable β (" + ", ".join(f"{n} {s}" for s, n in counts.items() if n) + ")"
    elif len(usable) == 1:
        text = f"β = {usable[0]:.3g} is usable"
    else:
        text = f"β from {usable[0]:.3g} to {usable[-1]:.3g} is usable"
    if gaps:
        text += f", except {_join([f'{g:.3g}' for g in gaps])}"
    if not edge:
        return text
    further = f": try {extension}" if extension else ""
    if all(b.damaged for b in ranked):
        return f"{text}; every β does damage{further}"
    where = "the only one tried" if edge == "only" else f"the {edge} end of the grid"
    return f"{text}; the best point, {best:.3g}, is {where}{further}"


def sentence(
    best: Recommendation | None, betas: Sequence[BetaVerdict], margin: float, *, unseen: bool = True
) -> str:
    """The verdict for a person: what to ship and on what evidence, or why nothing is named.

    ``unseen`` is whether the reporting prompts are others than those that chose.
    """
    if best is None:
        return _no_recommendation(betas)
    n, seeds = best.pooled.n, next(len(b.seeds) for b in betas if _same(b, best))
    numbers = best.numbers
    own = Rate(numbers["lc_win_rate"], numbers["lc_ci_low"], numbers["lc_ci_high"], n)
    parts = [
        f"Ship {name_of(best)}: on {n} prompts{' that played no part in choosing it' * unseen}, it"
        f" beats the reference in {rate(own)} after length control (raw"
        f" {numbers['win_rate']:.1f}%), at a KL of {numbers['kl']:.3g} nats."
    ]
    if best.behaviours:
        parts.append(f"No behaviour is shown more than {margin:g} points worse.")
    if best.not_ruled_out:
        every = len(best.not_ruled_out) == len(best.behaviours)
        which = "any of them" if every else _join(best.not_ruled_out)
        parts.append(f"With so few prompts each, a loss of more is not ruled out for {which}.")
    if best.indistinguishable:
        parts.append(f"Not distinguishable from it: {_join(_few(best.indistinguishable))}.")
    if seeds == 1:
        parts.append(PROMPTS_NOT_TRAINING)
    else:
        parts.append(f"Over its {seeds} seeds the rate is {rate(best.pooled)}.")
    return " ".join(parts)


def _same(beta: BetaVerdict, best: Recommendation) -> bool:
    return (beta.method, beta.beta) == (best.method, best.beta)


def _no_recommendation(betas: Sequence[BetaVerdict]) -> str:
    """One sentence: why no checkpoint is recommended. ``betas`` come best first."""
    start = "No checkpoint is recommended: "
    usable = [b for b in betas if b.state == "usable"]
    undecided = [b for b in betas if b.state == "undecided"]
    if usable:
        return (
            f"{start}{name_of(usable[0])} passes on the prompts that report, but on those that"
            f" choose it showed no gain ({rate(usable[0].choosing)}), as one of {len(betas)} β can"
            " by luck; more prompts would decide."
        )
    if all(b.damaged for b in betas):
        names = sorted({name for b in betas for name in b.damaged})
        return f"{start}every β is shown to damage {_join(names)}."
    measured = [b for b in undecided if math.isfinite(b.reported.ci_low)]
    if measured:
        best = measured[0]
        return (
            f"{start}no β is shown better than the reference without damage; the nearest is"
            f" {name_of(best)} at {rate(best.reported)} on {best.reported.n} prompts"
            f"{_prompts_needed(best.reported)}."
        )
    if undecided:
        return f"{start}{undecided[0].reasons[0]} ({name_of(undecided[0])})."
    return f"{start}every β is shown without gain over the reference, or damages a behaviour."


def _prompts_needed(value: Rate) -> str:
    """How many reporting prompts would put the lower bound at 50, were the rate as measured."""
    gap, half_width = value.lc_win_rate - 50, value.lc_win_rate - value.ci_low
    if gap < 1:
        return ""
    needed = 100 * math.ceil(value.n * (half_width / gap) ** 2 / 100)
    return f" (were that its true rate, it would take about {needed})"


def warnings(
    betas: Sequence[BetaVerdict], evidences: Sequence[Evidence], best: Recommendation | None
) -> tuple[str, ...]:
    """What the reader should know before trusting the verdict."""
    found = [*_noise(evidences[0]), *_unresolved(best)]
    if all(e.checks.empty for e in evidences):
        found.append("No behaviour was checked, so damage could not be seen.")
    unread = [int(e.judgments["preference"].isna().sum()) for e in evidences]
    if any(unread):
        found.append(f"Up to {max(unread)} verdicts of a checkpoint could not be read.")
    lost = sum(bool(b.reported.reason) for b in betas)
    if lost:
        found.append(f"At {lost} of {len(betas)} β the length-controlled rate is not known.")
    if betas and all(len(b.seeds) == 1 for b in betas):
        found.append(PROMPTS_NOT_TRAINING)
    return tuple(found)


def _noise(evidence: Evidence) -> list[str]:
    """The judge on the reference against itself, where it does not come out even."""
    again = evidence.calibration.self_play
    if again is None or not (again.ci_low > 50 or again.ci_high < 50):
        return []
    return [
        f"The reference's fresh samples win {again.value:.1f}% ({again.ci_low:.1f} to "
        f"{again.ci_high:.1f}) against its own answers, where 50 is due: no rate nearer to 50 than "
        "that shows anything."
    ]


def _unresolved(best: Recommendation | None) -> list[str]:
    """The nearest usable β that these prompts do not tell from the recommended one."""
    if best is None:
        return []
    alike = [r for r in best.rivals if r.state == "usable" and not r.distinguishable]
    known = [r for r in alike if r.needed is not None]
    if not known:
        return []
    widest = max(known, key=lambda r: abs(r.difference))
    return [
        f"{best.pooled.n} prompts and this judge do not tell it from {len(alike)} other usable β; "
        f"the largest difference, {abs(widest.difference):.1f} points to {name_of(widest)}, would "
        f"take about {widest.needed} prompts to show."
    ]
