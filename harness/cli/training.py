"""Commands that train, and the lab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefeval.harness.cli import options as o


def sweep(
    beta: o.Beta = "0.05:0.3",
    methods: o.Methods = "dpo,ipo,kto,simpo,ppo",
    seeds: o.Seeds = "1",
    model: o.Model = "lab",
    data: o.Data = "lab",
    suite: o.SuiteOption = "",
    judge: o.Judge = "",
    lab: o.Knobs = "",
    out: o.Out = Path("runs"),
    name: o.Name = "",
    workers: o.Workers = 0,
    executor: Annotated[str, typer.Option(help="Where trials run: local.")] = "local",
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    backend: o.Backend = "hugging_face",
    lr: o.LearningRate = 0.0,
    epochs: o.Epochs = 0,
    batch_size: o.BatchSize = 0,
    micro_batch: o.MicroBatch = 0,
    max_steps: o.MaxSteps = 0,
    checkpoints: o.Checkpoints = 3,
    save_every: o.SaveEvery = 0,
    max_length: o.MaxLength = 0,
    max_new_tokens: o.MaxNewTokens = 0,
    suite_samples: o.SuiteSamples = 0,
    prompts: o.Prompts = 0,
    reward: o.Reward = "",
    target_kl: o.TargetKl = 0.0,
    iterations: o.Iterations = 0,
    group_size: o.GroupSize = 0,
    rounds: o.Rounds = 0,
    round_prompts: o.RoundPrompts = 0,
    samples: o.Samples = 0,
    refresh_reference: o.Refresh = False,
    then: o.Then = "",
    then_iterations: o.ThenIterations = 0,
    lora_rank: o.LoraRank = 0,
    gradient_checkpointing: o.Checkpointing = False,
    state_every: o.StateEvery = 0,
    desirable_weight: o.DesirableWeight = 0.0,
    undesirable_weight: o.UndesirableWeight = 0.0,
    length_unit: o.LengthUnit = "characters",
    held_out: o.HeldOut = 0.2,
    judge_pairs: o.JudgePairs = 0,
    track: o.Track = "",
    resume: Annotated[bool, typer.Option("--resume", help="Continue (also the default).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    smoke: o.Smoke = False,
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """Train methods over a beta grid, measure every checkpoint, say which to ship."""
    from prefeval.harness import commands

    options = dict(locals())
    options.pop("commands")
    raise typer.Exit(commands.sweep(**options))


def train(
    method: Annotated[str, typer.Argument(help="dpo, ipo, kto, simpo, ppo or grpo.")],
    beta: Annotated[str, typer.Option(help="One value of the lever.")] = "0.1",
    seed: Annotated[int, typer.Option(min=0, help="Training seed.")] = 0,
    model: o.Model = "lab",
    data: o.Data = "lab",
    lab: o.Knobs = "",
    out: o.Out = Path("runs"),
    name: o.Name = "",
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    lr: o.LearningRate = 0.0,
    epochs: o.Epochs = 0,
    batch_size: o.BatchSize = 0,
    micro_batch: o.MicroBatch = 0,
    max_steps: o.MaxSteps = 0,
    checkpoints: o.Checkpoints = 3,
    save_every: o.SaveEvery = 0,
    max_length: o.MaxLength = 0,
    reward: o.Reward = "",
    target_kl: o.TargetKl = 0.0,
    iterations: o.Iterations = 0,
    group_size: o.GroupSize = 0,
    rounds: o.Rounds = 0,
    round_prompts: o.RoundPrompts = 0,
    samples: o.Samples = 0,
    refresh_reference: o.Refresh = False,
    then: o.Then = "",
    then_iterations: o.ThenIterations = 0,
    lora_rank: o.LoraRank = 0,
    gradient_checkpointing: o.Checkpointing = False,
    state_every: o.StateEvery = 0,
    desirable_weight: o.DesirableWeight = 0.0,
    undesirable_weight: o.UndesirableWeight = 0.0,
    smoke: o.Smoke = False,
    config: o.Config = None,
) -> None:
    """Train one method from the reference; the checkpoints are Hugging Face folders."""
    from prefeval.harness import commands

    options = dict(locals())
    options.pop("commands")
    raise typer.Exit(commands.train(**options))


def lab(
    out: Annotated[Path, typer.Option(help="A new folder to write the lab to.")],
    knobs: Annotated[str, typer.Option(help="noise=0.1,length_bias=0.2,anchors=0.1,...")] = "",
    smoke: o.Smoke = False,
) -> None:
    """Write the lab out as Hugging Face folders and JSONL, for any other trainer."""
    from prefeval.harness import commands

    raise typer.Exit(commands.lab(out=out, knobs=knobs, smoke=smoke))
