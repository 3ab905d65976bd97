"""Where trials run: one protocol, one file an implementation.

An executor takes jobs and yields what becomes of them. Files are the state: a job that is done
again finds what it had finished, so an executor may run a job more than once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from prefeval.harness.task import Task
from prefeval.records import Trial


@dataclass(frozen=True)
class Job:
    """One unit of work: something that all trials share, or a trial."""

    name: str
    kind: Literal["judge", "reference", "pairs", "thumbs", "reward_model", "trial", "checkpoint"]
    task: Task
    trial: Trial | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """What a worker says: that it began, a row of progress, that it is done, or why it failed."""

    job: str
    kind: Literal["started", "row", "done", "failed"]
    row: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class Executor(Protocol):
    """Runs jobs; implementations: `local.LocalExecutor`."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Run all jobs, in any order; a failed one does not stop the others."""
        ...
