"""The diagnosis of a run of prefeval: of every trial, or of one, up to a checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.harness.diagnose import training as diagnose_training
from prefeval.harness.diagnose.of_log import Subject, log_signals
from prefeval.harness.diagnose.of_log import notes as log_notes
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.task import Task
from prefeval.metrics import diagnosis
from prefeval.metrics.diagnosis import from_run, row_stats
from prefeval.metrics.diagnosis.terms import Signal, Signals
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    import pandas as pd

    from prefeval.metrics.evidence import Evidence

TRIAL, LOG, METRICS, EVALUATED = "trial.json", "train.jsonl", "metrics.json", "checkpoints"
STOPPED_AT = r"is (?:nan|-?inf) at step (\d+)"  # as `minitrainers.run` says why it stopped


def run_of(target: Path) -> Path | None:
    """The run that a run, a trial or a checkpoint belongs to."""
    here = target.absolute()
    for folder in (here, *here.parents[:3]):
        if (folder / "task.json").is_file() and (folder / "manifest.json").is_file():
            return folder
    return None


class Reader:
    """Subjects of one run; what its trials share is read once."""

    def __init__(self, run: Path, known: Mapping[str, Evidence]) -> None:
        from prefeval.harness import measured

        self._evidence = dict(known)
        self.run = RunFolder(run)
        self.task = Task.read(self.run.task)
        self.calibration = (
            measured.read_calibration(self.task)
            if (self.task.reference_dir / measured.CALIBRATION).is_file()
            else None
        )
        self._training: dict[str, dict[str, Signal]] = {}

    def subjects(self, target: Path) -> list[Subject]:
        """The run's trials and evaluated checkpoints, or the one of them at ``target``."""
        if target.name == LOG:
            target = target.parent
        if (target / TRIAL).is_file():
            return [self.trial(target)]
        if (target.parent / TRIAL).is_file():
            return [self.trial(target.parent, until=target)]
        if target.parent.name == EVALUATED:
            return [self.evaluated(target)]
        trials = sorted(f.parent for f in self.run.trials.glob(f"*/{TRIAL}"))
        found = [self.trial(folder) for folder in trials]
        evaluated = sorted(f.parent for f in self.run.path.glob(f"{EVALUATED}/*/{METRICS}"))
        found += [self.evaluated(folder) for folder in evaluated]
        if not found:
            raise PrefevalError(
                f"{self.run.path} has no trial yet and no evaluated checkpoint; run it further"
            )
        return found

    def trial(self, folder: Path, until: Path | None = None) -> Subject:
        """One trial at its last measured checkpoint, or at the one named."""
        from prefeval.harness.logs import training_log

        saved = records.read_json(folder / TRIAL)
        method, beta = str(saved["method"]), float(saved["beta"])
        notes: list[str] = []
        signals: dict[str, Signal] = {}
        train = None
        if (folder / LOG).is_file():
            log = training_log.read(folder)
            if until is not None:
                step = int(until.name.rpartition("-")[2])
                log = replace(log, train=log.train[log.train["step"] <= step])
            train = log.train
            signals |= log_signals(replace(log, method=method))
            notes += log_notes(log)
            signals |= _pair_start(train)
        else:
            notes.append(f"{folder.name} has no {LOG} yet")
        signals.setdefault("beta", Signal(beta))
        if why := self._failure(folder.name):
            notes.append(f"{folder.name} failed: {why}")
            if stopped := re.search(STOPPED_AT, why):
                signals |= {"nonfinite_rows": Signal(1.0)}
                signals |= {"first_nonfinite_step": Signal(float(stopped[1]))}
        measured_at = sorted(f.parent for f in folder.glob(f"checkpoint-*/{METRICS}"))
        if until is not None:
            measured_at = [f for f in measured_at if f.name <= until.name]
        signals |= self._checkpoints(measured_at, method, beta)
        if not measured_at:
            notes.append(f"{folder.name} has no measured checkpoint; the log alone was read")
        settings = saved.get("settings") or {}
        if measured_at and train is not None:
            signals |= _against_held_out(train, signals, settings)
        if not (settings.get("rounds") or settings.get("trainer")):  # it learned from other data
            signals |= self._trained_on(method, settings, measured_at)
        found = diagnosis.diagnose(signals, method=method)
        return Subject(
            f"{folder.name}/{until.name}" if until else folder.name,
            method, signals, replace(found, notes=tuple(notes)),
        )  # fmt: skip

    def _failure(self, name: str) -> str:
        """Why the trial failed when it was last run; "" where it did not."""
        events = records.read_jsonl(self.run.journal) if self.run.journal.is_file() else []
        own = [e for e in events if e.get("job") == name and e["event"] in ("done", "failed")]
        return str(own[-1].get("error") or "") if own and own[-1]["event"] == "failed" else ""

    def evaluated(self, folder: Path) -> Subject:
        """A checkpoint that `eval` measured, and its training's log where one was imported."""
        from prefeval.harness.logs import training_log

        signals: dict[str, Signal] = {}
        notes: tuple[str, ...] = ()
        if (folder / LOG).is_file():
            log = training_log.read(folder / LOG)
            signals |= log_signals(log)
            notes = tuple(log_notes(log))
        signals |= self._checkpoints([folder], "", math.nan)
        found = diagnosis.diagnose(signals)
        return Subject(folder.name, "", signals, replace(found, notes=notes) if notes else found)

    def _checkpoints(self, folders: Sequence[Path], method: str, beta: float) -> dict[str, Signal]:
        from prefeval.harness import measured

        if not folders or self.calibration is None:
            return {}
        last = folders[-1]
        signals = from_run.metric_signals(measured.read_metrics(last / METRICS))
        frames = [self._evidence_of(f) for f in folders]
        signals |= from_run.sample_signals(frames[-1].samples)
        signals |= from_run.behaviour_signals(frames[-1].checks)
        signals |= from_run.held_out_signals([f.pairs for f in frames], method=method, beta=beta)
        return signals

    def _trained_on(
        self, method: str, settings: Mapping[str, Any], measured_at: Sequence[Path]
    ) -> dict[str, Signal]:
        from prefeval.minitrainers import METHODS

        kind = METHODS[method].data if method in METHODS else ""
        if kind not in ("pairs", "thumbs"):
            return {}
        if kind not in self._training:
            held_out = self._held_out(measured_at)
            self._training[kind] = diagnose_training.signals(self.task, kind, held_out)
        found = dict(self._training[kind])
        if kind == "thumbs" and "thumbs_up" in found:
            up, down = (int(found.pop(f"thumbs_{k}").value) for k in ("up", "down"))
            found |= from_run.thumb_signals(up, down, settings)
        return found

    def _held_out(self, measured_at: Sequence[Path]) -> pd.DataFrame:
        import pandas as pd

        if not measured_at or self.calibration is None:
            return pd.DataFrame()
        return self._evidence_of(measured_at[-1]).pairs

    def _evidence_of(self, folder: Path) -> Evidence:
        from prefeval.harness import measured

        assert self.calibration is not None
        if str(folder) not in self._evidence:
            self._evidence[str(folder)] = measured.read_evidence(
                folder, self.task, self.calibration
            )
        return self._evidence[str(folder)]


