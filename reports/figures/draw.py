"""Figures for a paper: the report's charts as PNG, PDF and SVG files, sized for columns.

    runs/NAME/figures/frontier.pdf, window-dpo.pdf, ... and captions.md

One column is 3.3 in wide, two are 6.8; text is 8 pt and embedded in a PDF as TrueType. What is
drawn, its ranges, ticks and labels are those of the page's charts. Equal runs give equal bytes.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.records import PrefevalError
from prefeval.reports import verdict as verdicts
from prefeval.reports.figures import dynamics as figure_dynamics
from prefeval.reports.figures import frontier as figure_frontier
from prefeval.reports.figures import length as figure_length
from prefeval.reports.figures import paper
from prefeval.reports.figures import position as figure_position
from prefeval.reports.figures import retention as figure_retention
from prefeval.reports.figures import verdict as figure_verdict
from prefeval.reports.figures import window as figure_window
from prefeval.reports.run import Run, load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 300
# What would differ from one run to the next: dates, and matplotlib's version in the picture.
FORMATS: Mapping[str, Mapping[str, Any]] = {
    "png": {"dpi": DPI, "metadata": {"Software": None}},
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
}
SOURCES = (
    *(figure_verdict, figure_frontier, figure_window, figure_dynamics),
    *(figure_length, figure_position, figure_retention),
)


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats of "png,pdf"; raises ``PrefevalError`` for one that is not drawn.

    >>> parse_formats("PDF, png")
    ('pdf', 'png')
    """
    names = tuple(dict.fromkeys(t.strip().lower() for t in text.split(",") if t.strip()))
    for name in names:
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise PrefevalError(f"figures cannot be written as {name!r}; choose of {known}")
    return names


def write_figures(run_dir: Path, formats: Sequence[str]) -> list[Path]:
    """Draw every figure that the run has numbers for into ``figures/``; return the paths.

    Raises ``PrefevalError`` when the folder is no run or no checkpoint was measured.
    """
    run = load(Path(run_dir))
    if not run.checkpoints:
        raise PrefevalError(f"{run_dir} has no measured checkpoint to draw; continue the sweep")
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    paths, captions = [], []
    with paper.style():
        for drawn in drawings(run):
            name = re.sub(r"[^\w-]+", "-", drawn.name)
            captions.append(f"**{name}.** {drawn.caption}\n")
            for kind in formats:
                paths.append(folder / f"{name}.{kind}")
                _save(drawn.figure, paths[-1], kind)
    paths.append(folder / "captions.md")
    records.write_text(paths[-1], "\n".join(captions).encode("utf-8", "replace").decode("utf-8"))
    return paths


def drawings(run: Run) -> Iterator[paper.Drawn]:
    """Every figure, one at a time; to be drawn and saved in ``paper.style``."""
    verdict = verdicts.read(run)
    for source in SOURCES:
        yield from source.figures(run, verdict)


def _save(figure: Figure, path: Path, kind: str) -> None:
    """Write beside and rename, as all of a run's files are."""
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, **FORMATS[kind])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(picture.getvalue())
    temporary.replace(path)
