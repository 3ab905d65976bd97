"""Commands that measure checkpoints and decide on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefeval.harness.cli import options as o


def evaluate(
    checkpoint: Annotated[list[str], typer.Argument(help="Checkpoint folders.")],
    reference: Annotated[str, typer.Option(help="What they were tuned from, or 'lab'.")] = "lab",
    data: o.Data = "lab",
    suite: o.SuiteOption = "",
    judge: o.Judge = "",
    lab: o.Knobs = "",
    out: o.Out = Path("runs"),
    name: o.Name = "",
    workers: o.Workers = 0,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    backend: o.Backend = "hugging_face",
    max_length: o.MaxLength = 0,
    max_new_tokens: o.MaxNewTokens = 0,
    suite_samples: o.SuiteSamples = 0,
    prompts: o.Prompts = 0,
    length_unit: o.LengthUnit = "characters",
    held_out: o.HeldOut = 0.2,
    judge_pairs: o.JudgePairs = 0,
    track: o.Track = "",
    smoke: o.Smoke = False,
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """Measure any checkpoints against their reference."""
    from prefeval.harness import commands

    options = dict(locals())
    options.pop("commands")
    raise typer.Exit(commands.evaluate(**options))


def watch(
    folder: Annotated[Path, typer.Argument(help="Where the trainer writes its checkpoints.")],
    reference: Annotated[str, typer.Option(help="What is tuned, or 'lab'.")] = "lab",
    data: o.Data = "lab",
    suite: o.SuiteOption = "",
    judge: o.Judge = "",
    lab: o.Knobs = "",
    out: o.Out = Path("runs"),
    name: o.Name = "",
    method: Annotated[str, typer.Option(help="How it is trained, for the report: dpo, ...")] = "",
    beta: Annotated[float, typer.Option(min=0, help="Its beta, for the report; 0: unknown.")] = 0.0,
    pattern: Annotated[
        str, typer.Option(help="Regular expression of a checkpoint's name, its step in brackets.")
    ] = "",
    settle: Annotated[str, typer.Option(help="How long a whole checkpoint must rest.")] = "10s",
    idle: Annotated[str, typer.Option(help="End when nothing came for 30m, 2h; 0: wait on.")] = "0",
    stop_file: Annotated[
        Path | None, typer.Option(help="End when it is there; FOLDER/prefeval.stop if empty.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Measure what is there and end.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the weights in the run when the trainer deletes.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Measure a step anew that has other weights now.")
    ] = False,
    patience: Annotated[
        int,
        typer.Option(min=0, help="Checkpoints without a gain until the trainer is told; 0: never."),
    ] = 0,
    metric: Annotated[str, typer.Option(help="What --patience looks at.")] = "lc_win_rate",
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    backend: o.Backend = "hugging_face",
    max_length: o.MaxLength = 0,
    max_new_tokens: o.MaxNewTokens = 0,
    suite_samples: o.SuiteSamples = 0,
    prompts: o.Prompts = 0,
    length_unit: o.LengthUnit = "characters",
    held_out: o.HeldOut = 0.2,
    judge_pairs: o.JudgePairs = 0,
    smoke: o.Smoke = False,
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """Measure a training's checkpoints as its trainer writes them; 3 where one could not be."""
    from prefeval.harness.watch import command as watching

    options = dict(locals())
    options.pop("watching")
    raise typer.Exit(watching.command(options))


def score(
    run: Annotated[Path, typer.Argument(help="The folder of a sweep or an eval.")],
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Judge, check and measure a run's saved answers again; nothing is generated."""
    from prefeval.harness import live
    from prefeval.harness import score as scoring

    typer.echo(scoring.score(run, live.make_console(), workers=workers))


def gate(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint, measured or not; a run; a baseline file.")
    ] = "",
    baseline: Annotated[
        str, typer.Option(help="A baseline file, a measured checkpoint, a run, or 'reference'.")
    ] = "",
    policy: Annotated[
        Path | None, typer.Option(help="Margins, floors and ceilings; the usual ones if empty.")
    ] = None,
    save_baseline: Annotated[
        Path | None, typer.Option(help="Write the checkpoint's results as a baseline and end.")
    ] = None,
    inconclusive: Annotated[
        str, typer.Option(help="Count an inconclusive verdict as pass or as fail.")
    ] = "",
    anytime: Annotated[
        Path | None,
        typer.Option(help="Win rate alone, by bounds that hold while you add prompts; a file."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML.")] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(help="Write Markdown; into $GITHUB_STEP_SUMMARY, where set, if empty."),
    ] = None,
    print_policy: Annotated[
        bool, typer.Option("--print-policy", help="Print the usual policy and end.")
    ] = False,
    reference: Annotated[str, typer.Option(help="What it was tuned from, or 'lab'.")] = "lab",
    data: o.Data = "lab",
    suite: o.SuiteOption = "",
    judge: o.Judge = "",
    lab: o.Knobs = "",
    out: o.Out = Path("runs"),
    name: o.Name = "",
    workers: o.Workers = 0,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    backend: o.Backend = "hugging_face",
    max_length: o.MaxLength = 0,
    max_new_tokens: o.MaxNewTokens = 0,
    suite_samples: o.SuiteSamples = 0,
    prompts: o.Prompts = 0,
    length_unit: o.LengthUnit = "characters",
    held_out: o.HeldOut = 0.2,
    judge_pairs: o.JudgePairs = 0,
    smoke: o.Smoke = False,
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """Pass (0), fail (1) or inconclusive (4): a checkpoint against a baseline and margins."""
    from prefeval.harness.gate import command as gating

    options = dict(locals())
    options.pop("gating")
    raise typer.Exit(gating.command(options))
