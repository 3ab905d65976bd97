"""What the commands do, behind ``cli``: options become a configuration, results become text."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness import executors, grid, inputs, live
from prefeval.harness.backends import DEFAULT
from prefeval.harness.lab import lab as labs
from prefeval.harness.settings import LAB, SMOKE, UNITS, SweepConfig, resolve_device
from prefeval.harness.task import Sizes
from prefeval.records import PrefevalError

OWN_SIZES = Sizes(
    max_length=512, max_new_tokens=128, greedy_new_tokens=128, diverse_prompts=8,
    diverse_samples=4, self_play=1, generation_batch=64, held_out_pairs=128,
)  # fmt: skip
SMOKE_LAB: dict[str, Any] = {"people": 16, "hidden": 48, "demonstrations": 640, "epochs": 1}
SMOKE_DATA: dict[str, Any] = {"pairs": 64, "thumbs": 64}
SMOKE_SIZES: dict[str, Any] = {
    "max_new_tokens": 24,
    "diverse_prompts": 2,
    "diverse_samples": 2,
    "self_play": 1,
}
EXIT_FAILED_TRIALS = 3
GENERAL = (
    "lr", "epochs", "save_every", "batch_size", "micro_batch", "max_steps", "target_kl",
    "iterations", "group_size", "rounds", "round_prompts", "samples", "then_iterations",
    "lora_rank", "state_every", "desirable_weight", "undesirable_weight",
)  # fmt: skip
ROUNDS_ONLY = ("round_prompts", "samples", "refresh_reference")
SWITCHES = ("refresh_reference", "gradient_checkpointing")


def resolve(options: Mapping[str, Any], *, methods: str, beta: str, seeds: str) -> SweepConfig:
    """A configuration from the options of a command; what was not given keeps its default."""
    names = grid.parse_methods(methods)
    model, data = options["model"], options["data"]
    own = model != LAB
    if own and data == LAB:
        raise PrefevalError("a model of your own needs data of your own: --data pairs.jsonl")
    if data != LAB and not own:
        raise PrefevalError("data of your own needs its model: --model DIR")
    if options["dtype"] not in ("float32", "bfloat16"):
        raise PrefevalError(f"unknown --dtype {options['dtype']!r}; use float32 or bfloat16")
    if options.get("length_unit", UNITS[0]) not in UNITS:
        raise PrefevalError(
            f"unknown --length-unit {options['length_unit']!r}; use {' or '.join(UNITS)}"
        )
    reference, lab_data = labs.parse_knobs(options["lab"])
    if own and options["lab"]:
        raise PrefevalError("--lab sets knobs of the lab; it has no meaning with --model")
    for name in GENERAL:
        if not 0 <= options.get(name, 0) < math.inf:
            raise PrefevalError(f"--{name.replace('_', '-')} must be a number >= 0; 0: the default")
    training = {k: options[k] for k in GENERAL if options.get(k)}
    training |= {k: True for k in SWITCHES if options.get(k)}
    if options.get("reward"):
        training["reward"] = options["reward"]
    if options.get("then"):
        training["then"] = grid.parse_then(options["then"])
    elif training.pop("then_iterations", None):
        raise PrefevalError("--then-iterations sets the length of --then; give --then ppo")
    sizes = OWN_SIZES if own else Sizes()
    if options.get("max_new_tokens"):
        new = options["max_new_tokens"]
        sizes = replace(sizes, max_new_tokens=new, greedy_new_tokens=new)
    if options.get("suite_samples"):
        sizes = replace(sizes, suite_samples=options["suite_samples"])
    if options.get("max_length"):
        sizes = replace(sizes, max_length=options["max_length"])
    if sizes.max_new_tokens >= sizes.max_length:
        raise PrefevalError(
            f"{sizes.max_new_tokens} new tokens leave no room for a prompt within "
            f"{sizes.max_length}; raise --max-length or lower --max-new-tokens"
        )
    inputs.check_name(options.get("name", ""))
    config = SweepConfig(
        methods=names,
        betas=grid.parse_betas(beta, names),
        seeds=grid.parse_seeds(seeds),
        model=model,
        data=data,
        suite=options.get("suite", ""),
        judge=options.get("judge", ""),
        lab=reference,
        lab_data=lab_data,
        sizes=sizes,
        length_unit=options.get("length_unit", UNITS[0]),
        training=training,
        checkpoints=options.get("checkpoints", 3),
        prompts=options.get("prompts") or None,
        held_out=options.get("held_out", 0.2),
        reward_model_pairs=options.get("judge_pairs") or None,
        dtype=options["dtype"],
        device=resolve_device(options["device"]),
        backend=options.get("backend") or DEFAULT,
    )
    inputs.check(config)
    _require_used(config)
    config = inputs.within_context(config, chosen=bool(options.get("max_length")))
    config = _smoked(config) if options.get("smoke") else config
    return replace(config, inputs=inputs.hashes(config))


def _require_used(config: SweepConfig) -> None:
    """An option that no chosen method would read is a mistake, never silence."""
    used = {"then_iterations"}  # a part of `then`, refused above without it
    for method in config.methods:
        settings = config.settings(method)
        used |= {*settings, *(set(settings.get("then", ())) - {"iterations"})}
    for name in config.training:
        if name in ROUNDS_ONLY and not config.training.get("rounds"):
            why = "without --rounds"
        elif name not in used:
            why = f"with {', '.join(config.methods)}"
        else:
            continue
        raise PrefevalError(f"--{name.replace('_', '-')} changes nothing {why}; leave it out")


def _smoked(config: SweepConfig) -> SweepConfig:
    """The real path at the smallest size."""
    training = {**config.training, "max_steps": SMOKE["max_steps"]}
    training |= {"iterations": 2, "then_iterations": 2} if "then" in training else {"iterations": 2}
    if training.get("rounds"):
        training |= {"rounds": 2, "round_prompts": 32, "batch_size": 16, "max_steps": 4}
    return replace(
        config,
        lab=replace(config.lab, **SMOKE_LAB) if config.is_lab else config.lab,
        lab_data=replace(config.lab_data, **SMOKE_DATA) if config.is_lab else config.lab_data,
        sizes=replace(config.sizes, **SMOKE_SIZES),
        training=training,
        checkpoints=SMOKE["checkpoints"],
        prompts=16,
        reward_model_pairs=32,
    )


def sweep(**options: Any) -> int:
    """``prefeval sweep``: exit code 0 when every trial finished, whatever the verdict."""
    executors.require_known(options["executor"])
    targets = _targets(options)
    config = resolve(
        options, methods=options["methods"], beta=options["beta"], seeds=options["seeds"]
    )
    from prefeval.harness import sweep as sweeps

    workers = options["workers"] or sweeps.default_workers(config)
    plan = sweeps.plan(config, workers)
    console = live.make_console(json_output=options["json_output"])
    for line in plan.describe(config):
        console.print(line, highlight=False, markup=False)
    name = options["name"] or config.name
    console.print(f"run folder: {options['out'] / name}", highlight=False, soft_wrap=True)
    if options["dry_run"]:
        return 0
    with _tracked(targets, options["out"] / name, console) as tracking:
        outcome = sweeps.sweep(
            config,
            out=options["out"],
            workers=workers,
            console=console,
            command=sweeps.command_line(),
            name=options["name"] or None,
            executor=options["executor"],
            on_trial=tracking.poke,
        )
        if outcome.selection is None:
            return _tell_failures(outcome, console)
        _tell(outcome, console, json_output=options["json_output"])
    if options["smoke"]:
        _assert_smoke(outcome.run.path, 1e-4 if config.dtype == "float32" else 1e-2)
    return EXIT_FAILED_TRIALS if outcome.failed else 0


def _targets(options: Mapping[str, Any]) -> Any:
    """The trackers of ``--track``; a wrong one is said before anything is done."""
    from prefeval.harness import trackers

    return trackers.parse(options["track"]) if options.get("track") else ()


def _tracked(targets: Any, run: Path, console: Any) -> Any:
    """Sends the run to its trackers while the block makes it."""
    from prefeval.harness.trackers import track

    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    return track.following(run, targets, say)


def _tell_failures(outcome: Any, console: Any) -> int:
    """Why no checkpoint was measured; the exit code."""
    for name, why in outcome.failed.items():
        console.print(f"{name}: {why}", style="red", markup=False, soft_wrap=True)
    print(
        f"prefeval: no checkpoint was measured; see the errors above, and {outcome.run.report}",
        file=sys.stderr,
    )
    return EXIT_FAILED_TRIALS


def _tell(outcome: Any, console: Any, *, json_output: bool) -> None:
    """The last table, the verdict and where the report is."""
    from prefeval.reports import run as runs
    from prefeval.reports import summary, verdict

    saved = runs.load(outcome.run.path)
    read = verdict.read(saved)
    if console.is_terminal:
        console.print(summary.table(saved, read))
        text = "\n".join(summary.lines(saved, read, outcome.run.report))
    else:
        text = summary.plain(saved, read, outcome.run.report)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"took {live.duration(outcome.seconds)}", highlight=False)
    if json_output:
        print(json.dumps(records.read_json(outcome.run.summary), ensure_ascii=False))


def _assert_smoke(run: Path, tolerance: float) -> None:
    """What must hold at any size: untrained, the policy is its reference, so DPO's loss is ln 2."""
    for log in sorted(run.glob("trials/dpo-*/train.jsonl")):
        loss = records.read_jsonl(log)[0]["loss"]
        if abs(loss - math.log(2)) > tolerance:
            raise PrefevalError(f"smoke: the first DPO loss is {loss}, not ln 2 = 0.6931")
    for row in records.read_json(run / "summary.json")["table"]:
        if not (row["kl"] is not None and row["kl"] > -1e-6 and 0 <= row["win_rate"] <= 100):
            raise PrefevalError(f"smoke: {row['trial']} has KL {row['kl']}, WR {row['win_rate']}")


