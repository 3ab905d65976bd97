"""Each tracker itself, writing to a local folder and read back by its own reader."""

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefeval.harness.trackers import track

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:mlflow"),
    pytest.mark.filterwarnings("ignore::Warning:sqlalchemy"),
    pytest.mark.filterwarnings("ignore::Warning:wandb"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
Read = Callable[[Path, str, str], dict[int, Any]]


def sent(run: Path, to: str) -> None:
    said: list[str] = []
    assert track.command(run, to, said.append) == 0, said
    assert said == [f"{to}: 3 trials"]


def trials(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "trials").iterdir())


def measure_anew(run: Path) -> None:
    """As a later version's ``prefeval score`` would: another number for one checkpoint."""
    file = sorted(run.glob("trials/dpo-*/checkpoint-*/metrics.json"))[0]
    saved = json.loads(file.read_text())
    (row,) = [r for r in saved["metrics"] if r["name"] == "lc_win_rate"]
    row["value"] = 12.5
    file.write_text(json.dumps(saved))


def same(found: dict[int, float], log: dict[int, Any]) -> bool:
    """Equal by step, in single precision; what JSON calls null is NaN."""
    assert sorted(found) == sorted(log)
    return all(
        math.isnan(found[s]) if v is None else found[s] == pytest.approx(v, rel=1e-6)
        for s, v in log.items()
    )


# -- MLflow ------------------------------------------------------------------------------------


@pytest.fixture
def mlflow_runs(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'prefeval[mlflow]'")
    pytest.importorskip("sqlalchemy", reason="a local MLflow store needs SQLAlchemy")
    from mlflow import MlflowClient

    def read() -> dict[str, Any]:
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/ml/mlflow.db")
        experiment = client.get_experiment_by_name("prefeval")
        runs = client.search_runs([experiment.experiment_id])
        assert len({r.info.run_name for r in runs}) == len(runs), "a run is there twice"
        return {"client": client, **{r.info.run_name: r for r in runs}}

    return read


def test_mlflow_has_curves_metrics_settings_verdict_and_report(
    run: Path, tmp_path: Path, mlflow_runs: Any, curve: Read, measured: Read
) -> None:
    sent(run, f"mlflow:{tmp_path}/ml")
    runs = mlflow_runs()
    client = runs.pop("client")
    assert sorted(runs) == sorted([run.name, *trials(run)])
    parent = runs.pop(run.name)
    assert parent.data.tags["verdict"].startswith("ship ")
    assert parent.data.params["methods"] == '["dpo", "simpo"]'
    artifacts = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "report.html").read_text() == "<p>report</p>"
    for name, child in runs.items():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.status == "FINISHED"
        assert child.data.params["method"] == name.partition("-")[0]

        def history(key: str, identity: str = child.info.run_id) -> dict[int, float]:
            rows = client.get_metric_history(identity, key)
            assert len({m.step for m in rows}) == len(rows)
            return {m.step: m.value for m in rows}

        assert same(history("train/loss"), curve(run, name, "loss"))
        for step, row in measured(run, name, "lc_win_rate").items():
            assert history("eval/lc_win_rate")[step] == row["value"]
            assert history("eval/lc_win_rate_ci_low")[step] == row["ci_low"]


def test_mlflow_is_not_sent_the_same_run_twice_and_replaces_what_changed(
    run: Path, tmp_path: Path, mlflow_runs: Any
) -> None:
    for _ in range(2):
        sent(run, f"mlflow:{tmp_path}/ml")
    before = {k: v.info.run_id for k, v in mlflow_runs().items() if k != "client"}
    measure_anew(run)
    sent(run, f"mlflow:{tmp_path}/ml")
    runs = mlflow_runs()
    client = runs.pop("client")
    changed = trials(run)[0]
    assert {k for k, v in runs.items() if v.info.run_id != before[k]} == {changed, run.name}
    values = [m.value for m in client.get_metric_history(runs[changed].info.run_id,
                                                         "eval/lc_win_rate")]  # fmt: skip
    assert 12.5 in values
    assert len(values) == 3
    parents = {r.data.tags["mlflow.parentRunId"] for k, r in runs.items() if k != run.name}
    assert parents == {runs[run.name].info.run_id}


# -- TensorBoard -------------------------------------------------------------------------------


