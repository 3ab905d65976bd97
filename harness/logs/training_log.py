"""The training log of any trainer as two frames of prefeval's columns.

`folders` finds the file, `files` reads its rows, `keys` knows its names, `settings`
what the run was started with. Here rows become steps: two runs in one file are told from a run that
was resumed, evaluations from training, and whatever had to be decided is said in a note.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.harness.logs import files as log_files
from prefeval.harness.logs import folders as log_folders
from prefeval.harness.logs import keys as log_keys
from prefeval.harness.logs import settings as log_settings
from prefeval.harness.logs.files import count
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainingLog:
    """A run's log; `log_keys.COLUMNS` gives the columns and their units.

    Attributes
    ----------
    path
        The file that was read.
    method
        "dpo", "ipo", "kto", "simpo", "ppo", "grpo", or "" where nothing beside the log says it.
    settings
        beta, lr, epochs, batch_size, ... by prefeval's names, as far as they are known.
    train, evals
        A row a logged step, sorted: ``step``, then the columns that the log has, all float64.
    names
        Column: the name in the file.
    unrecognised
        Names that nothing is read from and whose meaning is not known.
    notes
        One line each: what was wrong with the file and what was done about it.
    """

    path: Path
    method: str
    settings: Mapping[str, Any]
    train: pd.DataFrame
    evals: pd.DataFrame
    names: Mapping[str, str]
    unrecognised: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Entry:
    """One row of the file, of training or of evaluation."""

    is_eval: bool
    step: float | None
    values: dict[str, float] = field(default_factory=dict)


def read(path: Path) -> TrainingLog:
    """Read a log, or the one that lies in a folder.

    A folder is one of prefeval's trials, or a trainer's output with ``trainer_state.json`` in it or
    in its checkpoints, of which the latest is taken.

    Raises ``PrefevalError`` where there is no log, it cannot be read, or no name in it is known.
    """
    file = log_folders.locate(Path(path).expanduser())
    rows, notes = log_files.read_rows(file)
    _drop_summaries(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    plan = log_keys.plan(names)
    if not plan.has_metrics:
        shown = ", ".join(" ".join(n.split())[:40] for n in names[:8])
        shown += ", ..." if len(names) > 8 else ""
        raise PrefevalError(
            f"{file}: none of its names is known ({shown or 'none'}); a log has loss, "
            "rewards/chosen, logps/chosen, kl, reward or the like beside step"
        )
    entries = _entries(rows, plan, notes)
    if not entries:
        raise PrefevalError(f"{file} has known names but no numbers under them; check the log")
    entries = _one_run(entries, notes)
    train = _frame([e for e in entries if not e.is_eval], "", notes)
    evals = _frame([e for e in entries if e.is_eval], "evaluation ", notes)
    found = log_settings.read(file, names, rows)
    return TrainingLog(
        path=file,
        method=found.method,
        settings=found.settings,
        train=train,
        evals=evals,
        names={**plan.evals, **plan.train},
        unrecognised=plan.unrecognised,
        notes=(*notes, *found.notes),
    )


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Steps as ``train.jsonl`` holds them: of whole steps, each without what is undefined."""
    rows = frame.to_dict("records")
    known = [{str(k): v for k, v in row.items() if v == v} for row in rows]
    return [{**row, "step": int(row["step"])} for row in known if float(row["step"]).is_integer()]


def _drop_summaries(rows: Sequence[dict[str, Any]]) -> None:
    """Take out the mean loss of the whole run, which transformers logs last beside the runtime."""
    for row in rows:
        endings = {"".join(log_keys.words(name)[-2:]): name for name in row}
        if "trainruntime" in endings:
            row.pop(endings.get("trainloss", ""), None)


def _number(value: Any) -> float | None:
    """A number, also one in a string; None for what is none."""
    if isinstance(value, str):
        value = value.strip().removesuffix("%")
        if "_" in value:  # a number to Python alone
            return None
    elif isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        return None


