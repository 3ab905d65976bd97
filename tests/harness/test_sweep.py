"""The main job at its smallest size, through the real command and real processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prefeval import records
from prefeval.harness import measured
from prefeval.harness.diagnose import diagnose
from prefeval.harness.task import Sizes, Task, read_prompts
from prefeval.records import PrefevalError
from prefeval.suites import checks

SWEEP = ("sweep", "--smoke", "--methods", "dpo", "--beta", "0.05,0.3", "--workers", "2")


@pytest.fixture(scope="session")
def lab_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the smoke lab is built, once for all tests here."""
    return tmp_path_factory.mktemp("cache")


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "PREFEVAL_CACHE": str(cache)}


def prefeval(
    arguments: Sequence[str], cache: Path, *, code: int = 0
) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [sys.executable, "-m", "prefeval", *arguments],
        capture_output=True, text=True, env=environment(cache), timeout=300,
    )  # fmt: skip
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run


def only_run(out: Path) -> Path:
    (run,) = [p for p in out.iterdir() if p.is_dir()]
    return run


@pytest.fixture(scope="session")
def finished(lab_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of two trials."""
    out = tmp_path_factory.mktemp("runs")
    prefeval([*SWEEP, "--out", str(out)], lab_cache)
    return only_run(out)


def test_run_folder_holds_what_its_layout_promises(finished: Path) -> None:
    for name in ("manifest.json", "journal.jsonl", "results.parquet", "costs.parquet",
                 "summary.json", "summary.md", "report.html"):  # fmt: skip
        assert (finished / name).stat().st_size > 0, name
    checkpoints = sorted(finished.glob("trials/dpo-*/checkpoint-*"))
    assert len(checkpoints) == 2
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja", "metrics.json",
                 "completions.jsonl", "judgments.jsonl", "checks.jsonl"):  # fmt: skip
        assert (checkpoints[0] / name).stat().st_size > 0, name
    assert not list(finished.rglob("*.tmp"))


def test_a_sweep_saves_the_numbers_of_its_method_table_and_shows_them(finished: Path) -> None:
    (row,) = records.read_json(finished / "summary.json")["methods"]
    assert row["method"] == "dpo"
    assert row["seen"] == 32 * row["step"]
    assert row["compared"] == 2
    assert row["numbers"]["kl"]["ci_low"] <= row["numbers"]["kl"]["value"]
    assert "one training seed" in row["numbers"]["seed"]["reason"]
    text = (finished / "summary.md").read_text(encoding="utf-8")
    assert f"\n| DPO (β {row['beta']:g}, step {row['step']} " in text


def test_results_have_a_row_a_checkpoint_with_intervals_around_their_values(
    finished: Path,
) -> None:
    frame = pd.read_parquet(finished / "results.parquet")
    assert frame[["method", "beta", "seed", "step"]].to_numpy().tolist() == [
        ["dpo", 0.05, 0, 2],
        ["dpo", 0.3, 0, 2],
    ]
    for metric in ("kl", "win_rate", "true_win_rate", "length_ratio", "change_json"):
        low, high = frame[f"{metric}_ci_low"], frame[f"{metric}_ci_high"]
        assert ((low <= frame[metric]) & (frame[metric] <= high)).all(), metric
    assert frame["kl"].gt(0).all()


def test_untrained_policy_has_dpo_loss_ln_2_and_no_margin(finished: Path) -> None:
    for log in finished.glob("trials/dpo-*/train.jsonl"):
        first = records.read_jsonl(log)[0]
        assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
        assert first["margin"] == pytest.approx(0, abs=1e-4)


def test_a_run_a_trial_and_a_checkpoint_are_diagnosed(finished: Path, lab_cache: Path) -> None:
    trial = sorted(finished.glob("trials/dpo-*"))[0]
    for target in (finished, trial, trial / "checkpoint-000002"):
        run = prefeval(["diagnose", str(target), "--json"], lab_cache)
        found = json.loads(run.stdout)
        known = {row["cause"] for part in ("findings", "checks", "skipped") for row in found[part]}
        assert {"logprob_collapse", "format_unlearned", "bos_eos_broken"} <= known
        assert {"bos_eos_broken", "wrong_reference"} <= {row["cause"] for row in found["checks"]}


def test_a_trial_that_stopped_itself_at_nan_is_diagnosed_as_that(
    finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    trial = sorted(run.glob("trials/dpo-*"))[0]
    why = "loss is nan at step 3 (examples a, b; last good checkpoint: none); lower the rate"
    event = {"time": "now", "event": "failed", "job": trial.name, "error": why}
    with (run / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(event) + "\n")
    (subject,) = diagnose.read(run / "trials" / trial.name)
    assert subject.diagnosis.findings[0].cause == "nan"
    assert "step 3" in subject.diagnosis.findings[0].verdict
    assert any("failed: loss is nan" in note for note in subject.diagnosis.notes)


def test_a_run_that_has_only_begun_is_not_called_sound(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "reference" / "train_pairs.jsonl").unlink()
    for trial in run.glob("trials/*"):
        (trial / "train.jsonl").unlink()
        for checkpoint in trial.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    with pytest.raises(PrefevalError, match="nothing yet"):
        diagnose.read(run)
    (trial,) = diagnose.read(Path(shutil.copytree(finished, tmp_path / "half")))[:1]
    assert trial.diagnosis.checks


def test_same_command_again_finds_its_result_and_computes_nothing(
    finished: Path, lab_cache: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("checkpoint-*/*")}
    prefeval([*SWEEP, "--out", str(finished.parent)], lab_cache)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("checkpoint-*/*")} == before


def test_json_output_is_json_and_nothing_else(finished: Path, lab_cache: Path) -> None:
    run = prefeval([*SWEEP, "--json", "--out", str(finished.parent)], lab_cache)
    summary = json.loads(run.stdout)
    assert {row["beta"] for row in summary["table"]} == {0.05, 0.3}
    (advice,) = summary["advice"]
    assert (advice["kind"], "--smoke" in advice["command"]) == ("smoke", False)


def test_run_killed_at_random_moments_ends_equal_to_an_undisturbed_one(
    finished: Path, lab_cache: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "prefeval", *SWEEP, "--out", str(tmp_path)]
    draw = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(
            command, env=environment(lab_cache), stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(draw.uniform(4, 14))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = prefeval([*SWEEP, "--out", str(tmp_path)], lab_cache)
    assert "★" in run.stdout or "undecided" in run.stdout
    ours, theirs = (pd.read_parquet(p / "results.parquet") for p in (only_run(tmp_path), finished))
    pd.testing.assert_frame_equal(ours, theirs)


def test_failed_trial_is_reported_and_the_others_go_on(lab_cache: Path, tmp_path: Path) -> None:
    """A learning rate of 1e30 makes the weights infinite: that trial alone stops."""
    arguments = [*SWEEP[:4], "--beta", "0.1", "--lr", "1e30", "--out", str(tmp_path)]
    run = prefeval(arguments, lab_cache, code=3)
    assert "no checkpoint was measured" in run.stderr
    assert "lower the learning rate" in run.stdout
    report = (only_run(tmp_path) / "report.html").read_text(encoding="utf-8")
    assert "No verdict: every trial failed" in report
    assert "lower the learning rate" in report


def test_train_eval_and_report_enter_the_same_chain(lab_cache: Path, tmp_path: Path) -> None:
    train = prefeval(
        ["train", "ipo", "--smoke", "--beta", "0.1", "--out", str(tmp_path)], lab_cache
    )
    checkpoint = Path(train.stdout.split()[-1])
    assert (checkpoint / "model.safetensors").exists()
    assert not (checkpoint / "metrics.json").exists()
    out = tmp_path / "evaluated"
    run = prefeval(["eval", str(checkpoint), "--smoke", "--json", "--out", str(out)], lab_cache)
    (row,) = json.loads(run.stdout)
    assert row["kl"] > 0
    assert row["checkpoint"] == str(checkpoint)
    evaluated = only_run(out)
    table = (evaluated / "results.parquet").read_bytes()
    prefeval(["score", str(evaluated)], lab_cache)
    assert (evaluated / "results.parquet").read_bytes() == table
    sweep = ("sweep", "--smoke", "--methods", "ipo", "--beta", "0.1", "--out", str(tmp_path))
    prefeval(sweep, lab_cache)
    assert (checkpoint / "metrics.json").exists()
    swept = pd.read_parquet(checkpoint.parents[2] / "results.parquet")
    assert swept["kl"].tolist() == [row["kl"]]
    page = checkpoint.parents[2] / "report.html"
    before = page.read_bytes()
    prefeval(["report", str(checkpoint.parents[2])], lab_cache)
    assert page.read_bytes() == before


def test_suite_samples_are_drawn_checked_and_counted(
    finished: Path, lab_cache: Path, tmp_path: Path
) -> None:
    checkpoint = sorted(finished.glob("trials/dpo-*/checkpoint-*"))[0]
    asked = ["eval", str(checkpoint), "--smoke", "--suite-samples", "2", "--json"]
    (row,) = json.loads(prefeval([*asked, "--out", str(tmp_path)], lab_cache).stdout)
    run = only_run(tmp_path)
    prompts = {p.id: p for p in read_prompts(run / "data/prompts.jsonl") if p.use == "retention"}
    (out,) = (run / "checkpoints").glob("*")
    answers = [c for c in measured.read_completions(out) if c.mode == "sampled"]
    assert len(answers) == 2 * len(prompts)
    assert sorted({c.index for c in answers}) == [0, 1]
    by_index = measured.texts_by_prompt(answers, "sampled")
    assert by_index[0] != by_index[1]
    for behaviour in {p.behaviour for p in prompts.values()}:
        passes = [
            checks.check_prompt(prompts[c.prompt_id], c.text)
            for c in answers
            if prompts[c.prompt_id].behaviour == behaviour
        ]
        assert row[f"sampled_retention_{behaviour}"] == pytest.approx(100 * np.mean(passes))
        assert row[f"pass_at_2_{behaviour}"] >= row[f"sampled_retention_{behaviour}"]


def test_lengths_in_tokens_are_those_of_the_saved_answers(lab_cache: Path, tmp_path: Path) -> None:
    """And the same answers judged: only what length control makes of them differs."""
    arguments = [*SWEEP[:4], "--beta", "0.05", "--out", str(tmp_path)]
    prefeval([*arguments, "--name", "characters"], lab_cache)
    prefeval([*arguments, "--name", "tokens", "--length-unit", "tokens"], lab_cache)
    found = {}
    for unit in ("characters", "tokens"):
        run = tmp_path / unit
        (checkpoint,) = run.glob("trials/*/checkpoint-*")
        assert records.read_json(run / "reference/calibration.json")["unit"] == unit
        assert unit in records.read_json(run / "summary.json")["selection"]["estimator"]
        found[unit] = (checkpoint / "judgments.jsonl").read_bytes()
    assert found["characters"] == found["tokens"]
    settings = {"sizes": Sizes(), "length_unit": "tokens"}
    task = Task(str(run), "", "", **settings)
    evidence = measured.read_evidence(checkpoint, task, measured.read_calibration(task))
    for folder, column in ((checkpoint, "len_output"), (run / "reference", "len_baseline")):
        answers = measured.first_samples(measured.read_completions(folder))
        want = [len(answers[i].token_ids) for i in evidence.judgments["prompt_id"]]
        assert evidence.judgments[column].tolist() == want
    assert len(evidence.calibration.gamed.preference) > 0
    refused = prefeval([*arguments, "--length-unit", "words"], lab_cache, code=2)
    assert "use characters or tokens" in refused.stderr


def test_score_makes_of_saved_answers_what_the_run_made(
    finished: Path, lab_cache: Path, tmp_path: Path
) -> None:
    """Everything after generation is gone, or false, and comes back; of one checkpoint even the
    weights are gone, and its scores are kept."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = (run / "results.parquet").read_bytes()
    first, second = sorted(run.glob("trials/*/checkpoint-*"))
    answers = (first / "completions.jsonl").read_bytes()
    for name in ("judgments.jsonl", "checks.jsonl", "pairs.jsonl", "metrics.json"):
        (first / name).unlink()
    judged = records.read_jsonl(second / "judgments.jsonl")
    records.write_jsonl(second / "judgments.jsonl", [{**r, "preference": 1.0} for r in judged])
    (second / "model.safetensors").unlink()
    (run / "results.parquet").unlink()
    said = prefeval(["score", str(run)], lab_cache)
    assert (run / "results.parquet").read_bytes() == before
    assert (first / "completions.jsonl").read_bytes() == answers
    assert "1 of 2 checkpoints have no weights any more" in " ".join(said.stdout.split())
    assert records.read_jsonl(second / "judgments.jsonl") == judged


def test_score_names_answers_that_are_not_the_runs(
    finished: Path, lab_cache: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    rows = records.read_jsonl(next(run.glob("trials/*/checkpoint-*")) / "completions.jsonl")
    broken = next(run.glob("trials/*/checkpoint-*")) / "completions.jsonl"
    for content, word in ((rows[1:], rows[0]["prompt_id"]), ([*rows, rows[5]], "once")):
        records.write_jsonl(broken, content)
        assert word in prefeval(["score", str(run)], lab_cache, code=2).stderr
    assert "no task.json" in prefeval(["score", str(tmp_path)], lab_cache, code=2).stderr


def test_lab_is_written_out_as_ordinary_files_and_never_over_others(
    lab_cache: Path, tmp_path: Path
) -> None:
    prefeval(["lab", "--smoke", "--out", str(tmp_path / "lab")], lab_cache)
    row = records.read_jsonl(tmp_path / "lab" / "pairs.jsonl")[0]
    assert row["chosen"][0]["role"] == "assistant"
    assert (tmp_path / "lab" / "reference" / "model.safetensors").exists()
    run = prefeval(["lab", "--smoke", "--out", str(tmp_path / "lab")], lab_cache, code=2)
    assert "choose a new folder" in run.stderr


def test_two_processes_may_build_the_same_lab_at_once(tmp_path: Path) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "prefeval", "lab", "--smoke", "--out", str(out)],
            env=environment(tmp_path / "cache"),
            stdout=subprocess.DEVNULL,
        )
        for out in outs
    ]
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    for name in ("pairs.jsonl", "reference/model.safetensors"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    built = [p.name for p in (tmp_path / "cache" / "lab").iterdir() if p.is_dir()]
    assert sorted(name.partition("-")[0] for name in built) == ["data", "reference"]


def test_ppo_trains_on_a_game_of_several_turns_whose_reward_comes_last(
    lab_cache: Path, tmp_path: Path
) -> None:
    options = ("--smoke", "--reward", "guess", "--target-kl", "1", "--out", str(tmp_path))
    run = prefeval(["train", "ppo", *options], lab_cache)
    log = records.read_jsonl(Path(run.stdout.split()[-1]).parent / "train.jsonl")
    assert len(log) == 2
    assert all(0 <= row["reward"] <= 1 for row in log)
    assert log[0]["kl_coef"] != log[1]["kl_coef"]  # the controller moves it towards its target


def test_score_refuses_answers_of_other_weights_before_it_forgets_anything(
    finished: Path, lab_cache: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    first, second = sorted(run.glob("trials/*/checkpoint-*"))
    shutil.copy(second / "model.safetensors", first / "model.safetensors")
    kept = {p.name: p.read_bytes() for p in first.iterdir()}
    said = prefeval(["score", str(run)], lab_cache, code=2).stderr
    assert "answers of other weights" in said
    assert {p.name: p.read_bytes() for p in first.iterdir()} == kept


def test_score_leaves_a_checkpoint_without_weights_and_scores(
    finished: Path, lab_cache: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    first, second = sorted(run.glob("trials/*/checkpoint-*"))
    for name in ("model.safetensors", "samples.jsonl"):
        (first / name).unlink()
    said = prefeval(["score", str(run)], lab_cache)
    assert "1 of 2 checkpoints have neither weights nor scores" in " ".join(said.stdout.split())
    assert (first / "judgments.jsonl").is_file()
    assert (second / "metrics.json").is_file()
