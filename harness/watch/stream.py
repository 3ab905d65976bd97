"""One training's checkpoints, measured as they come: what ``prefeval watch`` and a trainer's
callback share.

A stream is one trial of a run folder that every other command reads like a sweep's:

    <name>/  trials/<method>-b<beta>-s0-<hash8>/  trial.json  checkpoint-000200/ (no weights)

    with Stream.open(configure({"reference": ..., "data": ...}), out=..., name=...) as stream:
        found = stream.measure(Path("out/checkpoint-200"), step=200)
        found.metrics["lc_win_rate"].value
        stream.finish()

A checkpoint is known by the content of its weights and tokenizer, not by its path.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefeval import records
from prefeval.harness import checkpoints, eval_run, live, models, results
from prefeval.harness.check_notes import check_notes
from prefeval.harness.eval_run import EvalRun
from prefeval.harness.eval_run import configure as configure
from prefeval.harness.evaluate import VERSION
from prefeval.harness.executors import Executor, open_executor
from prefeval.harness.executors.inline import InlineExecutor
from prefeval.harness.measured import read_metrics
from prefeval.harness.run_folder import CHECKPOINT, RunFolder
from prefeval.harness.settings import SweepConfig
from prefeval.harness.steps import disk_errors
from prefeval.records import MetricResult, PrefevalError, Trial

if TYPE_CHECKING:
    from rich.console import Console

    from prefeval.metrics.selection import Selection

METHOD = "train"
"""What a training is called whose method is not given."""
FOREIGN: Mapping[str, Any] = {"trainer": "other"}
"""Settings of a trial that prefeval did not train: the run's data need not be what it saw."""
METRICS = "metrics.json"
EARLIER = "earlier"


@dataclass(frozen=True)
class Measured:
    """One checkpoint's numbers by name. ``folder`` holds them and every prompt's judgments.

    ``state`` is "measured" just now, "known" from before, or "same" where another step had the
    same weights, whose ``step`` this then is. ``about`` says where it came from: "path",
    "content", and what `Stream.measure` was given.
    """

    step: int
    folder: Path
    metrics: Mapping[str, MetricResult]
    state: Literal["measured", "known", "same"] = "measured"
    note: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


