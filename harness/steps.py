"""The chain: each step reads files, writes one file, and is skipped when that file answers the
same inputs.

A step's file carries the hash of what it was computed from in a small file beside it, written
last: a step that was killed leaves no key and is done again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.records import PrefevalError


def _key_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.key")


def is_done(path: Path, inputs: str) -> bool:
    """Whether ``path`` is whole and was computed from ``inputs``."""
    key = _key_file(path)
    return path.exists() and key.exists() and key.read_text(encoding="utf-8") == inputs


def mark_done(path: Path, inputs: str) -> None:
    """Record, after its file is whole, what ``path`` was computed from."""
    records.write_text(_key_file(path), inputs)


def forget(path: Path) -> None:
    """Remove ``path`` and its key before it is computed anew: a failure leaves nothing stale."""
    _key_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def rows_step(path: Path, inputs: str, compute: Callable[[], Sequence[Any]]) -> list[Any]:
    """Rows of a JSONL file: read when it answers ``inputs``, else computed and written whole."""
    if not is_done(path, inputs):
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            forget(path)
            records.write_jsonl(path, compute())
            mark_done(path, inputs)
    return records.read_jsonl(path)


class disk_errors:
    """Turns a full or read-only disk into one line that says what to do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        mends = {
            errno.ENOSPC: "the disk is full: free space and run the same command again to continue",
            errno.EDQUOT: "the disk quota is used up: free space and run the same command again",
            errno.EROFS: "the file system is read-only: choose another --out",
            errno.EACCES: "no permission to write there: choose another --out",
            errno.ENOTDIR: "a file stands where a folder is needed: choose another --out",
            errno.EEXIST: "a file stands where a folder is needed: choose another --out",
        }
        if error.errno in mends:
            raise PrefevalError(f"cannot write {self.path}: {mends[error.errno]}") from error
