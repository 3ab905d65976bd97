"""The table of ``trainers.py``: ratios over its rounds, and a check that both did the same work."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

LOSS_TOLERANCE = 1e-4  # of the first step's loss in float32
NORM_TOLERANCE = 1e-3  # of its gradient norm, relative

HEAD = (
    "| case | precision | goal | prefeval, s/step | TRL, s/step | steps/s, prefeval ÷ TRL "
    "| prefeval, MB (before the first step) | TRL, MB (before the first step) "
    "| memory, prefeval ÷ TRL | tokens/step "
    "| apart: first loss, any loss; first gradient norm | settings, prefeval / TRL "
    "| CPU taken by others |\n"
    "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|---|---:|"
)


class Round(NamedTuple):
    """One measurement of each side, as their workers print them."""

    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]
    others: float = 0.0
    """share of the machine's processors that neither of them had"""


class Agreement(NamedTuple):
    """How far the two sides' numbers are apart."""

    first_loss: float
    any_loss: float
    """the largest over all steps"""
    grad_norm: float
    """of the first step, relative"""


def agreement(pair: Round) -> Agreement:
    """Compare the losses of two runs on the same data."""
    gaps = [abs(a - b) for a, b in zip(pair.ours["losses"], pair.theirs["losses"], strict=True)]
    ours, theirs = pair.ours["grad_norms"][0], pair.theirs["grad_norms"][0]
    return Agreement(gaps[0], max(gaps), abs(ours - theirs) / theirs)


def require_same_work(pair: Round, name: str, precision: str) -> None:
    """End the run where the two sides read other tokens or, in float32, began otherwise."""
    if pair.ours["tokens"] != pair.theirs["tokens"]:
        raise SystemExit(f"{name}: the two sides read different tokens; nothing is comparable")
    gaps = agreement(pair)
    same = gaps.first_loss <= LOSS_TOLERANCE and gaps.grad_norm <= NORM_TOLERANCE  # NaN: not so
    if precision == "float32" and not same:
        raise SystemExit(
            f"{name}: first losses {gaps.first_loss:.1e} apart, first gradient norms "
            f"{gaps.grad_norm:.1e} of their size; the two sides do not do the same work"
        )


def ratio(rounds: Sequence[Round], of: Callable[[Round], float]) -> str:
    """The median over the rounds, with the smallest and the largest."""
    values = sorted(of(r) for r in rounds)
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} [{values[0]:.2f}, {values[-1]:.2f}]"


def table_row(name: str, precision: str, goal: str, rounds: Sequence[Round]) -> str:
    """One line of the table."""

    def middle(side: str, what: str) -> float:
        return statistics.median(getattr(r, side)[what] for r in rounds)

    def megabytes(side: str) -> str:
        before = middle(side, "megabytes_before")
        return f"{middle(side, 'peak_megabytes'):.0f} ({before:.0f})"

    speed = ratio(rounds, lambda r: r.theirs["median_seconds"] / r.ours["median_seconds"])
    memory = ratio(rounds, lambda r: r.ours["peak_megabytes"] / r.theirs["peak_megabytes"])
    gaps = "each samples its own"
    if name != "ppo":
        first, any_loss, norm = (
            max(column) for column in zip(*map(agreement, rounds), strict=True)
        )
        gaps = f"{first:.0e}, {any_loss:.0e}; {norm:.0e}"
    return (
        f"| {name} | {precision} | {goal} "
        f"| {middle('ours', 'median_seconds'):.3f} | {middle('theirs', 'median_seconds'):.3f} "
        f"| {speed} | {megabytes('ours')} | {megabytes('theirs')} | {memory} "
        f"| {middle('ours', 'tokens_per_step'):.0f} | {gaps} "
        f"| {rounds[0].ours['settings']} / {rounds[0].theirs['settings']} "
        f"| {max(r.others for r in rounds):.0%} |"
    )
