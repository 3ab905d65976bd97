"""Reading a run folder: what is there, what is missing, what is broken."""

import json
import math
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from prefeval import reports
from prefeval.records import PrefevalError, write_json
from prefeval.reports import run as runs
from prefeval.reports import verdict
from prefeval.reports.run import Key


@pytest.fixture
def copy(real_run: Path, tmp_path: Path) -> Path:
    """The two-method run, to be damaged."""
    return Path(shutil.copytree(real_run, tmp_path / "run"))


def test_results_become_numbers_with_intervals_and_n(real_run: Path) -> None:
    run = runs.load(real_run)
    frame = pd.read_parquet(real_run / "results.parquet").iloc[0]
    first = run.checkpoints[0]
    assert first.key == Key("dpo", 0.02, 0, 47)
    lc = first.get("lc_win_rate")
    assert (lc.value, lc.low, lc.high) == tuple(frame[["lc_win_rate", "lc_ci_low", "lc_ci_high"]])
    assert lc.n == 400
    kl = first.get("kl")
    assert (kl.value, kl.low) == tuple(frame[["kl", "kl_ci_low"]])


def test_checkpoints_are_sorted_by_method_beta_seed_and_step(full_run: Path) -> None:
    keys = [c.key for c in runs.load(full_run).checkpoints]
    order = ["dpo", "ipo", "kto", "simpo", "ppo"]
    assert keys == sorted(keys, key=lambda k: (order.index(k.method), k))
    assert len(keys) == 60


def test_a_nan_keeps_the_reason_saved_with_the_checkpoint(
    real_run: Path, synthetic: ModuleType
) -> None:
    number = runs.load(real_run).checkpoints[0].get("true_win_rate")
    assert math.isnan(number.value)
    assert number.reason == synthetic.NO_ORACLE


def test_a_metric_that_nobody_measured_says_so(real_run: Path) -> None:
    number = runs.load(real_run).checkpoints[0].get("pass_at_k")
    assert math.isnan(number.value)
    assert "not measured" in number.reason


def test_a_nan_without_a_saved_reason_still_gets_one(copy: Path) -> None:
    frame = pd.read_parquet(copy / "results.parquet")
    frame.loc[0, "kl"] = math.nan
    frame.to_parquet(copy / "results.parquet")
    assert runs.load(copy).checkpoints[0].get("kl").reason


def test_an_unfinished_run_is_read_from_its_checkpoints_and_says_so(half_run: Path) -> None:
    run = runs.load(half_run)
    assert [c.key.step for c in run.checkpoints] == [47, 94, 140]
    assert run.checkpoints[0].get("lc_win_rate").n == 400
    assert any("results.parquet is missing" in p for p in run.problems)


def test_trials_are_finished_unfinished_or_not_started(half_run: Path) -> None:
    states = [(t.beta, t.status) for t in runs.load(half_run).trials]
    assert states == [(0.05, "finished"), (0.3, "unfinished"), (9.0, "not started")]


def test_a_failed_trial_without_a_folder_is_listed_with_its_reason(
    full_run: Path, synthetic: ModuleType
) -> None:
    failed = [t for t in runs.load(full_run).trials if t.status == "failed"]
    assert [(t.method, t.beta, t.seed, t.error) for t in failed] == [("kto", 1.0, 0, synthetic.WHY)]


def test_a_broken_line_is_named_and_the_rest_is_read(copy: Path) -> None:
    path = next(copy.glob("trials/*/train.jsonl"))
    path.write_text('{"step": 1}\nnot json\n', encoding="utf-8")
    run = runs.load(copy)
    assert any(f"{path}:2" in p for p in run.problems)
    assert len(run.checkpoints) == 9


def test_a_lone_surrogate_in_what_was_saved_does_not_stop_the_report(copy: Path) -> None:
    """Another writer's JSON may hold one, escaped; no Parquet, terminal or HTML can."""
    path = next(copy.glob("trials/*/checkpoint-*/judgments.jsonl"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    for row in rows:
        row["prompt_id"] += "\ud800"
        row["behaviour"] = "\udfffx"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    page = reports.write_report(copy).read_text(encoding="utf-8")
    assert "</html>" in page


def test_a_broken_summary_is_named_and_leaves_no_verdict(copy: Path) -> None:
    (copy / "summary.json").write_text("{", encoding="utf-8")
    run = runs.load(copy)
    assert not run.selection
    assert any("summary.json" in p for p in run.problems)


def test_a_broken_results_file_is_named_and_the_checkpoints_are_read(copy: Path) -> None:
    (copy / "results.parquet").write_bytes(b"nonsense")
    run = runs.load(copy)
    assert any("results.parquet cannot be read" in p for p in run.problems)
    assert len(run.checkpoints) == 9


def test_a_folder_without_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(PrefevalError, match=r"no run folder.*manifest\.json"):
        runs.load(tmp_path)


def test_a_run_in_which_nothing_began_asks_for_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"trials": ["dpo-b0.1-s0-abcd1234"]}))
    with pytest.raises(PrefevalError, match="no trial yet"):
        runs.load(tmp_path)


def test_results_of_single_checkpoints_are_refused_by_the_missing_column(copy: Path) -> None:
    pd.DataFrame({"checkpoint": ["a"], "kl": [1.0]}).to_parquet(copy / "results.parquet")
    with pytest.raises(PrefevalError, match=r"step missing.*prefeval watch"):
        runs.load(copy)


def test_a_log_line_that_is_being_written_is_left_out_and_the_rest_is_read(
    synthetic: ModuleType, tmp_path: Path
) -> None:
    folder = synthetic.write_run(tmp_path / "run", grid={"dpo": (0.1,)}, finished=False)
    log = next(folder.glob("trials/dpo-b0.1-*/train.jsonl"))
    whole = log.read_text(encoding="utf-8")
    log.write_text(whole + '{"step": 141, "loss"', encoding="utf-8")
    run = runs.load(folder)
    trial = next(t for t in run.trials if t.name == log.parent.name)
    assert len(trial.log) == whole.count("\n")
    assert not [p for p in run.problems if "train.jsonl" in p]
    log.write_text('{"step": 1, "loss"\n' + whole, encoding="utf-8")
    assert [p for p in runs.load(folder).problems if "train.jsonl:1" in p]


def test_a_run_of_failed_trials_says_so_with_the_reasons(
    synthetic: ModuleType, tmp_path: Path
) -> None:
    names = ["dpo-b0.1-s0-0123abcd", "dpo-b0.3-s0-0123abcd"]
    write_json(tmp_path / "manifest.json", synthetic.manifest(names, ["dpo"]))
    failed = [{"trial": name, "error": "loss is <NaN> at step 3"} for name in names]
    write_json(tmp_path / "summary.json", {"failed": failed, "warnings": []})
    run = runs.load(tmp_path)
    read = verdict.read(run)
    assert read.headline == "No verdict: every trial failed"
    assert [r.text for r in read.reasons] == ["loss is <NaN> at step 3"]
    page = reports.write_report(tmp_path).read_text(encoding="utf-8")
    assert "every trial failed" in page
    assert "loss is &lt;NaN&gt; at step 3" in page
    assert "every trial failed" in reports.write_summary(tmp_path).read_text(encoding="utf-8")
