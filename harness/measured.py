"""What an evaluation saved, read back: completions, metrics, and the frames that metrics take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prefeval import records
from prefeval.harness.peers import extra
from prefeval.harness.task import Task
from prefeval.metrics import length_control, stats
from prefeval.metrics.calibration import DEFAULT_C
from prefeval.metrics.evidence import Evidence
from prefeval.records import Completion, MetricResult, PrefevalError

FRAMES = ("judgments", "samples", "pairs", "checks", "sampled")
CALIBRATION, CALIBRATION_VERSION = "calibration.json", 2
ESTIMATOR = "length_controlled_v1, C fixed, difficulty and length from reference self-play"
TOKENS = "tokens"
_FLOATS = ("value", "stderr", "ci_low", "ci_high")


def read_metrics(path: Path) -> list[MetricResult]:
    """The metrics of one checkpoint; what JSON calls null is NaN again. Those that other tools
    measured follow (`peers.extra`)."""
    rows: list[dict[str, Any]] = records.read_json(path)["metrics"]
    for row in rows:
        row.update({k: math.nan for k in _FLOATS if row[k] is None})
    return [*(MetricResult(**row) for row in rows), *extra.read(path.parent)]


def calibrate(rows: Sequence[Mapping[str, Any]], unit: str = "characters") -> dict[str, Any]:
    """What length control freezes before a run, for ``calibration.json``: C, each prompt's
    difficulty, and the reference's judgments against itself as gamed rows. Lengths are in
    ``unit``."""
    found: dict[str, Any] = {"version": CALIBRATION_VERSION, "unit": unit, "C": DEFAULT_C}
    if not rows:
        name = f"{length_control.Calibration().name}; lengths in {unit}"
        return {**found, "estimator": name, "difficulty": {}}
    frame = pd.DataFrame(rows)
    preference = frame["preference"].to_numpy(dtype=np.float64, na_value=np.nan)
    difficulty = length_control.difficulty_from_self_play(frame["prompt_id"].tolist(), preference)
    gamed = length_control.gamed_rows(
        preference,
        frame["len_output"],
        frame["len_baseline"],
        difficulty.loc[frame["prompt_id"]].to_numpy(),
    )
    return {
        **found,
        "estimator": f"{ESTIMATOR}; lengths in {unit}",
        "self_play": _self_play(frame, preference),
        "difficulty": {str(k): float(v) for k, v in difficulty.items()},
        "gamed": {
            "preference": gamed.preference.tolist(),
            "length": gamed.length.tolist(),
            "difficulty": gamed.difficulty.tolist(),
            "weight": gamed.weight,
        },
    }


def _self_play(frame: pd.DataFrame, preference: stats.Array) -> dict[str, Any]:
    """The A/A rate, clustered as the prompts are."""
    read = np.isfinite(preference)
    clusters = frame["cluster"].to_numpy()[read]
    noise: dict[str, Any] = records.to_jsonable(
        stats.bounded_mean(preference[read], clusters).scaled(100)
    )
    return noise


def read_calibration(
    task: Task,
) -> tuple[length_control.Calibration, Mapping[str, float]]:
    """The run's ``calibration.json``, and each prompt's difficulty.

    Raises ``PrefevalError`` for one of another version: rates of two do not compare.
    """
    path = task.reference_dir / CALIBRATION
    saved = records.read_json(path)
    if saved.get("version") != CALIBRATION_VERSION:
        raise PrefevalError(
            f"{path} is a calibration of version {saved.get('version')} and this prefeval makes "
            f"{CALIBRATION_VERSION}, whose win rates do not compare; give the run a new --name"
        )
    gamed = None
    if rows := saved.get("gamed"):
        gamed = length_control.GamedRows(
            np.array(rows["preference"]),
            np.array(rows["length"]),
            np.array(rows["difficulty"]),
            rows["weight"],
        )
    self_play = None
    if noise := saved.get("self_play"):
        noise |= {k: math.nan for k, v in noise.items() if v is None}
        self_play = stats.Estimate(**noise)
    frozen = length_control.Calibration(saved["C"], gamed, saved["estimator"], self_play)
    return frozen, saved["difficulty"]


def read_evidence(
    out: Path,
    task: Task,
    calibration: tuple[length_control.Calibration, Mapping[str, float]],
) -> Evidence:
    """The frames of one checkpoint, joined with the reference's by id."""
    frames = {
        name: pd.DataFrame(records.read_jsonl(out / f"{name}.jsonl"))
        for name in FRAMES
        if (out / f"{name}.jsonl").exists()
    }
    frozen, difficulty = calibration
    judged = frames["judgments"]
    judged["difficulty"] = [difficulty.get(i, 0.0) for i in judged["prompt_id"]]
    if task.length_unit == TOKENS:
        counts = frames["samples"].set_index("prompt_id")
        judged["len_output"] = counts.loc[judged["prompt_id"], "n_tokens"].to_numpy()
        judged["len_baseline"] = counts.loc[judged["prompt_id"], "ref_n_tokens"].to_numpy()
    reference = pd.DataFrame(records.read_jsonl(task.reference_dir / "pairs.jsonl"))
    if len(reference):
        names = {n: f"ref_{n}" for n in ("chosen_logps", "rejected_logps", "ches")}
        reference = reference.rename(columns=names)
        reference = reference[[c for c in ("pair_id", *names.values()) if c in reference]]
        frames["pairs"] = frames["pairs"].merge(reference, on="pair_id", validate="1:1")
    frames["diverse"] = _diverse(out, task)
    return Evidence(**frames, calibration=frozen)


def _diverse(out: Path, task: Task) -> pd.DataFrame:
    columns = ["prompt_id", "index", "text"]
    own, base = (
        pd.DataFrame(
            [(c.prompt_id, c.index, c.text) for c in read_completions(f) if c.mode == "diverse"],
            columns=columns,
        )
        for f in (out, task.reference_dir)
    )
    base = base.rename(columns={"text": "ref_text"})
    return own.merge(base, on=["prompt_id", "index"], validate="1:1")


def read_completions(folder: Path) -> list[Completion]:
    """Every completion that was saved in a folder, in the order of generation."""
    return [
        Completion(**{**row, "token_ids": tuple(row["token_ids"])})
        for row in records.read_jsonl(folder / "completions.jsonl")
    ]


def texts_by_prompt(completions: Sequence[Completion], mode: str) -> list[dict[str, str]]:
    """Texts of one mode by prompt id, one mapping an index."""
    found: list[dict[str, str]] = []
    for c in completions:
        if c.mode == mode:
            while len(found) <= c.index:
                found.append({})
            found[c.index][c.prompt_id] = c.text
    return found


def first_samples(completions: Sequence[Completion]) -> dict[str, Completion]:
    """The sample of each prompt that is judged, by prompt id."""
    return {c.prompt_id: c for c in completions if c.mode == "sample" and c.index == 0}
