"""The two files by which trainer and watch tell each other to end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from prefeval.harness.watch.stream import Measured, Stream
    from prefeval.harness.watch.words import Speaker
    from prefeval.metrics.early_stopping import Decision, Gain

STOP, STOP_TRAINING = "prefeval.stop", "prefeval.stop-training"


def require_usable(metric: str) -> None:
    """Raise ``PrefevalError`` for a metric in which checkpoints are not compared by prompt."""
    from prefeval.harness.callback.gains import require_paired

    require_paired(metric)


class Adviser:
    """Writes ``prefeval.stop-training`` where the measured steps show no gain any more.

    The rule is `early_stopping.decide`, over all that is measured: a watch that is started again
    comes to the same. The file of another training is taken away.
    """

    def __init__(self, folder: Path, metric: str, patience: int, say: Speaker) -> None:
        self.file = folder / STOP_TRAINING
        self.metric, self.patience, self.say = metric, patience, say
        self._said: dict[str, Any] | None = None
        self._gains: dict[tuple[str, str], Gain] = {}

    def look(self, stream: Stream) -> None:
        """Decide anew, and say so where it is time to stop.

        Raises ``PrefevalError`` for a metric that was not measured or has no better end.
        """
        known = [m for m in stream.known() if self._has_value(m)]
        decision = self._decide(stream, known) if known else None
        if decision is None or not decision.stop:
            with suppress(OSError):  # a folder that only its trainer writes to
                self.file.unlink(missing_ok=True)
            return
        best, at = known[decision.best].step, known[decision.best + decision.waited].step
        row = {"metric": self.metric, "why": decision.why, "at_step": at, "best_step": best}
        if self._said == row and self.file.is_file():
            return
        self._said = row
        text = f"the training may stop: at step {at} {self.metric} is {decision.why}"
        text += f"; best is step {best}"
        try:
            records.write_json(self.file, row)
        except OSError as error:
            text += f" (the trainer is not told: {self.file}: {error.strerror})"
        self.say.event("stop-training", text, **row)

    def _has_value(self, measured: Measured) -> bool:
        """Whether it can be compared: what is undefined is neither better nor not better."""
        found = measured.metrics.get(self.metric)
        if found is None or found.higher_is_better is None:
            why = "is neither better high nor low" if found else "was not measured"
            raise PrefevalError(f"--metric {self.metric} {why}; name another")
        return math.isfinite(found.value)

    def _decide(self, stream: Stream, known: Sequence[Measured]) -> Decision:
        from prefeval.harness.callback.gains import Gains
        from prefeval.metrics import early_stopping

        sign = 1.0 if known[0].metrics[self.metric].higher_is_better else -1.0
        gains = Gains(stream, known, self.metric, sign)

        def between(a: int, b: int) -> Gain:  # a second or more each
            key = str(known[a].about["content"]), str(known[b].about["content"])
            if key not in self._gains:
                self._gains[key] = gains.between(a, b)
            return self._gains[key]

        return early_stopping.decide(len(known), between, patience=self.patience)
