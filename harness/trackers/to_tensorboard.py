"""TensorBoard: a folder a trial under ``FOLDER/<run>``, an event file each, written anew.

Idempotent: a trial's file is written beside the earlier one, which is then removed.
Event times are the run's beginning, a second a step: when a step was taken is not recorded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefeval.harness.trackers.read import Series, Tracked

MARK = ".prefeval"


class TensorBoard:
    """Writes event files by PyTorch's writer."""

    def __init__(self, argument: str) -> None:
        self.root = Path(argument).expanduser()

    def open(self, run: Tracked) -> None:
        """The run's folder."""
        self.created = run.created
        self.folder = self.root / run.name
        self.folder.mkdir(parents=True, exist_ok=True)

    def send(self, series: Series) -> None:
        """A trial's scalars, and its settings beside its last numbers for the HParams page."""
        from torch.utils.tensorboard import summary

        with _Anew(self.folder / _safe(series.name)) as writer:
            for step, point in series.points.items():
                for name, value in point.items():
                    writer.add_scalar(name, value, step, walltime=self.created + step)
            last = {k: v for point in series.points.values() for k, v in point.items()}
            shown = {k: v for k, v in last.items() if k.startswith("eval/")}
            make: Any = summary.hparams
            for part in make(dict(series.params), shown):
                writer.file_writer.add_summary(part, walltime=self.created)
            text = "  \n".join(f"{k}: {v}" for k, v in series.tags.items())
            writer.add_text("prefeval", text, walltime=self.created)

    def close(self, run: Tracked) -> None:
        """The summary as text: the verdict, the table, the warnings."""
        with _Anew(self.folder) as writer:
            for name, value in run.tags.items():
                writer.add_text(name, value, walltime=self.created)
            for path in run.artifacts:
                if path.suffix == ".md":
                    text = path.read_text(encoding="utf-8")
                    writer.add_text(path.name, text, walltime=self.created)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


class _Anew:
    """A writer whose file takes the place of the folder's earlier one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        self.before = {*self.folder.glob(f"*tfevents*{MARK}"), *self.folder.glob("*tfevents*.new")}
        self.writer = SummaryWriter(str(self.folder), filename_suffix=".new")
        return self.writer

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.writer.close()
        if error is not None:
            return
        for old in self.before:
            old.unlink(missing_ok=True)
        for new in self.folder.glob("*tfevents*.new"):
            new.rename(new.with_name(new.name.removesuffix(".new") + MARK))
