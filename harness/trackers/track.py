"""Runs sent to experiment trackers: during a sweep (``--track``), or later (``prefeval track``).

Training never waits for a tracker and never fails by one: each is fed by a process of its own
(``trackers.send``), which is ended when it stands still. What could not be sent is in the run
folder all the same, and ``prefeval track`` sends it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from prefeval.harness import trackers
from prefeval.harness.trackers import Target
from prefeval.records import PrefevalError

EXIT_INFRASTRUCTURE = 5
LIMIT = 60.0
"""Seconds without a sign of life after which a tracker is given up."""
POLL = 0.05
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "WANDB_SILENT": "true", "PYTHONWARNINGS": "ignore",
}  # fmt: skip
"""What trackers are told unless the environment says otherwise: MLflow retries for minutes."""
Say = Callable[[str], object]


class Sending:
    """One process that sends a run to one tracker."""

    def __init__(self, run: Path, target: Target, *, everything: bool, limit: float) -> None:
        self.target, self._limit = target, limit
        self._told = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._size, self._moved = 0, time.monotonic()
        what = "all" if everything else "finished"
        command = [sys.executable, "-m", "prefeval.harness.trackers.send", str(run.absolute())]
        try:
            self._process = subprocess.Popen(
                [*command, target.name, target.argument, what],
                env={**PATIENCE, **os.environ}, stdin=subprocess.DEVNULL, stdout=self._told,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError:
            self.close()
            raise
        self.sent, self.failure = 0, ""

    def is_over(self) -> bool:
        """Whether it has ended, well or badly; one that stands still is ended here."""
        size = os.fstat(self._told.fileno()).st_size
        if size != self._size:
            self._size, self._moved = size, time.monotonic()
        code = self._process.poll()
        if code is None and time.monotonic() - self._moved < self._limit:
            return False
        if code is None:
            self.end()
        rows = self._rows()
        self.sent = sum("sent" in row for row in rows)
        if code is None:
            self.failure = f"no answer for {self._limit:.0f} s after {self.sent} trials"
        elif code:
            last = rows[-1].get("error") if rows else ""
            self.failure = str(last or f"its process ended with code {code}")
        self.close()
        return True

    def _rows(self) -> list[dict[str, object]]:
        """What the process said; a line that it was killed in is left out."""
        self._told.seek(0)
        rows = []
        for line in self._told.read().splitlines():
            with suppress(ValueError):
                rows.append(json.loads(line))
        return rows

    def close(self) -> None:
        """Forget what the process said."""
        self._told.close()

    def end(self) -> None:
        """Kill the process and what it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Tracking:
    """Sends a run to its trackers while it is made; `poke` never waits, `finish` does."""

    def __init__(
        self, run: Path, targets: Sequence[Target], say: Say, *, limit: float = LIMIT
    ) -> None:
        self._run, self._say, self._limit = run, say, limit
        self._targets = list(targets)
        self._under_way: dict[Target, Sending] = {}
        self.failed: dict[Target, str] = {}

    def poke(self) -> None:
        """Send the trials that have finished, unless the tracker is still busy or failed."""
        for target in self._targets:
            if target not in self.failed and self._is_free(target):
                self._start(target, everything=False)

    def finish(self) -> dict[Target, int]:
        """Send everything to all trackers at once, and wait; how many trials each was sent."""
        for target in self._targets:
            while target not in self.failed and not self._is_free(target):
                time.sleep(POLL)
        for target in self._targets:
            if target not in self.failed:
                self._start(target, everything=True)
        whole = [t for t in self._targets if t not in self.failed]
        last = dict(self._under_way)
        while waiting := [t for t in whole if not self._is_free(t)]:
            time.sleep(POLL * len(waiting))
        return {t: last[t].sent for t in whole if t not in self.failed}

    @contextmanager
    def to_the_end(self) -> Iterator[Tracking]:
        """Sends everything at the end of the block; nothing more when the block fails."""
        try:
            yield self
            if (self._run / "manifest.json").is_file():
                self.finish()
        finally:
            self.end()

    def end(self) -> None:
        """Give up what is under way."""
        for target in list(self._under_way):
            sending = self._under_way.pop(target)
            sending.end()
            sending.close()

    def _is_free(self, target: Target) -> bool:
        sending = self._under_way.get(target)
        if sending is None:
            return True
        if not sending.is_over():
            return False
        del self._under_way[target]
        if sending.failure:
            self._give_up(target, sending.failure)
        return True

    def _start(self, target: Target, *, everything: bool) -> None:
        try:
            self._under_way[target] = Sending(
                self._run, target, everything=everything, limit=self._limit
            )
        except OSError as error:  # no memory, no room for another process or a temporary file
            self._give_up(target, f"no process for it: {error.strerror or error}")

    def _give_up(self, target: Target, why: str) -> None:
        self.failed[target] = why
        self._say(
            f"! {target.name} was not reached ({why}); nothing is lost, send it later: "
            f"prefeval track {shlex.quote(str(self._run))} --to {shlex.quote(str(target))}"
        )


def following(
    run: Path, targets: Sequence[Target], say: Say, *, limit: float = LIMIT
) -> AbstractContextManager[Tracking]:
    """A `Tracking` for the block that makes the run: see `Tracking.to_the_end`."""
    return Tracking(run, targets, say, limit=limit).to_the_end()


def command(run: Path, to: str, say: Say) -> int:
    """``prefeval track``: exit code 0, or 5 where a tracker could not be reached."""
    targets = trackers.parse(to)
    if not (run / "manifest.json").is_file():
        raise PrefevalError(f"{run} is no run folder (it has no manifest.json); name one")
    tracking = Tracking(run, targets, say)
    try:
        sent = tracking.finish()
    finally:
        tracking.end()
    for target, trials in sent.items():
        say(f"{target}: {trials} trials")
    return EXIT_INFRASTRUCTURE if tracking.failed else 0
