"""Does length control rank checkpoints by true quality? Measured in the lab: prints Markdown.

    python scripts/study_length.py [--seeds 5] [--run FOLDER]

A sweep trains DPO and SimPO over a wide grid of beta with several seeds (FOLDER keeps it, and a run
that is there already is read, not trained). Then judges of every shape judge the same answers:
Kendall's tau between the oracle's quality of a checkpoint's answers and its raw, and its
length-controlled, win rate; a tau a seed over that seed's checkpoints, and t intervals over seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from prefeval.harness import judges, measured
from prefeval.harness.judges.lab import LabJudge
from prefeval.harness.lab import lab as labs
from prefeval.harness.lab import rewards as lab_rewards
from prefeval.harness.task import Task, read_prompts
from prefeval.harness.threads import no_bars, one_thread
from prefeval.metrics import length_control, stats
from prefeval.metrics.calibration import DEFAULT_C, GamedRows
from prefeval.records import Prompt

GRID = ("--methods", "dpo,simpo", "--beta", "dpo=0.01:1:5,simpo=1:10:3")
# shape, logits a word (quality units), and what it stands for
JUDGES = (
    ("oracle", 0.0, "ignores length"),
    ("saturating", 0.07, "likes length a little"),
    ("saturating", 0.14, "the default judge"),
    ("saturating", 0.28, "likes length much"),
    ("linear", 0.05, "likes length without end"),
    ("linear", 0.15, "likes length without end, much"),
    ("product", 0.05, "likes length where the answer is good"),
)


class Setting(NamedTuple):
    """What a judge's control is calibrated with, before any checkpoint."""

    difficulty: Mapping[str, float]
    gamed: GamedRows


def sweep(out: Path, seeds: int) -> Path:
    """The run's folder; trained if it is not there."""
    command = [sys.executable, "-m", "prefeval", "sweep", *GRID, "--seeds", str(seeds)]
    subprocess.run([*command, "--out", str(out), "--name", "length"], check=True, stdout=sys.stderr)
    return out / "length"


def calibrate(judge: LabJudge, prompts: Sequence[Prompt], own: list[dict[str, str]]) -> Setting:
    """The reference against itself, as every run does it (`measured.read_calibration`)."""
    frames = [judges.judge_both_orders(judge, prompts, again, own[0]) for again in own[1:]]
    frame = pd.concat(frames, ignore_index=True)
    found = length_control.difficulty_from_self_play(frame["prompt_id"], frame["preference"])
    gamed = length_control.gamed_rows(
        frame["preference"],
        frame["len_output"],
        frame["len_baseline"],
        found.loc[frame["prompt_id"]].to_numpy(),
    )
    return Setting({str(k): float(v) for k, v in found.items()}, gamed)


def rates(
    judge: LabJudge,
    prompts: Sequence[Prompt],
    texts: Mapping[str, str],
    base: Mapping[str, str],
    setting: Setting,
) -> tuple[float, float]:
    """Raw and length-controlled win rate; NaN where it is not identified."""
    frame = judges.judge_both_orders(judge, prompts, texts, base)
    fit = length_control.length_controlled(
        frame["preference"],
        frame["len_output"],
        frame["len_baseline"],
        [setting.difficulty[i] for i in frame["prompt_id"]],
        gamed=setting.gamed,
        C=DEFAULT_C,
        n_boot=0,
    )
    return fit.win_rate, fit.lc_win_rate


def tau(values: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau-b; an unknown value keeps its place at the bottom, where nobody ships it."""
    known = np.nan_to_num(np.asarray(values), nan=-1.0)
    return float(kendalltau(known, truth).statistic)


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--run", type=Path, help="parent folder of the sweep, kept")
    chosen = parser.parse_args()
    no_bars()
    run = sweep(chosen.run or Path(tempfile.mkdtemp()), chosen.seeds)
    with one_thread():
        table(run)


def table(run: Path) -> None:
    """Judge every checkpoint of a run by every judge and print how well each ranks them."""
    lab = labs.build(on_progress=lambda stage, share: None)
    task = Task(str(run), "", f"lab:seed={lab.config.seed},people={lab.config.people}")
    prompts = [p for p in read_prompts(task.data / "prompts.jsonl") if p.use == "win_rate"]
    own = measured.texts_by_prompt(measured.read_completions(task.reference_dir), "sample")
    world = lab_rewards.world_of(task.judge)
    oracle = LabJudge(world)
    checkpoints: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for file in sorted(run.glob("trials/*/checkpoint-*/completions.jsonl")):
        seed = next(p for p in file.parts[-3].split("-") if p[0] == "s" and p[1:].isdigit())
        texts = measured.texts_by_prompt(measured.read_completions(file.parent), "sample")[0]
        checkpoints.setdefault(seed, []).append((str(file.parent), texts))
    truth = {
        seed: [np.mean([oracle.quality(p, texts[p.id]) for p in prompts]) for _, texts in found]
        for seed, found in checkpoints.items()
    }
    n = {len(found) for found in checkpoints.values()}
    print(
        f"{len(checkpoints)} seeds of {', '.join(map(str, sorted(n)))} checkpoints (DPO, SimPO), "
        f"{len(prompts)} prompts; τ with the oracle's mean quality, mean over seeds [95%]\n\n"
        "| judge | | τ raw | τ length-controlled | difference | not identified |\n"
        "|---|---|---:|---:|---:|---:|"
    )
    for shape, weight, words in JUDGES:
        judge = LabJudge(world, shape=shape, length_bias=weight, position_bias=0.1)
        setting = calibrate(judge, prompts, own)
        raw, controlled, lost, total = [], [], 0, 0
        for seed, found in checkpoints.items():
            both = [rates(judge, prompts, texts, own[0], setting) for _, texts in found]
            raw.append(tau([r for r, _ in both], truth[seed]))
            controlled.append(tau([c for _, c in both], truth[seed]))
            lost += sum(c != c for _, c in both)
            total += len(both)
        cells = [_shown(x) for x in (raw, controlled, np.subtract(controlled, raw))]
        print(
            f"| {shape} {weight:g} | {words} | {' | '.join(cells)} | {lost} of {total} |",
            flush=True,
        )


def _shown(values: Any) -> str:
    found = stats.clustered_mean(values)
    return f"{found.value:+.2f} [{found.ci_low:+.2f}, {found.ci_high:+.2f}]"


if __name__ == "__main__":
    main()
