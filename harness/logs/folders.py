"""Where the training log lies: a file, a trial of prefeval, a trainer's output folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prefeval.harness.logs.files import KINDS, count
from prefeval.records import PrefevalError

STATE = "trainer_state.json"
# What a folder may hold, in the order in which it is looked for.
NAMED = ("train.jsonl", "trainer_log.jsonl", "log_history.json", "wandb-history.jsonl")
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".log")


def locate(path: Path) -> Path:
    """The log that a path stands for: itself, or the one that lies in the folder.

    Raises ``PrefevalError`` where there is none, or several and none of a name that is known.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise PrefevalError(f"no such file: {path}; {KINDS}")
    if not path.is_dir():
        raise PrefevalError(f"{path} is no file and no folder; {KINDS}")
    if (state := _latest_state(path)) is not None:
        return state
    for name in NAMED:
        if (path / name).is_file():
            return path / name
    if trials := sorted(p.parent.name for p in path.glob("trials/*/train.jsonl")):
        raise PrefevalError(
            f"{path} is a run of {count(len(trials), 'trial')}; give one of them, such as "
            f"{path / 'trials' / trials[0]}"
        )
    events = sorted(p for p in path.rglob("*tfevents*") if p.is_file())
    files = (
        sorted(p for p in path.glob("*") if p.suffix.lower() in SUFFIXES and p.is_file()) or events
    )
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(str(p.relative_to(path)) for p in files[:4])
        raise PrefevalError(f"{path} holds {len(files)} logs ({names}, ...); give one of them")
    raise PrefevalError(f"{path} holds no training log; {KINDS}")


def _latest_state(folder: Path) -> Path | None:
    """The folder's own trainer_state.json or its checkpoints', whichever went furthest."""
    states = [
        (int(step[0]), p)
        for p in folder.glob(f"checkpoint-*/{STATE}")
        if (step := re.findall(r"\d+$", p.parent.name))
    ]
    latest = max(states, default=None)
    own = folder / STATE
    if not own.is_file():
        return latest[1] if latest else None
    try:
        reached = int(json.loads(own.read_text(encoding="utf-8"))["global_step"])
    except (ValueError, KeyError, TypeError, OSError):
        return latest[1] if latest else own  # the checkpoint's may be whole
    return latest[1] if latest and latest[0] > reached else own