class Stream:
    """Measures checkpoints of one training; use `Stream.open`."""

    def __init__(self, run: EvalRun, trial: Trial) -> None:
        self.run, self.trial = run, trial
        self.folder = run.folder.trial(trial)

    @classmethod
    @contextmanager
    def open(
        cls,
        config: SweepConfig,
        *,
        out: Path,
        name: str = "",
        method: str = METHOD,
        beta: float = 0.0,
        console: Console | None = None,
        in_process: bool = False,
    ) -> Iterator[Stream]:
        """Hold the run folder ``out / name`` and measure the reference, once.

        ``in_process`` measures here and not in a worker: for a host whose main module must not
        run again. ``beta`` is the training's, 0 where it is not known.

        Raises ``PrefevalError`` for what `eval_run.open_run` refuses.
        """
        trial = Trial(method, beta, 0, FOREIGN)
        mark = records.content_hash([config.hash, trial])
        folder = RunFolder((out / (name or f"watch-{mark[:8]}")).absolute())
        executor: Executor = InlineExecutor() if in_process else open_executor("local", 1)
        console = console or live.make_console()
        with eval_run.open_run(config, folder, executor, console, mark) as run:
            stream = cls(run, trial)
            stream._begin()
            yield stream

    def _begin(self) -> None:
        """The trial's record, and the manifest that names it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        records.write_json(self.folder / "trial.json", self.trial)
        manifest = records.read_json(self.run.folder.manifest)
        if manifest.get("trials") != [self.trial.name]:
            manifest |= {"trials": [self.trial.name], "methods": [self.trial.method]}
            records.write_json(self.run.folder.manifest, manifest)

    def content(self, checkpoint: Path) -> str:
        """What names a checkpoint: SHA-256 of its weights, config and tokenizer."""
        base = self.run.task.reference
        tokenizer = checkpoints.tokenizer_dir(checkpoint, base)
        return records.content_hash(
            [checkpoints.weights_hash(checkpoint, base), models.tokenizer_hash(tokenizer)]
        )

    def measure(
        self, checkpoint: Path, step: int, *, replace: bool = False, **about: Any
    ) -> Measured:
        """Measure one checkpoint, and bring the table of results up to date.

        The same content again is not measured again. ``replace`` measures a step anew whose
        weights are others than those measured before. ``about`` is kept beside the results;
        ``path`` in it is where the weights will be found later, if not in ``checkpoint``.

        Raises ``PrefevalError`` for a checkpoint that cannot be measured, or whose step was
        measured with other weights and ``replace`` is false.
        """
        base = self.run.task.reference
        folder = checkpoints.check(checkpoint, base)
        content = self.content(folder)
        out = self.folder / f"checkpoint-{step:06d}"
        key = {"content": content, "version": VERSION}
        before = self._about(out).get("content") if (out / METRICS).is_file() else content
        for other in self._measured_folders():
            if key.items() <= self._about(other).items():
                found = self._read(other, "known" if other == out else "same")
                if found.state == "same":
                    self.run.folder.log("same", step=step, as_step=found.step)
                return found
        if before != content:
            if not replace:
                raise PrefevalError(
                    f"step {step} was measured with other weights than those of {folder}: the "
                    "training was begun again or taken up earlier; give a new --name, or measure "
                    "the step anew with --replace"
                )
            shutil.rmtree(out)
        self.run.do([self.run.job(f"step {step}", folder, out, about={**about, **key})], quiet=True)
        results.tabulate(self.run.folder, [self.trial])
        return self._read(out, "measured")

    def known(self) -> list[Measured]:
        """Every checkpoint that is measured, by step."""
        return [self._read(folder, "known") for folder in self._measured_folders()]

    def best(self, metric: str = "lc_win_rate") -> Measured | None:
        """The measured checkpoint with the best value of a metric; None where there is none.

        Raises ``PrefevalError`` for a metric that has no better end.
        """
        found = [m for m in self.known() if math.isfinite(self._value(m, metric))]
        if not found:
            return None
        better = found[0].metrics[metric].higher_is_better
        if better is None:
            raise PrefevalError(f"{metric} is neither better high nor low; name another metric")
        sign = 1 if better else -1
        return max(found, key=lambda m: (sign * self._value(m, metric), -m.step))

    def _value(self, measured: Measured, metric: str) -> float:
        if metric not in measured.metrics:
            some = ", ".join(sorted(measured.metrics)[:12])
            raise PrefevalError(f"there is no metric {metric!r}; there are {some}, ...")
        return measured.metrics[metric].value

    def finish(self, log: Path | None = None) -> Selection | None:
        """Write the verdict over all steps and the report; None where nothing is measured.

        ``log`` is the training's log or the folder that holds it: its rows are kept beside the
        checkpoints, where diagnoses read them.
        """
        folder, task = self.run.folder, self.run.task
        if log is not None:
            self._take_log(log)
        warnings = [*self.run.warnings, *check_notes(folder.path)]
        return results.conclude(folder, task, [self.trial], {}, warnings)

    def put_aside(self, others_than: Collection[int]) -> None:
        """Move what was measured at other steps into ``earlier/``: it is of a training that was
        begun anew since, and the verdict is of one training."""
        for folder in self._measured_folders():
            step = int(folder.name.rpartition("-")[2])
            if step in others_than:
                continue
            place = self.folder / EARLIER / folder.name
            with disk_errors(self.folder):
                shutil.rmtree(place, ignore_errors=True)
                place.parent.mkdir(exist_ok=True)
                folder.rename(place)
            self.run.folder.log("earlier", step=step)

    def _take_log(self, log: Path) -> None:
        """The steps of a training's log by prefeval's names; none where it has no log yet."""
        from prefeval.harness.logs import training_log

        try:
            rows = training_log.rows_of(training_log.read(log).train)
        except PrefevalError:
            return
        with disk_errors(self.folder):
            records.write_jsonl(self.folder / "train.jsonl", rows)

    def _measured_folders(self) -> list[Path]:
        return sorted(f.parent for f in self.folder.glob(f"checkpoint-*/{METRICS}"))

    def _about(self, out: Path) -> dict[str, Any]:
        """Whose files those in ``out`` are, and by which version of measuring."""
        file = out / CHECKPOINT
        found: dict[str, Any] = records.read_json(file) if file.is_file() else {}
        return found

    def _read(self, out: Path, state: Literal["measured", "known", "same"]) -> Measured:
        found = {r.name: r for r in read_metrics(out / METRICS)}
        step = int(out.name.rpartition("-")[2])
        note = f"the same weights as step {step}" if state == "same" else ""
        return Measured(step, out, found, state, note, self._about(out))
