"""What holds for any tracker: one that is down, hangs or is not there never holds a run up."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefeval.harness import trackers
from prefeval.harness.trackers import Target, read, track
from prefeval.records import PrefevalError

DOWN = "mlflow:http://127.0.0.1:9"


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def needs(name: str) -> None:
    pytest.importorskip(name, reason=f"not installed: pip install 'prefeval[{name}]'")


@pytest.mark.filterwarnings("ignore::Warning:mlflow")
def test_a_tracker_that_is_down_is_one_line_and_the_others_get_their_runs(
    run: Path, tmp_path: Path
) -> None:
    needs("mlflow")
    needs("tensorboard")
    said: list[str] = []
    code = track.command(run, f"{DOWN},tensorboard:{tmp_path}/tb", said.append)
    assert code == 5
    assert len(said) == 2
    assert said[0].startswith("! mlflow was not reached (")
    assert f"prefeval track '{run}' --to {DOWN}" in said[0]
    assert said[1] == f"tensorboard:{tmp_path}/tb: 3 trials"


@pytest.mark.filterwarnings("ignore::Warning:mlflow")
def test_a_tracker_that_hangs_on_start_is_given_up_after_its_limit(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("mlflow")
    said: list[str] = []
    with silent_server() as address:
        start = time.monotonic()
        with track.following(run, [Target("mlflow", address)], said.append, limit=6) as tracking:
            tracking.poke()
            poked = time.monotonic() - start
        took = time.monotonic() - start
    assert poked < 3, "to poke must not wait"
    assert took < 20
    (line,) = said
    assert "no answer for 6 s after 0 trials" in line


def test_a_machine_without_room_for_a_process_costs_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(track.subprocess, "Popen", full)
    said: list[str] = []
    with track.following(run, [Target("mlflow", "somewhere")], said.append) as tracking:
        tracking.poke()
    (line,) = said
    assert "no process for it: Cannot allocate memory" in line
    assert f"prefeval track '{run}' --to mlflow:somewhere" in line


def fail_while(tracking: track.Tracking, started: list[int]) -> None:
    with tracking.to_the_end():
        tracking.poke()
        started += [sending._process.pid for sending in tracking._under_way.values()]
        raise RuntimeError("training")


def test_a_block_that_fails_leaves_no_process_behind(run: Path) -> None:
    needs("mlflow")
    with silent_server() as address:
        tracking = track.Tracking(run, [Target("mlflow", address)], print)
        started: list[int] = []
        with pytest.raises(RuntimeError, match="training"):
            fail_while(tracking, started)
        (process,) = started
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_while_a_sweep_runs_only_finished_trials_are_sent_and_all_of_them_at_its_end(
    run: Path, tmp_path: Path
) -> None:
    needs("tensorboard")
    names = sorted(p.name for p in (run / "trials").iterdir())
    costs = run / "trials" / names[0] / "costs.json"
    costs.rename(costs.with_name("later"))
    target = Target("tensorboard", str(tmp_path / "tb"))
    with track.following(run, [target], print) as tracking:
        tracking.poke()
        while tracking._under_way and not tracking._is_free(target):
            time.sleep(0.05)
        folders = {p.name for p in (tmp_path / "tb" / run.name).iterdir() if p.is_dir()}
        assert folders == set(names[1:])
    assert {p.name for p in (tmp_path / "tb" / run.name).iterdir() if p.is_dir()} == set(names)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("comet", "unknown tracker 'comet'"),
        ("tensorboard", "needs a folder"),
        ("tensorboard:a,tensorboard:a", "given twice"),
        ("mlflow:https://me:hunter2@host/x", "carries a password"),
        ("trackio:https://host/?write_token=hunter2", "carries a password"),
    ],
)
def test_a_wrong_target_is_one_line_that_never_repeats_a_password(text: str, why: str) -> None:
    with pytest.raises(PrefevalError, match=why) as caught:
        trackers.parse(text)
    assert "hunter2" not in str(caught.value)


def test_addresses_may_hold_commas_and_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "_require_installed", lambda name: None)
    found = trackers.parse("mlflow:sqlite:////a,b/x.db,wandb,tensorboard:logs")
    assert [str(t) for t in found] == ["mlflow:sqlite:////a,b/x.db", "wandb", "tensorboard:logs"]


def test_a_tracker_that_is_not_installed_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PrefevalError, match=r"pip install 'prefeval\[wandb\]'"):
        trackers.parse("wandb")


def test_secrets_are_struck_out_of_what_is_sent_or_said(run: Path) -> None:
    secret = {"MLFLOW_TRACKING_TOKEN": "abcdef123", "HOME": "abcdef"}
    text = "no route to http://me:pw@host with abcdef123, abcdef"
    assert trackers.without_secrets(text, secret) == "no route to http://***@host with ***, abcdef"
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["config"]["judge"] = "endpoint:url=https://me:pw@host/v1"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "pw" not in str(read.read(run).params)


def test_a_run_is_read_with_its_failures_and_its_recommendation(
    run: Path, measured: Callable[..., dict[int, Any]]
) -> None:
    name = sorted(p.name for p in (run / "trials").iterdir())[0]
    summary = json.loads((run / "summary.json").read_text())
    best = summary["selection"]["recommended"]
    summary["failed"] = [{"trial": name, "error": "loss is NaN"}]
    (run / "summary.json").write_text(json.dumps(summary))
    found = read.read(run)
    tags = {s.name: dict(s.tags) for s in found.series}
    assert tags[name] | {"recommended": ""} == {
        "status": "failed", "error": "loss is NaN", "recommended": ""
    }  # fmt: skip
    (chosen,) = [s for s in found.series if "recommended" in s.tags]
    assert chosen.tags["recommended"] == f"step {best['step']}"
    row = measured(run, chosen.name, "lc_win_rate")[best["step"]]
    assert found.numbers["eval/lc_win_rate"] == row["value"]
    assert read.read(run) == found


def test_an_undefined_metric_is_left_out_and_never_zero(run: Path) -> None:
    for file in run.glob("trials/*/checkpoint-*/metrics.json"):
        saved = json.loads(file.read_text())
        for row in saved["metrics"]:
            if row["name"] == "kl":
                row |= {"value": None, "ci_low": None, "ci_high": None, "reason": "none"}
        file.write_text(json.dumps(saved))
    for series in read.read(run).series:
        keys = {k for point in series.points.values() for k in point}
        assert "eval/lc_win_rate" in keys
        assert not keys & {"eval/kl", "eval/kl_ci_low"}
