"""Reports of a run, from its saved results alone: report.html, summary.md, CSV. Never a model.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_all", "write_figures", "write_report", "write_summary", "write_tables"]


def write_all(run_dir: Path | str, figures: str = "") -> list[Path]:
    """Write summary, tables and report of a run folder, and ``figures`` if any: their paths."""
    drawn = write_figures(run_dir, figures) if figures else []
    return [write_summary(run_dir), *write_tables(run_dir), write_report(run_dir), *drawn]


def write_figures(run_dir: Path | str, formats: str) -> list[Path]:
    """Draw figures for a paper into ``figures/`` of a run folder, as "png,pdf,svg" or some of it.

    Raises ``PrefevalError`` for another format, before anything is read.
    """
    from prefeval.reports import figures

    return figures.write_figures(Path(run_dir), figures.parse_formats(formats))


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
