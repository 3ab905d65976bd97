"""The options that several commands share, and the file that may set them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from prefeval.records import PrefevalError


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
SuiteOption = Annotated[
    str, typer.Option(help="Retention suite: a folder, a hub data set, or the built-in.")
]
Judge = Annotated[str, typer.Option(help="name or name:argument; trained on your data if empty.")]
Knobs = Annotated[str, typer.Option("--lab", help="Knobs of the lab: noise=0.1,length_bias=0.2.")]
Out = Annotated[Path, typer.Option(help="Parent of the run's folder.")]
Name = Annotated[str, typer.Option(help="The run's folder; named by its configuration if empty.")]
Workers = Annotated[int, typer.Option(min=0, help="Worker processes; 0 is one a core.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16 (computation).")]
Backend = Annotated[
    str,
    typer.Option(help="What generates: hugging_face, or vllm:python=PATH,memory=0.5,kv_cache=1."),
]
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
SuiteSamples = Annotated[
    int, typer.Option(min=0, help="Samples of every suite prompt beside the greedy answer: pass@k.")
]
LengthUnit = Annotated[
    str, typer.Option(help="Length control measures answers in characters or tokens.")
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
Track = Annotated[
    str, typer.Option(help="Trackers: mlflow:URI_OR_FOLDER,wandb,trackio,tensorboard:FOLDER.")
]
TargetKl = Annotated[
    float, typer.Option(min=0, help="PPO: hold this KL (nats/sequence); 0: fixed.")
]
HeldOut = Annotated[
    float, typer.Option(min=0.01, max=0.9, help="Share of your data to measure with, untrained on.")
]
JudgePairs = Annotated[
    int, typer.Option(min=0, help="Pairs that train the judge; 0: all of its part.")
]

# Options that several commands share: name, type, default, once for all of them.
Group = Mapping[str, tuple[Any, Any]]
RUN: Group = {
    "data": (Data, "lab"),
    "lab": (Knobs, ""),
    "out": (Out, Path("runs")),
    "name": (Name, ""),
    "device": (Device, "auto"),
    "dtype": (Dtype, "float32"),
    "max_length": (MaxLength, 0),
}
MEASURING: Group = {
    "suite": (SuiteOption, ""),
    "judge": (Judge, ""),
    "backend": (Backend, "hugging_face"),
    "max_new_tokens": (MaxNewTokens, 0),
    "suite_samples": (SuiteSamples, 0),
    "prompts": (Prompts, 0),
    "length_unit": (LengthUnit, "characters"),
    "held_out": (HeldOut, 0.2),
    "judge_pairs": (JudgePairs, 0),
}
TRAINING: Group = {
    "model": (Model, "lab"),
    "lr": (LearningRate, 0.0),
    "epochs": (Epochs, 0),
    "batch_size": (BatchSize, 0),
    "micro_batch": (MicroBatch, 0),
    "max_steps": (MaxSteps, 0),
    "checkpoints": (Checkpoints, 3),
    "save_every": (SaveEvery, 0),
    "reward": (Reward, ""),
    "target_kl": (TargetKl, 0.0),
    "iterations": (Iterations, 0),
    "group_size": (GroupSize, 0),
    "rounds": (Rounds, 0),
    "round_prompts": (RoundPrompts, 0),
    "samples": (Samples, 0),
    "refresh_reference": (Refresh, False),
    "then": (Then, ""),
    "then_iterations": (ThenIterations, 0),
    "lora_rank": (LoraRank, 0),
    "gradient_checkpointing": (Checkpointing, False),
    "state_every": (StateEvery, 0),
    "desirable_weight": (DesirableWeight, 0.0),
    "undesirable_weight": (UndesirableWeight, 0.0),
}
LAST: Group = {"smoke": (Smoke, False), "config": (Config, None)}


def taking(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command's own options, and in place of its ``**options`` those of ``groups``.

    Typer reads a command's options from its signature, so the signature is made to name them.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        listed = [p for p in own if p.kind is not p.VAR_KEYWORD]
        for group in groups:
            listed += [
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
                )
                for name, (kind, default) in group.items()
            ]

        @functools.wraps(command)
        def run(**options: Any) -> None:
            command(**options)

        run.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in listed}
        return run

    return give


def together(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a command was given: its own options, and those in its ``**options``, as one."""
    return {k: v for k, v in values.items() if k != "options"} | dict(values["options"])
