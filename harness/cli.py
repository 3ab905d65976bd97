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


def _defaults(context: typer.Context, path: Path | None) -> Path | None:
    """``--config``: values that environment and flags override."""
    if path is None:
        return None
    from prefeval.harness import config_file

    options = {
        flag.lstrip("-").replace("-", "_"): p
        for p in context.command.params
        for flag in (*p.opts, str(p.name))
        if p.name not in ("config", "help") and p.nargs == 1
    }
    values: dict[str, Any] = {}
    for name, value in config_file.read(path).items():
        if name not in options:
            raise PrefevalError(f"{path} sets {name!r}, which is no option of this command")
        values[str(options[name].name)] = config_file.as_option(value)
    context.default_map = {**(context.default_map or {}), **values}
    return path


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


Config = Annotated[
    Path | None,
    typer.Option("--config", callback=_defaults, is_eager=True, help="YAML file of options."),
]
Methods = Annotated[str, typer.Option(help="Which of dpo, ipo, kto, simpo, ppo, grpo.")]
Beta = Annotated[
    str, typer.Option(help="a:b, a:b:n, a:b:n:lin or a list; or dpo=0.05:0.3,simpo=2:10.")
]
Seeds = Annotated[str, typer.Option(help="How many training seeds, or a list of them (0,5).")]
Model = Annotated[str, typer.Option(help="The reference: a folder, a hub name, or 'lab'.")]
Data = Annotated[str, typer.Option(help="Preference data: a file, a folder or a hub name.")]
SuiteOption = Annotated[str, typer.Option(help="Retention suite: a folder, or the built-in one.")]
Judge = Annotated[str, typer.Option(help="name or name:argument; trained on your data if empty.")]
Knobs = Annotated[str, typer.Option("--lab", help="Knobs of the lab: noise=0.1,length_bias=0.2.")]
Out = Annotated[Path, typer.Option(help="Parent of the run's folder.")]
Name = Annotated[str, typer.Option(help="The run's folder; named by its configuration if empty.")]
Workers = Annotated[int, typer.Option(min=0, help="Worker processes; 0 is one a core.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16 (computation).")]
Smoke = Annotated[bool, typer.Option("--smoke", help="The real path at the smallest size.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
LearningRate = Annotated[
    float, typer.Option("--lr", min=0, help="Peak learning rate; 0: the method's.")
]
Epochs = Annotated[int, typer.Option(min=0, help="Passes over the data; 0: the method's.")]
BatchSize = Annotated[int, typer.Option(min=0, help="Examples a step; 0: the method's.")]
MicroBatch = Annotated[int, typer.Option(min=0, help="Examples a forward pass; 0: all of them.")]
MaxSteps = Annotated[int, typer.Option(min=0, help="Stop a trial after so many steps; 0: never.")]
SaveEvery = Annotated[
    int, typer.Option(min=0, help="Checkpoints every so many steps instead of --checkpoints.")
]
Checkpoints = Annotated[int, typer.Option(min=1, help="Checkpoints a trial, over its second half.")]
MaxLength = Annotated[int, typer.Option(min=0, help="Tokens of prompt and answer; 0: the default.")]
MaxNewTokens = Annotated[
    int, typer.Option(min=0, help="Tokens of a generated answer; 0: the default.")
]
Prompts = Annotated[int, typer.Option(min=0, help="At most so many win-rate prompts; 0: all.")]
Reward = Annotated[
    str,
    typer.Option(
        help="What rewards the policy's own answers: model, judge:NAME, or the lab's labels, "
        "kfacts or guess; the method's if empty."
    ),
]
Iterations = Annotated[int, typer.Option(min=0, help="PPO, GRPO: steps; 0: the method's.")]
GroupSize = Annotated[int, typer.Option(min=0, help="GRPO: answers a prompt; 0: the method's.")]
Rounds = Annotated[
    int,
    typer.Option(min=0, help="Pair methods: rounds on pairs of the policy's own answers; 0: none."),
]
RoundPrompts = Annotated[int, typer.Option(min=0, help="Prompts answered a round; 0: 512.")]
Samples = Annotated[int, typer.Option(min=0, help="Answers a prompt in a round; 0: 2.")]
Refresh = Annotated[
    bool, typer.Option("--refresh-reference", help="Each round starts from its own reference.")
]
Then = Annotated[str, typer.Option(help="A phase that follows: ppo or grpo.")]
ThenIterations = Annotated[int, typer.Option(min=0, help="Steps of that phase; 0: 10.")]
LoraRank = Annotated[
    int, typer.Option(min=0, help="Train an adapter of this rank; 0: all weights.")
]
Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Less memory, a third more time.")
]
StateEvery = Annotated[
    int, typer.Option(min=0, help="Save the training state every so many steps too; 0: do not.")
]
DesirableWeight = Annotated[float, typer.Option(min=0, help="KTO: of thumbs up; 0: 1.")]
UndesirableWeight = Annotated[float, typer.Option(min=0, help="KTO: of thumbs down; 0: 1.")]
TargetKl = Annotated[
    float, typer.Option(min=0, help="PPO: hold this KL (nats/sequence); 0: fixed.")
]
HeldOut = Annotated[
    float, typer.Option(min=0.01, max=0.9, help="Share of your data to measure with, untrained on.")
]
JudgePairs = Annotated[
    int, typer.Option(min=0, help="Pairs that train the judge; 0: all of its part.")
]


@app.command()
def sweep(
    beta: Beta = "0.05:0.3",
    methods: Methods = "dpo,ipo,kto,simpo,ppo",
    seeds: Seeds = "1",
    model: Model = "lab",
    data: Data = "lab",
    suite: SuiteOption = "",
    judge: Judge = "",
    lab: Knobs = "",
    out: Out = Path("runs"),
    name: Name = "",
    workers: Workers = 0,
    executor: Annotated[str, typer.Option(help="Where trials run: local.")] = "local",
    device: Device = "auto",
    dtype: Dtype = "float32",
    lr: LearningRate = 0.0,
    epochs: Epochs = 0,
    batch_size: BatchSize = 0,
    micro_batch: MicroBatch = 0,
    max_steps: MaxSteps = 0,
    checkpoints: Checkpoints = 3,
    save_every: SaveEvery = 0,
    max_length: MaxLength = 0,
    max_new_tokens: MaxNewTokens = 0,
    prompts: Prompts = 0,
    reward: Reward = "",
    target_kl: TargetKl = 0.0,
    iterations: Iterations = 0,
    group_size: GroupSize = 0,
    rounds: Rounds = 0,
    round_prompts: RoundPrompts = 0,
    samples: Samples = 0,
    refresh_reference: Refresh = False,
    then: Then = "",
    then_iterations: ThenIterations = 0,
    lora_rank: LoraRank = 0,
    gradient_checkpointing: Checkpointing = False,
    state_every: StateEvery = 0,
    desirable_weight: DesirableWeight = 0.0,
    undesirable_weight: UndesirableWeight = 0.0,
    held_out: HeldOut = 0.2,
    judge_pairs: JudgePairs = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue (also the default).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    smoke: Smoke = False,
    json_output: Json = False,
    config: Config = None,
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
    model: Model = "lab",
    data: Data = "lab",
    lab: Knobs = "",
    out: Out = Path("runs"),
    name: Name = "",
    device: Device = "auto",
    dtype: Dtype = "float32",
    lr: LearningRate = 0.0,
    epochs: Epochs = 0,
    batch_size: BatchSize = 0,
    micro_batch: MicroBatch = 0,
    max_steps: MaxSteps = 0,
    checkpoints: Checkpoints = 3,
    save_every: SaveEvery = 0,
    max_length: MaxLength = 0,
    reward: Reward = "",
    target_kl: TargetKl = 0.0,
    iterations: Iterations = 0,
    group_size: GroupSize = 0,
    rounds: Rounds = 0,
    round_prompts: RoundPrompts = 0,
    samples: Samples = 0,
    refresh_reference: Refresh = False,
    then: Then = "",
    then_iterations: ThenIterations = 0,
    lora_rank: LoraRank = 0,
    gradient_checkpointing: Checkpointing = False,
    state_every: StateEvery = 0,
    desirable_weight: DesirableWeight = 0.0,
    undesirable_weight: UndesirableWeight = 0.0,
    smoke: Smoke = False,
    config: Config = None,
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
    data: Data = "lab",
    suite: SuiteOption = "",
    judge: Judge = "",
    lab: Knobs = "",
    out: Out = Path("runs"),
    name: Name = "",
    workers: Workers = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    max_length: MaxLength = 0,
    max_new_tokens: MaxNewTokens = 0,
    prompts: Prompts = 0,
    held_out: HeldOut = 0.2,
    judge_pairs: JudgePairs = 0,
    smoke: Smoke = False,
    json_output: Json = False,
    config: Config = None,
) -> None:
    """Measure any checkpoints against their reference."""
    from prefeval.harness import commands

    options = dict(locals())
    options.pop("commands")
    raise typer.Exit(commands.evaluate(**options))


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
    prompts: Prompts = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    json_output: Json = False,
    config: Config = None,
) -> None:
    """Judge two files of answers, in both orders; goes on where it was stopped."""
    from prefeval.harness import judge_files
    from prefeval.harness.settings import resolve_device

    options = dict(locals())
    judge_files.command({**options, "device": resolve_device(device)})


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
    json_output: Json = False,
) -> None:
    """Raw and length-controlled win rates of saved judgments, a line a model."""
    from prefeval.harness import winrate as rates

    options = dict(locals())
    options.pop("rates")
    rates.show(options)


@app.command()
def report(
    run: Annotated[list[Path], typer.Argument(help="Run folders.")],
) -> None:
    """Write summary.md and report.html again, from saved results alone."""
    from prefeval import reports
    from prefeval.harness.steps import disk_errors

    for folder in run:
        with disk_errors(folder, "copy the run to where you may write"):
            typer.echo(reports.write_summary(folder))
            typer.echo(reports.write_report(folder))


@app.command()
def lab(
    out: Annotated[Path, typer.Option(help="A new folder to write the lab to.")],
    knobs: Annotated[str, typer.Option(help="noise=0.1,length_bias=0.2,anchors=0.1,...")] = "",
    smoke: Smoke = False,
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
