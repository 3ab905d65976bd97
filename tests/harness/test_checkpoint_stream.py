"""One training's checkpoints, measured for real in the smoke lab, and the command killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prefeval import records
from prefeval.harness.live import make_console
from prefeval.harness.watch.stream import Stream, configure
from prefeval.records import PrefevalError

TRAINER = """
import shutil, sys, time
from pathlib import Path
source, out, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
out.mkdir(exist_ok=True)
for folder in sorted(source.iterdir(), key=lambda f: int(f.name.rpartition("-")[2])):
    place = out / folder.name
    place.mkdir()
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, place)
    data = (folder / "model.safetensors").read_bytes()
    for part in range(4):
        with (place / "model.safetensors").open("ab") as handle:
            handle.write(data[part * len(data) // 4 : (part + 1) * len(data) // 4])
        time.sleep(pause / 4)
(out / "prefeval.stop").touch()
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the smoke lab is built, once for all tests here."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("PREFEVAL_CACHE")
    os.environ["PREFEVAL_CACHE"] = str(folder)
    yield folder
    os.environ.pop("PREFEVAL_CACHE")
    if before is not None:
        os.environ["PREFEVAL_CACHE"] = before


@pytest.fixture(scope="module")
def stream(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    """An open stream, shared: each test uses steps of its own."""
    config = configure({"smoke": True, "device": "cpu"})
    out = tmp_path_factory.mktemp("runs")
    with Stream.open(config, out=out, console=make_console(), in_process=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(stream: Stream) -> Path:
    return Path(stream.run.task.reference)


@pytest.fixture
def tuned(reference: Path, tmp_path: Path) -> Callable[..., Path]:
    """``tuned(name, seed)``: the reference with a little noise on its weights."""
    from safetensors.numpy import load_file, save_file

    def make(name: str, seed: int) -> Path:
        folder = Path(shutil.copytree(reference, tmp_path / name))
        rng = np.random.default_rng(seed)
        weights = load_file(folder / "model.safetensors")
        moved = {
            k: (w + 0.02 * rng.standard_normal(w.shape)).astype(w.dtype) for k, w in weights.items()
        }
        save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def table(stream: Stream) -> pd.DataFrame:
    return pd.read_parquet(stream.run.folder.results)


# -- a stream ---------------------------------------------------------------------------------


def test_a_measured_checkpoint_is_in_the_table_and_its_judgments_are_kept(stream, tuned):
    found = stream.measure(tuned("checkpoint-10", 1), 10)
    assert found.state == "measured"
    row = table(stream).set_index("step").loc[10]
    assert row["lc_win_rate"] == found.metrics["lc_win_rate"].value
    assert row["lc_ci_low"] == found.metrics["lc_win_rate"].ci_low
    judged = records.read_jsonl(found.folder / "judgments.jsonl")
    assert len({r["prompt_id"] for r in judged}) == found.metrics["win_rate"].n == 16
    assert not list(found.folder.glob("*.safetensors"))


def test_host_random_states_and_threads_are_as_before(stream, tuned):
    import torch

    folder = tuned("checkpoint-11", 11)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    stream.measure(folder, 11)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (
        threads, strict,
    )  # fmt: skip


def test_the_same_content_is_not_measured_again(stream, tuned, tmp_path):
    first = stream.measure(tuned("checkpoint-20", 2), 20)
    judged = first.folder / "judgments.jsonl"
    before = judged.stat().st_mtime_ns
    again = stream.measure(tmp_path / "checkpoint-20", 20)
    copy = shutil.copytree(tmp_path / "checkpoint-20", tmp_path / "checkpoint-21")
    other = stream.measure(copy, 21)
    assert (again.state, again.metrics) == ("known", first.metrics)
    assert (other.state, other.step, other.note) == ("same", 20, "the same weights as step 20")
    assert judged.stat().st_mtime_ns == before
    assert 21 not in set(table(stream)["step"])


def test_a_step_with_other_weights_is_refused_or_replaced(stream, tuned):
    old = stream.measure(tuned("checkpoint-30", 3), 30)
    new = tuned("again-30", 4)
    with pytest.raises(PrefevalError, match=r"step 30 was measured with other weights .*--replace"):
        stream.measure(new, 30)
    assert table(stream).set_index("step").loc[30, "kl"] == old.metrics["kl"].value
    found = stream.measure(new, 30, replace=True)
    assert found.state == "measured"
    assert found.metrics["kl"].value != old.metrics["kl"].value
    assert table(stream).set_index("step").loc[30, "kl"] == found.metrics["kl"].value
    assert list(table(stream)["step"]).count(30) == 1


def test_the_reference_itself_has_no_distance(stream, reference):
    found = stream.measure(reference, 0)
    assert found.metrics["kl"].value == pytest.approx(0, abs=1e-6)


def test_an_adapter_is_measured_as_the_model_that_it_is_merged_into(stream, reference, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prefeval.minitrainers.lora import quiet_peft

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32)
    with quiet_peft():
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
        adapted.save_pretrained(tmp_path / "checkpoint-40")
        merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(reference).save_pretrained(tmp_path / "merged")
    found = stream.measure(tmp_path / "checkpoint-40", 40)
    whole = stream.measure(tmp_path / "merged", 41)
    assert found.metrics["kl"].value > 0
    assert found.metrics["kl"].value == pytest.approx(whole.metrics["kl"].value, rel=1e-3)


def test_another_architecture_is_refused_and_leaves_no_row(stream, tiny_folder):
    with pytest.raises(PrefevalError, match="vocabulary"):
        stream.measure(tiny_folder, 50)
    assert 50 not in {m.step for m in stream.known()}
    stream.finish()
    assert 50 not in set(table(stream)["step"])


def test_the_best_is_the_highest_or_the_lowest_as_its_metric_says(stream, tuned):
    stream.measure(tuned("checkpoint-60", 6), 60)
    rows = table(stream).set_index("step")
    best = stream.best("lc_win_rate")
    assert best.metrics["lc_win_rate"].value == rows["lc_win_rate"].max()
    shortest = stream.best("truncation_rate")
    assert shortest.metrics["truncation_rate"].value == rows["truncation_rate"].min()
    with pytest.raises(PrefevalError, match="neither better high nor low"):
        stream.best("kl")
    with pytest.raises(PrefevalError, match="no metric 'lc'"):
        stream.best("lc")


def test_every_command_reads_the_run(stream, cache):
    stream.finish()
    run = stream.run.folder
    summary = records.read_json(run.summary)
    assert summary["counts"] == {"trials": 1, "checkpoints": len(stream.known())}
    assert run.report.is_file()
    steps = [m.step for m in stream.known()]
    a, b = (f"{run.path}:train:{step}" for step in steps[:2])
    for arguments in (["report", str(run.path)], ["compare", a, b], ["diagnose", str(run.path)]):
        prefeval(arguments, cache)


def test_a_second_one_in_the_same_folder_is_refused(stream):
    config = configure({"smoke": True, "device": "cpu"})
    path = stream.run.folder.path
    with (
        pytest.raises(PrefevalError, match="in use"),
        Stream.open(config, out=path.parent, name=path.name, in_process=True),
    ):
        pass


# -- the command, killed and started again ----------------------------------------------------


def prefeval(arguments: list[str], cache: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [sys.executable, "-m", "prefeval", *arguments], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run


def measured(stdout: str) -> list[int]:
    rows = [json.loads(line) for line in stdout.splitlines()]
    return [row["step"] for row in rows if row["event"] == "measured"]


def test_a_watch_killed_in_the_middle_loses_and_doubles_nothing(cache, tuned, tmp_path):
    for i, step in enumerate((5, 50, 100)):
        tuned(f"staged/checkpoint-{step}", i)
    out = tmp_path / "trained"
    command = ["watch", str(out), "--smoke", "--settle", "1s", "--json"]
    command += ["--out", str(tmp_path / "runs"), "--name", "w"]
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, tmp_path / "staged", out, "2"])
    first = subprocess.Popen(
        [sys.executable, "-m", "prefeval", *command], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    trial = tmp_path / "runs" / "w" / "trials"
    deadline = time.monotonic() + 200
    while not list(trial.glob("*/checkpoint-000050/.completions.jsonl.key")):  # in the middle of it
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    before = measured(first.communicate()[0])
    assert trainer.wait(60) == 0
    answers = next(trial.glob("*/checkpoint-000050/completions.jsonl"))
    kept = answers.stat().st_mtime_ns
    again = prefeval(command, cache)
    assert before == [5]
    assert measured(again.stdout) == [50, 100]
    assert answers.stat().st_mtime_ns == kept
    undisturbed = [*command[:-1], "u", "--once"]
    assert measured(prefeval(undisturbed, cache).stdout) == [5, 50, 100]
    tables = [(tmp_path / "runs" / n / "results.parquet").read_bytes() for n in ("w", "u")]
    assert tables[0] == tables[1]
