"""Which checkpoint a trainer takes for its best, and that it is not deleted meanwhile."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from prefeval.records import PrefevalError

STAGED = "staged"


def take_over(args: Any, others: Sequence[Any]) -> Callable[[], None] | None:
    """Make the trainer leave its best checkpoint alone; returns what gives it back, if anything.

    A trainer that has a metric of its own would name its best at each of its evaluations, and
    delete ours.

    Raises ``PrefevalError`` for what needs the trainer's own best.
    """
    rivals = [type(c).__name__ for c in others if type(c).__name__ == "EarlyStoppingCallback"]
    if args.metric_for_best_model is None and not rivals:
        return None
    mend = "or give PrefevalCallback(keep_best=False)"
    if rivals:
        raise PrefevalError(
            "EarlyStoppingCallback and PrefevalCallback would both name the best checkpoint; "
            f"leave one out, {mend}"
        )
    for name, value in (("save_strategy", "best"), ("lr_scheduler_type", "reduce_lr_on_plateau")):
        if str(getattr(getattr(args, name), "value", getattr(args, name))) == value:
            raise PrefevalError(
                f"{name}={value!r} goes by metric_for_best_model, and PrefevalCallback names the "
                f"best checkpoint; take another {name}, {mend}"
            )
    given, args.metric_for_best_model = args.metric_for_best_model, None

    def give_back() -> None:
        args.metric_for_best_model = given

    return give_back


def keep(args: Any, state: Any, step: int, value: float) -> None:
    """Name the best checkpoint as transformers does, for its rotation and its loading."""
    state.best_metric = None if math.isnan(value) else value
    state.best_global_step = step
    state.best_model_checkpoint = os.path.join(args.output_dir, f"checkpoint-{step}")


def stage(checkpoint: Path, out: Path) -> Path:
    """A second name for a checkpoint's files, while it waits: the trainer's rotation may delete the
    first. Copies where the file system has no hard links."""
    staged = out / STAGED / checkpoint.name
    shutil.rmtree(staged, ignore_errors=True)
    try:
        shutil.copytree(checkpoint, staged, copy_function=_link)
    except OSError:
        return checkpoint
    return staged


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def put_back(out: Path, checkpoint: Path) -> None:
    """The files of a checkpoint that the trainer has deleted while it was evaluated."""
    staged = out / STAGED / checkpoint.name
    if staged.is_dir() and not checkpoint.exists():
        shutil.copytree(staged, checkpoint, copy_function=_link)


def unstage(out: Path, steps: Collection[int] | None = None) -> None:
    """Give up the second names of the checkpoints of these steps, or of all."""
    for staged in sorted((out / STAGED).glob("checkpoint-*")):
        if steps is None or int(staged.name.rpartition("-")[2]) in steps:
            shutil.rmtree(staged, ignore_errors=True)
    if steps is None:
        shutil.rmtree(out / STAGED, ignore_errors=True)
