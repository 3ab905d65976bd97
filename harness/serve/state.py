"""How far a run is, from its files alone, while it runs or after.

Whether anybody is at work is the lock's to say; how it ended is the journal's; the rest are the
files of its trials (`live_trials`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefeval.harness.run_folder import LOCK, RunFolder
from prefeval.harness.serve.files import Files, Row, mark, mtime, number, seconds, subfolders
from prefeval.harness.serve.trials import TrialState, read_trials, time_left

EVENTS = 12  # last lines of the journal
SHOWN = ("lc_win_rate", "win_rate", "kl", "length_ratio")
JOURNAL = ("time", "event", "job", "error", "failed")


@dataclass(frozen=True)
class CheckpointState:
    """One measured checkpoint: its metrics (value, low, high, n) by name."""

    trial: str
    method: str
    beta: float
    seed: int
    step: int
    label: str
    numbers: Mapping[str, Row]


@dataclass(frozen=True)
class RunState:
    """One run. ``state`` is running, interrupted, finished, "failed trials", failed (what all
    trials share), or trained (``prefeval train``)."""

    state: str
    live: bool
    trials: tuple[TrialState, ...]
    measured: int
    checkpoints: tuple[CheckpointState, ...]
    """those that are measured, where the run was read whole"""
    manifest: Row
    summary: Row
    events: tuple[Row, ...]
    started: float
    left: float = math.nan  # seconds
    error: str = ""

    @property
    def total(self) -> int:
        """Trials, or the checkpoints of an ``eval``."""
        return len(self.trials) or self.measured

    @property
    def done(self) -> int:
        """How many of them are finished."""
        finished = sum(t.state in ("finished", "trained") for t in self.trials)
        return finished if self.trials else self.measured

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return sum(t.state == "failed" for t in self.trials)

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        if self.state in ("finished", "failed trials", "trained"):
            return 1.0
        return sum(t.share for t in self.trials) / len(self.trials) if self.trials else 0.0


def read(folder: Path, files: Files, now: float, *, whole: bool = True) -> RunState:
    """The state of the run in ``folder`` at ``now`` (seconds since the epoch); never raises for
    what a run folder may hold.

    Not ``whole`` is what a table of runs needs: no checkpoints, no curves of what is over.
    """
    run = RunFolder(folder)
    live = run.is_in_use
    manifest = files.object(run.manifest, _manifest)
    summary = files.object(run.summary, _summary)
    events = files.rows(run.journal, JOURNAL)
    is_eval = (folder / "checkpoints").is_dir()  # whose one planned trial is a form
    session = mtime(folder / LOCK) if live else math.inf
    planned = [] if is_eval else manifest["trials"]
    trials = read_trials(run, files, planned, summary["failed"], events, session, whole=whole)
    measured = sum(t.measured for t in trials) + len(_labels(folder))
    state, error = _state(run, live, trials, summary, events)
    return RunState(
        state=state,
        live=live,
        trials=trials,
        measured=measured,
        checkpoints=_checkpoints(run, files, trials) if whole else (),
        manifest=manifest,
        summary=summary,
        events=tuple(events[-EVENTS:]),
        started=_started(run, manifest),
        left=time_left(trials, now) if live else math.nan,
        error=error,
    )


def _state(
    run: RunFolder,
    live: bool,
    trials: Sequence[TrialState],
    summary: Row,
    events: Sequence[Row],
) -> tuple[str, str]:
    """The run's state, and why where it failed before its trials."""
    if live:
        return "running", ""
    last: Row = events[-1] if events else {}
    if last.get("event") == "failed" and last.get("job") not in {t.name for t in trials}:
        return "failed", f"{last.get('job')}: {last.get('error')}"
    is_concluded = last.get("event") == "concluded" or (not events and summary["found"])
    if is_concluded or (not trials and mark(run.results)):
        return ("failed trials" if any(t.state == "failed" for t in trials) else "finished"), ""
    states = {t.state for t in trials}
    return ("trained" if "trained" in states <= {"trained", "finished"} else "interrupted"), ""


# -- checkpoints -------------------------------------------------------------------------------


def _checkpoints(
    run: RunFolder, files: Files, trials: Sequence[TrialState]
) -> tuple[CheckpointState, ...]:
    """What is measured: of a sweep under its trials, of an ``eval`` under its labels."""
    found = []
    for t in trials:
        for name in subfolders(run.trials / t.name):
            path = run.trials / t.name / name / "metrics.json"
            if name.startswith("checkpoint-") and mark(path):
                step = int(name[11:]) if name[11:].isdecimal() else 0
                numbers = files.object(path, _metrics)
                found.append(CheckpointState(t.name, t.method, t.beta, t.seed, step, "", numbers))
    for label in _labels(run.path):
        numbers = files.object(run.path / "checkpoints" / label / "metrics.json", _metrics)
        found.append(CheckpointState("", "", math.nan, 0, 0, label, numbers))
    return tuple(found)


def _labels(folder: Path) -> list[str]:
    """The measured checkpoints of an ``eval``."""
    where = folder / "checkpoints"
    return [name for name in subfolders(where) if mark(where / name / "metrics.json")]


def _metrics(saved: Row) -> Row:
    rows = saved.get("metrics")
    rows = [r for r in rows if isinstance(r, dict)] if isinstance(rows, list) else []
    return {
        str(r["name"]): {k: number(r.get(k)) for k in ("value", "ci_low", "ci_high", "n")}
        for r in rows
        if r.get("name") in SHOWN
    }


def _manifest(saved: Row) -> Row:
    """What is shown of a manifest, each of its type."""
    config = saved.get("config")
    config = config if isinstance(config, dict) else {}
    listed = {"trials": saved.get("trials"), "methods": config.get("methods")}
    return {
        **{k: [str(x) for x in v] if isinstance(v, list) else [] for k, v in listed.items()},
        **{k: str(config.get(k) or "") for k in ("model", "data")},
        **{k: str(saved.get(k) or "") for k in ("command", "created")},
    }


def _summary(saved: Row) -> Row:
    """What is shown of a summary: the recommended checkpoint, the verdict, what failed."""
    selection = saved.get("selection")
    selection = selection if isinstance(selection, dict) else {}
    best = selection.get("recommended")
    failed = saved.get("failed")
    rows = [r for r in failed if isinstance(r, dict)] if isinstance(failed, list) else []
    return {
        "found": bool(saved),
        "best": {k: best.get(k) for k in ("method", "beta", "seed", "step", "pooled")}
        if isinstance(best, dict)
        else None,
        "verdict": str(selection.get("verdict") or ""),
        "failed": {str(r.get("trial")): {"event": "failed", "error": r.get("error")} for r in rows},
    }


def _started(run: RunFolder, manifest: Row) -> float:
    """When the run began: as its manifest says, else when it was marked."""
    created = seconds(manifest["created"])
    return created if math.isfinite(created) else mtime(run.mark) or mtime(run.manifest)
