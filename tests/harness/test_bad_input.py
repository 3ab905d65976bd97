"""What people and machines do to a run: every fault is one line, and nothing of theirs is lost."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from prefeval import records
from prefeval.harness import cli, commands, models, steps, train
from prefeval.harness.executors import Event, Job
from prefeval.harness.executors.local import LocalExecutor
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.task import Task
from prefeval.records import PrefevalError

Refused = Callable[..., str]
PAIRS = [{"prompt": f"Q{i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(60)]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Refused:
    """Runs the real entry point, in an empty folder, on what it must refuse; its one line."""
    for name in [n for n in os.environ if n.startswith("PREFEVAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        error = capsys.readouterr().err
        assert end.value.code == 2, error
        assert error.startswith("prefeval: ")
        assert error.count("\n") == 1
        return error

    return run


SWEEP = ("sweep", "--smoke", "--device", "cpu", "--methods", "dpo", "--beta", "0.1")


@pytest.mark.parametrize(
    ("arguments", "wrong", "mend"),
    [
        (["--beta", "0.05:0.3:²"], "needs a whole number of points", "0.05:0.3:6"),
        (["--beta", "0.05:0.3:1000000000"], "points up to 1000", "0.05:0.3:6"),
        (["--beta", "dpo=0.1,dpo=0.3"], "names dpo twice", "dpo=0.1/0.3"),
        (["--seeds", "²"], "cannot read seeds '²'", "write a count"),
        (["--seeds", "1000000000"], "seeds must be at least 1 and at most 1000", "e.g. 3"),
        (["--judge", "nope"], "unknown judge 'nope'", "lab, reward_model"),
        (["--judge", "lab:shape=odd"], "unknown judge shape 'odd'", "use one of"),
        (["--judge", "reward_model"], "needs a folder", "reward_model:DIR"),
        (["--judge", "reward_model:./nowhere"], "no such model folder", "give a folder"),
        (["--reward", "gold"], "unknown reward 'gold'", "kfacts, guess or judge:NAME"),
        (["--suite", "mine"], "the lab has prompts of its own", "--model"),
        (["--name", "../elsewhere"], "no single folder name", "--out"),
        (["--name", ".."], "no single folder name", "--out"),
        (["--lab", "people=0"], "people must be 2 to 96", "96"),
        (["--lab", "hidden=7"], "hidden must be a multiple of 8", "8"),
        (["--lab", "epochs=0"], "epochs must be at least 1", "1"),
        (["--lab", "lr=nan"], "lr must be a number > 0", "> 0"),
        (["--lab", "leakage=1"], "leakage must be in [0, 1)", "[0, 1)"),
        (["--lab", "length_bias=nan"], "length_bias must be a number", "number"),
        (["--lab", "temperature=inf"], "temperature must be positive", "positive"),
    ],
)
def test_mistake_is_refused_before_anything_is_built_or_written(
    refused: Refused, tmp_path: Path, arguments: list[str], wrong: str, mend: str
) -> None:
    error = refused(*SWEEP, *arguments)
    assert wrong in error
    assert mend in error
    assert list(tmp_path.iterdir()) == []


def write_pairs(path: Path, rows: list[Any] = PAIRS) -> Path:
    records.write_jsonl(path, rows)
    return path


def cut_gzip(path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in PAIRS).encode())
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("name", "make", "wrong"),
    [
        ("a.jsonl", lambda p: write_pairs(p, [{"prompt": "Q", "chosen": "a"}]), "no column"),
        ("a.jsonl", lambda p: p.write_text(""), "is empty"),
        ("a.jsonl", lambda p: write_pairs(p, [{**r, "rejected": r["chosen"]} for r in PAIRS]),
         "60 identical"),
        ("a.jsonl", lambda p: write_pairs(p, [{**r, "id": "x"} for r in PAIRS]), "given twice"),
        ("a.jsonl", lambda p: p.write_text('{"prompt": "Q", \n'), "a.jsonl:1 is not valid JSON"),
        ("a.jsonl", lambda p: write_pairs(p, [{**r, "prompt": r["prompt"] * 300} for r in PAIRS]),
         "raise --max-length"),
        ("a.jsonl", lambda p: write_pairs(p, PAIRS[:1]), "give more data"),
        ("a.jsonl", lambda p: write_pairs(p, [{"prompt": "Q", "completion": "A", "label": True}]),
         "run --methods kto"),
        ("a.jsonl.gz", cut_gzip, "truncated gzip"),
        ("a.parquet", lambda p: p.write_bytes(b"PAR1"), "correct it"),
        ("a.pkl", lambda p: p.write_bytes(b"\x80\x04."), "unknown kind of file"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_are_refused_in_one_line(
    refused: Refused, tiny_folder: Path, tmp_path: Path, name: str, make: Any, wrong: str
) -> None:
    make(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    assert wrong in refused(*SWEEP, "--model", str(tiny_folder), "--data", str(tmp_path / name))
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--judge", "lab"], "knows the lab alone"),
        (["--reward", "kfacts"], "use --reward model"),
        (["--suite", "suite.jsonl"], "suite.jsonl:2: not valid JSON"),
        (["--suite", "nowhere"], "no suite 'nowhere'"),
        (["--max-length", "1000"], "longer than the 512 tokens"),
        (["--data", "./none.jsonl"], "no such data file"),
    ],
)
def test_options_that_do_not_go_with_a_model_of_ones_own_are_refused(
    refused: Refused, tiny_folder: Path, tmp_path: Path, arguments: list[str], wrong: str
) -> None:
    check = {"kind": "json_object", "keys": ["city"]}
    row = {"id": "a", "prompt": "Capital?", "behaviour": "json", "check": check}
    (tmp_path / "suite.jsonl").write_text(json.dumps(row) + '\n{"id": \n', encoding="utf-8")
    data = ("--data", str(write_pairs(tmp_path / "a.jsonl")))
    assert wrong in refused(*SWEEP, "--model", str(tiny_folder), *data, *arguments)
    assert not (tmp_path / "runs").exists()


def test_default_length_gives_way_to_a_shorter_context(
    tiny_copy: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_copy()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 160}))
    options = {"model": str(folder), "data": str(write_pairs(tmp_path / "a.jsonl")), "lab": ""}
    options |= {"dtype": "float32", "device": "cpu"}
    resolved = commands.resolve(options, methods="dpo", beta="0.1", seeds="1")
    assert resolved.sizes.max_length == 160
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 100}))
    with pytest.raises(PrefevalError, match="lower --max-new-tokens"):
        commands.resolve(options, methods="dpo", beta="0.1", seeds="1")


@pytest.mark.parametrize("template", ["{% for m in %}", "{{ raise_exception('no') }}"])
def test_chat_template_that_fails_is_named(tiny_copy: Callable[..., Path], template: str) -> None:
    folder = tiny_copy()
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(PrefevalError, match=r"the chat template of .* fails"):
        models.load_tokenizer(folder)


def test_weights_of_other_shapes_than_the_config_are_named(tiny_copy: Callable[..., Path]) -> None:
    folder = tiny_copy()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(PrefevalError, match=r"other shapes than its config\.json says"):
        models.load_model(folder)


def test_adapter_saved_with_its_base_config_is_known_for_one(
    tiny_copy: Callable[..., Path],
) -> None:
    folder = tiny_copy()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(PrefevalError, match="is an adapter; merge it first"):
        models.check_model_dir(folder)


# -- what happens to files ---------------------------------------------------------------------


def test_file_that_was_cut_short_after_its_step_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    steps.rows_step(path, "k", lambda: [{"a": 1}, {"a": 2}])
    path.write_text(path.read_text()[:12])
    assert not steps.is_done(path, "k")
    assert steps.rows_step(path, "k", lambda: [{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]


def test_run_that_was_stopped_before_its_manifest_is_continued(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.open("one")
    run.data.mkdir()
    run.open("one")
    with pytest.raises(PrefevalError, match="another configuration"):
        run.open("two")


def test_run_that_was_removed_under_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrefevalError, match="was removed during the run"):
        RunFolder(tmp_path / "gone").log("done")


@pytest.mark.parametrize("damage", ["weights", "pickle", "folder"])
def test_finished_trial_without_its_checkpoint_says_how_to_train_it_anew(
    tiny_copy: Callable[..., Path], tmp_path: Path, damage: str
) -> None:
    trial = tmp_path / "dpo-b0.1"
    trial.mkdir()
    checkpoint = tiny_copy("dpo-b0.1/checkpoint-000002")
    records.write_jsonl(trial / "train.jsonl", [{"step": 1}, {"step": 2}])
    assert train.saved_checkpoints(trial) == [checkpoint]
    match damage:
        case "weights":
            (checkpoint / "model.safetensors").unlink()
        case "pickle":
            (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
        case "folder":
            checkpoint.rename(tmp_path / "kept elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PrefevalError, match=r"delete .*dpo-b0\.1 and run the same command again"):
        train.saved_checkpoints(trial)
    assert sorted(tmp_path.rglob("*")) == before


def test_full_disk_is_known_from_what_a_library_says_of_it() -> None:
    error = RuntimeError("while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(PrefevalError, match="free space"), steps.disk_errors(Path("checkpoint")):
        raise error
    assert steps.disk_fault(RuntimeError("of another kind")) == ""


def test_disk_fault_anywhere_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "manifest.json")

    assert cli.run_guarded(full) == 2
    assert capsys.readouterr().err == (
        "prefeval: cannot write manifest.json: the disk is full: free space and run the same "
        "command again to continue\n"
    )


def test_file_without_permission_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def locked() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "pairs.jsonl")

    assert cli.run_guarded(locked) == 2
    assert capsys.readouterr().err == (
        "prefeval: no permission for pairs.jsonl; make it readable, writable\n"
    )


def test_terminal_without_greek_letters_shows_them_escaped() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "prefeval", "sweep", "--dry-run", "--name", "β", "--device", "cpu"],
        capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("run folder: runs/\\u03b2\n")


def test_lab_is_not_written_over_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    assert "choose a new folder" in refused("lab", "--out", "thesis")
    assert (tmp_path / "thesis").read_text() == "mine"


def test_cache_that_cannot_be_written_names_its_variable(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("PREFEVAL_CACHE", str(tmp_path / "cache"))
    assert "set PREFEVAL_CACHE to another folder" in refused("lab", "--smoke", "--out", "new")


# -- what happens to processes -----------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_command_with_the_words_that_continue_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    cleaned = []

    def work(**_: object) -> int:
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("the signal did not arrive")
        finally:
            cleaned.append(True)

    monkeypatch.setattr(commands, "sweep", work)
    monkeypatch.setattr(sys, "argv", ["prefeval", "sweep"])
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep"])
    assert end.value.code == code
    assert "To continue: prefeval sweep\n" in capsys.readouterr().err
    assert cleaned == [True]
    assert signal.getsignal(number) is before


def test_signal_that_a_shell_has_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(commands, "sweep", lambda **_: seen.append(signal.getsignal(signal.SIGINT)))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit):
            cli.main(["sweep"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIG_IGN]


class FakeProcess:
    """A worker that looks alive."""

    exitcode = -9

    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float | None = None) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def serve(connection: Connection) -> None:
    """A worker that does every job at once."""
    try:
        while True:
            connection.send(Event(connection.recv().name, "done"))
    except (EOFError, OSError):
        return


def test_worker_that_died_while_idle_is_replaced_and_its_job_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = LocalExecutor(1)
    ours, theirs = Pipe()
    theirs.close()  # killed
    executor._live[ours] = FakeProcess()  # type: ignore[assignment]

    def start() -> Connection:
        mine, other = Pipe()
        threading.Thread(target=serve, args=(other,), daemon=True).start()
        executor._live[mine] = FakeProcess()  # type: ignore[assignment]
        return mine

    monkeypatch.setattr(executor, "_start", start)
    task = Task(run="", reference="", judge="")
    with executor:
        events = list(executor.run([Job("a", "pairs", task), Job("b", "pairs", task)]))
    assert [(e.job, e.kind) for e in events] == [("a", "done"), ("b", "done")]
    assert ours not in executor._live


def test_killed_process_with_progress_bars_leaves_no_semaphore_behind() -> None:
    code = (
        "import os, signal; from prefeval.harness.threads import no_bars; no_bars();"
        "from tqdm.auto import tqdm; tqdm(total=1, disable=True).close();"
        "tqdm.get_lock(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == -signal.SIGKILL
    assert run.stderr == ""
