"""Commands that measure checkpoints and decide on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prefeval.harness.cli import options as o


@o.taking(o.RUN, o.MEASURING, o.LAST)
def evaluate(
    checkpoint: Annotated[list[str], typer.Argument(help="Checkpoint folders.")],
    reference: Annotated[str, typer.Option(help="What they were tuned from, or 'lab'.")] = "lab",
    workers: o.Workers = 0,
    track: o.Track = "",
    json_output: o.Json = False,
    **options: Any,
) -> None:
    """Measure any checkpoints against their reference."""
    asked = o.together(locals())
    from prefeval.harness import commands

    raise typer.Exit(commands.evaluate(**asked))


@o.taking(o.RUN, o.MEASURING, o.LAST)
def watch(
    folder: Annotated[Path, typer.Argument(help="Where the trainer writes its checkpoints.")],
    reference: Annotated[str, typer.Option(help="What is tuned, or 'lab'.")] = "lab",
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
    json_output: o.Json = False,
    **options: Any,
) -> None:
    """Measure a training's checkpoints as its trainer writes them; 3 where one could not be."""
    asked = o.together(locals())
    from prefeval.harness.watch import command as watching

    raise typer.Exit(watching.command(asked))


def score(
    run: Annotated[Path, typer.Argument(help="The folder of a sweep or an eval.")],
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Judge, check and measure a run's saved answers again; nothing is generated."""
    from prefeval.harness import live
    from prefeval.harness import score as scoring

    typer.echo(scoring.score(run, live.make_console(), workers=workers))


@o.taking(o.RUN, o.MEASURING, o.LAST)
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
    workers: o.Workers = 0,
    json_output: o.Json = False,
    **options: Any,
) -> None:
    """Pass (0), fail (1) or inconclusive (4): a checkpoint against a baseline and margins."""
    asked = o.together(locals())
    from prefeval.harness.gate import command as gating

    raise typer.Exit(gating.command(asked))
