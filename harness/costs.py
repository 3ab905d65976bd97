"""What a trial cost, in ``costs.json``: apart from its results, which equal runs have in common."""

from __future__ import annotations

from pathlib import Path

from prefeval import records
from prefeval.harness import rewards
from prefeval.minitrainers import METHODS
from prefeval.records import Trial


def record(folder: Path, trial: Trial, eval_seconds: float) -> None:
    """Clock and memory, apart from the results: equal runs have equal results.

    The peak is the worker's until then, so it may be an earlier trial's.
    """
    rows = records.read_jsonl(folder / "train.jsonl")
    peak = max(row.get("peak_memory_mb", 0.0) for row in rows)
    records.write_json(
        folder / "costs.json",
        {
            "trial": trial.name,
            "method": trial.method,
            "beta": trial.beta,
            "seed": trial.seed,
            "train_seconds": sum(row.get("seconds", 0.0) for row in rows),
            "eval_seconds": eval_seconds,
            "peak_memory_mb": peak,
            "tokens": sum(row.get("tokens", 0) for row in rows),
            "flops": sum(row.get("flops", 0) for row in rows),
            "sft_flops": sum(row.get("sft_flops", 0) for row in rows),
            "models": models_held(trial),
        },
    )


def models_held(trial: Trial) -> int:
    """Models of the policy's size that the trial's phases hold at once, at the most.

    `METHODS` counts PPO's and GRPO's with a reference and a reward model: an adapter's base is its
    reference, and a program that rewards is no model.
    """
    settings, phases = trial.settings, [trial.method]
    if then := settings.get("then"):
        phases.append(then["method"])
    adapter = bool(settings.get("lora_rank"))
    reward = rewards.models_needed(settings.get("reward", rewards.MODEL))
    held = []
    for method in phases:
        n = METHODS[method].models
        if METHODS[method].data == "prompts":
            n -= adapter + 1 - reward
        elif settings.get("rounds"):
            n += reward + (not adapter and not settings.get("refresh_reference"))
        held.append(n)
    return max(held)
