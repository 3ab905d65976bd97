"""The folder of a run: where things are, who is using it, and whether it is the one asked for."""

from __future__ import annotations

import datetime
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness.steps import disk_errors
from prefeval.records import PrefevalError, Trial

CHECKPOINT = "checkpoint.json"
"""Beside what `eval` measured of a checkpoint: where its weights are."""
LOCK = ".lock"
PATIENCE = 0.2
"""Seconds to ask for the lock: `is_in_use` of another process holds it for an instant."""


class RunFolder:
    """Paths inside ``runs/<name>/``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "manifest.json"
        self.mark = path / ".run"
        self.task = path / "task.json"
        self.journal = path / "journal.jsonl"
        self.data = path / "data"
        self.reference = path / "reference"
        self.judge = path / "judge"
        self.reward_model = path / "reward_model"
        self.trials = path / "trials"
        self.results = path / "results.parquet"
        self.costs = path / "costs.parquet"
        self.summary = path / "summary.json"
        self.report = path / "report.html"

    def trial(self, trial: Trial) -> Path:
        """The folder of one trial."""
        return self.trials / trial.name

    def open(self, config_hash: str) -> None:
        """Create the folder, or make sure that it holds this configuration."""
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("", encoding="utf-8")
            probe.unlink()
        found = self._holds()
        if found is None:
            if any(f.name not in (".lock", ".gitignore") for f in self.path.iterdir()):
                raise PrefevalError(
                    f"{self.path} is not empty and holds no run; choose another --out or --name"
                )
            with disk_errors(self.path):
                records.write_text(self.mark, config_hash)
        elif found != config_hash:
            raise PrefevalError(
                f"{self.path} holds a run of another configuration; choose another --out or "
                "--name, or delete it"
            )

    def _holds(self) -> str | None:
        """The hash of the configuration whose run this is; None where there is none.

        The mark is there from the run's first moment, the manifest once its data are: a run that
        was stopped in between, or whose manifest was lost, is still known.
        """
        if self.mark.exists():
            return self.mark.read_text(encoding="utf-8")
        if self.manifest.exists():
            return str(records.read_json(self.manifest).get("config_hash"))
        return None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the folder: a lock of the operating system, which dies with its holder."""
        import filelock

        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path / LOCK)
            try:
                lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 10)
            except filelock.Timeout:
                raise PrefevalError(
                    f"{self.path} is in use by another sweep; wait for it, or choose another --out"
                ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def is_in_use(self) -> bool:
        """Whether a process holds the folder; asked by a shared lock, given back at once."""
        try:
            import fcntl
        except ImportError:  # Windows, which cannot be asked without taking the lock
            return False
        try:
            handle = os.open(self.path / LOCK, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:  # never used, or not ours to look at
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
        finally:
            os.close(handle)
        return False

    def log(self, event: str, **fields: Any) -> None:
        """One line in the journal, which the driver alone writes; it is a log, not the state."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row = records.to_jsonable({"time": now, "event": event, **fields})
        if not self.path.is_dir():
            raise PrefevalError(f"{self.path} was removed during the run; run the command again")
        with disk_errors(self.journal), self.journal.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
