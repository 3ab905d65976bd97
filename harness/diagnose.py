"""`prefeval diagnose`: what a run, a trial, a checkpoint or a foreign log holds, against the rules.

Gathers signals from files and hands them to ``metrics.diagnosis``; no model is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.task import Task
from prefeval.metrics import diagnosis
from prefeval.metrics.diagnosis import from_log, from_run
from prefeval.metrics.diagnosis.terms import Diagnosis, Finding, Signal, Signals
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    import pandas as pd

    from prefeval.harness.training_log import TrainingLog
    from prefeval.metrics.evidence import Evidence

TRIAL, LOG, METRICS, EVALUATED = "trial.json", "train.jsonl", "metrics.json", "checkpoints"
MAX_ANSWERS = 4000
RENDERED = 32
STOPPED_AT = r"is (?:nan|-?inf) at step (\d+)"  # as `minitrainers.run` says why it stopped


@dataclass(frozen=True)
class Subject:
    """One thing that was diagnosed."""

    name: str
    method: str
    signals: Signals
    diagnosis: Diagnosis


def read(target: Path, known: Mapping[str, Evidence] | None = None) -> list[Subject]:
    """Diagnose what lies at ``target``: a run, a trial or a checkpoint of one, or any log.

    ``known``: the evidence of checkpoints that is at hand already, by their folders.

    Raises
    ------
    PrefevalError
        Where there is nothing to diagnose, or nothing in it is recognised.
    """
    target = Path(target)
    if not target.exists():
        raise PrefevalError(f"{target} does not exist; name a run, a trial, a checkpoint or a log")
    run = _run_of(target)
    if run is None:
        return [_foreign(target)]
    return _Reader(run, known or {}).subjects(target.absolute())


def combine(subjects: Sequence[Subject]) -> Diagnosis:
    """One diagnosis of many: a finding once for all places where it was made, checks that passed
    everywhere, and what was skipped anywhere."""
    if len(subjects) == 1:
        return subjects[0].diagnosis
    found: dict[str, list[tuple[str, Finding]]] = {}
    for subject in subjects:
        for finding in subject.diagnosis.findings:
            found.setdefault(finding.cause, []).append((subject.name, finding))
    merged, partly = [], {}
    for places in found.values():
        _, worst = max(places, key=lambda p: (_severity(p[1]), p[1].confidence))
        explained = all(f.explained_by for _, f in places)
        merged.append(
            replace(
                worst,
                where=tuple(name for name, _ in places),
                explained_by=worst.explained_by if explained else "",
            )
        )
        partly[worst.cause] = any(f.explained_by for _, f in places)
    order = {c.id: i for i, c in enumerate(diagnosis.CAUSES)}
    merged.sort(
        key=lambda f: (
            bool(f.explained_by), -_severity(f), partly[f.cause], -len(f.where), -f.confidence,
            order.get(f.cause, -1),
        )
    )  # fmt: skip
    checks = {c.cause: c for s in subjects for c in s.diagnosis.checks if c.cause not in found}
    skipped = {k.cause: k for s in subjects for k in s.diagnosis.skipped}
    skipped = {k: v for k, v in skipped.items() if k not in found and k not in checks}
    notes = dict.fromkeys(n for s in subjects for n in s.diagnosis.notes)
    return Diagnosis(tuple(merged), tuple(checks.values()), tuple(skipped.values()), tuple(notes))


def _severity(finding: Finding) -> int:
    return diagnosis.SEVERITIES.index(finding.severity)


# -- a foreign log ---------------------------------------------------------------------------------


def _foreign(target: Path) -> Subject:
    from prefeval.harness import training_log

    log = training_log.read(target)
    method = log.method or ("simpo" if from_log.reference_free(log.train) else "")
    signals = _log_signals(log)
    found = diagnosis.diagnose(signals, method=method)
    if not (found.findings or found.checks):
        raise PrefevalError(
            f"no rule can be applied to {target}: it holds {', '.join(log.names)}; log the loss, "
            "log-probabilities and rewards of chosen and rejected answers too"
        )
    return Subject(target.name, method, signals, replace(found, notes=_notes(log)))


def _log_signals(log: TrainingLog) -> dict[str, Signal]:
    return from_log.log_signals(log.train, log.evals, method=log.method, settings=log.settings)


def _notes(log: TrainingLog) -> tuple[str, ...]:
    notes = list(log.notes)
    if log.unrecognised:
        some = ", ".join(log.unrecognised[:12])
        more = len(log.unrecognised) - 12
        notes.append(f"not recognised: {some}{f' and {more} more' if more > 0 else ''}")
    return tuple(notes)


# -- a run of prefeval -----------------------------------------------------------------------------


def _run_of(target: Path) -> Path | None:
    """The run that a run, a trial or a checkpoint belongs to."""
    here = target.absolute()
    for folder in (here, *here.parents[:3]):
        if (folder / "task.json").is_file() and (folder / "manifest.json").is_file():
            return folder
    return None


class _Reader:
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
        from prefeval.harness import training_log

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
            signals |= _log_signals(replace(log, method=method))
            notes += _notes(log)
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
        if not settings.get("rounds"):
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
        """A checkpoint that `eval` measured: nothing of its training is known."""
        signals = self._checkpoints([folder], "", math.nan)
        return Subject(folder.name, "", signals, diagnosis.diagnose(signals))

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
            self._training[kind] = self._read_training(kind, measured_at)
        found = dict(self._training[kind])
        if kind == "thumbs" and "thumbs_up" in found:
            up, down = (int(found.pop(f"thumbs_{k}").value) for k in ("up", "down"))
            found |= from_run.thumb_signals(up, down, settings)
        return found

    def _read_training(self, kind: str, measured_at: Sequence[Path]) -> dict[str, Signal]:
        path = self.task.reference_dir / f"train_{kind}.jsonl"
        if not path.is_file():
            return {}
        rows = records.read_jsonl(path)
        answers = [a for row in rows[:MAX_ANSWERS] for a in _answers(row)]
        end_ids, bos_id = _special_ids(Path(self.task.reference))
        held_out = self._held_out(measured_at)
        found = from_run.training_signals(answers, held_out, end_ids=end_ids, bos_id=bos_id)
        if kind == "thumbs":
            up = sum(bool(row["desirable"]) for row in rows)
            found |= {"thumbs_up": Signal(up), "thumbs_down": Signal(len(rows) - up)}
        if kind == "pairs" and (texts := self.task.data / "pairs.jsonl").is_file():
            pairs = [(_text(r["chosen"]), _text(r["rejected"])) for r in records.read_jsonl(texts)]
            found |= from_run.pair_signals(pairs)
            found |= _labels(texts, self.task.data / "pairs_held_out.jsonl")
            found |= self._rendered(texts, rows)
        return found

    def _rendered(self, texts: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Signal]:
        """Whether the first training prompts are the tokens that the reference's own template and
        tokenizer make of them now."""
        from prefeval.harness import data, models
        from prefeval.minitrainers.batches import encode_all

        pairs = {p.id: p for p in data.load_pairs(texts).items}
        some = [(pairs[r["id"]], r) for r in rows[:RENDERED] if r["id"] in pairs]
        try:
            tokenizer = models.load_tokenizer(self.task.reference)
        except PrefevalError:  # the reference is no longer there: what it would say is not known
            return {}
        again = encode_all(
            tokenizer,
            [(p.prompt, p.chosen) for p, _ in some],
            max_length=self.task.sizes.max_length,
        )
        same = [list(e.prompt_ids) == r["chosen"][0] for e, (_, r) in zip(again, some, strict=True)]
        return {"template_agreement": Signal(sum(same) / len(same), n=len(same))} if same else {}

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


def _labels(trained_on: Path, held_out: Path) -> dict[str, Signal]:
    """What length, style and words predict of the training labels, and the share of them that is
    flipped if the held-out labels, of the same source, are right."""
    from prefeval.harness import audit, data
    from prefeval.metrics.data_predicted import predicted

    if not (held_out.is_file() and held_out.stat().st_size):
        return {}
    frames = [
        audit.marked(audit.frame_of(data.load_pairs(f).items)) for f in (trained_on, held_out)
    ]
    known = {"noise_beside_trusted": "text_label_noise", "length_predicts": "length_predicts"}
    return {
        known[f.name]: Signal(f.value, f.ci_low, f.ci_high, f.n)
        for f in predicted(frames[0], frames[1], seed=0)[0]
        if f.name in known
    }


def _answers(row: Mapping[str, Any]) -> list[from_run.Answer]:
    """The answers of a row of ``train_pairs.jsonl`` or ``train_thumbs.jsonl``."""
    sides = ("example",) if "example" in row else ("chosen", "rejected")
    found = []
    for side, ref in zip(sides, row["ref"], strict=False):  # a thumb's second is its mismatched one
        prompt_ids, completion_ids, truncated = row[side]
        found.append(from_run.Answer(prompt_ids, completion_ids, truncated, ref))
    return found


def _text(turns: Any) -> str:
    return turns if isinstance(turns, str) else "\n".join(str(t["content"]) for t in turns)


def _special_ids(reference: Path) -> tuple[list[int], int | None]:
    """End tokens and BOS of a model's folder, from its JSON files."""
    ends: list[int] = []
    bos = None
    for name in ("generation_config.json", "config.json"):
        if (reference / name).is_file():
            config = records.read_json(reference / name)
            found = config.get("eos_token_id")
            ends += found if isinstance(found, list) else [found] if found is not None else []
            bos = config.get("bos_token_id") if bos is None else bos
    return list(dict.fromkeys(ends)), bos


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
    late = from_log.mean(from_log.tail(train["accuracy"].to_numpy(dtype=np.float64)))
    gap = late.value - held_out.value
    half = math.hypot(_half(late), _half(held_out))
    found = {"held_out_gap": Signal(gap, gap - half, gap + half, held_out.n)}
    epochs = float(settings.get("epochs") or 1)
    first_pass = train["accuracy"].to_numpy(dtype=np.float64)[: max(1, int(len(train) / epochs))]
    fresh = first_pass[len(first_pass) // 2 :]
    clean = held_out.value
    if len(fresh) >= 10 and held_out.ci_low > 0.52:
        seen, scale = from_log.mean(fresh), 2 * clean - 1
        spread = math.hypot(_half(seen), _half(held_out))
        value = (clean - seen.value) / scale
        found["run_label_noise"] = Signal(
            value, value - spread / scale, value + spread / scale, len(fresh)
        )
    return found


def _half(signal: Signal) -> float:
    return (signal.ci_high - signal.ci_low) / 2
