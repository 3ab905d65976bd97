"""What is known after a sweep, and how its command is changed into the next one."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefeval.metrics import next_command as commands
from prefeval.metrics.selection import BetaVerdict, Selection, Window


@dataclass(frozen=True)
class Situation:
    """What is known after a sweep.

    ``rows`` are the results' table; ``manifest`` is the run's; ``settings`` are the trainers' by
    method; ``failed`` counts trials.
    """

    selection: Selection
    rows: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: int = 0

    @property
    def command(self) -> str:
        """The command that was run."""
        return str(self.manifest.get("command") or "")

    def of_config(self, name: str, default: Any = None) -> Any:
        """A part of the resolved configuration."""
        return (self.manifest.get("config") or {}).get(name, default)

    @property
    def is_lab(self) -> bool:
        """Whether the lab was run on."""
        return bool(self.of_config("model", "lab") == "lab")

    @property
    def has_pairs(self) -> bool:
        """Whether there are pairs to learn from."""
        return bool((self.manifest.get("data_counts") or {}).get("pairs", 1))

    @property
    def ranked(self) -> list[BetaVerdict]:
        """The β, the best lower bound on the choosing prompts first."""

        def order(beta: BetaVerdict) -> float:
            bound = beta.choosing.ci_low
            return -bound if math.isfinite(bound) else math.inf

        return sorted(self.selection.betas, key=order)

    @property
    def usable(self) -> list[BetaVerdict]:
        """The usable β, best first."""
        return [b for b in self.ranked if b.state == "usable"]

    @property
    def best(self) -> BetaVerdict:
        """The recommended β; else the one ranked first."""
        named = self.selection.recommended
        same = [
            b for b in self.ranked if named and (b.method, b.beta) == (named.method, named.beta)
        ]
        return (same or self.usable or self.ranked)[0]

    def window(self, method: str) -> Window:
        """The window of a method."""
        return next(w for w in self.selection.windows if w.method == method)

    def number(self, beta: BetaVerdict, column: str) -> float:
        """A metric of a β's chosen checkpoint, the mean over its seeds; NaN where unknown."""
        found = [
            float(row[column])
            for row in self.rows
            if (row["method"], row["beta"], row["step"]) == (beta.method, beta.beta, beta.step)
            and isinstance(row.get(column), (int, float))
        ]
        return sum(found) / len(found) if found else math.nan

    def run(self, methods: Sequence[str], **changes: Any) -> str:
        """The next command: the run's own, with these methods and changes."""
        changes = {name.replace("_", "-"): value for name, value in changes.items()}
        if list(methods) != list(self.of_config("methods", ())):
            changes = {"methods": ",".join(methods), **changes}
        return commands.next_command(
            self.command, changes, methods=methods, training=self.of_config("training")
        )

    def run_on(self, grids: Mapping[str, Sequence[float] | str], **changes: Any) -> str:
        """The next command of methods on grids of their own."""
        told = {
            method: betas if isinstance(betas, str) else "/".join(f"{b:g}" for b in betas)
            for method, betas in grids.items()
        }
        beta = ",".join(f"{method}={grid}" for method, grid in told.items())
        return self.run(list(told), beta=beta, **changes)

    @property
    def audit(self) -> str:
        """The command that looks at the data."""
        data = str(self.of_config("data", "lab"))
        return "" if self.is_lab else shlex.join(["prefeval", "audit", data])
