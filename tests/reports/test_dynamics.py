"""Bends of training curves and KL by position, from planted files."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prefeval import reports
from prefeval.harness.results import _bends
from prefeval.records import read_json, write_json, write_jsonl
from prefeval.reports import verdict
from prefeval.reports.charts import position as chart_position
from prefeval.reports.charts.dynamics import bends, binned
from prefeval.reports.run import load


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "run"))


def test_a_planted_bend_is_saved_said_and_drawn(real_run: Path, tmp_path: Path) -> None:
    run, rng = copied(real_run, tmp_path), np.random.default_rng(0)
    low, high = sorted(run.glob("trials/dpo-*"))
    for trial, fall in ((low, -0.2), (high, 0.0)):
        steps = range(1, 151)
        noise = rng.normal(0, 0.3, (150, 2))
        write_jsonl(
            trial / "train.jsonl",
            [
                {"step": s, "delta_chosen": -0.01 * s + fall * max(0, s - 90) + e[0],
                 "delta_rejected": -0.02 * s + e[1]}
                for s, e in zip(steps, noise, strict=True)
            ],
        )  # fmt: skip
    found = {trial.name: _bends(trial) for trial in (low, high)}
    write_json(run / "summary.json", {**read_json(run / "summary.json"), "bends": found})
    planted = found[low.name]["delta_chosen"]
    assert planted.ci_low <= 90 <= planted.ci_high
    assert "kl" not in found[low.name]
    said = bends(load(run))
    assert re.search(r"DPO 0.02 at (8\d|9\d) \[", said), said
    assert "0.1" not in said
    page = reports.write_report(run).read_text(encoding="utf-8")
    assert len(re.findall(r">bend \d+<", page)) == 1


def test_kl_by_position_is_drawn_where_it_was_saved(real_run: Path, tmp_path: Path) -> None:
    run = copied(real_run, tmp_path)
    read = load(run)
    found = verdict.read(read)
    assert chart_position.kl_by_position(read, found) is None
    (shown, *_) = chart_position.shown(read, found)
    assert shown.folder is not None
    write_jsonl(
        shown.folder / "samples.jsonl",
        [
            {"prompt_id": f"p{i}", "cluster": "", "kl_by_position": [1.0 + 0.1 * (i % 3), 0.5, 0.5]}
            for i in range(9)
        ],
    )
    drawn = str(chart_position.kl_by_position(read, found))
    assert "token 1: 1.100 [" in drawn
    assert "tokens 2-3: 0.500 [0.500, 0.500] nats/token, n = 18 tokens" in drawn


def test_curves_are_means_of_neighbouring_steps_without_those_that_are_no_number() -> None:
    rows = [{"step": s, "delta_chosen": -0.1 * s * s} for s in range(1, 151)]
    rows[10]["delta_chosen"] = "nan"
    rows[20]["delta_chosen"] = None
    kept = [r for i, r in enumerate(rows) if i not in (10, 20)]
    groups = [kept[i : i + 3] for i in range(0, len(kept), 3)]  # 148 steps, at most 60 points
    expected = [
        (sum(r["step"] for r in g) / len(g), sum(r["delta_chosen"] for r in g) / len(g))
        for g in groups
    ]
    found = binned(pd.DataFrame(rows), "delta_chosen")
    assert found == [pytest.approx(point) for point in expected]
    assert binned(pd.DataFrame(rows), "delta_rejected") == []
