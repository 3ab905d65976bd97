"""A run in the formats of others, checked against the run's own files."""

import math
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from prefeval import records
from prefeval.harness.peers import give, read_lm_eval
from prefeval.records import PrefevalError


def exported(run: Path, kind: str, out: Path) -> list[Path]:
    said: list[str] = []
    assert give.command(run, kind, out, said.append) == 0
    return [Path(line) for line in said]


def metrics_of(folder: Path) -> dict[str, dict[str, object]]:
    return {m["name"]: m for m in records.read_json(folder / "metrics.json")["metrics"]}


def test_lm_eval_files_hold_the_runs_numbers_and_the_samples_they_are_means_of(
    finished: Path, tmp_path: Path
) -> None:
    files = exported(finished, "lm-eval", tmp_path)
    folders = sorted(finished.glob("trials/*/checkpoint-*"))
    assert len(files) == len(folders) == 2
    for file, folder in zip(files, folders, strict=True):
        document = records.read_json(file)
        own = metrics_of(folder)
        rates = document["results"]["prefeval_win_rate"]
        assert rates["lc_win_rate,none"] == pytest.approx(own["lc_win_rate"]["value"] / 100)
        assert rates["win_rate_stderr,none"] == pytest.approx(own["win_rate"]["stderr"] / 100)
        assert document["results"]["prefeval_measures"]["kl,none"] == own["kl"]["value"]
        assert document["n-samples"]["prefeval_win_rate"]["effective"] == own["win_rate"]["n"]
        undefined = document["configs"]["prefeval_win_rate"]["metadata"]["undefined"]
        assert set(undefined) == {
            f"{n}," + "none" for n in ("win_rate", "lc_win_rate", "true_win_rate", "style_win_rate")
            if own[n]["value"] is None
        }  # fmt: skip
        peer = read_lm_eval.read(file, document, "")
        assert not peer.notes
        means = {m.result.name: (m.result.value, m.documents) for m in peer.metrics if m.documents}
        assert {"lm_eval_prefeval_win_rate_win_rate", "lm_eval_prefeval_json_pass_rate"} <= set(
            means
        )
        for value, documents in means.values():
            assert sum(documents.values()) / len(documents) == pytest.approx(value)


def test_lm_evals_own_tool_prints_the_exported_results(finished: Path, tmp_path: Path) -> None:
    python = os.environ.get("PREFEVAL_LM_EVAL")
    if not python:
        pytest.skip("set PREFEVAL_LM_EVAL to a Python that has lm-eval (docs/peers.md)")
    file = exported(finished, "lm-eval", tmp_path)[0]
    script = (
        "import json, sys; from lm_eval.utils import make_table; "
        "print(make_table(json.load(open(sys.argv[1]))))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", script, str(file)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    value = records.read_json(file)["results"]["prefeval_win_rate"]["lc_win_rate,none"]
    (line,) = [x for x in done.stdout.splitlines() if "lc_win_rate" in x]
    assert f"{value:.4f}" in line
    assert "prefeval_json" in done.stdout


def test_tidy_files_hold_every_metric_and_every_prompts_outcome(
    finished: Path, tmp_path: Path
) -> None:
    metrics, prompts = (pd.read_parquet(f) for f in exported(finished, "parquet", tmp_path))
    for folder in finished.glob("trials/*/checkpoint-*"):
        label = folder.relative_to(finished).as_posix()
        own = metrics_of(folder)
        long = metrics[metrics["checkpoint"] == label].set_index("metric")
        assert set(long.index) == set(own)
        for name, row in own.items():
            value = math.nan if row["value"] is None else row["value"]
            assert long.loc[name, "value"] == pytest.approx(value, nan_ok=True)
            assert long.loc[name, "n"] == row["n"]
            if row["value"] is None:
                assert long.loc[name, "reason"] == row["reason"]
        mine = prompts[prompts["checkpoint"] == label]
        mean = mine.groupby("metric")["value"].mean()
        assert 100 * mean["preference"] == pytest.approx(own["win_rate"]["value"])
        assert mean["kl"] == pytest.approx(own["kl"]["value"])
        json_ = mine[(mine["metric"] == "passed") & (mine["behaviour"] == "json")]
        assert 100 * json_["value"].mean() == pytest.approx(own["retention_json"]["value"])
        change = 100 * (json_["value"] - json_["ref_value"]).mean()
        assert change == pytest.approx(own["change_json"]["value"])
        chosen = mine[mine["metric"] == "chosen_logps"]
        moved = (chosen["value"] - chosen["ref_value"]).mean()
        assert moved == pytest.approx(own["delta_chosen"]["value"])
    assert set(metrics["beta"]) == {0.05, 0.3}


def test_equal_runs_give_equal_bytes(finished: Path, run: Path, tmp_path: Path) -> None:
    for kind in give.FORMATS:
        one, other = tmp_path / "one" / kind, tmp_path / "other" / kind
        exported(finished, kind, one)
        exported(run, kind, other)
        files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
        assert files
        for file in files:
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_what_is_no_run_and_an_unknown_format_are_one_line(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(PrefevalError, match="the formats are lm-eval, parquet"):
        give.command(finished, "csv", None, print)
    with pytest.raises(PrefevalError, match="no run of prefeval"):
        give.command(tmp_path, "parquet", None, print)
