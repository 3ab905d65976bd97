"""What training took, a row a method: operations beside fine-tuning's, models held, time, memory.

From ``costs.parquet``, one row a trial. Operations and models follow from data, seed and settings,
and stand in the table of methods (``methods``); clock and memory do not, and stand apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from prefeval.reports.quantities import Number, fixed, missing, significant
from prefeval.reports.run import Run, method_index, method_name
from prefeval.reports.tables import Footnotes, Shown, icon

NO_TRIAL = "no trial of this method finished: only finished ones note their costs"
NO_COSTS = "no costs were saved with this run; a sweep saves them when it ends"
NOT_NOTED = "the version that trained these trials did not note it; train them anew to have it"
ZERO = "noted as 0, so nothing was estimated or measured"
ESTIMATE = (
    "Operations are estimated: 2 a weight and token forward, 4 backward, plus attention. The"
    " reference's pass over the data, which is done once for all trials, is not in them. SFT is"
    " supervised fine-tuning on as many answers. In brackets beside a cost: the lowest and the"
    " highest trial."
)


@dataclass(frozen=True)
class Column:
    """One column: what heads it, what explains it, how it is written."""

    key: str
    name: str
    title: str
    whole: bool = False

    def write(self, value: float) -> str:
        """A number of this column as text."""
        return fixed(value, 0) if self.whole else significant(value)


COLUMNS = (
    Column("trials", "trials", "finished trials, which the other columns are over", whole=True),
    Column(
        "tflop",
        "TFLOP a trial",
        "estimated floating-point operations of all training steps, in 10^12; median over trials",
    ),
    Column("seconds", "training s", "clock seconds of a trial's training; median"),
    Column(
        "speed",
        "tokens/s",
        "tokens of prompts and answers trained on, over the seconds of training; all trials",
    ),
    Column("evaluation", "evaluation s", "clock seconds of its evaluation; median"),
    Column(
        "memory",
        "peak MB",
        "the most that the worker's process had held by the end of a trial's training (on a GPU:"
        " allocated), which may be an earlier trial's; median",
    ),
)
"""Of the table beside the methods': what differs between equal runs, and what it is over."""


def by_method(run: Run) -> dict[str, dict[str, Number]]:
    """The numbers of ``COLUMNS``, ``models`` in memory and the ``ratio`` to fine-tuning, for every
    method; nothing where the run saved no costs."""
    if "method" not in run.costs or run.costs.empty:
        return {}
    return {m: _numbers(run.costs[run.costs["method"] == m]) for m in run.methods}


def _numbers(trials: pd.DataFrame) -> dict[str, Number]:
    return {
        "trials": Number(float(len(trials)), n=len(trials)),
        "models": _median(trials, "models"),
        "ratio": _quotient(trials, "flops", "sft_flops"),
        "tflop": _median(trials, "flops", unit=1e12),
        "seconds": _median(trials, "train_seconds"),
        "speed": _quotient(trials, "tokens", "train_seconds"),
        "evaluation": _median(trials, "eval_seconds"),
        "memory": _median(trials, "peak_memory_mb"),
    }


def _median(trials: pd.DataFrame, column: str, *, unit: float = 1.0) -> Number:
    """The median trial, the lowest and the highest, over those that noted the column."""
    found = _noted(trials, column)
    if isinstance(found, Number):
        return found
    values = found[column].to_numpy() / unit
    return Number(float(np.median(values)), float(values.min()), float(values.max()), n=len(values))


def _quotient(trials: pd.DataFrame, above: str, below: str) -> Number:
    """Sum over sum, over the trials that noted both."""
    found = _noted(trials, above, below)
    if isinstance(found, Number):
        return found
    return Number(float(found[above].sum() / found[below].sum()), n=len(found))


def _noted(trials: pd.DataFrame, *columns: str) -> pd.DataFrame | Number:
    """The rows in which every column is above 0; without any, a missing number that says why."""
    if trials.empty:
        return missing(NO_TRIAL)
    numbers = trials.reindex(columns=list(columns)).apply(pd.to_numeric, errors="coerce")
    values = numbers.to_numpy(dtype=float)
    known = np.isfinite(values).all(axis=1)
    found = pd.DataFrame(values[known & (values > 0).all(axis=1)], columns=list(columns))
    if found.empty:
        return missing(ZERO if known.any() else NOT_NOTED)
    return found


def table(run: Run) -> dict[str, Any]:
    """The page's table: every column of ``COLUMNS``, a row a method."""
    notes = Footnotes()
    rows = [
        {
            "method": method,
            "index": method_index(method),
            "mark": icon(method),
            "name": method_name(method),
            "cells": [cell(numbers, c, notes) for c in COLUMNS],
        }
        for method, numbers in by_method(run).items()
    ]
    return {
        "columns": [{"name": c.name, "title": c.title} for c in COLUMNS],
        "rows": rows,
        "footnotes": notes.items,
    }


def cell(numbers: dict[str, Number], column: Column, notes: Footnotes) -> Shown:
    """A number with its range, and over how many trials where some did not note it."""
    number = numbers[column.key]
    if not number.known:
        return Shown("", reason=number.reason, mark=notes.mark(number.reason))
    low, high = column.write(number.low), column.write(number.high)
    few = f"{number.n} of {numbers['trials'].n} trials" if number.n != numbers["trials"].n else ""
    spread = f"[{low}, {high}]" if low != high else ""
    return Shown(column.write(number.value), " ".join(filter(None, (spread, few))))
