"""Reports of a run, from its saved results alone: report.html, summary.md, CSV. Never a model.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_all", "write_figures", "write_report", "write_summary", "write_tables"]


def write_all(run_dir: Path | str, figures: str = "") -> list[Path]:
    """Write summary, tables and report of a run folder, and ``figures`` if any: their paths.

    Raises ``PrefevalError`` when the folder is no run or holds nothing yet.
    """
    from prefeval.reports import page, run, spreadsheets, summary, verdict
    from prefeval.reports.judge import audit as judge_audit

    drawn = write_figures(run_dir, figures) if figures else []
    loaded = run.load(Path(run_dir))
    read, audit = verdict.read(loaded), judge_audit.read(loaded)
    return [
        summary.write(loaded, read, audit),
        *spreadsheets.write(loaded, read),
        page.write(loaded, read, audit),
        *drawn,
    ]


def write_figures(run_dir: Path | str, formats: str) -> list[Path]:
    """Draw figures for a paper into ``figures/`` of a run folder, as "png,pdf,svg" or some of it.

    Raises ``PrefevalError`` for another format, before anything is read.
    """
    from prefeval.reports.figures import draw as figures

    return figures.write_figures(Path(run_dir), figures.parse_formats(formats))


def write_report(run_dir: Path | str) -> Path:
    """Write ``report.html`` alone into a run folder and return its path (see ``reports.page``)."""
    from prefeval.reports import page, run, verdict
    from prefeval.reports.judge import audit as judge_audit

    loaded = run.load(Path(run_dir))
    return page.write(loaded, verdict.read(loaded), judge_audit.read(loaded))


def write_summary(run_dir: Path | str) -> Path:
    """Write ``summary.md`` alone into a run folder; return its path (see ``reports.summary``)."""
    from prefeval.reports import run, summary, verdict
    from prefeval.reports.judge import audit as judge_audit

    loaded = run.load(Path(run_dir))
    return summary.write(loaded, verdict.read(loaded), judge_audit.read(loaded))


def write_tables(run_dir: Path | str) -> list[Path]:
    """Write results.csv, retention.csv and betas.csv into a run folder; return their paths."""
    from prefeval.reports import run, spreadsheets, verdict

    loaded = run.load(Path(run_dir))
    return spreadsheets.write(loaded, verdict.read(loaded))
