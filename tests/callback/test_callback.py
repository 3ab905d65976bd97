"""``PrefevalCallback`` in other people's trainers: what it leaves alone, and what it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, TrainerCallback

from prefeval import PrefevalCallback, records
from prefeval.harness.callback.worker import HISTORY
from prefeval.harness.lab import lab
from prefeval.records import PrefevalError


def evaluated(trained: Any) -> list[int]:
    return [r["step"] for r in trained.state.log_history if "eval_prefeval/kl" in r]


BIT_IDENTICAL = [
    pytest.param("dpo", False, True),
    pytest.param("plain", True, False),
    pytest.param("kto", False, False, marks=pytest.mark.slow),
    pytest.param("dpo", True, True, marks=pytest.mark.slow),
    pytest.param("dpo", False, False, marks=pytest.mark.slow),
    pytest.param("plain", False, True, marks=pytest.mark.slow),
    pytest.param("kto", True, True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "lora", "wait"), BIT_IDENTICAL)
def test_training_is_the_same_bit_for_bit_with_and_without(
    kind: str, lora: bool, wait: bool, built: lab.Lab, callback: Any, training: Any, tmp_path: Path
) -> None:
    ends = []
    environment = dict(os.environ)
    for name, callbacks in (("with", [callback(wait=wait)]), ("without", [])):
        trained = training.trainer(built, tmp_path / name, kind, callbacks, lora=lora)
        trained.train()
        ends.append(training.state_of(trained))
        if callbacks:
            assert evaluated(trained) == [2, 4]
    assert dict(os.environ) == environment
    for part in ends[0]:
        assert training.same(ends[0][part], ends[1][part]), part


# -- stopping, and the best ------------------------------------------------------------------------


class Loses(TrainerCallback):
    """Makes every checkpoint after the first one worse, before it is evaluated."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step <= 2:
            return
        from safetensors.torch import load_file, save_file

        file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "model.safetensors"
        weights = load_file(file)
        for name in weights:
            if "norm" in name:
                weights[name] = weights[name] * (1 - 0.2 * state.global_step)
        save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize("wait", [True, False])
