"""Weights & Biases: a run a trial, in the group of the sweep, and one for the sweep itself.

Offline unless the user is logged in or ``WANDB_MODE`` says otherwise; ``wandb sync`` sends offline
runs later. Ids are fixed by the run and the trial. Idempotent: an offline run in this folder with
the same content is left alone, and one with other content is replaced; online, a run whose
configuration names the same content is left alone, and any other gets the steps it lacks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefeval.harness.trackers.read import Point, Series, Tracked

PROJECT, CONTENT = "prefeval", "prefeval_content"


class WandB:
    """Sends by ``wandb.init``; one run at a time."""

    def __init__(self, argument: str) -> None:
        self.project = argument or os.environ.get("WANDB_PROJECT") or PROJECT
        self.mode: Any = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
        self.folder = Path(os.environ.get("WANDB_DIR") or ".") / "wandb"

    def open(self, run: Tracked) -> None:
        """The group."""
        self.group = run.name

    def send(self, series: Series) -> None:
        """A trial's settings, and its numbers by step."""
        self._run(series.id, series.name, "trial", series.content,
                  {**series.params, **series.tags}, series.points, {})  # fmt: skip

    def close(self, run: Tracked) -> None:
        """The verdict and the recommended checkpoint's numbers as a summary; files as an
        artifact."""
        self._run(run.id, run.name, "sweep", run.content, run.params, {},
                  {**run.tags, **run.numbers}, run.artifacts)  # fmt: skip

    def _run(
        self, identity: str, name: str, kind: str, content: str, params: Mapping[str, Any],
        points: Mapping[int, Point], summary: Mapping[str, Any], files: tuple[Path, ...] = (),
    ) -> None:  # fmt: skip
        import wandb

        before = sorted(self.folder.glob(f"offline-run-*-{identity}"))
        marks = [f for f in before if _mark(f).is_file() and _mark(f).read_text() == content]
        if self.mode == "offline" and marks:
            return
        settings = wandb.Settings(
            silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True,
            x_disable_machine_info=True, init_timeout=45,
        )  # fmt: skip
        with wandb.init(
            project=self.project, id=identity, name=name, group=self.group, job_type=kind,
            mode=self.mode, resume="allow", config=dict(params), settings=settings,
        ) as sent:  # fmt: skip
            if sent.resumed and sent.config.get(CONTENT) == content:
                return
            for step, point in points.items():
                if step >= sent.step:
                    sent.log(dict(point), step=step)
            sent.summary.update(dict(summary))
            if files:
                artifact = wandb.Artifact(f"report-{identity}", type="report")
                for path in files:
                    artifact.add_file(str(path))
                sent.log_artifact(artifact)
            sent.config.update({CONTENT: content}, allow_val_change=True)
            here = Path(sent.dir).parent
        if self.mode == "offline":
            _mark(here).write_text(content)
            for old in before:
                if not list(old.glob("*.synced")):
                    shutil.rmtree(old)


def _mark(folder: Path) -> Path:
    return folder / "prefeval.content"


def _logged_in() -> bool:
    """Whether there is a key; nothing is asked, of a person or of a server."""
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except Exception:  # what a missing key is called differs by version
        return False
