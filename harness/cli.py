"""The ``prefeval`` command. Each command imports what it needs when it runs: help is instant."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import prefeval
from prefeval.harness import cli_options as o
from prefeval.harness import signals
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


@app.command()
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


@app.command()
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


@app.command("eval")
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


@app.command()
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
    from prefeval.harness import watch_command as watching

    options = dict(locals())
    options.pop("watching")
    raise typer.Exit(watching.command(options))


@app.command()
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
    from prefeval.harness import doctor as doctors

    options = dict(locals())
    options.pop("doctors")
    raise typer.Exit(doctors.command(options))


@app.command()
def outputs(
    folder: Annotated[Path, typer.Argument(help="A run's reference or checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("model_outputs.json"),
) -> None:
    """Write the answers that a run judged as AlpacaEval's model_outputs."""
    from prefeval.harness import judge_files

    typer.echo(f"{judge_files.export(folder, out)} answers: {out}")


@app.command()
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


@app.command()
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
    from prefeval.harness import audit as audits

    options = dict(locals())
    options.pop("audits")
    raise typer.Exit(audits.command(options))


@app.command()
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


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="The folder of a sweep or an eval.")],
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Judge, check and measure a run's saved answers again; nothing is generated."""
    from prefeval.harness import live
    from prefeval.harness import score as scoring

    typer.echo(scoring.score(run, live.make_console(), workers=workers))


@app.command()
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
    from prefeval.harness import diagnose_view

    raise typer.Exit(diagnose_view.command(target, as_json=json_output, fail_on=fail_on))


@app.command()
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
    from prefeval.harness import compare as comparisons

    raise typer.Exit(comparisons.command(a, b, out=out, as_json=json_output))


@app.command()
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
    from prefeval.harness import gate as gating

    options = dict(locals())
    options.pop("gating")
    raise typer.Exit(gating.command(options))


@app.command("import")
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


@app.command()
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


@app.command()
def track(
    run: Annotated[Path, typer.Argument(help="The folder of a sweep, an eval or a watch.")],
    to: Annotated[
        str, typer.Option(help="mlflow:URI_OR_FOLDER,wandb,trackio,tensorboard:FOLDER.")
    ],
    config: o.Config = None,
) -> None:
    """Send a saved run to experiment trackers; 5 where one could not be reached."""
    from prefeval.harness import track as tracking

    raise typer.Exit(tracking.command(run, to, typer.echo))


@app.command()
def causes(
    name: Annotated[str, typer.Argument(help="One of them, with all that is known of it.")] = "",
    json_output: o.Json = False,
) -> None:
    """Every cause that `diagnose` knows, with its signals and thresholds."""
    from prefeval.harness import diagnose_view

    diagnose_view.print_causes(json_output, name)


@app.command()
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


@app.command()
def view(
    run: Annotated[Path, typer.Argument(help="A run, or a folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, help="0: a free one. [default: 8765, or a free one]")
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Show runs in a browser, live: a web server on this machine, until Ctrl-C."""
    from prefeval.harness import serve

    raise typer.Exit(serve.view(run, host=host, port=port, say=typer.echo, browse=browse))


@app.command()
def lab(
    out: Annotated[Path, typer.Option(help="A new folder to write the lab to.")],
    knobs: Annotated[str, typer.Option(help="noise=0.1,length_bias=0.2,anchors=0.1,...")] = "",
    smoke: o.Smoke = False,
) -> None:
    """Write the lab out as Hugging Face folders and JSONL, for any other trainer."""
    from prefeval.harness import commands

    raise typer.Exit(commands.lab(out=out, knobs=knobs, smoke=smoke))


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
