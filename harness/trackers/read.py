"""A run folder as trackers take it: trials as numbers by step, settings, the verdict, files.

Nothing here knows a tracker. Equal folders give equal records, with a hash of what they hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness.measured import read_metrics
from prefeval.harness.run_folder import CHECKPOINT
from prefeval.harness.trackers import without_secrets
from prefeval.records import PrefevalError

ARTIFACTS = ("report.html", "summary.md", "summary.json", "results.parquet")
TITLES = ("method", "beta", "seed", "step")
Point = Mapping[str, float]


@dataclass(frozen=True)
class Series:
    """One trial, or one checkpoint that ``eval`` measured.

    ``points`` are its numbers by step: ``train/<column>`` of the training log, ``eval/<metric>``
    of a checkpoint, with ``eval/<metric>_ci_low`` and ``_ci_high`` (95%) where there is an
    interval. Undefined metrics are left out; a training log's NaN is kept. ``content`` is a hash
    of all that.
    """

    id: str
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    points: Mapping[int, Point]
    finished: bool
    content: str = ""


@dataclass(frozen=True)
class Tracked:
    """A run. ``numbers`` are those of the recommended checkpoint; ``created`` is when the run
    began, in seconds since 1970."""

    id: str
    name: str
    created: float
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    numbers: Point
    series: tuple[Series, ...]
    artifacts: tuple[Path, ...]
    content: str = ""


def read(folder: Path) -> Tracked:
    """Read what a run folder holds by now.

    Raises ``PrefevalError`` for a folder that is no run.
    """
    manifest_file = folder / "manifest.json"
    if not manifest_file.is_file():
        raise PrefevalError(f"{folder} is no run folder (it has no manifest.json); name one")
    manifest = records.read_json(manifest_file)
    summary = records.read_json(folder / "summary.json") if _is(folder / "summary.json") else {}
    name = folder.resolve().name
    identity = records.content_hash([name, manifest.get("config_hash")])[:12]
    failed = {f["trial"]: f["error"] for f in summary.get("failed") or ()}
    best = (summary.get("selection") or {}).get("recommended") or {}
    found = [_trial(identity, f.parent, failed, best) for f in
             sorted(folder.glob("trials/*/trial.json"))]  # fmt: skip
    found += [_evaluated(identity, f.parent) for f in
              sorted(folder.glob("checkpoints/*/metrics.json"))]  # fmt: skip
    artifacts = tuple(folder / name for name in ARTIFACTS if _is(folder / name))
    tags = {"prefeval_version": str(manifest.get("prefeval_version", "")), **_verdict(summary)}
    numbers = _best_numbers(folder, best)
    content = records.content_hash(
        [tags, numbers, [s.content for s in found], [_file_hash(f) for f in artifacts]]
    )
    return Tracked(
        identity, name, _seconds(manifest.get("created")), _params(manifest.get("config") or {}),
        tags, numbers, tuple(found), artifacts, content,
    )  # fmt: skip


def _is(path: Path) -> bool:
    return path.is_file()


def _seconds(text: Any) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def _file_hash(path: Path) -> str:
    from prefeval.harness import models

    return models.file_hash(path)


def _params(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings as flat names and plain values; a list is its JSON."""
    import json

    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _params(value, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float)):
            flat[prefix + key] = value
        elif value not in (None, ""):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[prefix + key] = without_secrets(text)
    return flat


def _series(run: str, name: str, params: Mapping[str, Any], **rest: Any) -> Series:
    content = records.content_hash([params, {k: v for k, v in rest.items() if k != "finished"}])
    return Series(f"{run}-{records.content_hash(name)[:8]}", name, params, content=content, **rest)


def _trial(run: str, folder: Path, failed: Mapping[str, str], best: Mapping[str, Any]) -> Series:
    trial = records.read_json(folder / "trial.json")
    points: dict[int, dict[str, float]] = {}
    for step, row in _curve(folder / "train.jsonl"):
        points.setdefault(step, {}).update(row)
    for file in sorted(folder.glob("checkpoint-*/metrics.json")):
        step = int(file.parent.name.rpartition("-")[2])
        points.setdefault(step, {}).update(_measures(file))
    tags = {"status": "finished" if _is(folder / "costs.json") else "unfinished"}
    if why := failed.get(folder.name):
        tags = {"status": "failed", "error": without_secrets(why)}
    if {k: best.get(k) for k in ("method", "beta", "seed")} == {k: trial[k] for k in TITLES[:3]}:
        tags["recommended"] = f"step {best.get('step')}"
    params = {**{k: trial[k] for k in TITLES[:3]}, **_params(trial.get("settings") or {})}
    done = tags["status"] != "unfinished"
    return _series(
        run, folder.name, params, tags=tags, points=dict(sorted(points.items())), finished=done
    )


def _evaluated(run: str, folder: Path) -> Series:
    """A checkpoint from elsewhere, at the step that its name ends with, else 0."""
    about = records.read_json(folder / CHECKPOINT) if _is(folder / CHECKPOINT) else {}
    path = Path(str(about.get("path") or folder.name))
    end = path.name.rpartition("-")[2]
    step = int(end) if end.isdecimal() else 0
    points: dict[int, dict[str, float]] = {}
    for at, row in _curve(folder / "train.jsonl"):
        points.setdefault(at, {}).update(row)
    points.setdefault(step, {}).update(_measures(folder / "metrics.json"))
    params = {"checkpoint": path.name, "step": step}
    return _series(
        run, folder.name, params, tags={"status": "finished"},
        points=dict(sorted(points.items())), finished=True,
    )  # fmt: skip


def _curve(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """A training log's rows by step, their numbers alone."""
    for row in records.read_jsonl(path) if _is(path) else ():
        if isinstance(step := row.get("step"), int):
            values = {k: math.nan if v is None else v for k, v in row.items() if k != "step"}
            numbers = {k: v for k, v in values.items() if type(v) in (int, float)}
            yield step, {f"train/{k}": float(v) for k, v in numbers.items()}


def _measures(path: Path) -> dict[str, float]:
    """A checkpoint's defined metrics and their intervals."""
    found: dict[str, float] = {}
    for result in read_metrics(path):
        ends = {"": result.value, "_ci_low": result.ci_low, "_ci_high": result.ci_high}
        if math.isfinite(result.value):
            found |= {
                f"eval/{result.name}{end}": float(x) for end, x in ends.items() if math.isfinite(x)
            }
    return found


def _verdict(summary: Mapping[str, Any]) -> dict[str, str]:
    """Which checkpoint to ship, as a tracker's tags."""
    if not summary:
        return {"verdict": "unfinished"}
    best = (summary.get("selection") or {}).get("recommended")
    if not best:
        return {"verdict": "ship nothing yet"}
    where = ", ".join(f"{k} {best[k]:g}" if k != "method" else str(best[k]) for k in TITLES)
    return {"verdict": f"ship {where}"}


def _best_numbers(folder: Path, best: Mapping[str, Any]) -> Point:
    """The recommended checkpoint's metrics."""
    for file in sorted(folder.glob("trials/*/trial.json")) if best else ():
        trial = records.read_json(file)
        if all(trial[k] == best[k] for k in TITLES[:3]):
            path = file.parent / f"checkpoint-{int(best['step']):06d}" / "metrics.json"
            return _measures(path) if path.is_file() else {}
    return {}
