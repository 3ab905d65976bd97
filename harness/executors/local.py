"""Spawned worker processes on this machine, one torch thread each, that end with the driver."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness.executors import Event, Job
from prefeval.harness.run_folder import CHECKPOINT
from prefeval.harness.steps import disk_fault
from prefeval.records import PrefevalError

THREADS = 1  # a worker, whatever the machine: results must not differ by its cores
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalExecutor:
    """A pool of ``workers`` processes. Use as a context: workers end when it closes."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._context = multiprocessing.get_context("spawn")
        self._live: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, kind: object = None, *exception: object) -> None:
        """A worker ends when its pipe closes; after an error it is stopped where it is."""
        for connection, process in self._live.items():
            connection.close()
            if kind is not None:
                process.terminate()
        for process in self._live.values():
            process.join(timeout=10)
            process.kill()
            process.join()

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(THREADS)))
        try:
            process = self._context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        theirs.close()
        self._live[ours] = process
        return ours

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Give jobs to free workers and yield their events as they come.

        A worker that dies (killed, out of memory) fails its job and is replaced.
        """
        self._drop_dead()
        waiting = deque(jobs)
        busy: dict[Connection, Job] = {}
        idle = list(self._live)
        while waiting or busy:
            while waiting and (idle or len(self._live) < self.workers):
                connection = idle.pop() if idle else self._start()
                try:
                    connection.send(waiting[0])
                except (BrokenPipeError, ConnectionResetError):  # it died while it was idle
                    self._live.pop(connection).join()
                    continue
                busy[connection] = waiting.popleft()
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                try:
                    event = ready.recv()
                except (EOFError, ConnectionResetError):
                    job, process = busy.pop(ready), self._live.pop(ready)
                    process.join()
                    yield Event(job.name, "failed", error=_death(process.exitcode))
                    continue
                yield event
                if event.kind in ("done", "failed"):
                    busy.pop(ready)
                    idle.append(ready)

    def _drop_dead(self) -> None:
        """Forget workers that died while they had nothing to do."""
        for connection, process in list(self._live.items()):
            if not process.is_alive():
                connection.close()
                del self._live[connection]


def _death(exitcode: int | None) -> str:
    if exitcode == -9:
        return "its worker was killed (out of memory?); run again with fewer --workers"
    return f"its worker ended (exit code {exitcode}); run the same command again"


def _work(connection: Connection) -> None:
    """A worker's life: jobs in, events out, until the driver is gone."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what an interrupt means
    _end_with_driver()
    import torch

    from prefeval.harness.threads import no_bars

    no_bars()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True, warn_only=True)
    evaluators: dict[str, Any] = {}
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):
            return
        try:
            connection.send(Event(job.name, "started"))
            perform(job, evaluators, lambda row: connection.send(Event(job.name, "row", row)))  # noqa: B023
            connection.send(Event(job.name, "done"))
        except PrefevalError as error:
            connection.send(Event(job.name, "failed", error=str(error)))
        except BrokenPipeError:
            return
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            first = disk_fault(error) or f"{type(error).__name__}: {error}".splitlines()[0]
            connection.send(Event(job.name, "failed", {"traceback": trace}, first))


def _end_with_driver() -> None:
    """Exit when the driver does, even by SIGKILL: no orphan goes on writing into a run."""
    sentinel = multiprocessing.parent_process()
    assert sentinel is not None

    def watch() -> None:
        wait([sentinel.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def perform(job: Job, evaluators: dict[str, Any], on_row: Any) -> None:
    """Do one job in this process; the evaluator of a task is kept for the next."""
    from prefeval.minitrainers import precision

    with precision.products(job.task):
        _perform(job, evaluators, on_row)


def _perform(job: Job, evaluators: dict[str, Any], on_row: Any) -> None:
    from prefeval.harness import score, train
    from prefeval.harness.evaluate import Evaluator

    def evaluator() -> Evaluator:
        key = job.task.run
        if key not in evaluators:
            evaluators[key] = Evaluator(job.task)
        found: Evaluator = evaluators[key]
        return found

    match job.kind:
        case "reference":
            evaluator().measure_reference()
        case "pairs":
            train.prepare_pairs(job.task)
        case "thumbs":
            train.prepare_thumbs(job.task)
        case "reward_model":
            train.prepare_reward_model(job.task, job.settings, on_row)
        case "judge":
            train.prepare_judge(job.task, job.settings, on_row)
        case "trial":
            assert job.trial is not None
            folder = train.train_trial(job.task, job.trial, on_row)
            if job.settings.get("measure", True):
                train.measure_trial(folder, job.trial, evaluator(), on_row)
        case "checkpoint":
            folder, checkpoint = Path(job.settings["out"]), job.settings["checkpoint"]
            folder.mkdir(parents=True, exist_ok=True)
            about = job.settings.get("about", {})
            records.write_json(folder / CHECKPOINT, {"path": checkpoint, **about})
            evaluator().measure(Path(checkpoint), folder)
        case "score":
            score.perform(evaluator(), job.settings)
