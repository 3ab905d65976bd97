"""Jobs in the process that asks for them: for a trainer's callback, which has no main to spawn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefeval.harness.executors import Event, Job
from prefeval.records import PrefevalError


class InlineExecutor:
    """Runs one job after the other here; what the host computes with is given back as it was.

    An error that is no fault of the input is raised, not told: there is no other process to keep.
    """

    def __init__(self, workers: int = 1) -> None:
        self._evaluators: dict[str, Any] = {}

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._evaluators.clear()

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Run all jobs; a failed one does not stop the others."""
        from prefeval.harness.executors.local import perform

        for job in jobs:
            yield Event(job.name, "started")
            rows: list[Event] = []
            try:
                with _as_a_worker(), _untouched():
                    perform(
                        job, self._evaluators,
                        lambda row, job=job, rows=rows: rows.append(Event(job.name, "row", row)),
                    )  # fmt: skip
            except PrefevalError as error:
                yield Event(job.name, "failed", error=str(error))
                continue
            yield from rows
            yield Event(job.name, "done")


@contextmanager
def _as_a_worker() -> Iterator[None]:
    """One thread and deterministic algorithms, or numbers would differ from a worker's."""
    import torch

    from prefeval.harness.threads import one_thread

    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with one_thread():
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)


@contextmanager
def _untouched() -> Iterator[None]:
    """Global random states and autograd's mode after the block are those before it."""
    import numpy as np
    import torch

    python, arrays, grad = random.getstate(), np.random.get_state(), torch.is_grad_enabled()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_grad_enabled(grad)
