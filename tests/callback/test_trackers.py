"""What real trackers get through the trainer, each writing to a local folder; skipped without."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from prefeval.harness.lab import lab

NAME = "eval/prefeval/kl"  # as transformers rewrites eval_prefeval/kl for all of them but MLflow

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:mlflow"),
    pytest.mark.filterwarnings("ignore::Warning:wandb"),
]


def run(training: Any, built: lab.Lab, out: Path, own: Any, tracker: str) -> dict[int, float]:
    """Train; the KL by step that the trainer's own log has."""
    trained = training.trainer(
        built, out, "plain", [own], report_to=tracker, run_name="prefeval-test", max_steps=2
    )
    trained.train()
    rows = [r for r in trained.state.log_history if "eval_prefeval/kl" in r]
    assert len(rows) == 1
    return {r["step"]: r["eval_prefeval/kl"] for r in rows}


def test_tensorboard_has_the_evaluation_at_its_step(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    logged = run(training, built, tmp_path, callback(wait=False), "tensorboard")
    read = EventAccumulator(str(next((tmp_path / "tb").rglob("events*")).parent))
    read.Reload()
    assert {e.step: pytest.approx(e.value) for e in read.Scalars(NAME)} == logged
    assert [e.step for e in read.Scalars("train/loss")] == [1, 2]


@pytest.mark.slow
def test_wandb_offline_has_the_evaluation(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_PROJECT": "test",
        "WANDB_SILENT": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    logged = run(training, built, tmp_path, callback(), "wandb")
    assert dict(wandb.run.summary)[NAME] == pytest.approx(logged[2])
    wandb.finish()
    assert list(tmp_path.rglob("run-*.wandb"))


@pytest.mark.slow
def test_mlflow_has_the_evaluation_at_its_step(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    logged = run(training, built, tmp_path, callback(), "mlflow")
    (found,) = mlflow.MlflowClient().search_runs(["0"])
    points = mlflow.MlflowClient().get_metric_history(found.info.run_id, "eval_prefeval/kl")
    assert {p.step: pytest.approx(p.value) for p in points} == logged


@pytest.mark.slow
def test_trackio_has_the_evaluation(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("trackio")
    for name, module in list(sys.modules.items()):  # it reads its folder when it is imported
        if name.split(".")[0] == "trackio" and hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    logged = run(training, built, tmp_path, callback(), "trackio")
    import sqlite3

    (file,) = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(file) as saved:
        rows = [json.loads(r[0]) for r in saved.execute("select metrics from metrics")]
    saved.close()
    assert [r[NAME] for r in rows if NAME in r] == [pytest.approx(logged[2])]


class Down(TrainerCallback):
    """A tracker that takes what training logs and fails at evaluations."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        if any(name.startswith("eval_prefeval/") for name in logs):
            self.asked.append(state.global_step)
            control.should_training_stop = True
            raise ConnectionError("tracker is down")


def test_a_tracker_that_is_down_warns_once_and_stops_nothing(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    down = Down()
    trained = training.trainer(built, tmp_path, "plain", [down, callback()])
    with pytest.warns(UserWarning, match="Down could not log: ConnectionError") as told:
        trained.train()
    assert down.asked == [2, 4]
    assert len([w for w in told if "could not log" in str(w.message)]) == 1
    assert trained.state.global_step == training.STEPS
    assert [r["step"] for r in trained.state.log_history if "eval_prefeval/kl" in r] == [2, 4]
