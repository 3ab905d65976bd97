"""A run beside one on noisier labels: what counts as that, what it costs, what is refused."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prefeval import records
from prefeval.harness import measured, related
from prefeval.harness.task import Task
from prefeval.metrics.calibration import DEFAULT_C
from prefeval.records import PrefevalError

N = 400
MANIFEST: dict[str, Any] = {
    "hashes": {"prompts": "p", "reference": "r", "template": "t", "pairs": "x"},
    "judge": {"name": "lab", "settings": "lab:seed=0"},
    "config": {"methods": ["dpo"], "betas": {"dpo": [0.1]}, "seeds": [0], "data": "lab",
               "lab_data": {"noise": 0.0, "pairs": 40}, "training": {"lr": 1e-4}},
}  # fmt: skip


def pairs(flipped: int = 0, n: int = 40) -> list[dict[str, Any]]:
    rows = [{"id": str(i), "prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"}
            for i in range(n)]  # fmt: skip
    for row in rows[:flipped]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    random.Random(flipped).shuffle(rows)
    return rows


def judged(quality: float, seed: int) -> list[dict[str, Any]]:
    """Verdicts of a policy that wins with sigmoid(quality) at equal length."""
    rng = np.random.default_rng(seed)
    longer = rng.normal(0, 40, N).round()
    won = (rng.random(N) < 1 / (1 + np.exp(-(quality + longer / 80)))).astype(float)
    return [
        {"prompt_id": f"w{i:03d}", "cluster": f"c{i % 100:02d}", "behaviour": "about",
         "preference": won[i], "preference_first": won[i], "preference_second": won[i],
         "true_preference": None, "len_output": 300 + longer[i], "len_baseline": 300}
        for i in range(N)
    ]  # fmt: skip


def write_run(
    folder: Path,
    quality: float,
    *,
    flipped: int = 0,
    noise: float = 0.0,
    betas: tuple[float, ...] = (0.1, 0.3),
    seed: int = 0,
) -> Path:
    for name in ("data", "reference", "trials"):
        (folder / name).mkdir(parents=True)
    manifest = copy.deepcopy(MANIFEST)
    manifest["config"]["lab_data"]["noise"] = noise
    records.write_json(folder / "manifest.json", manifest)
    records.write_json(folder / "task.json", Task(str(folder), "reference", "judge"))
    records.write_jsonl(folder / "data" / "pairs.jsonl", pairs(flipped))
    frozen = {"version": measured.CALIBRATION_VERSION, "C": DEFAULT_C, "estimator": "e",
              "difficulty": {}}  # fmt: skip
    records.write_json(folder / "reference" / "calibration.json", frozen)
    for name in ("completions", "pairs"):
        records.write_jsonl(folder / "reference" / f"{name}.jsonl", [])
    rows = []
    for i, beta in enumerate(betas):
        out = folder / "trials" / f"dpo-{beta:g}" / "checkpoint-000010"
        out.mkdir(parents=True)
        records.write_jsonl(out / "judgments.jsonl", judged(quality, seed + i))
        records.write_jsonl(out / "completions.jsonl", [])
        rows.append({"method": "dpo", "beta": beta, "seed": 0, "step": 10,
                     "trial": out.parent.name, "checkpoint": out.name})  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "results.parquet")
    chosen = [{"method": "dpo", "beta": b, "step": 10, "seeds": [0]} for b in betas]
    selection = {"betas": chosen, "prompts_choosing": N // 2}
    records.write_json(folder / "summary.json", {"selection": selection})
    return folder


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return write_run(tmp_path / "clean", 1.0)


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    return write_run(tmp_path / "noisy", 0.3, flipped=12, noise=0.3, seed=50)


def change(folder: Path, *path: str, to: Any) -> None:
    """Change one value of a manifest."""
    manifest = records.read_json(folder / "manifest.json")
    inner = manifest
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    records.write_json(folder / "manifest.json", manifest)


def test_planted_noise_is_found_with_its_interval_and_kept(clean: Path, noisy: Path) -> None:
    """sigmoid(1) = 73% against sigmoid(.3) = 57%: 16 points are lost."""
    (note,) = related.relate(clean, [noisy])
    assert note.startswith("noisy: noise 0.3, 30.0% of 40 labels flipped")
    (run,) = records.read_json(clean / related.FILE)["runs"]
    found = run["methods"]["dpo"]
    assert found["betas"] == [0.1, 0.3]
    assert found["ci_low"] < -15.7 < found["ci_high"] < 0
    assert 150 < found["n"] < 250  # the prompts that chose nothing
    assert str(clean.parent) not in (clean / related.FILE).read_text()


def test_only_beta_of_both_runs_are_compared(clean: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "o", 0.3, flipped=4, noise=0.1, betas=(0.3, 9.0))
    related.relate(clean, [other])
    (run,) = records.read_json(clean / related.FILE)["runs"]
    assert run["methods"]["dpo"]["betas"] == [0.3]
    none = write_run(tmp_path / "none", 0.3, flipped=4, noise=0.1, betas=(9.0,))
    related.relate(clean, [none])
    saved = {r["name"]: r for r in records.read_json(clean / related.FILE)["runs"]}
    assert saved["none"]["methods"]["dpo"]["reason"] == "none has no β at the same step and seed"
    assert saved["o"]["methods"] == run["methods"]  # what was named before stays


@pytest.mark.parametrize(
    ("path", "to", "reason"),
    [
        (("hashes", "prompts"), "other", "it asked other prompts"),
        (("hashes", "reference"), "other", "it started from another reference"),
        (("hashes", "pairs_judge"), "other", "give both runs one --judge"),
        (("judge", "settings"), "lab:seed=1", "it was judged by another judge"),
        (("config", "training", "lr"), 0.1, "more than its labels differs: training.lr"),
    ],
)
def test_a_run_that_differs_in_more_is_refused_with_the_reason(
    clean: Path, noisy: Path, path: tuple[str, ...], to: Any, reason: str
) -> None:
    change(noisy, *path, to=to)
    (note,) = related.relate(clean, [noisy])
    assert note.startswith("noisy is not compared: ")
    assert reason in note
    (run,) = records.read_json(clean / related.FILE)["runs"]
    assert reason in run["reason"]
    assert "methods" not in run


def test_equal_labels_less_noise_and_other_answers_are_refused(
    clean: Path, noisy: Path, tmp_path: Path
) -> None:
    same = write_run(tmp_path / "same", 0.5)
    assert "its labels are the same" in related.relate(clean, [same])[0]
    assert "less noisy" in related.relate(noisy, [clean])[0]
    rows = records.read_jsonl(noisy / "data" / "pairs.jsonl")
    records.write_jsonl(noisy / "data" / "pairs.jsonl", rows[1:])
    assert "not of the same answers" in related.relate(clean, [noisy])[0]


def test_a_folder_without_results_is_refused_and_a_first_one_without_compares_nothing(
    clean: Path, tmp_path: Path
) -> None:
    assert "no verdict yet" in related.relate(clean, [tmp_path / "nothing"])[0]
    assert "no results yet" in related.relate(tmp_path / "nothing", [clean])[0]
    assert not (tmp_path / "nothing").exists()
    assert related.relate(clean, []) == []


def test_what_was_found_beside_other_results_is_forgotten(clean: Path, noisy: Path) -> None:
    related.relate(clean, [noisy])
    frame = pd.read_parquet(clean / "results.parquet")
    frame.assign(win_rate=1.0).to_parquet(clean / "results.parquet")
    other = write_run(clean.parent / "other", 0.4, flipped=4, noise=0.1)
    related.relate(clean, [other])
    assert [r["name"] for r in records.read_json(clean / related.FILE)["runs"]] == ["other"]


@pytest.mark.parametrize("flipped", [0, 1, 17, 40])
def test_flipped_labels_are_counted_whatever_the_order_of_rows(
    tmp_path: Path, flipped: int
) -> None:
    for name, rows in (("a", pairs()), ("b", pairs(flipped))):
        records.write_jsonl(tmp_path / name, rows)
    assert related.labels_of(tmp_path / "a", tmp_path / "b") == related.Labels(flipped, 40)


def test_thumbs_count_as_their_labels_and_one_answer_twice_as_two(tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a", "label": True}
    records.write_jsonl(tmp_path / "a", [row, row, {**row, "completion": "b"}])
    records.write_jsonl(tmp_path / "b", [row, {**row, "label": False}, {**row, "completion": "b"}])
    assert related.labels_of(tmp_path / "a", tmp_path / "b") == related.Labels(1, 3)
    records.write_jsonl(tmp_path / "b", [row])
    with pytest.raises(PrefevalError, match="not of the same answers"):
        related.labels_of(tmp_path / "a", tmp_path / "b")