def _pair_start(train: pd.DataFrame) -> dict[str, Signal]:
    """Log-ratios of the first batch, where the log begins with the first step."""
    if train.empty or float(train["step"].iloc[0]) > 1:
        return {}
    columns = [c for c in ("delta_chosen", "delta_rejected") if c in train]
    values = [abs(float(train[c].iloc[0])) for c in columns]
    values = [v for v in values if math.isfinite(v)]
    return {"pair_start": Signal(max(values))} if values else {}


def _against_held_out(
    train: pd.DataFrame, signals: Signals, settings: Mapping[str, Any]
) -> dict[str, Signal]:
    """Training accuracy against that on held-out pairs: memorising, and flipped labels."""
    import numpy as np

    if "accuracy" not in train or "held_out_accuracy" not in signals:
        return {}
    held_out = signals["held_out_accuracy"]
    late = row_stats.mean(row_stats.tail(train["accuracy"].to_numpy(dtype=np.float64)))
    gap = late.value - held_out.value
    half = math.hypot(_half(late), _half(held_out))
    found = {"held_out_gap": Signal(gap, gap - half, gap + half, held_out.n)}
    epochs = float(settings.get("epochs") or 1)
    first_pass = train["accuracy"].to_numpy(dtype=np.float64)[: max(1, int(len(train) / epochs))]
    fresh = first_pass[len(first_pass) // 2 :]
    clean = held_out.value
    if len(fresh) >= 10 and held_out.ci_low > 0.52:
        seen, scale = row_stats.mean(fresh), 2 * clean - 1
        spread = math.hypot(_half(seen), _half(held_out))
        value = (clean - seen.value) / scale
        found["run_label_noise"] = Signal(
            value, value - spread / scale, value + spread / scale, len(fresh)
        )
    return found


def _half(signal: Signal) -> float:
    return (signal.ci_high - signal.ci_low) / 2
