"""``prefeval export``: a run's results in the formats of others, from saved files alone.

Equal runs give equal bytes: no date, no path of this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness.compare import targets as compare_targets
from prefeval.harness.run_folder import CHECKPOINT
from prefeval.harness.steps import disk_errors
from prefeval.records import PrefevalError

FORMATS = ("lm-eval", "parquet")


@dataclass(frozen=True)
class Place:
    """A measured checkpoint of a run. Of one that ``eval`` measured, method is "", beta and seed
    None, and the step that its name ends with, or 0."""

    folder: Path
    label: str
    method: str
    beta: float | None
    seed: int | None
    step: int


def places(run: Path) -> list[Place]:
    """The measured checkpoints, by method, beta, seed and step."""
    found = [_place(run, folder) for folder in compare_targets.measured_in(run)]
    if not found:
        raise PrefevalError(f"{run} has no measured checkpoint; run its sweep or eval again")
    return sorted(found, key=lambda p: (p.method, p.beta or 0, p.seed or 0, p.step, p.label))


def _place(run: Path, folder: Path) -> Place:
    label = folder.relative_to(run).as_posix()
    if key := compare_targets.key_of(folder):
        return Place(folder, label, *key)
    saved = folder / CHECKPOINT
    path = Path(records.read_json(saved)["path"]) if saved.is_file() else folder
    end = path.name.rpartition("-")[2]
    return Place(folder, label, "", None, None, int(end) if end.isdecimal() else 0)


def command(run: Path, kind: str, out: Path | None, say: Callable[[str], Any]) -> int:
    """Write the files, and say where they are.

    Raises ``PrefevalError`` for an unknown format and a folder that is no run.
    """
    if kind not in FORMATS:
        raise PrefevalError(f"unknown format {kind!r}; the formats are {', '.join(FORMATS)}")
    root = compare_targets.run_of(run)
    out = out or root / "export" / kind
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if kind == "parquet":
            from prefeval.harness.peers import give_tidy as form
        else:
            from prefeval.harness.peers import give_lm_eval as form  # type: ignore[no-redef]
        for path in form.write(root, places(root), out):
            say(str(path))
    return 0