def test_training_stops_by_the_evaluation_and_the_best_is_kept_and_loaded(
    wait: bool, training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    own = callback(metric="implicit_accuracy", patience=1, wait=wait)
    trained = training.trainer(
        built, tmp_path, "plain", [Loses(), own],
        max_steps=8 if wait else 2000, save_total_limit=1, load_best_model_at_end=True,
        eval_strategy="steps", eval_steps=2, learning_rate=0.0, per_device_eval_batch_size=64,
        logging_steps=50,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained.train()
    assert own.stopped
    assert trained.state.global_step < trained.state.max_steps
    assert trained.state.best_global_step == 2
    best = tmp_path / "checkpoint-2"
    assert trained.state.best_model_checkpoint == str(best)
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    from safetensors.torch import load_file

    kept = load_file(best / "model.safetensors")
    loaded = trained.model.state_dict()
    assert all(training.same(loaded[name], kept[name]) for name in kept)
    assert trained.args.metric_for_best_model == "loss"  # as it was given
    assert not (own._where(trained.args) / "staged").exists()


def test_a_rival_for_the_best_checkpoint_is_refused_before_training(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    trained = training.trainer(built, tmp_path, "plain", [callback(), EarlyStoppingCallback(2)])
    with pytest.raises(PrefevalError, match=r"leave one out, or give .*keep_best=False"):
        trained.train()
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"patience": -1}, "patience must be a whole number"),
        ({"confidence": 0.2}, r"\[0.5, 1\)"),
        ({"metric": "lc_winrate"}, "not compared in 'lc_winrate'; use one of"),
        ({"metric": "kl"}, "greater_is_better"),
        ({"judge": "nobody"}, "unknown judge 'nobody'"),
        ({"promts": 3}, "no argument 'promts'"),
        ({"reference": "model"}, "data that training does not see"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_at_once(
    given: dict[str, Any], words: str, callback: Any
) -> None:
    with pytest.raises(PrefevalError, match=words):
        callback(**given)


# -- resuming --------------------------------------------------------------------------------------


def journal(shelf: Path, event: str = "done") -> list[str]:
    (file,) = shelf.glob("*/journal.jsonl")
    rows = map(json.loads, file.read_text().splitlines())
    return [r["job"] for r in rows if r["event"] == event and r["job"].startswith("step")]


def test_a_resumed_training_measures_no_checkpoint_again_and_keeps_its_patience(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "evaluation"
    whole = training.trainer(built, tmp_path, "plain", [callback(out=folder)], max_steps=6)
    whole.train()
    assert journal(folder) == ["step 2", "step 4", "step 6"]
    # as if it had been killed after step 4, whose evaluation is not in the state that was saved
    resumed = training.trainer(built, tmp_path, "plain", [callback(out=folder)], max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    rows = [[r for r in t.state.log_history if "eval_prefeval/kl" in r] for t in (whole, resumed)]
    assert rows[0] == rows[1]
    assert [r["eval_prefeval/waited"] for r in rows[0]] == [0, 1, 2]
    assert journal(folder) == ["step 2", "step 4", "step 6"]


def test_the_report_of_a_training_that_was_begun_anew_is_of_that_one_alone(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    for steps, seed in ((4, 1), (2, 2)):
        own = callback(out=tmp_path / "e")
        training.trainer(
            built, tmp_path / "out", "plain", [own], max_steps=steps, seed=seed, save_steps=2
        ).train()
    (run,) = (tmp_path / "e").glob("watch-*")
    assert records.read_json(run / "summary.json")["counts"]["checkpoints"] == 1
    left = [f.parent.name for f in sorted(run.rglob("metrics.json"))]
    assert left == ["checkpoint-000002", "checkpoint-000004"]
    assert list(run.glob("trials/*/earlier/checkpoint-000004/metrics.json"))


@pytest.mark.slow
def test_a_checkpoint_whose_evaluation_was_cut_off_is_measured_at_the_resume(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    begun = {"out": tmp_path / "evaluation"}
    first = training.trainer(built, tmp_path, "plain", [callback(**begun)])
    first.train()
    (file,) = (tmp_path / "evaluation").glob(f"*/trials/*/{HISTORY}")
    records.write_json(file, [r for r in records.read_json(file) if r["step"] < 4])
    resumed = training.trainer(built, tmp_path, "plain", [callback(**begun)], max_steps=6)
    resumed.train(resume_from_checkpoint=True)
    assert evaluated(resumed) == [2, 4, 6]


# -- failures --------------------------------------------------------------------------------------


def test_an_evaluation_that_fails_warns_once_and_training_goes_on(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    own = callback(judge="endpoint:http://127.0.0.1:9/v1,model=none,retries=0", out=tmp_path / "e")
    trained = training.trainer(built, tmp_path, "plain", [own])
    with pytest.warns(UserWarning, match="nothing is evaluated yet") as told:
        trained.train()
    assert trained.state.global_step == training.STEPS
    assert len([w for w in told if "prefeval" in str(w.message)]) == 1


def test_strict_ends_training_with_the_reason(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    class Broken(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-40])

    trained = training.trainer(built, tmp_path, "plain", [Broken(), callback(strict=True)])
    with pytest.raises(PrefevalError, match=r"checkpoint-2 is not evaluated: .*model.safetensors"):
        trained.train()


def test_a_run_folder_that_cannot_be_written_warns_and_training_goes_on(
    training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    trained = training.trainer(built, tmp_path, "plain", [callback(out=tmp_path / "taken" / "x")])
    with pytest.warns(UserWarning, match="a file stands where a folder is needed"):
        trained.train()
    assert trained.state.global_step == training.STEPS


class Kills(TrainerCallback):
    """Kills the process that evaluates while it is at work, so many times."""

    def __init__(self, own: PrefevalCallback, times: int) -> None:
        self.own, self.left, self.killed = own, times, 0

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        process = self.own._process
        assert process is not None
        send = type(process)._send

        def send_and_kill(request: Any) -> None:
            send(process, request)
            if self.left:
                self.left -= 1
                self.killed += 1
                os.kill(process._child.pid, signal.SIGKILL)

        process._send = send_and_kill  # type: ignore[method-assign]


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_is_started_once_more_and_then_given_up(
    times: int, training: Any, built: lab.Lab, callback: Any, tmp_path: Path
) -> None:
    own = callback()
    kills = Kills(own, times)
    trained = training.trainer(built, tmp_path, "plain", [kills, own])
    if times == 1:
        trained.train()
        assert evaluated(trained) == [2, 4]
    else:
        with pytest.warns(UserWarning, match=r"killed .out of memory.. twice in a row.*no more"):
            trained.train()
        assert evaluated(trained) == []
    assert kills.killed
    assert trained.state.global_step == training.STEPS


def test_the_process_that_evaluates_ends_with_a_trainer_that_is_killed(
    built: lab.Lab, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys, time\n"
        "from prefeval.harness.callback.process import Process\n"
        "from prefeval.harness.callback.worker import Opening\n"
        "rule = dict(metric='kl', patience=0, confidence=0.6, min_delta=0.0)\n"
        f"p = Process(Opening(options={{}}, out={str(tmp_path / 'e')!r}, **rule))\n"
        "print(p._child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    worker = int(child.stdout.readline())
    child.kill()
    child.wait()
    child.stdout.close()
    until = time.monotonic() + 60
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(worker)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_importing_prefeval_imports_no_transformers() -> None:
    script = "import sys, prefeval; print('transformers' in sys.modules, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
