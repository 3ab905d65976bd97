"""Commands that train, and the lab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prefeval.harness.cli import options as o


@o.taking(o.TRAINING, o.RUN, o.MEASURING, o.LAST)
def sweep(
    beta: o.Beta = "0.05:0.3",
    methods: o.Methods = "dpo,ipo,kto,simpo,ppo",
    seeds: o.Seeds = "1",
    workers: o.Workers = 0,
    executor: Annotated[str, typer.Option(help="Where trials run: local.")] = "local",
    track: o.Track = "",
    resume: Annotated[bool, typer.Option("--resume", help="Continue (also the default).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    json_output: o.Json = False,
    **options: Any,
) -> None:
    """Train methods over a beta grid, measure every checkpoint, say which to ship."""
    asked = o.together(locals())
    from prefeval.harness import commands

    raise typer.Exit(commands.sweep(**asked))


@o.taking(o.TRAINING, o.RUN, o.LAST)
def train(
    method: Annotated[str, typer.Argument(help="dpo, ipo, kto, simpo, ppo or grpo.")],
    beta: Annotated[str, typer.Option(help="One value of the lever.")] = "0.1",
    seed: Annotated[int, typer.Option(min=0, help="Training seed.")] = 0,
    **options: Any,
) -> None:
    """Train one method from the reference; the checkpoints are Hugging Face folders."""
    asked = o.together(locals())
    from prefeval.harness import commands

    raise typer.Exit(commands.train(**asked))


def lab(
    out: Annotated[Path, typer.Option(help="A new folder to write the lab to.")],
    knobs: Annotated[str, typer.Option(help="noise=0.1,length_bias=0.2,anchors=0.1,...")] = "",
    smoke: o.Smoke = False,
) -> None:
    """Write the lab out as Hugging Face folders and JSONL, for any other trainer."""
    from prefeval.harness import commands

    raise typer.Exit(commands.lab(out=out, knobs=knobs, smoke=smoke))
