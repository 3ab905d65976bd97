"""Reads a run folder into frozen records. Never a model, never torch.

What is missing or broken is named: the report shows it, and shows the rest. Only a folder with
nothing to show raises.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from prefeval.metrics import EXTRAS, INTERVAL_COLUMNS
from prefeval.metrics.selection import Key as Key
from prefeval.records import PrefevalError
from prefeval.reports.files import as_float, read_frame, read_object, read_rows
from prefeval.reports.quantities import Number, missing

METHODS = ("dpo", "ipo", "kto", "simpo", "ppo", "grpo")  # the order of colours and markers
METHOD_NAMES = {"simpo": "SimPO", "train": "training"}


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint: its metrics by name, and its folder where there is one."""

    key: Key
    trial: str
    folder: Path | None
    numbers: Mapping[str, Number]

    def get(self, name: str) -> Number:
        """A metric, or a missing number that says so."""
        return self.numbers.get(name) or missing("not measured in this run")


@dataclass(frozen=True)
class TrialLog:
    """One cell of the grid: how far it got, and its training log (one row a step)."""

    name: str
    method: str
    beta: float
    seed: int
    status: str  # "finished", "unfinished", "not started" or "failed"
    error: str
    log: pd.DataFrame


@dataclass(frozen=True)
class Run:
    """A run folder as the report sees it. ``problems`` names what is missing or broken."""

    folder: Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    checkpoints: tuple[CheckpointRow, ...]
    trials: tuple[TrialLog, ...]
    problems: tuple[str, ...]
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)
    related: tuple[Mapping[str, Any], ...] = ()
    """other runs beside this one, as `prefeval report RUN OTHER...` saved them"""

    @property
    def selection(self) -> Mapping[str, Any]:
        """The verdict as the sweep saved it; empty while the run is unfinished."""
        return self.summary.get("selection") or {}

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of this run, in the order of their colours."""
        found = {c.key.method for c in self.checkpoints} | {t.method for t in self.trials}
        return tuple(sorted(found, key=lambda m: (method_index(m), m)))

    def columns(self, prefix: str) -> tuple[str, ...]:
        """The metric names with a prefix ("change_"), without it, in order of first sight."""
        names = (name for c in self.checkpoints for name in c.numbers)
        return tuple(dict.fromkeys(n.removeprefix(prefix) for n in names if n.startswith(prefix)))


def method_index(method: str) -> int:
    """A method's colour and marker; methods unknown here share those after the known ones."""
    if method in METHODS:
        return METHODS.index(method)
    return len(METHODS)


def method_name(method: str) -> str:
    """How a method is written: DPO, SimPO."""
    return METHOD_NAMES.get(method, method.upper())


def load(folder: Path) -> Run:
    """Read a run folder.

    Raises ``PrefevalError`` when it is no run folder, or when nothing in it was evaluated yet.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        raise PrefevalError(
            f"{folder} is no run folder (it has no manifest.json);"
            " name the folder that `prefeval sweep` printed"
        )
    problems: list[str] = []
    manifest = read_object(folder / "manifest.json", problems)
    summary = (
        read_object(folder / "summary.json", problems) if (folder / "summary.json").exists() else {}
    )
    planned = [str(name) for name in manifest.get("trials") or ()]
    trials = tuple(_trials(folder, planned, problems))
    checkpoints = _checkpoints(folder, problems)
    if not (checkpoints or summary.get("failed")) and all(
        t.status == "not started" for t in trials
    ):
        raise PrefevalError(
            f"{folder} holds no trial yet; run the sweep (again with --resume) before its report"
        )
    costs = read_frame(folder / "costs.parquet", problems)
    related = _related(folder, problems)
    return Run(
        folder=folder,
        manifest=manifest,
        summary=summary,
        checkpoints=checkpoints,
        trials=_with_failures(trials, summary),
        problems=tuple(problems),
        costs=costs,
        related=related,
    )


def _related(folder: Path, problems: list[str]) -> tuple[Mapping[str, Any], ...]:
    """The runs of related.json, or none when it was written beside other results than these."""
    path, results = folder / "related.json", folder / "results.parquet"
    if not (path.is_file() and results.is_file()):
        return ()
    saved = read_object(path, problems)
    if saved and saved.get("results") != hashlib.sha256(results.read_bytes()).hexdigest():
        problems.append(
            f"{path.name} is beside results that have changed since: name the other runs again,"
            " `prefeval report RUN OTHER...`"
        )
        return ()
    rows = saved.get("runs")
    return (
        tuple(r for r in rows if isinstance(r, dict) and "name" in r)
        if isinstance(rows, list)
        else ()
    )


def _checkpoints(folder: Path, problems: list[str]) -> tuple[CheckpointRow, ...]:
    """From results.parquet, or, in an unfinished run, from every finished metrics.json."""
    reasons = {path.parent: _metrics(path, problems) for path in _metric_files(folder)}
    results = read_frame(folder / "results.parquet", problems)
    if lacking := {"method", "beta", "seed", "step"} - set(results.columns):
        if not results.empty:
            raise PrefevalError(
                f"{folder} is of `prefeval eval`, whose checkpoints share no training to report on"
                f" ({', '.join(sorted(lacking))} missing): `prefeval compare` sets two of them side"
                " by side, `prefeval watch FOLDER --once` reports on one training's checkpoints"
            )
    else:
        return _sorted(_from_results(results, folder, reasons))
    if reasons:
        problems.append(
            "results.parquet is missing: the run is unfinished, and this report shows the"
            f" {len(reasons)} checkpoints evaluated so far"
        )
    found = []
    for path, numbers in reasons.items():
        trial = read_object(path.parent / "trial.json", problems)
        if trial and numbers:
            key = _key(trial, path.name.rpartition("-")[2])
            found.append(CheckpointRow(key, path.parent.name, path, numbers))
    return _sorted(found)


def _sorted(found: Iterable[CheckpointRow]) -> tuple[CheckpointRow, ...]:
    """In the order of methods, then β, seed and step."""
    return tuple(sorted(found, key=lambda c: (method_index(c.key.method), c.key)))


def _metric_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("trials/*/checkpoint-*/metrics.json"))


def _metrics(path: Path, problems: list[str]) -> dict[str, Number]:
    """A checkpoint's metrics.json and what was imported beside it: ``MetricResult`` rows under
    "metrics"."""
    found = {}
    files = [f for f in (path, path.with_name("extra.json")) if f == path or f.is_file()]
    for row in (r for f in files for r in read_object(f, problems).get("metrics") or ()):
        n = row.get("n")
        found[str(row["name"])] = Number(
            as_float(row.get("value")),
            as_float(row.get("ci_low")),
            as_float(row.get("ci_high")),
            int(n) if n is not None else None,
            str(row.get("reason") or ""),
        )
    return found


def _from_results(
    results: pd.DataFrame, folder: Path, metrics: Mapping[Path, Mapping[str, Number]]
) -> Iterator[CheckpointRow]:
    """One record a row; reasons of undefined values come from the checkpoint's metrics.json."""
    names = [c for c in results.columns if _is_metric(str(c))]
    for row in results.to_dict("records"):
        key = Key(str(row["method"]), float(row["beta"]), int(row["seed"]), int(row["step"]))
        trial = str(row.get("trial") or "")
        path = folder / "trials" / trial / f"checkpoint-{key.step:06d}"
        saved = metrics.get(path, {})
        numbers = {}
        for name in names:
            low, high = INTERVAL_COLUMNS.get(name, (f"{name}_ci_low", f"{name}_ci_high"))
            value, n = as_float(row[name]), as_float(row.get(f"{name}_n"))
            reason = "" if math.isfinite(value) else _reason(saved.get(name), name)
            numbers[name] = Number(
                value,
                as_float(row.get(low)),
                as_float(row.get(high)),
                int(n) if math.isfinite(n) else None,
                reason,
            )
        yield CheckpointRow(key, trial, path if path.is_dir() else None, numbers)


