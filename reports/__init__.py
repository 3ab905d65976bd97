"""Reports of a run, from its saved results alone: report.html, summary.md, CSV. Never a model.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_all", "write_report", "write_summary", "write_tables"]


def write_all(run_dir: Path | str) -> list[Path]:
    """Write the summary, the tables and the report of a run folder; return their paths."""
    return [write_summary(run_dir), *write_tables(run_dir), write_report(run_dir)]


def write_report(run_dir: Path | str) -> Path:
    """Write ``report.html`` into a run folder and return its path (see ``reports.page``)."""
    from prefeval.reports import page

    return page.write_report(Path(run_dir))


def write_summary(run_dir: Path | str) -> Path:
    """Write ``summary.md`` into a run folder and return its path (see ``reports.summary``)."""
    from prefeval.reports import summary

    return summary.write_summary(Path(run_dir))


def write_tables(run_dir: Path | str) -> list[Path]:
    """Write results.csv, retention.csv and betas.csv into a run folder; return their paths."""
    from prefeval.reports import spreadsheets

    return spreadsheets.write_tables(Path(run_dir))
