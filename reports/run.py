"""Reads a run folder into frozen records. Never a model, never torch.

What is missing or broken is named: the report shows it, and shows the rest. Only a folder with
nothing to show raises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from prefeval.records import PrefevalError, read_json, read_jsonl
from prefeval.reports.numbers import Number, missing

INTERVALS = {"lc_win_rate": ("lc_ci_low", "lc_ci_high")}
METHODS = ("dpo", "ipo", "kto", "simpo", "ppo", "sft")  # the order of colours and markers
METHOD_NAMES = {"simpo": "SimPO"}


class Key(NamedTuple):
    """What names a checkpoint within a run."""

    method: str
    beta: float
    seed: int
    step: int


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
    status: str  # "finished", "unfinished" or "failed"
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
    planned: int | None = None
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)

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
            f"{folder} is not a run folder (no manifest.json); name the folder that `prefeval sweep` printed"
        )
    problems: list[str] = []
    manifest = _json(folder / "manifest.json", problems)
    summary = _json(folder / "summary.json", problems) if (folder / "summary.json").exists() else {}
    trials = tuple(_trials(folder, problems))
    checkpoints = _checkpoints(folder, problems)
    if not checkpoints and not trials:
        raise PrefevalError(
            f"{folder} holds no trial yet; run the sweep (again with --resume) before its report"
        )
    costs = _frame(folder / "costs.parquet", problems)
    return Run(
        folder=folder,
        manifest=manifest,
        summary=summary,
        checkpoints=checkpoints,
        trials=_with_failures(trials, summary),
        problems=tuple(problems),
        planned=_planned(manifest, summary),
        costs=costs,
    )


def _json(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """One JSON object; a broken one is named and read as empty."""
    try:
        value = read_json(path)
    except (PrefevalError, OSError) as error:
        problems.append(str(error))
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path} does not hold a JSON object; delete it and run again")
        return {}
    return value


def rows(path: Path, problems: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a JSONL file, or none when it is missing or broken (then named)."""
    if not path.exists():
        return []
    try:
        return [row for row in read_jsonl(path) if isinstance(row, dict)]
    except (PrefevalError, OSError) as error:
        if problems is not None:
            problems.append(str(error))
        return []


def _frame(path: Path, problems: list[str]) -> pd.DataFrame:
    """A Parquet file, or an empty frame when it is missing or broken (then named)."""
    if not path.exists():
        return pd.DataFrame()
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds
        problems.append(f"{path} cannot be read ({error}); delete it and run again with --resume")
        return pd.DataFrame()


def _checkpoints(folder: Path, problems: list[str]) -> tuple[CheckpointRow, ...]:
    """From results.parquet, or, in an unfinished run, from every finished metrics.json."""
    reasons = {path.parent: _metrics(path, problems) for path in _metric_files(folder)}
    results = _frame(folder / "results.parquet", problems)
    if not results.empty:
        return _sorted(_from_results(results, folder, reasons))
    if reasons:
        problems.append(
            "results.parquet is missing: the run is unfinished, and this report shows the"
            f" {len(reasons)} checkpoints evaluated so far"
        )
    found = []
    for path, numbers in reasons.items():
        trial = _json(path.parent / "trial.json", problems)
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
    """A checkpoint's metrics.json: a list of ``MetricResult`` rows, or an object that holds one."""
    try:
        value = read_json(path)
    except (PrefevalError, OSError) as error:
        problems.append(str(error))
        return {}
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, list)), [])
    found = {}
    for row in value:
        n = row.get("n")
        found[str(row["name"])] = Number(
            _float(row.get("value")),
            _float(row.get("ci_low")),
            _float(row.get("ci_high")),
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
            low, high = INTERVALS.get(name, (f"{name}_ci_low", f"{name}_ci_high"))
            value, n = _float(row[name]), _float(row.get(f"{name}_n"))
            reason = "" if math.isfinite(value) else _reason(saved.get(name), name)
            numbers[name] = Number(
                value,
                _float(row.get(low)),
                _float(row.get(high)),
                int(n) if math.isfinite(n) else None,
                reason,
            )
        yield CheckpointRow(key, trial, path if path.is_dir() else None, numbers)


def _is_metric(column: str) -> bool:
    return column not in {
        *("method", "beta", "seed", "step", "trial", "checkpoint"),
        *("lc_ci_low", "lc_ci_high"),
    } and not column.endswith(("_ci_low", "_ci_high", "_n"))


def _reason(saved: Number | None, name: str) -> str:
    if saved is not None and saved.reason:
        return saved.reason
    if name == "true_win_rate":
        return "no oracle: the true win rate exists in the lab only"
    return "undefined; no reason was saved"


def _trials(folder: Path, problems: list[str]) -> Iterator[TrialLog]:
    """Every trial folder with a readable trial.json."""
    for path in sorted(folder.glob("trials/*/trial.json")):
        record = _json(path, problems)
        if not record:
            continue
        key = _key(record, 0)
        log = pd.DataFrame(rows(path.parent / "train.jsonl", problems))
        evaluated = list(path.parent.glob("checkpoint-*/metrics.json"))
        yield TrialLog(
            name=path.parent.name,
            method=key.method,
            beta=key.beta,
            seed=key.seed,
            status=str(record.get("status") or ("finished" if evaluated else "unfinished")),
            error=str(record.get("error") or ""),
            log=log,
        )


def _key(record: Mapping[str, Any], step: str | int) -> Key:
    """Method, β and seed of a trial.json, whether flat or under "trial"."""
    trial = record.get("trial") if isinstance(record.get("trial"), dict) else record
    assert trial is not None
    return Key(
        str(trial.get("method", "?")),
        _float(trial.get("beta")),
        int(trial.get("seed") or 0),
        int(step),
    )


def _with_failures(
    trials: tuple[TrialLog, ...], summary: Mapping[str, Any]
) -> tuple[TrialLog, ...]:
    """Mark the trials that the summary lists as failed, adding those without a folder."""
    errors = {str(f.get("trial")): str(f.get("error") or "") for f in summary.get("failed") or []}
    marked = [
        TrialLog(t.name, t.method, t.beta, t.seed, "failed", errors.pop(t.name), t.log)
        if t.name in errors
        else t
        for t in trials
    ]
    for name, error in errors.items():
        method, beta, seed = _from_name(name)
        marked.append(TrialLog(name, method, beta, seed, "failed", error, pd.DataFrame()))
    return tuple(sorted(marked, key=lambda t: (method_index(t.method), t.method, t.beta, t.seed)))


def _from_name(name: str) -> tuple[str, float, int]:
    """Method, β and seed of a trial's folder name, ``dpo-b0.1-s0-<hash>``."""
    try:
        method, beta, seed = name.split("-b", 1)[0], *name.split("-b", 1)[1].split("-s")[:2]
        return method, float(beta), int(seed.split("-")[0])
    except (ValueError, IndexError):
        return name, math.nan, 0


def _planned(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> int | None:
    """How many trials the grid has, where the run says so."""
    counts = summary.get("counts") or {}
    config = manifest.get("config") or {}
    for value in (counts.get("trials"), manifest.get("trials"), config.get("trials")):
        if isinstance(value, int):
            return value
        if isinstance(value, list):
            return len(value)
    return None


def _float(value: object) -> float:
    """A number, or NaN for anything else (JSON's null, a missing column)."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def canonical(value: object) -> str:
    """A value as one line for the manifest: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
