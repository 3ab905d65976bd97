"""Commands that look before anything is trained."""

from __future__ import annotations

from typing import Annotated

import typer

from prefeval.harness.cli import options as o


def doctor(
    model: Annotated[str, typer.Argument(help="A folder, an adapter, a hub name, or 'lab'.")],
    data: Annotated[str, typer.Option(help="Preference data that it is to learn from.")] = "",
    judge: Annotated[str, typer.Option(help="name or name:argument; not asked if empty.")] = "",
    backend: o.Backend = "hugging_face",
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    max_length: o.MaxLength = 0,
    max_new_tokens: o.MaxNewTokens = 0,
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """Before a sweep: whether model, data, judge and engine work together."""
    from prefeval.harness.doctor import command as doctors

    options = dict(locals())
    options.pop("doctors")
    raise typer.Exit(doctors.command(options))


def audit(
    data: Annotated[str, typer.Argument(help="Pairs or thumbs: a file, a folder or a hub name.")],
    reference: Annotated[
        str, typer.Option(help="The model to tune: its template, tokens and log-probabilities.")
    ] = "",
    held_out: Annotated[str, typer.Option(help="Data to measure with: prompts in both.")] = "",
    trusted: Annotated[str, typer.Option(help="Labels that are believed: noise beside them.")] = "",
    pairs: Annotated[int, typer.Option(min=0, help="Rows that the model reads; 0: none.")] = 64,
    max_length: Annotated[
        int, typer.Option(min=8, help="Tokens of prompt and answer in training.")
    ] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds and the samples.")] = 0,
    device: o.Device = "auto",
    json_output: o.Json = False,
    config: o.Config = None,
) -> None:
    """What is in preference data, is it sound, which method fits; 1 where something is an error."""
    from prefeval.harness.audit import command as audits

    options = dict(locals())
    options.pop("audits")
    raise typer.Exit(audits.command(options))
