"""A run that trains nothing: its inputs, the reference's measures, and the jobs that follow.

``prefeval eval``, ``prefeval watch`` and a trainer's callback all begin here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.harness import commands, sweep
from prefeval.harness.executors import Executor, Job
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.settings import SweepConfig
from prefeval.harness.task import Task

if TYPE_CHECKING:
    from rich.console import Console

DEFAULTS: Mapping[str, Any] = {
    "reference": "lab", "data": "lab", "lab": "", "device": "auto", "dtype": "float32",
}  # fmt: skip


def configure(options: Mapping[str, Any]) -> SweepConfig:
    """The configuration of an evaluation from the options of ``prefeval eval``; any may be absent.

    Nothing is trained; KTO stands in it because it is the method that takes any data.

    Raises ``PrefevalError`` for what cannot be used.
    """
    given = {**DEFAULTS, **options}
    given["model"] = given["reference"]
    return commands.resolve(given, methods="kto", beta="0.1", seeds="1")


@dataclass(frozen=True)
class EvalRun:
    """An open run whose reference is measured."""

    folder: RunFolder
    task: Task
    executor: Executor
    console: Console
    warnings: tuple[str, ...]

    def job(self, name: str, checkpoint: Path, out: Path, **settings: Any) -> Job:
        """The job that measures one checkpoint into ``out``."""
        settings |= {"checkpoint": str(checkpoint), "out": str(out)}
        return Job(name, "checkpoint", self.task, settings=settings)

    def do(self, jobs: Sequence[Job], *, quiet: bool = False) -> None:
        """Run jobs, ``quiet`` without a line of progress; the first failure raises
        ``PrefevalError``."""
        from rich.console import Console

        console = Console(quiet=True) if quiet else self.console
        sweep.run_shared(jobs, self.executor, self.folder, console)


@contextmanager
def open_run(
    config: SweepConfig, folder: RunFolder, executor: Executor, console: Console, mark: str
) -> Iterator[EvalRun]:
    """Hold the folder and measure the reference in it, once; ``mark`` is whose folder it is.

    Raises ``PrefevalError`` for a folder in use or of another configuration, for inputs that
    cannot be used, and for a judge or a reference that fails.
    """
    with folder.in_use():
        folder.open(mark)
        materials = sweep.prepare_inputs(config, folder, console, sweep.command_line())
        with executor:
            run = EvalRun(folder, materials.task, executor, console, ())
            for stage in sweep.shared_stages(config, materials):
                run.do([j for j in stage if j.kind in ("judge", "reference")])
            notes = (*materials.warnings, *sweep.judge_notes(folder, materials))
            yield EvalRun(folder, materials.task, executor, console, notes)
