"""Other tools' files beside a run's checkpoints; the files are written here, in their formats."""

import contextlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval import records
from prefeval.harness import measured, score
from prefeval.harness.diagnose import diagnose
from prefeval.harness.peers import extra, read_inspect, read_lm_eval, take
from prefeval.records import PrefevalError, Trial

ACC = "lm_eval_colours_acc"
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["acc,none", "acc_stderr,none", "colours", "effective", "name", "metrics",
                         "value", "scores", "model_args", "accuracy", "id"]), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


def checkpoints(run: Path) -> list[Path]:
    return sorted(p.parent for p in run.glob("trials/*/checkpoint-*/metrics.json"))


def lm_eval(
    folder: Path, model: object, values: Sequence[float], *, stamp: str = "2030-01-01", **more: Any
) -> Path:
    """A results file of one task, and its samples where there are values."""
    folder.mkdir(parents=True, exist_ok=True)
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    document = {
        "results": {"colours": {"alias": "colours", "acc,none": mean, "acc_stderr,none": spread}},
        "configs": {"colours": {}}, "versions": {"colours": 1.5}, "n-shot": {"colours": 0},
        "higher_is_better": {"colours": {"acc": True}},
        "n-samples": {"colours": {"original": len(values), "effective": len(values)}},
        "config": {"model": "hf", "model_args": {"pretrained": str(model)}},
        "lm_eval_version": "0.4.13", **more,
    }  # fmt: skip
    path = folder / f"results_{stamp}.json"
    path.write_text(json.dumps(document))
    rows = [{"doc_id": i, "doc": {}, "filter": "none", "metrics": ["acc"], "doc_hash": f"h{i}",
             "acc": v} for i, v in enumerate(values)]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"samples_colours_{stamp}.jsonl").write_text(text)
    return path


def inspect_log(model: str, letters: str, *, epochs: int = 2, status: str = "success") -> Any:
    ones = {"C": 1.0, "P": 0.5}
    mean = sum(ones.get(c, 0.0) for c in letters) / len(letters)
    samples = [{"id": i, "epoch": e, "scores": {"match": {"value": c}}}
               for e in range(1, epochs + 1) for i, c in enumerate(letters)]  # fmt: skip
    metrics = {"accuracy": {"name": "accuracy", "value": mean}, "stderr": {"value": 0.2}}
    about = {"task": "quiz", "task_version": 3, "model": model, "packages": {"inspect_ai": "0.3"}}
    scores = [{"name": "match", "scorer": "match", "scored_samples": len(letters),
               "metrics": metrics}]  # fmt: skip
    return {"version": 2, "status": status, "eval": about, "results": {"scores": scores},
            "samples": samples}  # fmt: skip


def write_zip(path: Path, log: dict[str, Any], *, zstandard: bool = False) -> Path:
    import pyarrow

    header = {k: v for k, v in log.items() if k != "samples"}
    parts = {"header.json": header, "summaries.json": log["samples"]}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if zstandard else zipfile.ZIP_DEFLATED) as z:
        for name, part in parts.items():
            data = json.dumps(part).encode()
            z.writestr(name, pyarrow.compress(data, "zstd", asbytes=True) if zstandard else data)
    if zstandard:  # the method of each entry is 93, as newer versions of Inspect write
        data = bytearray(path.read_bytes())
        for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            at = data.find(mark)
            while at >= 0:
                struct.pack_into("<H", data, at + offset, 93)
                at = data.find(mark, at + 1)
        path.write_bytes(bytes(data))
    return path


def taken(run: Path, *files: Path, code: int = 0, replace: bool = False) -> list[str]:
    said: list[str] = []
    assert take.command(files, str(run), replace=replace, say=said.append) == code, said
    return said


def numbers(folder: Path) -> dict[str, records.MetricResult]:
    return {r.name: r for r in measured.read_metrics(folder / "metrics.json")}


# -- what comes in -----------------------------------------------------------------------------


