"""The process that sends a run to one tracker: ``python -m prefeval.harness.trackers.send``.

A process of its own, because a tracker may hang, take the signals, print, or end the interpreter.
It prints one line of JSON for every trial that was sent, which also says that it still moves.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from prefeval.harness.trackers import Target, make, without_secrets
from prefeval.harness.trackers.read import read


def send(run: Path, target: Target, *, everything: bool, say: Any) -> None:
    """Send what is there: finished trials, or with ``everything`` all trials and the verdict."""
    tracked = read(run)
    tracker = make(target)
    tracker.open(tracked)
    say(opened=str(target))
    for series in tracked.series:
        if series.points and (everything or series.finished):
            tracker.send(series)
            say(sent=series.name)
    if everything:
        tracker.close(tracked)
        say(closed=len(tracked.series))


def main() -> int:
    """The arguments: run, tracker, its argument, "all" or "finished"."""
    run, name, argument, what = sys.argv[1:]
    own = os.dup(1)
    os.dup2(2, 1)  # what the tracker prints is none of the protocol

    def say(**row: Any) -> None:
        os.write(own, (json.dumps(row) + "\n").encode())

    try:
        send(Path(run), Target(name, argument), everything=what == "all", say=say)
    except Exception as error:
        lines = f"{type(error).__name__}: {error}".strip().splitlines()
        say(error=without_secrets(lines[0])[:160])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
