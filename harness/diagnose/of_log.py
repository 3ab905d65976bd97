"""What is diagnosed, and the diagnosis of a log alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefeval.metrics import diagnosis
from prefeval.metrics.diagnosis import from_log
from prefeval.metrics.diagnosis.terms import Diagnosis, Signal, Signals
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from prefeval.harness.logs.training_log import TrainingLog


@dataclass(frozen=True)
class Subject:
    """One thing that was diagnosed."""

    name: str
    method: str
    signals: Signals
    diagnosis: Diagnosis


def foreign(target: Path) -> Subject:
    """Any trainer's log. Raises ``PrefevalError`` where no rule can be applied to it."""
    from prefeval.harness.logs import training_log

    log = training_log.read(target)
    method = log.method or ("simpo" if from_log.reference_free(log.train) else "")
    signals = log_signals(log)
    found = diagnosis.diagnose(signals, method=method)
    if not (found.findings or found.checks):
        raise PrefevalError(
            f"no rule can be applied to {target}: it holds {', '.join(log.names)}; log the loss, "
            "log-probabilities and rewards of chosen and rejected answers too"
        )
    return Subject(target.name, method, signals, replace(found, notes=notes(log)))


def log_signals(log: TrainingLog) -> dict[str, Signal]:
    """What a log says, by the names of signals."""
    return from_log.log_signals(log.train, log.evals, method=log.method, settings=log.settings)


def notes(log: TrainingLog) -> tuple[str, ...]:
    """What was wrong with a log, and what in it is not recognised."""
    found = list(log.notes)
    if log.unrecognised:
        some = ", ".join(log.unrecognised[:12])
        more = len(log.unrecognised) - 12
        found.append(f"not recognised: {some}{f' and {more} more' if more > 0 else ''}")
    return tuple(found)
