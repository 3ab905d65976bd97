"""What a trainer's log and its trackers get of an evaluation."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

from transformers import TrainerCallback

PREFIX = "eval_prefeval/"


def other_callbacks(own: TrainerCallback) -> list[TrainerCallback]:
    """The trainer's other callbacks, trackers among them.

    No event is told them. But the handler that holds them is what calls this event, so it is
    looked for among the callers.
    """
    from transformers.trainer_callback import CallbackHandler

    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return [c for c in caller.callbacks if c is not own]
        frame = frame.f_back
    return []


def entry(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of the trainer's log."""
    found = {f"{PREFIX}{name}": value for name, value in row["metrics"].items()}
    return {**found, "epoch": row["epoch"], "step": row["step"]}


def restore(rows: Mapping[int, Mapping[str, Any]], state: Any) -> None:
    """Put rows back that a resumed training's log lacks: its state was saved, then evaluated."""
    logged = {row["step"] for row in state.log_history if f"{PREFIX}waited" in row}
    state.log_history += [entry(rows[step]) for step in sorted(set(rows) - logged)]


def tell(
    row: Mapping[str, Any], others: Sequence[TrainerCallback], args: Any, state: Any, control: Any,
    kwargs: Mapping[str, Any],
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """Log a row at the step that it belongs to; yields each tracker that fails, and why.

    Not by ``Trainer.log``: TRL's adds the running means of training to any row and starts them
    anew, which would change what is logged of training itself.
    """
    told = entry(row)
    state.log_history.append(told)
    then = copy.copy(state)
    then.global_step, then.epoch = row["step"], row["epoch"]
    for other in others:
        logs = {k: v for k, v in told.items() if k != "step"}
        try:
            other.on_log(args, then, replace(control), **{**kwargs, "logs": logs})
        except Exception as error:
            first = f"{type(error).__name__}: {error}".splitlines()[0]
            yield type(other).__name__, first
