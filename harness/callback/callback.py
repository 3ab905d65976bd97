"""``PrefevalCallback``: a trainer's checkpoints evaluated as they are saved.

    from prefeval import PrefevalCallback

    callback = PrefevalCallback(data="held_out.jsonl", judge="reward_model:rm", patience=3)
    trainer = DPOTrainer(..., callbacks=[callback])

What is evaluated are the files that were just written, in a process of its own. That is what leaves
training as it would be without: the model in training is not touched (train mode, dropout, hooks,
caches), nor random states, threads, deterministic flags, autograd or the allocator of this process.
By default training waits for the result, so that it stops where the evaluation says; with
``wait=False`` it goes on, and a result is logged at the step that it belongs to once it is there.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prefeval.harness.callback import arguments, trackers
from prefeval.harness.callback import best as best_checkpoint
from prefeval.harness.callback.process import Process, shared
from prefeval.harness.callback.worker import Opening
from prefeval.records import PrefevalError

FOLDER = "_prefeval"
"""Beside the checkpoints. ``push_to_hub`` leaves out what begins with an underscore, and an
evaluation holds prompts and answers."""
ROUND = 30.0  # seconds between signs of life to the other ranks, whose time-outs are minutes
log = logging.getLogger("prefeval")


class PrefevalCallback(TrainerCallback):  # type: ignore[misc]
    """Evaluates at every save, logs under ``eval_prefeval/``, stops, and keeps the best.

    Parameters
    ----------
    data
        Preference pairs (or thumbs) that training does not see: a file, a folder, a hub name, or
        a ``datasets.Dataset``. Their prompts are answered and judged, on the pairs
        log-probabilities are followed. All of them are used, up to ``prompts``.
    reference
        What is compared with: a folder or a hub name. The model that training began from, if None.
    suite, judge
        As ``--suite`` and ``--judge`` of ``prefeval eval``.
    metric
        What stops training and names the best checkpoint. ``greater_is_better`` is needed where
        the metric does not say (``kl``, ``length_ratio``).
    patience, confidence, min_delta
        See ``metrics.early_stopping``; ``patience=0`` never stops.
    wait
        Whether training waits for each evaluation.
    device
        Where the evaluation computes ("cpu", "cuda:1"); a GPU where there is one, if None. It
        needs room for the checkpoint, the reference and a judge that is a model.
    keep_best
        Whether ``state.best_model_checkpoint`` is this callback's: ``save_total_limit`` then spares
        it, and ``load_best_model_at_end`` loads it.
    stop_on_damage
        Whether to stop when a behaviour of the suite is shown worse by more than 5 points.
    strict
        Whether an evaluation that fails ends training with ``PrefevalError``. It warns otherwise,
        once for each reason, and training goes on.
    out
        Parent of the run folder; ``_prefeval`` in the trainer's output folder if None.
    options
        Others of ``prefeval eval``: ``prompts=200``, ``max_new_tokens=64``, ``dtype="bfloat16"``.

    Raises
    ------
    PrefevalError
        For arguments that cannot be used, before anything is trained.
    """

    def __init__(
        self,
        *,
        data: Any = None,
        reference: str | os.PathLike[str] | None = None,
        suite: str | os.PathLike[str] = "",
        judge: str = "",
        metric: str = "lc_win_rate",
        patience: int = 3,
        confidence: float = 0.6,
        min_delta: float = 0.0,
        greater_is_better: bool | None = None,
        wait: bool = True,
        device: str | None = None,
        keep_best: bool = True,
        stop_on_damage: bool = False,
        strict: bool = False,
        out: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        arguments.check(options, metric, greater_is_better, patience, confidence, judge)
        if data is None and reference != "lab":
            raise PrefevalError(
                'PrefevalCallback needs data that training does not see: data="held_out.jsonl"'
            )
        self.data, self.reference, self.out = data, reference, out
        self.metric, self.wait, self.keep_best, self.strict = metric, wait, keep_best, strict
        self.stopped = ""
        """why training was stopped by this callback; "" if it was not"""
        held_out = arguments.HELD_OUT if judge else arguments.BESIDE_A_JUDGE
        self._options = {
            "held_out": held_out, **options, "suite": str(suite), "judge": judge,
            "device": device or "auto",
        }  # fmt: skip
        self._rule: dict[str, Any] = {
            "metric": metric, "patience": patience, "confidence": confidence,
            "min_delta": min_delta, "greater_is_better": greater_is_better,
            "stop_on_damage": stop_on_damage,
        }  # fmt: skip
        self._forget()

    def _forget(self) -> None:
        """As before the first training."""
        self._process: Process | None = None
        self._pending = self._count = 0
        self._over = False
        self._broken = ""
        self._told: set[str] = set()
        self._others: list[TrainerCallback] = []
        self._steps: set[int] = set()
        self._undo: Any = None
        self.stopped = ""

    # -- what the trainer calls ----------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the process; where training resumes, take up what was measured."""
        self._forget()
        self._others = trackers.other_callbacks(self)
        if self.keep_best:
            self._undo = best_checkpoint.take_over(args, self._others)
        if state.is_world_process_zero:
            self._begin(args, state, kwargs.get("model"))
        self._pending = 1
        if self.wait or state.global_step:
            self._drain(args, state, control, kwargs)
        at = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.global_step and state.global_step not in self._steps and at.is_dir():
            self.on_save(args, state, control, **kwargs)  # stopped while it was evaluated

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for the evaluation of the checkpoint that was just written."""
        step = state.global_step
        if self._over or step in self._steps:
            return
        self._steps.add(step)
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{step}"
            if not self.wait:
                folder = best_checkpoint.stage(folder, self._where(args))
            assert self._process is not None  # or it would be over
            self._process.ask(
                {"checkpoint": str(folder.absolute()), "step": step, "epoch": state.epoch}
            )
        self._pending += 1
        last = step >= state.max_steps or control.should_training_stop
        if self.wait or last:  # the best must be known before the trainer loads it
            self._drain(args, state, control, kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take what has come meanwhile."""
        if self._pending and not self.wait:
            self._take(self._next(0.0), args, state, control, kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where training ends here, the best must be known before the trainer loads it."""
        if control.should_training_stop or state.global_step >= state.max_steps:
            self._drain(args, state, control, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for what is asked for, write the run's report, and end the process."""
        self._drain(args, state, control, kwargs)
        if self._process is not None and not self._over:
            self._process.ask({"finish": True})
            reply = None
            while reply is None:
                reply = self._process.reply(ROUND)
            if reply["kind"] in ("failed", "gone") and state.is_world_process_zero:
                self._warn(f"the run's report is not written: {reply['error']}")
            if reply.get("report"):
                log.warning("prefeval: evaluated %d checkpoints: %s", self._count, reply["report"])
        if self._process is not None:
            self._process.close()
            self._process = None
            best_checkpoint.unstage(self._where(args))
        if self._undo is not None:
            self._undo()
        self._over = True

    # -- requests and replies ------------------------------------------------------------------

    def _where(self, args: Any) -> Path:
        return Path(self.out or Path(args.output_dir) / FOLDER).absolute()

    def _begin(self, args: Any, state: Any, model: Any) -> None:
        """Start the process and ask it to open; on the main rank alone."""
        out = self._where(args)
        reference = self.reference or arguments.origin(model)
        options = {**self._options, "reference": str(reference)}
        try:
            if self.data is not None:
                options["data"] = arguments.data_file(self.data, out)
        except PrefevalError as error:
            self._broken = str(error)
            return
        self._process = Process(Opening(options=options, out=str(out), **self._rule))
        self._process.open(state.global_step)

    def _next(self, timeout: float) -> dict[str, Any] | None:
        """The next reply, the same on every rank; None where there is none yet."""
        reply = None
        if self._process is not None:
            reply = self._process.reply(timeout)
        elif self._broken:
            reply = {"kind": "gone", "error": self._broken}
        return shared(reply)

    def _drain(self, args: Any, state: Any, control: Any, kwargs: Mapping[str, Any]) -> None:
        """Wait until nothing is pending."""
        while self._pending:
            self._take(self._next(ROUND), args, state, control, kwargs)

    def _take(
        self, reply: Mapping[str, Any] | None, args: Any, state: Any, control: Any,
        kwargs: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Act on a reply: log it, set the best, stop."""
        if reply is None:
            return
        self._pending -= 1
        if reply["kind"] in ("failed", "gone"):
            if reply["kind"] == "gone":
                self._pending, self._over = 0, True
            self._fail(reply, state)
            return
        rows = {row["step"]: row for row in reply["rows"]}
        self._count = len(rows)
        if reply["kind"] == "opened":
            self._steps |= set(rows)
            trackers.restore(rows, state)
        elif state.is_world_process_zero:
            row = rows[reply["step"]]
            for name, why in trackers.tell(row, self._others, args, state, control, kwargs):
                self._warn(f"{name} could not log: {why}; training goes on", key=name)
        if self.keep_best and (best := reply["best"]) is not None:
            value = rows[best]["metrics"].get(self.metric, math.nan)
            best_checkpoint.keep(args, state, best, value)
            if state.is_world_process_zero and not self.wait:
                best_checkpoint.put_back(self._where(args), Path(state.best_model_checkpoint))
                best_checkpoint.unstage(self._where(args), set(rows) - {best})
        if reply["stop"] and not control.should_training_stop:
            self.stopped = reply["stop"]
            control.should_training_stop = True
            self._pending = min(self._pending, 1)  # what is not begun is not needed
            if self._process is not None:
                self._process.cancel()
            if state.is_world_process_zero:
                log.warning(
                    "prefeval: training stops at step %d by %s: %s; the best checkpoint is "
                    "checkpoint-%s", state.global_step, self.metric, self.stopped, reply["best"],
                )  # fmt: skip

    def _fail(self, reply: Mapping[str, Any], state: Any) -> None:
        """Raise or warn; what is wrong with one checkpoint may be right with the next."""
        step = reply.get("step")
        where = f"checkpoint-{step} is not evaluated" if step else "nothing is evaluated yet"
        more = "; no more are evaluated" if self._over else ""
        if self.strict:
            raise PrefevalError(f"{where}: {reply['error']}")
        if state.is_world_process_zero:
            self._warn(f"{where}: {reply['error']}{more}; training goes on", key=reply["error"])

    def _warn(self, text: str, key: str = "") -> None:
        if (key or text) not in self._told:
            self._told.add(key or text)
            warnings.warn(f"prefeval: {text}", UserWarning, stacklevel=2)