def test_lm_eval_results_lie_beside_the_checkpoint_that_they_name_and_in_the_runs_table(
    run: Path, tmp_path: Path
) -> None:
    folder = checkpoints(run)[1]
    values = [1, 0, 1, 1, 0, 1, 1, 1]
    said = taken(run, lm_eval(tmp_path / "out", folder, values).parent)
    assert said == [
        f"results_2030-01-01.json: 1 metrics beside {folder.relative_to(run)}, 1 with their "
        "documents"
    ]
    found = numbers(folder)[ACC]
    assert (found.value, found.n, found.higher_is_better) == (0.75, 8, True)
    # Wilson's interval at t's quantile with 7 degrees of freedom, for n (n - 1)/n effective rows
    assert (found.ci_low, found.ci_high) == pytest.approx(wilson(0.75, 7, 2.364624), abs=1e-6)
    table = pd.read_parquet(run / "results.parquet")
    assert table[ACC].tolist() == pytest.approx([math.nan, 0.75], nan_ok=True)
    assert table[f"{ACC}_n"].tolist()[1] == 8
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "lm eval colours acc" in page
    assert "not imported for this checkpoint" in page
    source = records.read_json(folder / "extra.json")["metrics"][0]["source"]
    assert (source["harness_version"], source["task_version"]) == ("0.4.13", 1.5)
    assert extra.documents(folder)[ACC] == {f"{i}:h{i}": float(v) for i, v in enumerate(values)}


def wilson(p: float, n: float, z: float) -> tuple[float, float]:
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def test_without_samples_the_interval_comes_from_the_standard_error_of_the_file(
    run: Path, tmp_path: Path
) -> None:
    path = lm_eval(tmp_path / "out", checkpoints(run)[0], [1, 0, 1, 1, 0])
    (path.parent / "samples_colours_2030-01-01.jsonl").unlink()
    taken(run, path)
    found = numbers(checkpoints(run)[0])[ACC]
    half = 2.776445 * math.sqrt(0.24 / 4)
    assert (found.value, found.n) == (0.6, 5)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-6)


@pytest.mark.parametrize("form", ["deflate", "zstandard", "json"])
def test_inspect_logs_are_read_without_inspect_and_epochs_are_averaged(
    run: Path, tmp_path: Path, form: str
) -> None:
    folder = checkpoints(run)[0]
    log = inspect_log("hf/local", "CCIPCC")
    log["eval"]["model_args"] = {"model_path": str(folder)}
    if form == "json":
        path = tmp_path / "log.json"
        path.write_text(json.dumps(log))
    else:
        path = write_zip(tmp_path / "log.eval", log, zstandard=form == "zstandard")
    (line,) = taken(run, path)
    assert "1 with their documents" in line
    found = numbers(folder)["inspect_quiz_match_accuracy"]
    assert (found.value, found.n) == (0.75, 6)
    assert extra.documents(folder)[found.name] == {
        "0": 1.0, "1": 1.0, "2": 0.0, "3": 0.5, "4": 1.0, "5": 1.0
    }  # fmt: skip


