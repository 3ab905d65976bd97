"""``prefeval score``: all that follows generation, again, from the answers that a run saved.

For a new version's metrics, a mended check, or a judge whose verdicts are wanted anew: nothing is
generated. Log-probabilities and KL need the checkpoint's weights; where these are gone the saved
ones are kept, and said to be.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prefeval import metrics, records
from prefeval.harness import live, results
from prefeval.harness.evaluate import Evaluator
from prefeval.harness.executors import Event
from prefeval.harness.measured import read_metrics
from prefeval.harness.run_folder import CHECKPOINT, RunFolder
from prefeval.harness.task import Task
from prefeval.records import PrefevalError, Trial

if TYPE_CHECKING:
    from rich.console import Console


class Measured(NamedTuple):
    """A checkpoint, and the folder with what was measured of it."""

    checkpoint: Path
    out: Path


def score(folder: Path, console: Console) -> Path:
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
        found = _measured(run)
        if not found:
            raise PrefevalError(f"{folder} has no measured checkpoint; run its sweep or eval again")
        evaluator = Evaluator(task)
        evaluator.adopt(task.reference_dir, evaluator.key, scores=False)
        evaluator.measure_reference()
        gone = 0
        with live.Progress(console, "checkpoints", len(found)) as progress:
            for one in found:
                lost = not any(one.checkpoint.glob("*.safetensors"))
                key = evaluator.key if lost else evaluator.key_of(one.checkpoint)
                evaluator.adopt(one.out, key, scores=lost)
                evaluator.measure(one.checkpoint, one.out, key)
                gone += lost
                progress.see(Event(f"{one.out.parent.name} {one.out.name}", "done"))
        if gone:
            console.print(
                f"! {gone} of {len(found)} checkpoints have no weights any more: their "
                "log-probabilities and KL are those that were saved",
                highlight=False,
            )
        _conclude(run, task, found)
    return run.results


def _measured(run: RunFolder) -> list[Measured]:
    """The checkpoints of a sweep, which lie beside their results, or of an ``eval``."""
    files = [*run.trials.glob("*/checkpoint-*"), *(run.path / "checkpoints").glob("*")]
    found = []
    for out in sorted(f for f in files if (f / "completions.jsonl").is_file()):
        source = out / CHECKPOINT
        where = Path(records.read_json(source)["path"]) if source.is_file() else out
        found.append(Measured(where, out))
    return found


def _conclude(run: RunFolder, task: Task, found: list[Measured]) -> None:
    """The run's table, and a sweep's verdict and report."""
    if run.trials.is_dir():
        saved = records.read_json(run.summary) if run.summary.is_file() else {}
        failed = {f["trial"]: f["error"] for f in saved.get("failed", ())}
        trials = [Trial(**records.read_json(f)) for f in sorted(run.trials.glob("*/trial.json"))]
        results.conclude(run, task, trials, failed, saved.get("warnings", ()))
        return
    rows = [
        {"checkpoint": str(m.checkpoint), **metrics.row(read_metrics(m.out / "metrics.json"))}
        for m in found
    ]
    results.write_table(run.results, rows)
