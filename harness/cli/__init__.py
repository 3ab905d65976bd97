"""The ``prefeval`` command. Each command imports what it needs when it runs: help is instant."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer

import prefeval
from prefeval.harness import signals
from prefeval.harness.cli import before, files, looking, measuring, training
from prefeval.records import PrefevalError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141

# What a wrong command line raises: click's class in older typers, typer's own in newer ones.
UsageFault: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="prefeval",
    help="Which checkpoint of a preference-tuning run to ship, what went wrong, what to change.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "auto_envvar_prefix": "PREFEVAL",
        "max_content_width": 100,
    },
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"prefeval {prefeval.__version__}")
        raise typer.Exit


Version = typer.Option(
    "--version",
    callback=_version,
    is_eager=True,
    allow_from_autoenv=False,
    help="Print the version.",
)


@app.callback(invoke_without_command=True)
def root(context: typer.Context, version: Annotated[bool, Version] = False) -> None:
    """Without a command, show what there is."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(EXIT_USAGE)


COMMANDS: dict[str, Callable[..., None]] = {
    "sweep": training.sweep,
    "train": training.train,
    "eval": measuring.evaluate,
    "watch": measuring.watch,
    "gate": measuring.gate,
    "compare": looking.compare,
    "report": looking.report,
    "view": looking.view,
    "diagnose": looking.diagnose,
    "causes": looking.causes,
    "doctor": before.doctor,
    "audit": before.audit,
    "score": measuring.score,
    "judge": files.judge,
    "winrate": files.winrate,
    "outputs": files.outputs,
    "import": files.import_files,
    "export": files.export,
    "track": files.track,
    "lab": training.lab,
}
"""In the order of ``--help``."""
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command; a person's mistake is one line, not a traceback."""
    args = None if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # one that cannot write β shows it escaped
            stream.reconfigure(errors="backslashreplace")
    with signals.stop():
        code = run_guarded(lambda: app(args, prog_name="prefeval", standalone_mode=False))
    raise SystemExit(code)


def run_guarded(command: Callable[[], Any]) -> int:
    """The exit code of a command, its errors printed as one line."""
    try:
        code = command()
    except PrefevalError as error:
        print(f"prefeval: {error}", file=sys.stderr)
        return EXIT_USAGE
    except UsageFault as error:
        print(f"prefeval: {_usage_line(error)}", file=sys.stderr)
        return EXIT_USAGE
    except (typer.Abort, KeyboardInterrupt, signals.Stopped) as error:
        import shlex

        again = " ".join(["prefeval", *(shlex.quote(a) for a in sys.argv[1:])])
        print(f"\ninterrupted; what is finished is kept. To continue: {again}", file=sys.stderr)
        return error.exit_code if isinstance(error, signals.Stopped) else EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except PermissionError as error:
        where = error.filename or "a file"
        print(f"prefeval: no permission for {where}; make it readable, writable", file=sys.stderr)
        return EXIT_USAGE
    except Exception as error:
        from prefeval.harness.steps import disk_fault

        if not (why := disk_fault(error)):
            raise
        where = getattr(error, "filename", None)
        print(f"prefeval: {f'cannot write {where}: ' if where else ''}{why}", file=sys.stderr)
        return EXIT_USAGE
    return code if isinstance(code, int) else 0


def _usage_line(error: Any) -> str:
    """What is wrong with a command line, and where the right one is described."""
    words = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    if context is None:
        return words
    return f"{words}{' See' if words.endswith('?') else '; see'} {context.command_path} --help"
