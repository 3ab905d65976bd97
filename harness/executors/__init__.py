"""Where trials run: one protocol, one file an implementation, named in ``EXECUTORS``.

An executor takes jobs and yields what becomes of them. Files are the state: a job that is done
again finds what it had finished, so an executor may run a job more than once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, Protocol, Self

from prefeval.harness.task import Task
from prefeval.records import PrefevalError, Trial

EXECUTORS: Mapping[str, str] = {"local": "prefeval.harness.executors.local:LocalExecutor"}
"""The class of each executor by the name that ``--executor`` takes; called with the number of
workers."""


@dataclass(frozen=True)
class Job:
    """One unit of work: something that all trials share, or a trial."""

    name: str
    kind: Literal[
        "judge", "reference", "pairs", "thumbs", "reward_model", "trial", "checkpoint", "score"
    ]
    task: Task
    trial: Trial | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


class JobFailed(PrefevalError):
    """A job that others needed failed where it ran: a model, a judge, the machine."""


@dataclass(frozen=True)
class Event:
    """What a worker says: that it began, a row of progress, that it is done, or why it failed."""

    job: str
    kind: Literal["started", "row", "done", "failed"]
    row: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class Executor(Protocol):
    """Runs jobs; use as a context, which ends what it started."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Run all jobs, in any order; a failed one does not stop the others."""
        ...


def require_known(name: str) -> None:
    """Raise ``PrefevalError`` unless there is an executor of this name."""
    if name not in EXECUTORS:
        raise PrefevalError(f"unknown executor {name!r}; use {', '.join(EXECUTORS)}")


def open_executor(name: str, workers: int) -> Executor:
    """The executor of this name; ``PrefevalError`` for an unknown one."""
    require_known(name)
    module, _, cls = EXECUTORS[name].partition(":")
    executor: Executor = getattr(import_module(module), cls)(workers)
    return executor
