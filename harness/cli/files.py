"""Commands that read and write other tools' files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefeval.harness.cli import options as o


def judge(
    model: Annotated[Path, typer.Argument(help="The model's answers: AlpacaEval's model_outputs.")],
    baseline: Annotated[Path, typer.Argument(help="The baseline's answers to the same.")],
    judge: Annotated[
        str,
        typer.Option(help="endpoint:model=..,url=.., chat:DIR, reward_model:DIR, person:FILE, ..."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="AlpacaEval's annotations; beside the answers if empty.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where verdicts are kept; beside the annotations if empty.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Other annotations of these answers: how far they agree.")
    ] = None,
    prompts: o.Prompts = 0,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """Judge two files of answers, in both orders; goes on where it was stopped."""
    from prefeval.harness import judge_files
    from prefeval.harness.settings import resolve_device

    options = dict(locals())
    judge_files.command({**options, "device": resolve_device(device)})


def winrate(
    file: Annotated[
        Path, typer.Argument(help="AlpacaEval's annotations.json, or a table of preferences.")
    ],
    difficulty: Annotated[
        Path | None, typer.Option(help="Table of difficulties: index, instruction_difficulty.")
    ] = None,
    gamed: Annotated[
        Path | None, typer.Option(help="The baseline's judgments against its own variants.")
    ] = None,
    join: Annotated[
        str, typer.Option(help="Rows meet difficulties by identity, or by row as published.")
    ] = "identity",
    bootstrap: Annotated[int, typer.Option(help="Refits behind the interval; 0: none.")] = 1000,
    instructions: Annotated[
        Path | None, typer.Option(help="Annotations: JSON list of the prompts in their order.")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(help="Annotations: measure answers in its tokens, not in characters.")
    ] = "",
    save_difficulty: Annotated[
        Path | None, typer.Option(help="Write the difficulties, to freeze them for later files.")
    ] = None,
    style: Annotated[
        bool, typer.Option("--style", help="Annotations: a second view, Markdown controlled too.")
    ] = False,
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """Raw and length-controlled win rates of saved judgments, a line a model."""
    from prefeval.harness import winrate as rates

    options = dict(locals())
    options.pop("rates")
    rates.show(options)


def outputs(
    folder: Annotated[Path, typer.Argument(help="A run's reference or checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("model_outputs.json"),
) -> None:
    """Write the answers that a run judged as AlpacaEval's model_outputs."""
    from prefeval.harness import judge_files

    typer.echo(f"{judge_files.export(folder, out)} answers: {out}")


def import_files(
    file: Annotated[
        list[Path], typer.Argument(help="lm-eval results, Inspect logs, a trainer's log; folders.")
    ],
    into: Annotated[str, typer.Option(help="A run, a checkpoint in one, or RUN:TRIAL:STEP.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Take a metric that is there from another file.")
    ] = False,
    config: o.Config = None,
) -> None:
    """Put other tools' results beside a run's checkpoints; 2 where a file could not be read."""
    from prefeval.harness.peers import take

    raise typer.Exit(take.command(file, into, replace=replace, say=typer.echo))


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a sweep, an eval or a watch.")],
    form: Annotated[
        str, typer.Option("--format", help="lm-eval or parquet (one number a row).")
    ] = "lm-eval",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; RUN/export/FORMAT if empty.")
    ] = None,
    config: o.Config = None,
) -> None:
    """Write a run's results as lm-evaluation-harness does, or as tidy Parquet."""
    from prefeval.harness.peers import give

    raise typer.Exit(give.command(run, form, out, typer.echo))


def track(
    run: Annotated[Path, typer.Argument(help="The folder of a sweep, an eval or a watch.")],
    to: Annotated[str, typer.Option(help="mlflow:URI_OR_FOLDER,wandb,trackio,tensorboard:FOLDER.")],
    config: o.Config = None,
) -> None:
    """Send a saved run to experiment trackers; 5 where one could not be reached."""
    from prefeval.harness.trackers import track as tracking

    raise typer.Exit(tracking.command(run, to, typer.echo))
