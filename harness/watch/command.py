"""The options of ``prefeval watch``, looked over, and the watch that they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness import live
from prefeval.harness.watch import files as watch_files
from prefeval.harness.watch import stop as watch_stop
from prefeval.harness.watch.loop import Watch, Watching
from prefeval.harness.watch.stream import METHOD, Stream, configure
from prefeval.harness.watch.words import Speaker, seconds
from prefeval.records import PrefevalError


def command(options: Mapping[str, Any]) -> int:
    """``prefeval watch``: exit code 0, or 3 where a checkpoint could not be measured."""
    asked = _asked(options)
    config = configure(options)
    console = live.make_console(json_output=options["json_output"])
    method, beta = options["method"] or METHOD, options["beta"]
    where = asked.folder.resolve()
    content = records.content_hash([config.hash, method, beta, str(where)])
    name = options["name"] or f"{where.name}-{content[:8]}"
    console.print(f"run folder: {options['out'] / name}", highlight=False, soft_wrap=True)
    with Stream.open(
        config, out=options["out"], name=name, method=method, beta=beta, console=console
    ) as stream:
        return Watch(stream, asked, Speaker(console, as_json=options["json_output"])).run()


def _asked(options: Mapping[str, Any]) -> Watching:
    folder: Path = options["folder"]
    if folder.exists() and not folder.is_dir():
        raise PrefevalError(f"{folder} is a file; give the folder that the trainer writes to")
    if options["once"] and not folder.is_dir():
        raise PrefevalError(f"no such folder: {folder}; give the folder that the trainer writes to")
    if options["patience"]:
        watch_stop.require_usable(options["metric"])
    settle = seconds(options["settle"], "--settle")
    return Watching(
        folder.absolute(),
        watch_files.step_pattern(options["pattern"]),
        (options["stop_file"] or folder / watch_stop.STOP).absolute(),
        settle=settle,
        poll=min(2.0, max(0.1, settle / 4)),
        idle=seconds(options["idle"], "--idle"),
        **{k: options[k] for k in ("once", "keep", "replace", "metric", "patience")},
    )
