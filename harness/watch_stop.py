"""The two files by which trainer and watch tell each other to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefeval import records
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from prefeval.harness.checkpoint_stream import Stream
    from prefeval.harness.watch_words import Speaker

STOP, STOP_TRAINING = "prefeval.stop", "prefeval.stop-training"


def require_usable(metric: str) -> None:
    """Raise ``PrefevalError`` for a metric in which checkpoints are not compared by prompt."""
    from prefeval.harness.callback_gains import require_paired

    require_paired(metric)


def advise(stream: Stream, folder: Path, metric: str, patience: int, say: Speaker) -> None:
    """Write ``prefeval.stop-training`` where the measured steps show no gain any more.

    The rule is `early_stopping.decide`. A file that says so of another training is taken away.
    """
    from prefeval.harness.callback_gains import Gains
    from prefeval.metrics import early_stopping

    known = stream.known()
    found = known[0].metrics.get(metric)
    if found is None or found.higher_is_better is None:
        why = "is neither better high nor low" if found else "was not measured"
        raise PrefevalError(f"--metric {metric} {why}; name another")
    gains = Gains(stream, known, metric, 1.0 if found.higher_is_better else -1.0)
    decision = early_stopping.decide(len(known), gains.between, patience=patience)
    file = folder / STOP_TRAINING
    if not decision.stop:
        _forget(file)
        return
    best = known[decision.best].step
    row = {"metric": metric, "why": decision.why, "at_step": known[-1].step, "best_step": best}
    if file.is_file() and records.read_json(file) == row:
        return
    text = f"the training may stop: {metric} {decision.why}; best so far is step {best}"
    try:
        records.write_json(file, row)
    except OSError as error:
        text += f"; it cannot be told, {file} cannot be written ({error.strerror})"
    say.event("stop-training", text, **row)


def _forget(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:  # a folder that only its trainer writes to
        return