def train(**options: Any) -> int:
    """``prefeval train``: one trial up to its checkpoints, in a run that ``sweep`` can continue."""
    from prefeval.harness import sweep as sweeps

    config = resolve(options, methods=options["method"], beta=options["beta"], seeds="1")
    config = replace(config, seeds=(options["seed"],))
    if len(config.trials()) != 1:
        raise PrefevalError("prefeval train runs one trial: give one --beta; for a grid use sweep")
    console = live.make_console()
    paths = sweeps.train_only(
        config,
        out=options["out"],
        console=console,
        command=sweeps.command_line(),
        name=options["name"] or None,
    )
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def evaluate(**options: Any) -> int:
    """``prefeval eval``: any checkpoints against their reference."""
    from prefeval.harness import eval_run, evaluate_only

    config = eval_run.configure(options)
    console = live.make_console(json_output=options["json_output"])
    folder = options["out"] / (options["name"] or evaluate_only.default_name(config))
    with _tracked(_targets(options), folder, console):
        rows = evaluate_only.evaluate(
            config,
            options["checkpoint"],
            out=options["out"],
            name=options["name"] or None,
            workers=options["workers"],
            console=console,
        )
    if options["json_output"]:
        print(json.dumps(records.to_jsonable(rows), ensure_ascii=False))
    return 0


def lab(*, out: Path, knobs: str, smoke: bool) -> int:
    """``prefeval lab``: the lab as ordinary files."""
    reference, data = labs.parse_knobs(knobs)
    if smoke:
        reference, data = replace(reference, **SMOKE_LAB), replace(data, **SMOKE_DATA)
    labs.require_new(out)
    console = live.make_console()
    with console.status("building the lab") as status:
        built = labs.build(
            reference, data, lambda stage, share: status.update(f"{stage}: {share:.0%}")
        )
    for path in labs.export(built, out):
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0
