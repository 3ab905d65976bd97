"""The process that evaluates for a trainer's callback: requests in, replies out, a line of JSON
each.

    python -m prefeval.harness.callback.worker < requests > replies

The first request opens ({"open": ...}, the fields of `Opening`); then come {"checkpoint", "step",
"epoch"} and at the end {"finish": true}. Every request has one reply, whose "kind" is opened,
measured, finished or failed. What was measured stands in ``callback.json`` in the run's trial, so
that a worker that takes up the run knows what the one before it knew.
"""

from __future__ import annotations

import json
import math
import os
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from prefeval import records
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from prefeval.harness.watch.stream import Measured, Stream
    from prefeval.metrics.early_stopping import Decision

HISTORY = "callback.json"
INTERVALS = ("lc_win_rate", "win_rate", "true_win_rate", "kl", "length_ratio")
LOGGED = (
    *INTERVALS, "style_win_rate", "forward_kl", "delta_chosen", "delta_rejected",
    "implicit_accuracy", "truncation_rate", "repetition", "distinct_within",
)  # fmt: skip
"""Metrics that are logged, some with the ends of their intervals; every behaviour's change too."""
CHANGE = "change_"


@dataclass(frozen=True)
class Opening:
    """What the callback asks for. ``upto`` is the training's step when it begins or resumes."""

    options: Mapping[str, Any]
    out: str
    metric: str
    patience: int
    confidence: float
    min_delta: float
    greater_is_better: bool | None = None
    stop_on_damage: bool = False
    method: str = ""
    beta: float = 0.0
    upto: int = 0


