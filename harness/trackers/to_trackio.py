"""trackio: a run a trial, in the group of the sweep, in a project of its local store.

The store lies where ``TRACKIO_DIR`` says, by default in the user's cache. Idempotent: a run whose
configuration names the same content is left alone; any other of its name is deleted and written
anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefeval.harness.trackers.read import Point, Series, Tracked

PROJECT, CONTENT = "prefeval", "prefeval_content"


class Trackio:
    """Sends by ``trackio.init``; one run at a time."""

    def __init__(self, argument: str) -> None:
        self.project = argument or PROJECT

    def open(self, run: Tracked) -> None:
        """The group."""
        self.group = run.name

    def send(self, series: Series) -> None:
        """A trial's settings, and its numbers by step."""
        name = f"{self.group}/{series.name}"
        self._run(name, series.content, {**series.params, **series.tags}, series.points)

    def close(self, run: Tracked) -> None:
        """The verdict with the recommended checkpoint's numbers; files as an artifact."""
        self._run(
            f"{run.name}/sweep", run.content, {**run.params, **run.tags},
            {0: {**run.numbers, "trials": len(run.series)}}, run.artifacts,
        )  # fmt: skip

    def _run(
        self, name: str, content: str, config: Mapping[str, Any], points: Mapping[int, Point],
        files: tuple[Path, ...] = (),
    ) -> None:  # fmt: skip
        import trackio

        for old in self._known(name):
            if (old.config or {}).get(CONTENT) == content:
                return
            old.delete()
        run = trackio.init(
            project=self.project, name=name, group=self.group, embed=False, resume="never",
            config={**config, CONTENT: content}, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        for step, point in points.items():
            run.log(dict(point), step=step)
        if files:
            plain = re.sub(r"[^\w.-]", "_", self.group, flags=re.ASCII)
            artifact = trackio.Artifact(f"report-{plain}", type="report")
            for path in files:
                artifact.add_file(str(path))
            run.log_artifact(artifact)
        run.finish()

    def _known(self, name: str) -> list[Any]:
        import trackio

        try:
            return [r for r in trackio.Api().runs(self.project) if r.name == name]
        except ValueError:  # the project does not exist yet
            return []
