"""Commands that show what was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefeval.harness.cli import options as o


def report(
    run: Annotated[
        list[Path],
        typer.Argument(help="Run folders; the first is set beside those with noisier labels."),
    ],
    figures: Annotated[
        str, typer.Option(help="Draw figures for a paper too: png,pdf,svg or some of these.")
    ] = "",
) -> None:
    """Write summary.md, the tables as CSV and report.html again, from saved results alone."""
    from prefeval import reports
    from prefeval.harness import related
    from prefeval.harness.steps import disk_errors

    for note in related.relate(run[0], run[1:]):
        typer.echo(note, err=True)
    for folder in run:
        with disk_errors(folder, "copy the run to where you may write"):
            for path in reports.write_all(folder, figures):
                typer.echo(path)


def view(
    run: Annotated[Path, typer.Argument(help="A run, or a folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, help="0: a free one. [default: 8765, or a free one]")
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Show runs in a browser, live: a web server on this machine, until Ctrl-C."""
    from prefeval.harness.serve import server as serve

    raise typer.Exit(serve.view(run, host=host, port=port, say=typer.echo, browse=browse))


def compare(
    a: Annotated[str, typer.Argument(help="A run, a checkpoint in one, or RUN:TRIAL:STEP.")],
    b: Annotated[str, typer.Argument(help="The other: differences are B less A.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.html and compare.md; none if empty.")
    ] = None,
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """Two checkpoints on the same prompts: what got better, what got worse, and how surely."""
    from prefeval.harness.compare import command as comparisons

    raise typer.Exit(comparisons.command(a, b, out=out, as_json=json_output))


def diagnose(
    target: Annotated[
        Path, typer.Argument(help="A run, trial or checkpoint; or any trainer's log.")
    ],
    fail_on: Annotated[
        str, typer.Option(help="Exit with 1 at a finding this grave: info, warning or error.")
    ] = "",
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """What went wrong in a run, why one may think so, and what to change."""
    from prefeval.harness.diagnose import view as diagnose_view

    raise typer.Exit(diagnose_view.command(target, as_json=json_output, fail_on=fail_on))


def causes(
    name: Annotated[str, typer.Argument(help="One of them, with all that is known of it.")] = "",
    json_output: o.Json = False,
) -> None:
    """Every cause that `diagnose` knows, with its signals and thresholds."""
    from prefeval.harness.diagnose import view as diagnose_view

    diagnose_view.print_causes(json_output, name)
