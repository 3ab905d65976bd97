"""The retention matrix: checkpoint × behaviour, the paired change and whether it is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefeval.metrics import paired, stats
from prefeval.metrics.evidence import PASSED
from prefeval.metrics.retention import MARGIN
from prefeval.reports.files import read_rows
from prefeval.reports.quantities import Number, fixed, interval, p_text
from prefeval.reports.run import CheckpointRow, Run

SHADES = ((3.0, 1), (8.0, 2), (16.0, 3), (30.0, 4), (math.inf, 5))  # |points| below -> shade
ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """One behaviour of one checkpoint.

    ``p`` is exact McNemar's against no change, ``p_worse`` against a loss of the margin; both are
    Holm-corrected over the behaviours of the checkpoint, NaN where the checks were not saved.
    """

    behaviour: str
    change: Number
    passed: Number
    p: float = math.nan
    p_worse: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether the change is shown to differ from 0."""
        return self.p < ALPHA

    @property
    def damaged(self) -> bool:
        """Whether a loss of more than the margin is shown."""
        return self.p_worse < ALPHA

    @property
    def shade(self) -> str:
        """CSS class of the cell: its direction and depth; "none" when undefined."""
        if not self.change.known:
            return "none"
        if abs(self.change.value) < 0.05:
            return "zero"
        depth = next(d for limit, d in SHADES if abs(self.change.value) < limit)
        return f"{'up' if self.change.value > 0 else 'down'}{depth}"

    @property
    def tip(self) -> str:
        """What hovering the cell shows, a line each."""
        if not self.change.known:
            return f"{self.behaviour}\n{self.change.reason}"
        size = self.passed.n or self.change.n or "?"
        span = interval(self.change, sign=True)
        found = [
            self.behaviour,
            f"{fixed(self.passed.value)}% of {size} prompts pass",
            f"change {fixed(self.change.value, sign=True)} points {span}",
        ]
        if math.isfinite(self.p):
            found.append(f"differs from 0: {p_text(self.p)} (McNemar, Holm)")
            found.append(f"worse by more than {MARGIN:g} points: {p_text(self.p_worse)} (Holm)")
        return "\n".join(found)


def matrix(run: Run) -> tuple[tuple[str, ...], list[tuple[CheckpointRow, tuple[Cell, ...]]]]:
    """The behaviours, and for each checkpoint one cell a behaviour."""
    behaviours = run.columns("change_")
    return behaviours, [(c, _row(c, behaviours)) for c in run.checkpoints]


def _row(row: CheckpointRow, behaviours: tuple[str, ...]) -> tuple[Cell, ...]:
    tested = p_values(row)
    return tuple(
        Cell(
            behaviour,
            row.get(f"change_{behaviour}"),
            row.get(f"retention_{behaviour}"),
            *tested.get(behaviour, (math.nan, math.nan)),
        )
        for behaviour in behaviours
    )


def p_values(row: CheckpointRow) -> dict[str, tuple[float, float]]:
    """Per behaviour (p of any change, p of damage), Holm-corrected, from the saved checks.

    The same tests as ``metrics.retention.changes``, without a frame: a report has hundreds of
    checkpoints. Checks that are none (a value but 0 or 1, a prompt twice) claim nothing.
    """
    saved = read_rows(row.folder / "checks.jsonl") if row.folder is not None else []
    tested = {behaviour: _tests(rows) for behaviour, rows in _by_behaviour(saved).items()}
    different = stats.holm([p for p, _ in tested.values()])
    worse = stats.holm(np.nan_to_num([p for _, p in tested.values()], nan=1.0))
    return dict(zip(tested, zip(different.tolist(), worse.tolist(), strict=True), strict=True))


def _tests(rows: Sequence[tuple[float, float, str]]) -> tuple[float, float]:
    """The two p values of ``paired.paired_change``, whose interval takes most of its time."""
    if not rows:
        return math.nan, math.nan
    now, before, clusters = zip(*rows, strict=True)
    difference = np.subtract(now, before, dtype=np.float64)
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    different = stats.mcnemar_exact(gained, lost)
    effect = stats.design_effect(difference, clusters)
    if math.isnan(effect):
        return different, math.nan
    return different, paired.p_worse(gained, lost, len(rows), MARGIN / 100, effect)


def _by_behaviour(
    saved: Sequence[Mapping[str, Any]],
) -> dict[str, list[tuple[float, float, str]]]:
    """Each behaviour's (passed, ref_passed, cluster), in order of its name, then of prompts;
    without prompts on which a check raised. Empty when the checks are broken."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    seen: set[str] = set()
    for record in sorted(saved, key=lambda r: (str(r.get("behaviour")), str(r.get("prompt_id")))):
        prompt, now, before = str(record.get("prompt_id")), *map(record.get, PASSED)
        if prompt in seen or any(v not in (0, 1, None) for v in (now, before)):
            return {}
        seen.add(prompt)
        rows = found.setdefault(str(record.get("behaviour")), [])
        if now is not None and before is not None:
            rows.append((now, before, str(record.get("cluster") or prompt)))
    return found
