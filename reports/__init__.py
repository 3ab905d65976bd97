"""Reports of a run, from its saved results alone: report.html and summary.md. Never a model.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report", "write_summary"]


def write_report(run_dir: Path | str) -> Path:
    """Write ``report.html`` into a run folder and return its path (see ``reports.page``)."""
    from prefeval.reports import page

    return page.write_report(Path(run_dir))


def write_summary(run_dir: Path | str) -> Path:
    """Write ``summary.md`` into a run folder and return its path (see ``reports.summary``)."""
    from prefeval.reports import summary

    return summary.write_summary(Path(run_dir))
