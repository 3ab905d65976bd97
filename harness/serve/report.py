"""The report of a run as `prefeval view` gives it out: the saved page, or one made for now.

Saved pages are given out only when they are newer than what they were made from and hold this
version's style and script, which the policy of the answer allows by hash.
"""

from __future__ import annotations

import threading
from pathlib import Path

from markupsafe import escape

from prefeval import reports
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.serve.files import Mark, mark, mtime
from prefeval.harness.serve.runs import REPORT

SOURCES = (
    "manifest.json",
    "summary.json",
    "results.parquet",
    "costs.parquet",
    "trials/*/train.jsonl",
    "trials/*/costs.json",
    "trials/*/checkpoint-*/metrics.json",
)
HEAD = 4096  # bytes in which a page names its policy


class Reports:
    """Makes pages one at a time, and keeps the last of each run that could not be saved."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Path, tuple[tuple[Mark | None, ...], bytes]] = {}

    def policy(self) -> str:
        """What a report may do: its own style and script, by hash."""
        from prefeval.reports import document, page

        return document.security_policy(page.STYLES, page.SCRIPTS)

    def get(self, folder: Path) -> bytes:
        """The run's report; saved in its folder unless that is in use or may not be written.

        Raises ``PrefevalError`` where there is nothing to report yet.
        """
        sources = [p for pattern in SOURCES for p in sorted(folder.glob(pattern))]
        saved = folder / REPORT
        with self._lock:
            if self._is_fresh(saved, folder, sources):
                return saved.read_bytes()
            marks = tuple(mark(p) for p in sources)
            made = self._made.get(folder)
            if made is not None and made[0] == marks:
                return made[1]
            if not RunFolder(folder).is_in_use:
                try:
                    return reports.write_report(folder).read_bytes()
                except OSError:
                    pass  # a folder that may only be read: made for now
            content = self._render(folder)
            self._made[folder] = marks, content
            return content

    def _is_fresh(self, saved: Path, folder: Path, sources: list[Path]) -> bool:
        if not mark(saved) or not saved.resolve().is_relative_to(folder.resolve()):
            return False
        if any(mtime(p) > mtime(saved) for p in sources):
            return False
        with saved.open("rb") as handle:
            return str(escape(self.policy())).encode() in handle.read(HEAD)

    def _render(self, folder: Path) -> bytes:
        from prefeval.reports import page, run, verdict
        from prefeval.reports.judge import audit as judge_audit

        found = run.load(folder)
        return page.render(found, verdict.read(found), judge_audit.read(found)).encode()
