"""What ``prefeval watch`` says: a line a checkpoint for a person, or JSON for a program."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.harness.evaluate_only import number_text
from prefeval.records import MetricResult, PrefevalError

if TYPE_CHECKING:
    from rich.console import Console

    from prefeval.harness.watch.files import Found
    from prefeval.harness.watch.stream import Measured

UNITS: Mapping[str, float] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str, option: str) -> float:
    """``90``, ``30s``, ``30m``, ``2h`` or ``1d`` in seconds; else ``PrefevalError``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not found:
        raise PrefevalError(f"{option} {text!r} is no time; give it as 90s, 30m or 2h")
    return float(found[1]) * UNITS[found[2]]


class Speaker:
    """Says what happens. With ``as_json`` standard output has JSON lines and nothing else."""

    def __init__(self, console: Console, *, as_json: bool) -> None:
        self.console, self.as_json = console, as_json
        self._status: Any = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Show a status line on a terminal inside the block."""
        with self.console.status("looking") as status:
            self._status = status
            yield

    def status(self, text: str) -> None:
        """What is being done now; on a terminal alone."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(text))

    def line(self, text: str) -> None:
        """One line for a person."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def event(self, event: str, text: str, **fields: Any) -> None:
        """One thing that happened, to both."""
        self.line(text)
        if self.as_json:
            row = records.to_jsonable({"event": event, **fields})
            print(json.dumps(row, ensure_ascii=False), flush=True)

    def measured(self, result: Measured, found: Found, took: str, notes: Sequence[str]) -> None:
        """What became of one checkpoint: its main numbers, or whose weights it has."""
        where = {"step": found.step, "checkpoint": found.path}
        if result.state == "same":
            text = f"step {found.step} has the same weights as step {result.step}"
            self.event("same", f"{text}: not measured again", **where, same_as=result.step)
            return
        text = f"step {found.step}: {numbers(result.metrics)}; took {took}"
        lines = [text, *(f"  {note}" for note in notes)]
        metrics = {name: vars(r) for name, r in result.metrics.items()}
        self.event(result.state, "\n".join(lines), **where, notes=notes, metrics=metrics)


def numbers(metrics: Mapping[str, MetricResult]) -> str:
    """LC win rate, KL, length, and the behaviour that lost most."""
    words = [f"LC WR {number_text(metrics['lc_win_rate'])} %"]
    for name, title in (("kl", "KL"), ("length_ratio", "length ×")):
        if math.isfinite(metrics[name].value):
            words.append(f"{title} {metrics[name].value:.2f}")
    changes = [r for n, r in metrics.items() if n.startswith("change_") and math.isfinite(r.value)]
    if changes and (worst := min(changes, key=lambda r: r.value)).value < 0:
        words.append(f"{worst.name.removeprefix('change_')} {worst.value:+.1f} points")
    return ", ".join(words)