def _entries(
    rows: Sequence[Mapping[str, Any]], plan: log_keys.Plan, notes: list[str]
) -> list[_Entry]:
    """The rows' numbers by column, with their steps; rows without a metric are left out."""
    entries = []
    counters = {column: plan.train[column] for column in log_keys.COUNTERS if column in plan.train}
    for row in rows:
        shared = {
            column: value
            for column, name in counters.items()
            if name in row and (value := _number(row[name])) is not None and math.isfinite(value)
        }
        step = shared.pop("step", None)
        for is_eval, names in ((False, plan.train), (True, plan.evals)):
            values = {
                column: value
                for column, name in names.items()
                if column not in counters and name in row
                if (value := _number(row[name])) is not None
            }
            if values:
                entries.append(_Entry(is_eval, step, shared | values))
    unknown = Counter(
        column for e in entries for column, value in e.values.items() if not math.isfinite(value)
    )
    if unknown:
        counts = ", ".join(f"{column} {n}" for column, n in unknown.items())
        notes.append(f"kept: {count(unknown.total(), 'value')} that is NaN or infinite ({counts})")
    return entries


# -- steps -------------------------------------------------------------------------------------


def _one_run(entries: list[_Entry], notes: list[str]) -> list[_Entry]:
    """The entries of the last run, all with a step."""
    without = sum(e.step is None for e in entries)
    if without < len(entries):
        if without:
            notes.append(f"left out: {count(without, 'row')} without a step")
        entries = [e for e in entries if e.step is not None]
        return _last_run(entries, [float(e.step or 0) for e in entries], notes)
    if all("epoch" in e.values for e in entries):
        entries = _last_run(entries, [e.values["epoch"] for e in entries], notes)
    notes.append("the log has no steps: rows are numbered in their order, from 1")
    done = 0
    for e in entries:
        done += not e.is_eval
        e.step = float(done)
    if not done:
        for place, e in enumerate(entries, 1):
            e.step = float(place)
    return entries


def _last_run(entries: list[_Entry], clock: Sequence[float], notes: list[str]) -> list[_Entry]:
    """Drop the runs before the last one, and the steps that a resumed run took again.

    In a file that was written as training went on, the steps fall where it was started anew (to the
    first step or below) or resumed (to a step that it had reached before). Other falls mean that
    the rows are out of order, and so does a file in which no step comes twice.
    """
    if all(before <= now for before, now in pairwise(clock)):
        return entries
    segments: dict[tuple[bool, float], int] = {}
    segment, twice = 0, False
    for i, (e, now) in enumerate(zip(entries, clock, strict=True)):
        segment += i > 0 and now < clock[i - 1]
        twice |= segments.setdefault((e.is_eval, now), segment) != segment
    runs, left_out, again = 1, 0, 0
    kept: list[int] = []
    for i, now in enumerate(clock if twice else ()):
        if i and now < clock[i - 1]:
            before = {clock[j] for j in kept}
            if now <= min(before):
                runs, left_out, kept = runs + 1, left_out + len(kept), []
            elif now in before:
                again += sum(clock[j] >= now for j in kept)
                kept = [j for j in kept if clock[j] < now]
            else:
                twice = False
                break
        kept.append(i)
    if not twice:
        notes.append("the steps were out of order: rows were sorted by step")
        return entries
    if runs > 1:
        notes.append(
            f"{runs} runs in one file: the last is read, {count(left_out, 'row')} before it left "
            "out; to read another, save its lines as a file of their own"
        )
    if again:
        taken = count(again, "row")
        notes.append(f"the run was resumed: left out are {taken} of steps that were taken again")
    return [entries[i] for i in kept]


def _frame(entries: Sequence[_Entry], kind: str, notes: list[str]) -> pd.DataFrame:
    """One row a step, sorted; of a step that comes twice the last values."""
    import numpy as np
    import pandas as pd

    steps: dict[float, dict[str, float]] = {}
    twice = set()
    for e in entries:
        step = float(e.step or 0)
        values = steps.setdefault(step, {})
        if (values.keys() & e.values.keys()) - {"epoch"}:
            twice.add(step)
        values |= e.values
    if twice:
        notes.append(f"logged twice: {count(len(twice), f'{kind}step')}; the last of each is read")
    order = sorted(steps)
    has = {column for values in steps.values() for column in values}
    frame = {"step": np.array(order, dtype=np.float64)}
    if all(step.is_integer() and abs(step) < 2**53 for step in order):
        frame["step"] = np.array([int(step) for step in order], dtype=np.int64)
    for column in log_keys.COLUMNS:
        if column in has:
            numbers = [steps[step].get(column, math.nan) for step in order]
            frame[column] = np.array(numbers, dtype=np.float64)
    if "accuracy" in frame:
        finite = frame["accuracy"][np.isfinite(frame["accuracy"])]
        if finite.size and 1 < finite.max() <= 100:
            frame["accuracy"] = frame["accuracy"] / 100
            notes.append(f"the {kind}accuracy was in percent and was divided by 100")
    return pd.DataFrame(frame)
