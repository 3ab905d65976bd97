"""What a person sees while a sweep runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefeval.harness.executors import Event

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

EVERY = 15.0  # seconds between a running job's plain lines


def duration(seconds: float) -> str:
    """``75`` as "1 min 15 s"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def describe(row: Mapping[str, Any]) -> str:
    """One training step, or the evaluation under way, in a few words."""
    if row.get("stage") == "evaluate":
        return f"evaluating checkpoint {row['at']} of {row['of']}"
    words = [f"step {row['step']}"] if "step" in row else []
    names = {"loss": "loss", "delta_chosen": "Δchosen", "kl": "KL", "reward": "reward"}
    for key, name in names.items():
        value = row.get(key)
        if isinstance(value, (int, float)) and math.isfinite(value):
            words.append(f"{name} {value:.2f}")
    return "  ".join(words)


class Progress:
    """Follows the events of a stage; use as a context."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self.console, self.title, self.total = console, title, total
        self.done = self.failed = 0
        self.running: dict[str, str] = {}
        self._start = time.monotonic()
        self._spoke: dict[str, float] = {}
        self._live: Any = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            from rich.live import Live

            self._live = Live(
                self._table(), console=self.console, refresh_per_second=4, transient=True
            )
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)

    @property
    def left(self) -> str:
        """Time left, from the pace so far."""
        finished = self.done + self.failed
        if not finished:
            return ""
        rest = self.total - finished
        return f", about {duration((time.monotonic() - self._start) / finished * rest)} left"

    def see(self, event: Event) -> None:
        """Take in one event and show it."""
        match event.kind:
            case "started":
                self.running[event.job] = "starting"
            case "row":
                self.running[event.job] = describe(event.row)
            case "done":
                self.done += 1
                self.running.pop(event.job, None)
            case "failed":
                self.failed += 1
                self.running.pop(event.job, None)
        if self._live is not None:
            self._live.update(self._table())
        else:
            self._say(event)

    def _say(self, event: Event) -> None:
        now = time.monotonic()
        count = f"[{self.done + self.failed}/{self.total}]"
        if event.kind == "done":
            self._print(f"{count} {event.job} done{self.left}")
        elif event.kind == "failed":
            self._print(f"{count} {event.job} FAILED: {event.error}")
        elif event.kind == "row" and now - self._spoke.get(event.job, self._start) > EVERY:
            self._spoke[event.job] = now
            self._print(f"  {event.job}: {describe(event.row)}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        finished = self.done + self.failed
        failed = f", {self.failed} failed" if self.failed else ""
        grid.add_row(
            self.title,
            ProgressBar(total=max(1, self.total), completed=finished, width=30),
            f"{finished} of {self.total}{failed}{self.left}",
        )
        for job, words in self.running.items():
            grid.add_row(f"  {job}", words, "")
        return grid


def make_console(*, json_output: bool = False) -> Console:
    """Where progress goes: stderr when stdout is for JSON."""
    from rich.console import Console

    return Console(file=sys.stderr if json_output else sys.stdout)