def test_imported_metrics_stay_when_a_run_is_scored_again_or_its_sweep_resumed(
    run: Path, tmp_path: Path, cache: Path
) -> None:
    taken(run, lm_eval(tmp_path / "out", checkpoints(run)[0], [1, 0, 1]))
    from rich.console import Console

    score.score(run, Console(quiet=True))
    assert ACC in pd.read_parquet(run / "results.parquet")
    (run / "results.parquet").unlink()
    command = [sys.executable, "-m", "prefeval", "sweep", "--smoke", "--methods", "dpo",
               "--beta", "0.05,0.3", "--name", "run", "--out", str(run.parent)]  # fmt: skip
    environment = {**os.environ, "PREFEVAL_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert pd.read_parquet(run / "results.parquet")[ACC].tolist()[0] == pytest.approx(2 / 3)


def test_a_checkpoint_with_other_weights_has_no_imported_number_but_the_reason(
    run: Path, tmp_path: Path
) -> None:
    folder = checkpoints(run)[0]
    taken(run, lm_eval(tmp_path / "out", folder, [1, 0, 1]))
    origin = records.read_json(folder / "answers_of.json")
    records.write_json(folder / "answers_of.json", {**origin, "model": ["other", "weights"]})
    found = numbers(folder)[ACC]
    assert math.isnan(found.value)
    assert "import it again" in found.reason


def test_the_same_file_again_changes_nothing_and_another_is_kept_out_unless_asked(
    run: Path, tmp_path: Path
) -> None:
    folder = checkpoints(run)[0]
    path = lm_eval(tmp_path / "out", folder, [1, 0, 1])
    taken(run, path)
    before = {f: (folder / f).read_bytes() for f in ("extra.json", "extra.jsonl")}
    taken(run, path)
    assert {f: (folder / f).read_bytes() for f in before} == before
    other = lm_eval(tmp_path / "out", folder, [0, 0, 1, 0], stamp="2031-01-01")
    said = taken(run, other)
    assert any("is kept" in line and "--replace" in line for line in said)
    assert numbers(folder)[ACC].value == pytest.approx(2 / 3)
    taken(run, other, replace=True)
    assert numbers(folder)[ACC].value == 0.25
    assert len(extra.documents(folder)[ACC]) == 4


# -- what cannot -------------------------------------------------------------------------------


def test_every_broken_file_is_one_line_and_the_whole_ones_are_imported(
    run: Path, tmp_path: Path
) -> None:
    folder = checkpoints(run)[0]
    good = lm_eval(tmp_path / "good", folder, [1, 0, 1])
    cut = tmp_path / "results_cut.json"
    cut.write_text(good.read_text()[:90])
    half = write_zip(tmp_path / "half.eval", inspect_log("m", "CI"))
    half.write_bytes(half.read_bytes()[:-40])
    started = write_zip(tmp_path / "started.eval", inspect_log("m", "CI"))
    with zipfile.ZipFile(started, "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    failed = tmp_path / "failed.json"
    failed.write_text(json.dumps(inspect_log("m", "CI", status="error") | {"results": None}))
    unknown = tmp_path / "unknown.json"
    unknown.write_text('{"leaderboard": [1, 2]}')
    missing = tmp_path / "missing.json"
    said = taken(run, cut, half, started, failed, unknown, missing, good, code=2)
    assert len(said) == 7
    why = ("not valid JSON", "no whole zip", "not finished", "no scores", "unknown.json",
           "missing.json", "1 metrics")  # fmt: skip
    for line, part in zip(said, why, strict=True):
        assert part in line
        assert "\n" not in line
    assert numbers(folder)[ACC].value == pytest.approx(2 / 3)


def test_nan_in_a_file_is_undefined_with_its_reason(run: Path, tmp_path: Path) -> None:
    folder = checkpoints(run)[0]
    path = lm_eval(tmp_path / "out", folder, [1, 0, 1])
    document = json.loads(path.read_text())
    document["results"]["colours"]["acc,none"] = math.nan
    path.write_text(json.dumps(document))
    taken(run, path)
    found = numbers(folder)[ACC]
    assert math.isnan(found.value)
    assert found.reason == "NaN or infinite in the file"


def test_a_broken_samples_file_costs_the_documents_and_not_the_result(
    run: Path, tmp_path: Path
) -> None:
    path = lm_eval(tmp_path / "out", checkpoints(run)[0], [1, 0, 1])
    with (path.parent / "samples_colours_2030-01-01.jsonl").open("a") as handle:
        handle.write('{"doc_id": 3, "fil')
    said = taken(run, path)
    assert "0 with their documents" in said[0]
    assert "samples_colours_2030-01-01.jsonl:4 is no sample" in said[1]
    assert numbers(checkpoints(run)[0])[ACC].n == 3


def test_a_file_of_another_model_is_placed_by_hand_with_a_warning(
    run: Path, tmp_path: Path
) -> None:
    path = lm_eval(tmp_path / "out", "/elsewhere/other-model", [1, 0, 1])
    (line,) = taken(run, path, code=2)
    assert "none of the run's 2 checkpoints" in line
    folder = checkpoints(run)[1]
    said = taken(folder, path)
    assert "says that it is of /elsewhere/other-model" in said[0]
    assert ACC in numbers(folder)
    moved = Path("/elsewhere") / folder.parent.name / folder.name
    assert take._is_of(str(moved), folder), "a copied run is known by the last two parts"


@pytest.mark.parametrize("task", ["group/arc", "../arc", "/arc", "arc\0", "a" * 300, ""])
def test_a_task_whose_name_no_file_has_costs_its_documents_alone(task: str, tmp_path: Path) -> None:
    document = {"results": {task: {"acc,none": 0.5}}}
    found = read_lm_eval.read(tmp_path / "results_x.json", document, "")
    assert [one.result.value for one in found.metrics] == [0.5]


def test_an_inspect_log_with_bytes_overwritten_is_refused_or_read(tmp_path: Path) -> None:
    file = tmp_path / "log.eval"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({"status": "success", "eval": {}} | {
            str(i): i * i for i in range(60)}))  # fmt: skip
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + b"\xff" * 5 + whole[place + 5 :])
        with pytest.raises(PrefevalError):  # a whole one has no scores
            read_inspect.read_zip(file, "")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("header.json", "[1]")
    with pytest.raises(PrefevalError, match="no scores"):
        read_inspect.read_zip(file, "")


