"""Reads files that another process is writing: never half a line, never twice, never blocked.

A file is looked at by its size and time, and read again only where these differ. What is no
regular file (a pipe, a device) or is absurdly large is not read at all. Only what is asked of a
file is kept: the summaries of 200 runs are some 100 MB, what a page shows of them is 100 kB.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

LARGEST = 64 << 20  # bytes of a JSON file, and of one look at a log
TAIL = 512  # bytes by which a log that was written anew is told from one that grew

Row = Mapping[str, Any]


class Mark(NamedTuple):
    """What tells one content of a file from another."""

    inode: int
    size: int
    mtime_ns: int


def mark(path: Path) -> Mark | None:
    """The file's mark; None where there is no regular file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Mark(found.st_ino, found.st_size, found.st_mtime_ns)


def _parse(text: bytes) -> dict[str, Any]:
    """A JSON object; empty for what is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class _Log:
    """How far one JSONL file was read, and the last bytes until there."""

    def __init__(self) -> None:
        self.seen: Mark | None = None
        self.offset = 0
        self.tail = b""
        self.rows: list[Row] = []


class Files:
    """What was read so far, by path. Not for several threads at once."""

    def __init__(self) -> None:
        self._objects: dict[Path, tuple[Mark, Row]] = {}
        self._logs: dict[Path, _Log] = {}
        self._lines: dict[Path, tuple[Mark, int]] = {}

    def object(self, path: Path, pick: Callable[[Row], Row]) -> Row:
        """What ``pick`` takes of a JSON object; of an empty one where the file is missing, broken
        or something else."""
        now = mark(path)
        if now is None or now.size > LARGEST:
            self._objects.pop(path, None)
            return pick({})
        known = self._objects.get(path)
        if known is None or known[0] != now:
            try:
                known = now, pick(_parse(path.read_bytes()))
            except OSError:
                return pick({})
            self._objects[path] = known
        return known[1]

    def rows(self, path: Path, keep: Collection[str]) -> list[Row]:
        """The fields ``keep`` of every whole line of a JSONL file; only what is new is read.

        A last line without its end is being written: it waits for the next look.
        """
        now = mark(path)
        if now is None:
            self._logs.pop(path, None)
            return []
        log = self._logs.setdefault(path, _Log())
        if log.seen == now:
            return log.rows
        try:
            with path.open("rb") as handle:
                handle.seek(log.offset - len(log.tail))
                if handle.read(len(log.tail)) != log.tail:  # written anew
                    log = self._logs[path] = _Log()
                    handle.seek(0)
                new = handle.read(LARGEST)
        except OSError:
            return log.rows
        whole = new[: new.rfind(b"\n") + 1]
        for line in whole.splitlines():
            if row := _parse(line):
                log.rows.append({k: row[k] for k in keep if k in row})
        log.offset += len(whole)
        log.tail = (log.tail + whole)[-TAIL:]
        log.seen = now if len(new) < LARGEST else None
        return log.rows

    def lines(self, path: Path) -> int:
        """How many lines a file has; 0 where there is none."""
        now = mark(path)
        if now is None:
            return 0
        known = self._lines.get(path)
        if known is None or known[0] != now:
            try:
                with path.open("rb") as handle:
                    n = sum(part.count(b"\n") for part in iter(lambda: handle.read(1 << 20), b""))
            except OSError:
                return 0
            known = self._lines[path] = now, n
        return known[1]


def mtime(path: Path) -> float:
    """When a file was last written, in seconds since the epoch; 0 where there is none."""
    found = mark(path)
    return found.mtime_ns / 1e9 if found else 0.0


def subfolders(path: Path) -> list[str]:
    """The names of the folders in a folder, sorted; none where there is none."""
    try:
        return sorted(e.name for e in path.iterdir() if not e.name.startswith(".") and e.is_dir())
    except OSError:
        return []


def number(value: object) -> float:
    """A finite number, or NaN for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    return math.nan


def seconds(iso: object) -> float:
    """A time of the journal in seconds since the epoch; NaN for what is none."""
    try:
        return datetime.datetime.fromisoformat(str(iso)).timestamp()
    except (ValueError, OverflowError, OSError):
        return math.nan
