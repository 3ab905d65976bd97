"""What `prefeval view` shows: the runs of a folder, as plain JSON types, and their files.

Names of runs and files are looked up among those that were found, never joined from a request.
"""

from __future__ import annotations

import datetime
import math
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefeval.harness.live import duration
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.serve import state as live_state
from prefeval.harness.serve.files import Files, Mark, mark, number
from prefeval.harness.serve.state import CheckpointState, RunState
from prefeval.harness.serve.trials import AT_WORK, CURVES, TrialState
from prefeval.records import to_jsonable
from prefeval.reports.labels import name as checkpoint_name
from prefeval.reports.quantities import Number, beta_text, fixed, interval, significant
from prefeval.reports.run import Key, method_index, method_name

DEPTH = 2  # folders under the root in which runs are looked for
REPORT = "report.html"
FILES = ("summary.md", "summary.json", "manifest.json")
PATTERNS = ("*.csv", "figures/*.svg", "figures/*.png", "figures/*.pdf", "figures/*.csv")


class Site:
    """The runs under ``root``, which may be a run itself. Safe for several threads.

    ``clock`` gives the seconds since the epoch.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self._clock = clock
        self._files = Files()
        self._idle: dict[Path, tuple[tuple[Mark | None, ...], dict[str, Any]]] = {}
        self._folders: dict[Path, RunFolder] = {}
        self._lock = threading.Lock()

    @property
    def is_run(self) -> bool:
        """Whether the root is a run itself."""
        return _is_run(self.root)

    def folders(self) -> dict[str, Path]:
        """Every run by its name: its path under the root."""
        if self.is_run:
            return {self.root.resolve().name: self.root}
        inside = self.root.resolve()
        return {p.relative_to(self.root).as_posix(): p for p in _runs(self.root, inside, DEPTH)}

    def folder(self, name: str) -> Path | None:
        """One run's folder."""
        return self.folders().get(name)

    def runs(self) -> list[dict[str, Any]]:
        """A row a run, those at work first, then the newest."""
        rows = [self.row(name, path) for name, path in self.folders().items()]
        rows.sort(key=lambda row: row["name"])
        rows.sort(key=lambda row: (row["live"], row["started"] or ""), reverse=True)
        return rows

    def row(self, name: str, folder: Path) -> dict[str, Any]:
        """A run in a row; of one at which nobody works it is read once while its files stay."""
        with self._lock:
            run = self._folders.get(folder) or self._folders.setdefault(folder, RunFolder(folder))
            marks = (mark(run.manifest), mark(run.summary), mark(run.journal), mark(run.results))
            known = self._idle.get(folder)
            if known is not None and known[0] == marks and not run.is_in_use:
                return known[1]
            row = _row(name, self._read(folder, whole=False), folder)
            self._idle.pop(folder, None)
            if not row["live"]:
                self._idle[folder] = marks, row
            return row

    def is_over(self, name: str, folder: Path) -> bool:
        """Whether a run has ended with something to report."""
        row = self.row(name, folder)
        return row["state"] in ("finished", "failed trials") and row["measured"] > 0

    def detail(self, name: str, folder: Path) -> dict[str, Any]:
        """All that a run's live page shows."""
        with self._lock:
            state = self._read(folder, whole=True)
        return _plain(
            {
                "run": {**_row(name, state, folder), "command": state.manifest["command"]},
                "trials": _trials(state),
                "checkpoints": [_checkpoint(c) for c in _sorted(state.checkpoints)],
                "events": [_event(e) for e in reversed(state.events)],
                "files": [f for f in self.files(folder) if f != REPORT],
            }
        )

    def _read(self, folder: Path, *, whole: bool) -> RunState:
        return live_state.read(folder, self._files, self._clock(), whole=whole)

    def files(self, folder: Path) -> dict[str, Path]:
        """The files of a run that may be fetched, by name; none that lies outside of it."""
        inside = folder.resolve()
        paths = [folder / name for name in (REPORT, *FILES)]
        paths += [p for pattern in PATTERNS for p in sorted(folder.glob(pattern))]
        return {
            p.relative_to(folder).as_posix(): p
            for p in paths
            if mark(p) and p.resolve().is_relative_to(inside)
        }


def _row(name: str, state: RunState, folder: Path) -> dict[str, Any]:
    manifest = state.manifest
    methods = sorted(manifest["methods"], key=lambda m: (method_index(m), m))
    return _plain(
        {
            "name": name,
            "href": f"/run/{quote(os.fsencode(name))}/",
            "state": state.state,
            "live": state.live,
            "share": round(state.share, 3),
            "done": state.done,
            "total": state.total,
            "failed": state.failed,
            "left": _left(state.left),
            "measured": state.measured,
            "methods": ", ".join(method_name(m) for m in methods) if state.trials else "",
            "model": manifest["model"],
            "data": manifest["data"],
            "best": _best(state),
            "started": _iso(state.started),
            "error": state.error,
            "path": shlex.quote(str(folder)),
        }
    )


