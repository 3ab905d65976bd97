"""How far each trial of a run is, from its files, and how long they will take.

The files are the state (`steps`): a log without its key is being trained, a trial notes its costs
when all its checkpoints are measured. The journal adds what no file says: when a trial was
started, and why it failed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from prefeval.harness.run_folder import RunFolder
from prefeval.harness.serve.files import Files, Row, mark, mtime, number, seconds, subfolders

CURVES = ("loss", "delta_chosen", "kl", "reward")
POINTS = 60  # of a curve
MEASURING = 0.3  # share of a trial that its measuring takes; about what the lab's trials need
OVER = ("finished", "trained", "failed")
AT_WORK = ("starting", "training", "measuring")


@dataclass(frozen=True)
class TrialState:
    """One trial. ``state`` is waiting, starting, training, measuring, finished, failed; trained
    where nothing was to be measured; not started or stopped where nobody is at work."""

    name: str
    method: str
    beta: float
    seed: int
    state: str
    step: int = 0
    steps: int | None = None
    saved: int = 0
    measured: int = 0
    error: str = ""
    started: float = math.nan  # seconds since the epoch
    took: float = math.nan  # seconds
    last: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """How much of the trial is done, 0 to 1."""
        if self.state in OVER:
            return 1.0
        trained = min(1.0, self.step / self.steps) if self.steps else 0.0
        measured = self.measured / self.saved if self.saved and self.state == "measuring" else 0.0
        return (1 - MEASURING) * trained + MEASURING * measured


@dataclass(frozen=True)
class _Shared:
    """What the trials of a run have in common."""

    files: Files
    session: float
    """when whoever is at work began (seconds since the epoch); infinite where nobody is"""
    started: Mapping[str, float]
    ended: Mapping[str, Row]
    reference: Path
    whole: bool

    def examples(self) -> dict[str, int]:
        """How many the reference was scored on, by kind."""
        kinds = ("pairs", "thumbs")
        return {k: self.files.lines(self.reference / f"train_{k}.jsonl") for k in kinds}


def read_trials(
    run: RunFolder,
    files: Files,
    planned: Iterable[str],
    failed: Mapping[str, Row],
    events: Sequence[Row],
    session: float,
    *,
    whole: bool,
) -> tuple[TrialState, ...]:
    """Every trial that is planned or has a folder; ``failed`` are those that the summary lists.

    Unless they are read ``whole``, those that are over come without steps and curves.
    """
    started: dict[str, float] = {}
    ended = dict(failed)
    for row in events:
        job = str(row.get("job"))
        if row.get("event") == "started":
            started[job] = seconds(row.get("time"))
            ended.pop(job, None)
        elif row.get("event") in ("done", "failed"):
            ended[job] = row
    shared = _Shared(files, session, started, ended, run.reference, whole)
    return tuple(
        _trial(run.trials / name, shared)
        for name in dict.fromkeys([*planned, *subfolders(run.trials)])
    )


def _trial(folder: Path, shared: _Shared) -> TrialState:
    state = _state(folder, shared)
    about: Row = {}
    log: list[Row] = []
    if shared.whole or state not in OVER:
        about = shared.files.object(folder / "trial.json", dict)
        log = shared.files.rows(folder / "train.jsonl", ("step", *CURVES))
    saved = [name for name in subfolders(folder) if name.startswith("checkpoint-")]
    started = shared.started.get(folder.name, math.nan)
    ended = shared.ended.get(folder.name, {})
    method, beta, seed = _of_name(folder.name)
    method = str(about.get("method") or method)
    last = log[-1] if log else {}
    step = last["step"] if isinstance(last.get("step"), int) else 0
    steps: int | None = step
    if state not in ("measuring", "finished", "trained"):
        steps = planned_steps(about.get("settings"), method, shared.examples()) if about else None
    return TrialState(
        name=folder.name,
        method=method,
        beta=number(about.get("beta", beta)),
        seed=seed,
        state=state,
        step=step,
        steps=steps,
        saved=len(saved),
        measured=sum(mark(folder / name / "metrics.json") is not None for name in saved),
        error=str(ended.get("error") or "no reason was noted") if state == "failed" else "",
        started=started,
        took=seconds(ended.get("time")) - started,
        last={k: v for k in CURVES if math.isfinite(v := number(last.get(k)))},
        curves={k: thin([number(row.get(k)) for row in log]) for k in CURVES if k in last},
    )


def _state(folder: Path, shared: _Shared) -> str:
    ended = shared.ended.get(folder.name, {}).get("event")
    if ended == "failed":
        return "failed"
    if mark(folder / "costs.json"):
        return "finished"
    if ended == "done":
        return "trained"
    log = mark(folder / "train.jsonl")
    has_log = log is not None and log.size > 0
    if math.isinf(shared.session):
        return "stopped" if has_log else "not started"
    started = shared.started.get(folder.name, 0.0)
    if max(started, mtime(folder / "train.jsonl")) < shared.session - 1:  # the journal has seconds
        return "waiting"
    if mark(folder / ".train.jsonl.key"):
        return "measuring"
    return "training" if has_log else "starting"


def planned_steps(settings: Any, method: str, rows: Mapping[str, int]) -> int | None:
    """How many steps a trial takes, where its settings and data say so.

    ``rows`` are the examples that the reference was scored on, by kind (see ``train``).
    """
    if not isinstance(settings, dict) or settings.get("rounds"):
        return None
    most = settings.get("max_steps")
    if isinstance(iterations := settings.get("iterations"), int):
        steps = iterations
    else:
        n = rows["thumbs" if method == "kto" else "pairs"]
        batch, epochs = settings.get("batch_size"), settings.get("epochs", 1)
        if not (n and isinstance(batch, int) and batch > 0 and isinstance(epochs, int)):
            return None
        steps = epochs * -(-n // batch)
    steps = min(steps, most) if isinstance(most, int) and most else steps
    then = settings.get("then")
    if isinstance(then, dict):
        return steps + (planned_steps(then, str(then.get("method")), rows) or 0)
    return steps


def time_left(trials: Sequence[TrialState], now: float) -> float:
    """Seconds until the last trial ends; NaN while no pace is known.

    A trial is expected to take what its method's finished ones took; before there is one, what
    its own pace says; else the mean of all that is known. As many run at once as run now.
    """
    took: dict[str, list[float]] = {}
    for t in trials:
        if t.state == "finished" and t.took > 1:  # a resumed run checks finished ones in no time
            took.setdefault(t.method, []).append(t.took)
    running = [t for t in trials if t.state in AT_WORK]
    for t in running:
        if t.method not in took and t.share > 0.05 and now > t.started:
            took[t.method] = [(now - t.started) / t.share]
    if not took or not running:
        return math.nan
    mean = {method: sum(values) / len(values) for method, values in took.items()}
    usual = sum(mean.values()) / len(mean)
    rest = [
        max(mean.get(t.method, usual) * (1 - t.share), 0.0) for t in trials if t.state not in OVER
    ]
    return max(sum(rest) / len(running), *rest)


def thin(values: Sequence[float], points: int = POINTS) -> list[float]:
    """A curve in at most so many points: means of equal parts, without what is not finite."""
    if len(values) > points:
        cuts = [i * len(values) // points for i in range(points + 1)]
        parts = [[v for v in values[a:b] if math.isfinite(v)] for a, b in pairwise(cuts)]
        values = [sum(part) / len(part) for part in parts if part]
    return [float(f"{v:.5g}") for v in values if math.isfinite(v)]


def _of_name(name: str) -> tuple[str, float, int]:
    """Method, β and seed of a trial's folder name, ``dpo-b0.1-s0-<hash>``."""
    found = re.fullmatch(r"(.+?)-b([\d.e+-]+)-s(\d{1,9})-\w+", name)
    if found is None:
        return name, math.nan, 0
    try:
        return found[1], float(found[2]), int(found[3])
    except ValueError:
        return name, math.nan, 0