def test_a_number_that_no_float_holds_is_undefined() -> None:
    huge = 10**400
    found = read_lm_eval.read(
        Path("results_x.json"),
        {"results": {"arc": {"acc,none": huge, "acc_stderr,none": huge}}},
        "",
    )
    (one,) = found.metrics
    assert math.isnan(one.result.value)
    assert one.result.reason


@given(results=st.dictionaries(st.text(max_size=5), JSON, max_size=3), rest=JSON)
def test_any_json_as_results_is_read_or_refused_in_a_line(results: Any, rest: Any) -> None:
    document = {"results": results, "configs": rest, "n-samples": rest, "config": rest,
                "versions": rest, "higher_is_better": rest}  # fmt: skip
    found = read_lm_eval.read(Path("results_x.json"), document, "")
    assert all("\n" not in note for note in found.notes)
    assert all(r.result.reason or math.isfinite(r.result.ci_low) for r in found.metrics)


@given(about=JSON, results=JSON, samples=JSON, scores=st.lists(JSON, max_size=3))
def test_any_json_as_a_log_is_read_or_refused_in_a_line(
    about: Any, results: Any, samples: Any, scores: Any
) -> None:
    for part in (results, {"scores": scores}):
        log = {"status": "success", "eval": about, "results": part, "samples": samples}
        with contextlib.suppress(PrefevalError):
            found = read_inspect.read(Path("x.json"), log, "").metrics
            assert all(r.result.reason or math.isfinite(r.result.ci_low) for r in found)


# -- training logs -----------------------------------------------------------------------------


def foreign(run: Path) -> Path:
    """The first trial as ``prefeval watch`` would have written it: alone, by another trainer."""
    first, *others = sorted((run / "trials").iterdir())
    for other in others:
        shutil.rmtree(other)
    trial = Trial("dpo", 0.05, 0, {"trainer": "other"})
    records.write_json(first / "trial.json", trial)
    (first / "train.jsonl").unlink()
    return first.rename(run / "trials" / trial.name)


def trainer_state(path: Path, step: int) -> Path:
    rows: list[dict[str, Any]] = [
        {"step": s, "loss": 0.7 - 0.01 * s, "rewards/chosen": -0.1 * s,
         "rewards/rejected": -0.2 * s, "logps/chosen": -50.0 - s, "logps/rejected": -60.0 - s}
        for s in range(1, 41)
    ]  # fmt: skip
    rows.append({"step": step, "eval_loss": 0.61, "eval_rewards/accuracies": 0.7})
    path.write_text(json.dumps({"global_step": 40, "log_history": rows}))
    return path


def test_a_trainers_log_becomes_the_trials_and_its_evaluations_extra_metrics(
    run: Path, tmp_path: Path
) -> None:
    trial = foreign(run)
    (folder,) = [c for c in checkpoints(run) if c.parent == trial]
    step = int(folder.name[-6:])
    without = f"{trial.name} has no train.jsonl yet"
    assert without in diagnose.read(trial)[0].diagnosis.notes
    taken(run, trainer_state(tmp_path / "trainer_state.json", step))
    rows = records.read_jsonl(trial / "train.jsonl")
    assert [r["step"] for r in rows] == list(range(1, 41))
    assert rows[9]["loss"] == pytest.approx(0.6)
    found = numbers(folder)["trainer_loss"]
    assert found.value == 0.61
    assert "no interval" in found.reason
    (subject,) = diagnose.read(trial)
    assert without not in subject.diagnosis.notes
    assert subject.signals["logged_rows"].value == 40
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "trainer loss" in page


def test_a_log_is_not_taken_for_a_trial_that_prefeval_trained(run: Path, tmp_path: Path) -> None:
    log = trainer_state(tmp_path / "trainer_state.json", 2)
    before = {p: p.read_bytes() for p in run.glob("trials/*/train.jsonl")}
    (line,) = taken(checkpoints(run)[0], log, code=2)
    assert "was trained by prefeval" in line
    (line,) = taken(run, log, code=2)
    assert "has 2; name a checkpoint" in line
    assert {p: p.read_bytes() for p in before} == before