def _is_run(folder: Path) -> bool:
    return bool(mark(folder / ".run")) or (
        bool(mark(folder / "manifest.json")) and (folder / "trials").is_dir()
    )


def _runs(folder: Path, inside: Path, depth: int) -> Iterator[Path]:
    """The runs in a folder and in those below it; links that lead out are not followed."""
    try:
        entries = sorted(e.path for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    except OSError:
        return
    for path in map(Path, entries):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            continue
        if _is_run(path):
            yield path
        elif depth > 1:
            yield from _runs(path, inside, depth - 1)


def _left(seconds: float) -> str:
    """A time to wait; minutes where a guess in seconds would only flicker."""
    if math.isnan(seconds):
        return ""
    return f"{round(seconds / 60)} min" if 100 <= seconds < 3600 else duration(seconds)


def _sorted(items: Any) -> list[Any]:
    def order(x: Any) -> tuple[Any, ...]:
        beta = x.beta if math.isfinite(x.beta) else 0.0
        return method_index(x.method), x.method, x.seed, beta, getattr(x, "step", 0)

    return sorted(items, key=order)


def _best(state: RunState) -> dict[str, Any] | None:
    """The recommended checkpoint, and its LC win rate as the verdict states it."""
    best = state.summary["best"]
    if best is None:
        return None
    pooled = best["pooled"] if isinstance(best["pooled"], dict) else {}
    ends = {k: number(pooled.get(k)) for k in ("ci_low", "ci_high", "n")}
    seed, step = (int(v) if math.isfinite(v := number(best[k])) else 0 for k in ("seed", "step"))
    key = Key(str(best["method"]), number(best["beta"]), seed, step)
    return {
        "name": checkpoint_name(key),
        "lc": _rate({**ends, "value": number(pooled.get("lc_win_rate"))}),
    }


def _rate(saved: Any) -> dict[str, Any]:
    """A percentage with its interval: numbers to draw, text to read."""
    rate = Number(saved["value"], saved["ci_low"], saved["ci_high"])
    n = f", n = {saved['n']:.0f}" if math.isfinite(saved["n"]) else ""
    text = f"{fixed(rate.value)} {interval(rate)}".strip()
    return {"value": rate.value, "low": rate.low, "high": rate.high, "text": text, "n": n}


def _trials(state: RunState) -> list[dict[str, Any]]:
    """The trials, those at work first, each with its last measured checkpoint's LC win rate."""
    last = {c.trial: c for c in sorted(state.checkpoints, key=lambda c: c.step)}
    rates = {name: _checkpoint(c)["lc"] for name, c in last.items()}
    trials = sorted(_sorted(state.trials), key=lambda t: t.state not in AT_WORK)
    return [{**_trial(t), "lc": rates.get(t.name)} for t in trials]


def _trial(t: TrialState) -> dict[str, Any]:
    return {
        "name": t.name,
        "method": method_index(t.method),
        "label": f"{method_name(t.method)} {beta_text(t.beta)}"
        if math.isfinite(t.beta)
        else t.name,
        "seed": t.seed,
        "state": t.state,
        "share": round(t.share, 3),
        "step": t.step,
        "steps": t.steps,
        "saved": t.saved,
        "measured": t.measured,
        "error": t.error,
        "curves": {
            k: {"points": t.curves[k], "last": t.last.get(k), "text": _text(k, t.last.get(k))}
            for k in CURVES
            if k in t.curves
        },
    }


def _text(curve: str, value: float | None) -> str:
    return significant(value) if curve in ("kl", "loss") else fixed(value, 2, sign=True)


def _checkpoint(c: CheckpointState) -> dict[str, Any]:
    none = {"value": math.nan, "ci_low": math.nan, "ci_high": math.nan, "n": math.nan}
    lc, raw, kl, length = (c.numbers.get(name, none) for name in live_state.SHOWN)
    return {
        "id": f"{c.trial}/{c.step}/{c.label}",
        "method": method_index(c.method) if c.method else None,
        "label": c.label or f"{method_name(c.method)} {beta_text(c.beta)}",
        "seed": c.seed,
        "step": c.step,
        "lc": _rate(lc),
        "raw": {"value": raw["value"], "text": fixed(raw["value"])},
        "kl": {"value": kl["value"], "text": significant(kl["value"])},
        "length": {"value": length["value"], "text": fixed(length["value"], 2)},
    }


def _event(row: Any) -> dict[str, str]:
    """A line of the journal in words."""
    job, error = str(row.get("job") or ""), str(row.get("error") or "")
    return {
        "time": str(row.get("time") or ""),
        "event": str(row.get("event") or ""),
        "text": f"{job}: {error}" if error else job,
    }


def _iso(seconds: float) -> str | None:
    """A time as JavaScript reads it; None for none."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """JSON types without NaN."""
    found: dict[str, Any] = to_jsonable(value)
    return found
