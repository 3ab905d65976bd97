"""MLflow: an experiment a project of runs, a parent run a sweep, a child run a trial.

Idempotent: each MLflow run carries the tags ``prefeval.id`` and ``prefeval.content``, the second
set last. One with the same content is left alone; one with other content (half sent, measured
anew) is moved to MLflow's trash, and a new one is made.

A folder as the argument holds ``mlflow.db`` and the artifacts; it needs SQLAlchemy, which
``prefeval[mlflow]`` brings. A server takes its name and password from
``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``, or a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefeval.harness.trackers.read import Point, Series, Tracked

EXPERIMENT = "prefeval"
METRICS, PARAMS, LENGTH = 1000, 100, 6000  # what MLflow takes in one request, and in one value


class MLflow:
    """Sends by ``MlflowClient``: no global state of MLflow is touched."""

    def __init__(self, argument: str) -> None:
        from mlflow import MlflowClient
        from mlflow.environment_variables import MLFLOW_EXPERIMENT_NAME

        self.artifacts: str | None = None
        uri: str | None = argument or None
        if argument and "://" not in argument and not argument.startswith(("databricks", "uc:")):
            folder = Path(argument.removeprefix("file:")).expanduser().absolute()
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder / 'mlflow.db'}"
            self.artifacts = (folder / "artifacts").as_uri()
        self.client: Any = MlflowClient(tracking_uri=uri)
        self.experiment_name = MLFLOW_EXPERIMENT_NAME.get() or EXPERIMENT

    def open(self, run: Tracked) -> None:
        """The experiment, and the sweep's own run."""
        found = self.client.get_experiment_by_name(self.experiment_name)
        self.experiment = (
            found.experiment_id
            if found
            else self.client.create_experiment(
                self.experiment_name, artifact_location=self.artifacts
            )
        )
        self.created = int(1000 * run.created)
        known = self._find(run.id)
        self.parent = known[0].info.run_id if known else self._create(run.id, run.name, run.params)

    def send(self, series: Series) -> None:
        """A trial as a child run."""
        known = self._find(series.id)
        if any(r.data.tags.get("prefeval.content") == series.content for r in known):
            return
        for old in known:
            self.client.delete_run(old.info.run_id)
        run = self._create(series.id, series.name, series.params, parent=self.parent)
        self._log(run, series.points)
        for name, value in series.tags.items():
            self.client.set_tag(run, name, value[:LENGTH])
        state = {"failed": "FAILED", "finished": "FINISHED"}.get(series.tags["status"], "KILLED")
        self.client.set_terminated(run, state)
        self.client.set_tag(run, "prefeval.content", series.content)

    def close(self, run: Tracked) -> None:
        """The verdict as tags, the recommended checkpoint's numbers, the report."""
        saved = self.client.get_run(self.parent)
        if saved.data.tags.get("prefeval.content") == run.content:
            return
        if saved.data.metrics:  # of an earlier verdict
            self.client.delete_run(self.parent)
            before, self.parent = self.parent, self._create(run.id, run.name, run.params)
            self._adopt(before)
        self._log(self.parent, {0: run.numbers})
        for path in run.artifacts:
            self.client.log_artifact(self.parent, str(path))
        for name, value in run.tags.items():
            self.client.set_tag(self.parent, name, value[:LENGTH])
        self.client.set_terminated(self.parent)
        self.client.set_tag(self.parent, "prefeval.content", run.content)

    def _adopt(self, before: str) -> None:
        for child in self._search(f"tags.`mlflow.parentRunId` = '{before}'"):
            self.client.set_tag(child.info.run_id, "mlflow.parentRunId", self.parent)

    def _find(self, identity: str) -> list[Any]:
        return self._search(f"tags.`prefeval.id` = '{identity}'")

    def _search(self, condition: str) -> list[Any]:
        page = self.client.search_runs([self.experiment], condition)
        found = list(page)
        while page.token:
            page = self.client.search_runs([self.experiment], condition, page_token=page.token)
            found += page
        return found

    def _create(self, identity: str, name: str, params: Mapping[str, Any], parent: str = "") -> str:
        from mlflow.entities import Param

        tags = {"prefeval.id": identity} | ({"mlflow.parentRunId": parent} if parent else {})
        made = self.client.create_run(
            self.experiment, start_time=self.created, tags=tags, run_name=name
        )
        run: str = made.info.run_id
        rows = [Param(k, str(v)[:LENGTH]) for k, v in params.items()]
        for part in _parts(rows, PARAMS):
            self.client.log_batch(run, params=part)
        return run

    def _log(self, run: str, points: Mapping[int, Point]) -> None:
        from mlflow.entities import Metric

        rows = [
            Metric(name, value, self.created + 1000 * step, step)
            for step, point in points.items()
            for name, value in point.items()
        ]
        for part in _parts(rows, METRICS):
            self.client.log_batch(run, metrics=part)


def _parts(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