def test_tensorboard_has_a_folder_a_trial_and_one_file_in_each_however_often_it_is_sent(
    run: Path, tmp_path: Path, curve: Read, measured: Read
) -> None:
    pytest.importorskip("tensorboard", reason="not installed: pip install 'prefeval[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sent(run, f"tensorboard:{tmp_path}/tb")
    measure_anew(run)
    sent(run, f"tensorboard:{tmp_path}/tb")
    folders = {p.parent.name for p in (tmp_path / "tb").rglob("*tfevents*")}
    assert folders == {run.name, *trials(run)}
    assert len(list((tmp_path / "tb").rglob("*tfevents*"))) == 4
    for name in trials(run):
        read = EventAccumulator(
            str(tmp_path / "tb" / run.name / name), size_guidance={"scalars": 0}
        )
        read.Reload()
        assert same({e.step: e.value for e in read.Scalars("train/loss")}, curve(run, name, "loss"))
        values = {e.step: e.value for e in read.Scalars("eval/lc_win_rate")}
        rows = measured(run, name, "lc_win_rate")
        assert same(values, {step: row["value"] for step, row in rows.items()})
        assert "_hparams_/session_start_info" in read.PluginTagToContent("hparams")
    whole = EventAccumulator(str(tmp_path / "tb" / run.name))
    whole.Reload()
    text = whole.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("ship ")


# -- trackio -----------------------------------------------------------------------------------


def test_trackio_has_a_run_a_trial_in_the_group_of_the_sweep_once(
    run: Path, tmp_path: Path, curve: Read, measured: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio", reason="not installed: pip install 'prefeval[trackio]'")
    import sqlite3

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "tio"))

    def read() -> tuple[dict[str, dict[int, Any]], dict[str, Any]]:
        store = sqlite3.connect(tmp_path / "tio" / "mine.db")
        rows = store.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
        configs = store.execute("SELECT run_name, config FROM configs").fetchall()
        store.close()
        found: dict[str, dict[int, Any]] = {}
        for name, step, metrics in rows:
            assert step not in found.setdefault(name, {}), "a step is there twice"
            found[name][step] = json.loads(metrics)
        assert len(dict(configs)) == len(configs)
        return found, {name: json.loads(config) for name, config in configs}

    for _ in range(2):
        sent(run, "trackio:mine")
    points, configs = read()
    assert set(points) == {f"{run.name}/{n}" for n in (*trials(run), "sweep")}
    assert configs[f"{run.name}/sweep"]["verdict"].startswith("ship ")
    for name in trials(run):
        assert configs[f"{run.name}/{name}"]["_Group"] == run.name
        own = points[f"{run.name}/{name}"]
        log = curve(run, name, "loss")
        assert sorted(own) == sorted(log)
        known = {s: v for s, v in log.items() if v is not None}
        assert all(own[s]["train/loss"] == pytest.approx(v) for s, v in known.items())
        for step, row in measured(run, name, "lc_win_rate").items():
            assert own[step]["eval/lc_win_rate_ci_high"] == row["ci_high"]
    measure_anew(run)
    sent(run, "trackio:mine")
    values = [p["eval/lc_win_rate"] for p in read()[0][f"{run.name}/{trials(run)[0]}"].values()
              if "eval/lc_win_rate" in p]  # fmt: skip
    assert 12.5 in values
    assert len(values) == 3


# -- W&B ---------------------------------------------------------------------------------------


def records_of(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_wandb_has_offline_runs_in_the_group_of_the_sweep_once(
    run: Path, tmp_path: Path, curve: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="not installed: pip install 'prefeval[wandb]'")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody is logged in there
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)

    def read() -> dict[str, list[Any]]:
        files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
        found = [list(records_of(f)) for f in files]
        return {next(r.run.display_name for r in rows if r.HasField("run")): rows for rows in found}

    for _ in range(2):
        sent(run, "wandb")
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 4
    runs = read()
    assert set(runs) == {run.name, *trials(run)}
    for name in trials(run):
        own = next(r.run for r in runs[name] if r.HasField("run"))
        assert (own.run_group, own.job_type, own.project) == (run.name, "trial", "prefeval")
        found = {}
        for record in runs[name]:
            if record.HasField("history"):
                items = {i.key or i.nested_key[0]: json.loads(i.value_json)
                         for i in record.history.item}  # fmt: skip
                found[record.history.step.num] = items["train/loss"]
        numbers = {s: float("nan") if v == "NaN" else v for s, v in found.items()}
        assert same(numbers, curve(run, name, "loss"))
    summary = {i.key or i.nested_key[0]: json.loads(i.value_json) for r in runs[run.name]
               if r.HasField("summary") for i in r.summary.update}  # fmt: skip
    assert summary["verdict"].startswith("ship ")
    measure_anew(run)
    sent(run, "wandb")
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 4
    assert "12.5" in str(read()[trials(run)[0]])