class Worker:
    """Answers requests over one training's stream, which stays open."""

    def __init__(self) -> None:
        self._asked: Opening | None = None
        self._stream: Stream | None = None
        self._closing = ExitStack()
        self._rows: list[dict[str, Any]] = []

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one request; a failure is one too, with its reason."""
        try:
            if "open" in request:
                self._asked = Opening(**request["open"])
                self._open()
                return {"kind": "opened", **self._standing()}
            if "finish" in request:
                return {"kind": "finished", "report": self._finish()}
            return self._measure(request)
        except PrefevalError as error:
            return {"kind": "failed", "error": str(error), "step": request.get("step")}
        except Exception as error:
            from prefeval.harness.steps import disk_fault

            first = disk_fault(error) or f"{type(error).__name__}: {error}".splitlines()[0]
            return {"kind": "failed", "error": first, "step": request.get("step")}

    def close(self) -> None:
        """Give the run folder back."""
        self._closing.close()

    def _open(self) -> Stream:
        """The stream, opened once; asked again after a failure."""
        from prefeval.harness.watch import stream as streams

        if self._stream is None:
            assert self._asked is not None
            asked = self._asked
            config = streams.configure(asked.options)
            opened = streams.Stream.open(
                config,
                out=Path(asked.out),
                method=asked.method or streams.METHOD,
                beta=asked.beta,
                in_process=True,
            )
            self._stream = self._closing.enter_context(opened)
            file = self._stream.folder / HISTORY
            saved = records.read_json(file) if asked.upto and file.is_file() else []
            self._rows = [row for row in saved if row["step"] <= asked.upto]
        return self._stream

    def _measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        stream, step = self._open(), int(request["step"])
        before = [row for row in self._rows if row["step"] < step]
        found = stream.measure(Path(request["checkpoint"]), step, replace=True)
        if self._metric not in found.metrics:
            some = ", ".join(sorted(found.metrics))
            raise PrefevalError(f"there is no metric {self._metric!r}; there are {some}")
        row = {"step": step, "epoch": request["epoch"], "as_step": found.step}
        self._rows = [*before, {**row, "metrics": logged(found, self._metric)}]
        standing = self._standing()
        self._rows[-1]["metrics"]["waited"] = standing["waited"]
        records.write_json(stream.folder / HISTORY, self._rows)
        return {"kind": "measured", "step": step, **standing}

    @property
    def _metric(self) -> str:
        assert self._asked is not None
        return self._asked.metric

    def _finish(self) -> str:
        if self._stream is None or not self._rows:
            return ""
        self._stream.put_aside({int(row["as_step"]) for row in self._rows})
        self._stream.finish()
        return str(self._stream.run.folder.report)

    # -- where the training stands -------------------------------------------------------------

    def _standing(self) -> dict[str, Any]:
        """All rows so far, the best, and whether to stop; a function of what is measured."""
        if not self._rows:
            return {"rows": [], "best": None, "stop": "", "waited": 0}
        asked, stream = self._asked, self._stream
        assert asked is not None
        assert stream is not None
        stands = Standing(stream, asked, [int(row["as_step"]) for row in self._rows])
        decision = stands.decide()
        stop = decision.why if asked.patience else ""
        if asked.stop_on_damage:
            stop = stop or stands.damage()
        values = [(stands.value(i), -i) for i in range(len(self._rows))]
        best = -max(known)[1] if (known := [v for v in values if math.isfinite(v[0])]) else None
        return {
            "rows": self._rows,
            "best": None if best is None else self._rows[best]["step"],
            "stop": stop,
            "waited": decision.waited,
        }


class Standing:
    """The measured checkpoints of one training, in order, and how they compare."""

    def __init__(self, stream: Stream, asked: Opening, steps: Sequence[int]) -> None:
        known = {m.step: m for m in stream.known()}
        self._asked, self._stream = asked, stream
        self._measured = [known[step] for step in steps]
        found = next((m.metrics[asked.metric] for m in self._measured), None)
        better = found.higher_is_better if found else None
        if asked.greater_is_better is not None:
            better = asked.greater_is_better
        self._sign = -1.0 if better is False else 1.0

    def value(self, index: int) -> float:
        """The metric of one, higher is better; NaN where it is undefined."""
        return self._sign * self._measured[index].metrics[self._asked.metric].value

    def decide(self) -> Decision:
        """Patience, by the paired gains."""
        from prefeval.harness.callback.gains import Gains
        from prefeval.metrics import early_stopping

        known = [m for i, m in enumerate(self._measured) if math.isfinite(self.value(i))]
        gains = Gains(self._stream, known, self._asked.metric, self._sign)
        return early_stopping.decide(
            max(1, len(known)),
            gains.between,
            patience=self._asked.patience or len(known) + 1,
            confidence=self._asked.confidence,
            min_delta=self._asked.min_delta,
        )

    def damage(self) -> str:
        """The behaviour that the newest is shown to have lost, in words; "" for none."""
        from prefeval.harness.callback.gains import evidence_of
        from prefeval.metrics import retention
        from prefeval.metrics.early_stopping import spent

        k = len(self._measured)
        found = evidence_of(self._stream, self._measured[-1])
        for change in retention.changes(found.checks) if len(found.checks) else ():
            if change.p_worse_holm <= spent(k):
                return f"{change.behaviour} is shown damaged, {change.change:+.1f} points"
        return ""


def logged(found: Measured, metric: str) -> dict[str, float]:
    """What a tracker gets of one checkpoint: values, and the ends of the main ones' intervals.

    Undefined ones are left out: a tracker would take NaN for a number.
    """
    changes = [name for name in found.metrics if name.startswith(CHANGE)]
    row: dict[str, float] = {}
    for name in {**dict.fromkeys(LOGGED), **dict.fromkeys(changes), metric: None}:
        if name in found.metrics:
            r = found.metrics[name]
            row[name] = r.value
            if name in (*INTERVALS, metric):
                row |= {f"{name}_ci_low": r.ci_low, f"{name}_ci_high": r.ci_high}
    row = {name: float(value) for name, value in row.items() if math.isfinite(value)}
    kept = [row[name] for name in changes if name in row]
    return row | ({"worst_retention": min(kept)} if kept else {})


def main() -> None:
    """Answer until the trainer is gone."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not look like a reply
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin, requests), daemon=True).start()
    import torch

    from prefeval.harness.threads import no_bars

    no_bars()
    torch.set_num_threads(1)
    worker = Worker()
    while line := requests.get():
        reply = worker.answer(json.loads(line))
        replies.write(json.dumps(reply, ensure_ascii=False) + "\n")
        replies.flush()
        if reply["kind"] == "finished":
            worker.close()
            return


def _read(stream: IO[str], requests: queue.Queue[str]) -> None:
    """Requests as they come; the end of them is the end of the trainer, and of this process."""
    for line in stream:
        requests.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()
