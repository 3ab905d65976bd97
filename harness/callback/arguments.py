"""What ``PrefevalCallback`` is given, looked over and put as ``prefeval eval`` takes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness import judges
from prefeval.harness.callback.gains import require_paired
from prefeval.harness.steps import disk_errors
from prefeval.metrics.comparison import MEASURES
from prefeval.records import PrefevalError

OPTIONS = (
    "lab", "prompts", "max_new_tokens", "max_length", "suite_samples", "length_unit", "held_out",
    "judge_pairs", "dtype", "backend", "smoke",
)  # fmt: skip
HELD_OUT, BESIDE_A_JUDGE = 0.9, 0.7
"""Shares of the data to measure with: training sees none of it, and a judge may be trained on a
part."""


def check(
    options: Mapping[str, Any], metric: str, greater_is_better: bool | None, patience: int,
    confidence: float, judge: str,
) -> None:  # fmt: skip
    """Raise ``PrefevalError`` for what cannot be used, before anything is trained."""
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise PrefevalError(
            f"PrefevalCallback has no argument {unknown[0]!r}; beside its own it takes "
            f"{', '.join(OPTIONS)}"
        )
    if patience < 0 or patience != int(patience):
        raise PrefevalError(f"patience must be a whole number >= 0, got {patience}; 0: never stop")
    if not 0.5 <= confidence < 1:
        raise PrefevalError(f"confidence must lie in [0.5, 1), got {confidence}; try 0.6")
    require_paired(metric)
    if greater_is_better is None and MEASURES.get(metric, ("", 1))[1] == 0:
        raise PrefevalError(
            f"{metric} is neither better high nor low: give greater_is_better=True or False, or "
            "another metric"
        )
    if judge:
        judges.get(judge.partition(":")[0])


def origin(model: Any) -> str:
    """Where the model in training was loaded from; of an adapter, its base."""
    config = getattr(model, "config", None)
    found = str(getattr(config, "_name_or_path", "") or "")
    if not found:
        raise PrefevalError(
            "the model does not say where it was loaded from; give PrefevalCallback(reference=...)"
        )
    return found


def data_file(data: Any, out: Path) -> str:
    """The data's name; a ``Dataset`` is written out, under the hash of its content."""
    if isinstance(data, (str, os.PathLike)):
        return str(data)
    rows = [dict(row) for row in data]
    file = out / f"data-{records.content_hash(rows)[:8]}.jsonl"
    with disk_errors(file):
        out.mkdir(parents=True, exist_ok=True)
        records.write_jsonl(file, rows)
    return str(file)
