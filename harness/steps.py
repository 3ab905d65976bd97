"""The chain: each step reads files, writes one file, and is skipped when that file answers the
same inputs.

A step's file carries the hash of what it was computed from, and its own size, in a small file
beside it, written last: a step that was killed leaves no key and is done again, and so is one whose
file was cut short since.
"""

from __future__ import annotations

import errno
import os
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
    if not (path.is_file() and key.is_file()):
        return False
    return key.read_text(encoding="utf-8") == f"{inputs} {path.stat().st_size}"


def mark_done(path: Path, inputs: str) -> None:
    """Record, after its file is whole, what ``path`` was computed from."""
    records.write_text(_key_file(path), f"{inputs} {path.stat().st_size}")


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

    def __init__(self, path: Path, other: str = "choose another --out") -> None:
        self.path, self.other = path, other

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and (why := disk_fault(error, self.other)):
            raise PrefevalError(f"cannot write {self.path}: {why}") from error


def disk_fault(error: Exception, other: str = "choose another --out") -> str:
    """What is wrong with the disk and how to mend it; "" for any other error.

    Libraries that write files themselves say so only in their error's text.
    """
    code = error.errno if isinstance(error, OSError) else None
    if code is None and os.strerror(errno.ENOSPC) in str(error):
        code = errno.ENOSPC
    again = "free space and run the same command again to continue"
    mends = {
        errno.ENOSPC: f"the disk is full: {again}",
        errno.EDQUOT: f"the disk quota is used up: {again}",
        errno.EROFS: f"the file system is read-only: {other}",
        errno.EACCES: f"no permission to write there: {other}",
        errno.EPERM: f"no permission to write there: {other}",
        errno.ENOTDIR: f"a file stands where a folder is needed: {other}",
        errno.EEXIST: f"a file stands where a folder is needed: {other}",
        errno.ENAMETOOLONG: "its name is too long: choose a shorter --name",
    }
    return mends.get(code, "") if code is not None else ""
