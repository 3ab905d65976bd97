"""The retention matrix: checkpoint × behaviour, the paired change and whether it is shown."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefeval.metrics import stats
from prefeval.reports.numbers import Number, fixed, interval, p_text
from prefeval.reports.run import CheckpointRow, Run, rows

SHADES = ((3.0, 1), (8.0, 2), (16.0, 3), (30.0, 4), (math.inf, 5))  # |points| below -> shade
ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """One behaviour of one checkpoint; ``p`` is exact McNemar's, Holm over the row's behaviours."""

    behaviour: str
    change: Number
    passed: Number
    p: float

    @property
    def significant(self) -> bool:
        """Whether the change is shown to differ from 0 after correction."""
        return self.p < ALPHA

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
        """What hovering the cell shows."""
        if not self.change.known:
            return f"{self.behaviour}: {self.change.reason}"
        passed = f"{fixed(self.passed.value)}% of {self.passed.n or self.change.n or '?'} prompts pass"
        change = f"change {fixed(self.change.value, sign=True)} points {interval(self.change, sign=True)}"
        p = f"{p_text(self.p)} (exact McNemar, Holm over behaviours)" if math.isfinite(self.p) else ""
        return "\n".join(filter(None, (f"{self.behaviour}: {passed}", change, p)))


def matrix(run: Run) -> tuple[tuple[str, ...], dict[CheckpointRow, tuple[Cell, ...]]]:
    """The behaviours, and for each checkpoint one cell a behaviour."""
    behaviours = run.columns("change_") or run.columns("retention_")
    return behaviours, {c: _row(c, behaviours) for c in run.checkpoints}


def _row(row: CheckpointRow, behaviours: Sequence[str]) -> tuple[Cell, ...]:
    p_values = corrected(row)
    return tuple(
        Cell(b, row.get(f"change_{b}"), row.get(f"retention_{b}"), p_values.get(b, math.nan))
        for b in behaviours
    )


def corrected(row: CheckpointRow) -> dict[str, float]:
    """Exact McNemar p of each behaviour from the saved checks, Holm-corrected; empty without them."""
    checks = rows(row.folder / "checks.jsonl") if row.folder is not None else []
    counts = gained_and_lost(checks)
    if not counts:
        return {}
    adjusted = stats.holm([stats.mcnemar_exact(g, l) for g, l in counts.values()])
    return dict(zip(counts, (float(p) for p in adjusted), strict=True))


def gained_and_lost(checks: Sequence[Mapping[str, object]]) -> dict[str, tuple[int, int]]:
    """Per behaviour how many prompts were gained and lost against the reference.

    >>> gained_and_lost([{"behaviour": "json", "passed": 0, "ref_passed": 1}])
    {'json': (0, 1)}
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for check in checks:
        tally = counts[str(check.get("behaviour"))]
        passed, before = bool(check.get("passed")), bool(check.get("ref_passed"))
        if passed != before:
            tally[0 if passed else 1] += 1
    return {b: (t[0], t[1]) for b, t in sorted(counts.items())}
