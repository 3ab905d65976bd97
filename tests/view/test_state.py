"""How far a run is, told from files that a sweep writes, breaks and leaves behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval.harness.run_folder import RunFolder
from prefeval.harness.serve import state as live_state
from prefeval.harness.serve.files import Files
from prefeval.harness.serve.state import RunState
from prefeval.harness.serve.trials import TrialState, planned_steps, thin, time_left

START = 1_700_000_000
A, B = "dpo-b0.1-s0-aa", "dpo-b0.3-s0-bb"


def read(folder: Path, files: Files | None = None, now: float = 100) -> RunState:
    return live_state.read(folder, files or Files(), START + now)


def states(run: RunState) -> dict[str, str]:
    return {t.name: t.state for t in run.trials}


def hold(path: Path, began: float = 0) -> filelock.BaseFileLock:
    """Take the folder as a sweep does, at a time of its own."""
    lock = filelock.FileLock(path / ".lock")
    lock.acquire(timeout=0)
    os.utime(path / ".lock", (START + began, START + began))
    return lock


def test_a_held_lock_reads_running_and_a_free_one_interrupted(make_run: Callable[..., Any]) -> None:
    run = make_run()
    run.log(1, "started", job=A)
    run.train(A, 1, 2, 3)
    with hold(run.path):
        held = read(run.path)
        assert (held.state, held.live) == ("running", True)
        assert states(held) == {A: "training", B: "waiting"}
    free = read(run.path)
    assert (free.state, free.live) == ("interrupted", False)
    assert states(free) == {A: "stopped", B: "not started"}


def test_asking_for_the_lock_neither_takes_nor_removes_it(make_run: Callable[..., Any]) -> None:
    folder = RunFolder(make_run().path)
    with folder.in_use():
        assert folder.is_in_use
        assert folder.is_in_use
    assert not folder.is_in_use
    assert (folder.path / ".lock").exists()
    with folder.in_use():
        pass


def test_a_sweep_can_begin_while_somebody_keeps_asking(make_run: Callable[..., Any]) -> None:
    folder = RunFolder(make_run().path)
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.002):  # a thousand times as often as a page asks
            assert folder.is_in_use in (True, False)

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for w in watchers:
        w.start()
    try:
        for _ in range(60):
            with folder.in_use():
                pass
    finally:
        done.set()
        for w in watchers:
            w.join()


def test_a_folder_without_a_lock_file_is_not_in_use_and_gets_none(tmp_path: Path) -> None:
    assert not RunFolder(tmp_path).is_in_use
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_process_is_killed_reads_interrupted(make_run: Callable[..., Any]) -> None:
    run = make_run()
    run.log(1, "started", job=A)
    run.train(A, 1, 2)
    script = (
        "import sys, time; from pathlib import Path;"
        "from prefeval.harness.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).in_use(): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert read(run.path).state == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert read(run.path).state == "interrupted"


def test_a_sweep_is_followed_from_its_first_file_to_its_end(make_run: Callable[..., Any]) -> None:
    run, files = make_run(), Files()

    def now() -> tuple[dict[str, str], int, float]:
        found = read(run.path, files)
        return states(found), found.done, round(found.share, 3)

    with hold(run.path):
        assert now() == ({A: "waiting", B: "waiting"}, 0, 0.0)
        run.log(2, "started", job=A)
        assert now()[0] == {A: "starting", B: "waiting"}
        run.train(A, 1, 2, 3, 4, 5)
        assert now() == ({A: "training", B: "waiting"}, 0, 0.175)  # 0.7 of half a trial of two
        run.train(A, *range(6, 11), done=True)
        run.checkpoint(A, 5)
        run.checkpoint(A, 10)
        assert now() == ({A: "measuring", B: "waiting"}, 0, 0.35)
        run.checkpoint(A, 5, lc=60)
        assert now() == ({A: "measuring", B: "waiting"}, 0, 0.425)
        run.finish(A)
        run.log(40, "done", job=A)
        assert now() == ({A: "finished", B: "waiting"}, 1, 0.5)
        run.log(40, "started", job=B)
        run.log(50, "failed", job=B, error="loss is nan at step 3; lower the learning rate")
        found = read(run.path, files)
        assert states(found)[B] == "failed"
        assert found.trials[1].error == "loss is nan at step 3; lower the learning rate"
        run.log(60, "concluded", failed=[B])
    assert read(run.path, files).state == "failed trials"


def test_a_failed_trial_that_runs_again_is_not_failed(make_run: Callable[..., Any]) -> None:
    run = make_run()
    run.log(1, "failed", job=A, error="no memory")
    run.log(50, "started", job=A)
    with hold(run.path, began=40):
        assert states(read(run.path))[A] == "starting"


def test_a_resumed_run_knows_what_waits_from_what_runs(make_run: Callable[..., Any]) -> None:
    run = make_run()
    for trial in (A, B):
        run.log(1, "started", job=trial)
        log = run.train(trial, 1, 2) / "train.jsonl"
        os.utime(log, (START + 5, START + 5))
    run.log(101, "started", job=A)
    with hold(run.path, began=100):
        assert states(read(run.path)) == {A: "training", B: "waiting"}


def test_what_fails_for_all_trials_is_named(make_run: Callable[..., Any]) -> None:
    run = make_run()
    run.log(1, "failed", job="reference answers", error="the engine is gone")
    found = read(run.path)
    assert (found.state, found.error) == ("failed", "reference answers: the engine is gone")


def test_training_alone_ends_as_trained(make_run: Callable[..., Any]) -> None:
    run = make_run(trials=[A])
    run.train(A, 1, 2, done=True)
    run.log(9, "done", job=A)
    assert (read(run.path).state, states(read(run.path))) == ("trained", {A: "trained"})


def test_an_eval_counts_its_checkpoints(make_run: Callable[..., Any]) -> None:
    run = make_run(trials=["kto-b0.1-s0-cc"])
    (run.path / "checkpoints" / "mine").mkdir(parents=True)
    (run.path / "checkpoints" / "mine" / "metrics.json").write_text('{"metrics": []}')
    assert read(run.path).state == "interrupted"
    (run.path / "results.parquet").write_bytes(b"PAR1")
    found = read(run.path)
    assert (found.state, found.done, found.total) == ("finished", 1, 1)


def test_a_line_that_is_being_written_waits_until_it_is_whole(tmp_path: Path) -> None:
    path, files = tmp_path / "log.jsonl", Files()
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    assert files.rows(path, ("step",)) == [{"step": 1}]
    with path.open("ab") as handle:
        handle.write(b'ss": 0.5}\n')
    assert files.rows(path, ("step",)) == [{"step": 1}, {"step": 2}]


def test_a_log_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    path, files = tmp_path / "log.jsonl", Files()
    path.write_text('{"step": 1, "x": 1}\n{"step": 2, "x": 1}\n')
    assert len(files.rows(path, ("step",))) == 2
    path.write_text('{"step": 1, "x": 9}\n{"step": 2, "x": 9}\n{"step": 3, "x": 9}\n')  # in place
    assert [r["step"] for r in files.rows(path, ("step",))] == [1, 2, 3]
    path.write_text('{"step": 1}\n')
    assert [r["step"] for r in files.rows(path, ("step",))] == [1]
    path.unlink()
    assert files.rows(path, ("step",)) == []


@given(
    lines=st.lists(
        st.one_of(st.integers().map(lambda n: b'{"step": %d}' % n), st.binary(max_size=9))
    ),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_reading_a_log_in_pieces_gives_what_reading_it_whole_gives(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    text = b"".join(line + b"\n" for line in lines)
    path, files = folder / "a.jsonl", Files()
    for end in sorted(min(c, len(text)) for c in cuts):
        path.write_bytes(text[:end])
        files.rows(path, ("step",))
    path.write_bytes(text)
    assert files.rows(path, ("step",)) == Files().rows(path, ("step",))


def test_pipes_folders_and_broken_files_are_read_as_nothing(
    make_run: Callable[..., Any],
) -> None:
    run = make_run()
    run.finish(A)
    metrics = run.path / "trials" / A / "checkpoint-000010" / "metrics.json"
    for content in (
        b"",
        b"{",
        b"[1]",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"metrics": [{"name": [1]}, 3]}',
    ):
        metrics.write_bytes(content)
        assert read(run.path).checkpoints[0].numbers == {}
    for name in ("journal.jsonl", "summary.json"):
        os.mkfifo(run.path / name)  # to open it would wait for ever
    (run.path / "manifest.json").write_text('{"trials": {"a": 1}, "config": [], "created": 5}')
    found = read(run.path)
    assert states(found) == {A: "finished"}
    assert found.manifest["methods"] == []


def test_steps_are_planned_as_the_trainers_plan_them() -> None:
    from prefeval.minitrainers.loop import TrainConfig, all_batches

    for n, batch, epochs in ((64, 32, 1), (65, 32, 2), (7, 8, 3), (3000, 32, 2)):
        config = TrainConfig("dpo", batch_size=batch, epochs=epochs)
        settings = {"batch_size": batch, "epochs": epochs}
        rows = {"pairs": n, "thumbs": 0}
        assert planned_steps(settings, "dpo", rows) == len(all_batches([9] * n, config))
        assert planned_steps({**settings, "max_steps": 2}, "dpo", rows) == min(
            2, len(all_batches([9] * n, config))
        )
    assert planned_steps({"iterations": 20, "batch_size": 64}, "ppo", rows) == 20
    then = {"batch_size": 32, "epochs": 2, "then": {"method": "ppo", "iterations": 10}}
    assert planned_steps(then, "dpo", {"pairs": 64, "thumbs": 0}) == 14
    for odd in (None, [], {"rounds": 2}, {"batch_size": "x"}, {"batch_size": 0, "epochs": 1}):
        assert planned_steps(odd, "dpo", {"pairs": 64, "thumbs": 64}) is None


def trial(state: str, method: str = "dpo", **values: Any) -> TrialState:
    return TrialState(f"{method}{values}", method, 0.1, 0, state, **values)


def test_time_left_follows_the_pace_of_each_method() -> None:
    done = [
        trial("finished", took=40),
        trial("finished", took=60),
        trial("finished", "ppo", took=100),
    ]
    half = trial("training", started=0, step=5, steps=7)  # 0.7 * 5/7 = half
    running = [half, trial("starting", "ppo", started=0)]
    # 25 of the one, 100 of the other, two waiting of 50, on two workers
    waiting = [trial("waiting"), trial("waiting")]
    assert time_left([*done, *running, *waiting], now=30) == pytest.approx((25 + 100 + 100) / 2)
    assert time_left([*done, *running], now=30) == pytest.approx(100)  # never less than the longest
    assert time_left([half], now=30) == pytest.approx(30)  # half is done in 30 s
    assert time_left([trial("starting", started=0)], now=30) != time_left([], now=0)  # both NaN


@given(st.lists(st.floats(-1e6, 1e6), max_size=300))
def test_a_thinned_curve_keeps_its_range(values: list[float]) -> None:
    thinned = thin(values)
    assert len(thinned) == min(len(values), 60)
    if values:
        slack = 1e-4 * max(map(abs, values))
        assert min(values) - slack <= min(thinned) <= max(thinned) <= max(values) + slack