def _is_metric(column: str) -> bool:
    return column not in {
        *("method", "beta", "seed", "step", "trial", "checkpoint"),
        *(end for ends in INTERVAL_COLUMNS.values() for end in ends),
    } and not column.endswith(("_ci_low", "_ci_high", "_n"))


def _reason(saved: Number | None, name: str) -> str:
    if saved is not None and saved.reason:
        return saved.reason
    if name == "true_win_rate":
        return "no oracle: the true win rate exists in the lab only"
    if name.startswith(EXTRAS):
        return "not imported for this checkpoint"
    return "undefined; no reason was saved"


def _trials(folder: Path, names: Sequence[str], problems: list[str]) -> Iterator[TrialLog]:
    """Every trial that is planned or has a folder, with how far it got.

    A trial notes its costs when all its checkpoints are measured: then it is finished.
    """
    folders = {p.parent.name: p.parent for p in sorted(folder.glob("trials/*/trial.json"))}
    for name in dict.fromkeys([*folders, *names]):
        path = folders.get(name)
        if path is None:
            key = _from_name(name)
            yield TrialLog(name, *key[:3], "not started", "", pd.DataFrame())
            continue
        key = _key(read_object(path / "trial.json", problems), 0)
        log = pd.DataFrame(read_rows(path / "train.jsonl", problems, growing=True))
        done = (path / "costs.json").exists()
        yield TrialLog(name, *key[:3], "finished" if done else "unfinished", "", log)


def _key(trial: Mapping[str, Any], step: str | int) -> Key:
    """Method, β and seed of a trial.json."""
    beta, seed = as_float(trial.get("beta")), int(trial.get("seed") or 0)
    return Key(str(trial.get("method", "?")), beta, seed, int(step))


def _from_name(name: str) -> Key:
    """Method, β and seed of a trial's folder name, ``dpo-b0.1-s0-<hash>``."""
    found = re.fullmatch(r"(.+?)-b([\d.e+-]+)-s(\d+)-\w+", name)
    if found is None:
        return Key(name, math.nan, 0, 0)
    return Key(found[1], as_float(found[2]), int(found[3]), 0)


def _with_failures(trials: Iterable[TrialLog], summary: Mapping[str, Any]) -> tuple[TrialLog, ...]:
    """Mark the trials that the summary lists as failed, adding those without a folder."""
    errors = {str(f.get("trial")): str(f.get("error") or "") for f in summary.get("failed") or []}
    by_name = {t.name: t for t in trials}
    for name, error in errors.items():
        empty = TrialLog(name, *_from_name(name)[:3], "failed", "", pd.DataFrame())
        by_name[name] = replace(by_name.get(name, empty), status="failed", error=error)
    order = lambda t: (method_index(t.method), t.method, t.beta, t.seed)  # noqa: E731
    return tuple(sorted(by_name.values(), key=order))
