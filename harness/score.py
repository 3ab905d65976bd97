"""``prefeval score``: all that follows generation, again, from the answers that a run saved.

For a new version's metrics or a mended check: nothing is generated. Verdicts that cost something
come from the run's cache. Log-probabilities and KL need the checkpoint's weights; where these are
gone the saved ones are kept, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prefeval import metrics, records
from prefeval.harness import live, results
from prefeval.harness.check_notes import NEITHER, check_notes
from prefeval.harness.executors import Job, open_executor
from prefeval.harness.measured import read_metrics
from prefeval.harness.run_folder import CHECKPOINT, RunFolder
from prefeval.harness.task import Task
from prefeval.records import PrefevalError, Trial

if TYPE_CHECKING:
    from rich.console import Console

    from prefeval.harness.evaluate import Evaluator


class Measured(NamedTuple):
    """A checkpoint, and the folder with what was measured of it."""

    checkpoint: Path
    out: Path

    @property
    def has_weights(self) -> bool:
        """Whether models can still be asked."""
        return any(self.checkpoint.glob("*.safetensors"))

    @property
    def has_scores(self) -> bool:
        """Whether what models said is saved."""
        return all((self.out / f"{name}.jsonl").is_file() for name in ("samples", "pairs"))


def score(folder: Path, console: Console, *, workers: int = 1) -> Path:
    """Score the run in ``folder`` anew; returns the table of its results.

    Raises ``PrefevalError`` for a folder that is no run, or whose answers are not its prompts'.
    """
    run = RunFolder(folder.absolute())
    if not run.task.is_file():
        raise PrefevalError(
            f"{folder} holds no run that can be scored (no task.json); run its sweep or eval again"
        )
    with run.in_use():
        task = Task.read(run.task)
        everything = _measured(run)
        found = [m for m in everything if m.has_weights or m.has_scores]
        if not found:
            raise PrefevalError(f"{folder} has no measured checkpoint; run its sweep or eval again")
        jobs = [Job("reference", "score", task)]
        jobs += [
            Job(
                f"{m.out.parent.name} {m.out.name}", "score", task,
                settings={"checkpoint": str(m.checkpoint) if m.has_weights else "",
                          "out": str(m.out)},
            )
            for m in found
        ]  # fmt: skip
        with open_executor("local", workers) as executor:
            for part in (jobs[:1], jobs[1:]):
                run_jobs(part, executor, console)
        _tell(everything, found, console)
        _conclude(run, task, found)
    return run.results


def run_jobs(jobs: list[Job], executor: Any, console: Console) -> None:
    """Run them all; the first failure is raised when the others are done."""
    failed = ""
    with live.Progress(console, "scored again", len(jobs)) as progress:
        for event in executor.run(jobs):
            progress.see(event)
            if event.kind == "failed":
                failed = failed or event.error
    if failed:
        raise PrefevalError(failed)


def perform(evaluator: Evaluator, settings: Mapping[str, Any]) -> None:
    """One job in its worker: the reference, or a checkpoint with or without its weights."""
    if not settings:
        reference = Path(evaluator.task.reference)
        evaluator.adopt(evaluator.task.reference_dir, evaluator.key, reference)
        evaluator.measure_reference()
        return
    checkpoint = Path(settings["checkpoint"]) if settings["checkpoint"] else None
    out = Path(settings["out"])
    key = evaluator.key_of(checkpoint) if checkpoint else evaluator.key
    evaluator.adopt(out, key, checkpoint)
    evaluator.measure(checkpoint or out, out, key)


def _tell(everything: list[Measured], found: list[Measured], console: Console) -> None:
    """What could not be done, or not in full."""
    if lost := len(everything) - len(found):
        console.print(
            f"! {lost} of {len(everything)} checkpoints have neither weights nor scores: left as "
            "they are",
            highlight=False,
        )
    if gone := sum(not m.has_weights for m in found):
        console.print(
            f"! {gone} of {len(found)} checkpoints have no weights any more: their "
            "log-probabilities and KL are those that were saved",
            highlight=False,
        )


def _measured(run: RunFolder) -> list[Measured]:
    """The checkpoints of a sweep, which lie beside their results, or of an ``eval``."""
    files = [*run.trials.glob("*/checkpoint-*"), *(run.path / "checkpoints").glob("*")]
    found = []
    for out in sorted(f for f in files if (f / "completions.jsonl").is_file()):
        source = out / CHECKPOINT
        where = Path(records.read_json(source)["path"]) if source.is_file() else out
        found.append(Measured(where, out))
    return found


def conclude(run: RunFolder) -> None:
    """Write the tables, the verdict and the report again from what is measured."""
    found = [m for m in _measured(run) if (m.out / "metrics.json").is_file()]
    _conclude(run, Task.read(run.task), found)


def _conclude(run: RunFolder, task: Task, found: list[Measured]) -> None:
    """The run's table, and a sweep's verdict and report."""
    if run.trials.is_dir():
        saved = records.read_json(run.summary) if run.summary.is_file() else {}
        failed = {f["trial"]: f["error"] for f in saved.get("failed", ())}
        trials = [Trial(**records.read_json(f)) for f in sorted(run.trials.glob("*/trial.json"))]
        kept = [note for note in saved.get("warnings", ()) if NEITHER not in note]
        results.conclude(run, task, trials, failed, [*kept, *check_notes(run.path)])
        return
    rows = [
        {"checkpoint": str(m.checkpoint), **metrics.row(read_metrics(m.out / "metrics.json"))}
        for m in found
    ]
    results.write_table(run.results, rows)
