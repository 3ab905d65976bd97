"""Verdicts that cost something, kept by content: asked once, whoever asks again.

One SQLite file. A verdict's key is a hash of the judge's name and settings, the conversation, both
answers in the order shown and the replicate; nothing else counts, so runs share verdicts and judges
of different models never do. Each verdict is committed as it comes: a killed process has lost those
in flight and no other. Several processes may write at once (SQLite's own locks; write-ahead log
where the disk has it).
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.records import Comparison, PrefevalError, Verdict

if TYPE_CHECKING:
    from prefeval.harness.judges import Judge

WAIT = 60.0  # seconds for another process's write
TABLE = """
CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, settings TEXT NOT NULL, prompt TEXT NOT NULL,
    preference REAL, note TEXT NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID
"""


def cached(judge: Judge, path: Path) -> Judge:
    """The judge, with the file in front where its verdicts cost something (``expensive``)."""
    return CachedJudge(judge, path) if getattr(judge, "expensive", False) else judge


class CachedJudge:
    """A judge that is asked only what the file does not hold."""

    def __init__(self, judge: Judge, path: Path) -> None:
        self.judge, self.path = judge, path
        self.hits = self.asked = 0
        with self._guarded(), closing(self._open()) as database, database:
            database.execute(TABLE)
            database.execute("SELECT key, judge, settings, prompt, preference, note FROM verdicts")

    @property
    def name(self) -> str:
        """The judge's own."""
        return self.judge.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """The judge's own."""
        return self.judge.settings

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each comparison, in order; equal ones in a call are replicates."""
        keys = self._keys(items)
        with self._guarded(), closing(self._open()) as database:
            found = _look_up(database, keys)
            new = [i for i, key in enumerate(keys) if key not in found]
            self.hits += len(keys) - len(new)
            for place, verdict in _as_they_come(self.judge, [items[i] for i in new]):
                self.asked += 1
                index = new[place]
                found[keys[index]] = verdict
                self._keep(database, keys[index], items[index], verdict)
        if lost := [items[i].prompt.id for i in new if keys[i] not in found]:
            raise PrefevalError(
                f"judge {self.name} gave no verdict on {len(lost)} comparisons, first {lost[0]!r}"
            )
        return [found[key] for key in keys]

    def _keys(self, items: Sequence[Comparison]) -> list[str]:
        seen: Counter[tuple[Any, ...]] = Counter()
        keys = []
        judge = [self.judge.name, self.judge.settings]
        for item in items:
            shown = (json.dumps(item.prompt.messages, sort_keys=True), item.first, item.second)
            keys.append(records.content_hash([*judge, *shown, seen[shown]]))
            seen[shown] += 1
        return keys

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=WAIT)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        return database

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """SQLite's faults as one line each. Verdicts were paid for: none is given up lightly."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            said = str(error)
            if any(words in said for words in ("not a database", "malformed", "no such column")):
                mend = "it is no file of verdicts, or a broken one: move it away to begin a new one"
            else:
                mend = "free the disk or the lock, or make it writable, and run again: it is kept"
            raise PrefevalError(f"{self.path}: {said}; {mend}") from error

    def _keep(
        self, database: sqlite3.Connection, key: str, item: Comparison, verdict: Verdict
    ) -> None:
        row = (
            key,
            self.judge.name,
            json.dumps(records.to_jsonable(self.judge.settings), sort_keys=True),
            item.prompt.id,
            verdict.preference,
            verdict.note,
        )
        with database:
            database.execute(
                "INSERT OR REPLACE INTO verdicts (key, judge, settings, prompt, preference, note) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )


def _look_up(database: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Verdict]:
    found: dict[str, Verdict] = {}
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        marks = ",".join("?" * len(part))
        rows = database.execute(
            f"SELECT key, preference, note FROM verdicts WHERE key IN ({marks})", part
        )
        found |= {key: Verdict(preference, note) for key, preference, note in rows}
    return found


def _as_they_come(judge: Judge, items: Sequence[Comparison]) -> Iterator[tuple[int, Verdict]]:
    """Verdicts with their places, as soon as the judge has them."""
    if not items:
        return
    if stream := getattr(judge, "stream", None):
        yield from stream(items)
    else:
        yield from enumerate(judge.compare(items))
