"""The main job: a grid of trials, every checkpoint measured, and a verdict.

    materialise the task -> what all trials share -> trials -> one table, verdict, report

Everything is files (see ``steps``), so the same command continues a run that was stopped.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prefeval
from prefeval import records
from prefeval.harness import backends, executors, live, materialise, models, results, train
from prefeval.harness.check_notes import check_notes
from prefeval.harness.executors import Executor, Job, open_executor
from prefeval.harness.executors.local import THREADS
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.settings import SweepConfig
from prefeval.harness.task import Task
from prefeval.harness.threads import no_bars
from prefeval.minitrainers import METHODS
from prefeval.records import Trial

if TYPE_CHECKING:
    from rich.console import Console

    from prefeval.metrics.selection import Selection

LAB_SECONDS: Mapping[str, float] = {
    "dpo": 26,
    "ipo": 26,
    "kto": 32,
    "simpo": 26,
    "ppo": 40,
    "grpo": 35,
}
"""A trial of the lab on one core of the machine of docs/lab.md: for the estimate alone."""
PACKAGES = ("prefeval", "torch", "transformers", "tokenizers", "numpy", "scipy", "pandas")


@dataclass(frozen=True)
class Plan:
    """What a sweep is about to do."""

    trials: tuple[Trial, ...]
    workers: int
    seconds: float | None

    def describe(self, config: SweepConfig) -> list[str]:
        """The resolved grid, the count, and the time it may take."""
        lines = []
        for method in config.methods:
            grid = ", ".join(f"{b:g}" for b in config.betas[method])
            lines.append(f"  {method:6s} {METHODS[method].lever} {grid}")
        seeds = ", ".join(map(str, config.seeds))
        lines.append(
            f"{len(self.trials)} trials (seeds {seeds}; checkpoints each: {config.checkpoints}) "
            f"on {self.workers} workers"
        )
        if self.seconds is not None:
            lines[-1] += f", about {live.duration(self.seconds)}"
        return lines


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    run: RunFolder
    selection: Selection | None
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def plan(config: SweepConfig, workers: int) -> Plan:
    """The trials, and about how long they take where that is known beforehand (the lab)."""
    trials = tuple(config.trials())
    seconds = None
    if config.is_lab and not config.training.get("max_steps"):
        work = sum(LAB_SECONDS.get(t.method, 30) for t in trials) / min(workers, len(trials))
        seconds = 25 + work
    return Plan(trials, workers, seconds)


def default_workers(config: SweepConfig) -> int:
    """One a core, as far as memory goes: a process each, with policy, gradients, optimizer state,
    reference and judge, and as much again for activations (12 times the weights were measured);
    vLLM's engine is another process, with 1 GiB for its cache."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    need = (1 if backends.identity(config.backend) == backends.DEFAULT else 3) << 30
    if not config.is_lab:
        folder = models.model_dir(config.model)
        need += 12 * sum(file.stat().st_size for file in models.weight_files(folder))
    return max(1, min(cores or 1, int(psutil.virtual_memory().available // need)))


def sweep(
    config: SweepConfig,
    *,
    out: Path,
    workers: int,
    console: Console,
    command: Sequence[str] = (),
    name: str | None = None,
    executor: str = "local",
    on_trial: Callable[[], object] = lambda: None,
) -> Outcome:
    """Run or continue the sweep of this configuration under ``out``.

    ``on_trial`` is called when a trial has ended, and must not wait.

    Raises ``PrefevalError`` for a folder that cannot be used, unusable inputs, or a failure in
    what all trials share. A trial that fails is reported, and the others go on.
    """
    start = time.monotonic()
    run = RunFolder((out / (name or config.name)).absolute())
    with run.in_use():
        run.open(config.hash)
        materials = prepare_inputs(config, run, console, command)
        warnings = [*materials.warnings, *weight_notes(config, materials)]
        with open_executor(executor, workers) as pool:
            for stage in shared_stages(config, materials):
                run_shared(stage, pool, run, console)
            warnings += judge_notes(run, materials)
            warnings += train.truncation_notes(materials.task)
            trials = config.trials()
            failed = _run_trials(materials, trials, pool, run, console, on_trial)
            warnings += check_notes(run.path)
        selection = results.conclude(run, materials.task, trials, failed, warnings)
        run.log("concluded", failed=sorted(failed))
    return Outcome(run, selection, failed, time.monotonic() - start)


def prepare_inputs(
    config: SweepConfig, run: RunFolder, console: Console, command: Sequence[str]
) -> materialise.Materials:
    """The run's data folder, and its manifest when the run begins or its data have changed."""
    no_bars()
    with console.status("preparing") as status:
        told: dict[str, int] = {}

        def on_progress(stage: str, share: float) -> None:
            percent = int(100 * share)
            status.update(f"{stage}: {percent}%")
            if not console.is_terminal and percent >= told.get(stage, -25) + 25:
                told[stage] = percent
                console.print(f"  {stage}: {percent}%", highlight=False)

        materials = materialise.materialise(config, run.path, on_progress)
    records.write_json(run.task, materials.task)
    if not run.manifest.exists() or _is_stale(run.manifest, materials.task):
        records.write_json(run.manifest, _manifest(config, materials, command))
    return materials


def _manifest(
    config: SweepConfig, materials: materialise.Materials, command: Sequence[str]
) -> dict[str, Any]:
    """What was run: enough to run it again."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    task = materials.task
    judge = task.judge.partition(":")[0]
    return {
        "schema": records.SCHEMA_VERSION,
        "prefeval_version": prefeval.__version__,
        "command": " ".join(command),
        "created": now,
        "config_hash": config.hash,
        "config": config,
        "trials": [t.name for t in config.trials()],
        "hashes": {
            "reference": models.weights_hash(task.reference),
            "template": records.content_hash(models.load_tokenizer(task.reference).chat_template),
            **_data_hashes(task),
        },
        "versions": {
            "python": platform.python_version(),
            **{p: metadata.version(p) for p in PACKAGES if p != "prefeval"},
            **backends.versions(config.backend),
        },
        "data_counts": materials.counts,
        "judge": {
            "name": judge,
            "settings": task.judge,
            "caveat": _caveat(judge, config),
        },
        "lab": materials.lab,
        "threads": THREADS,
        "seeds": config.seeds,
    }


def _data_hashes(task: Task) -> dict[str, str]:
    return {f.stem: models.file_hash(f) for f in sorted(task.data.glob("*.jsonl"))}


def _is_stale(manifest: Path, task: Task) -> bool:
    """Whether the data are no longer those that the manifest describes: all is then done anew."""
    known = records.read_json(manifest).get("hashes", {})
    return any(known.get(name) != found for name, found in _data_hashes(task).items())


def _caveat(judge: str, config: SweepConfig) -> str:
    if judge == "lab":
        return (
            "the lab's judge sees true quality and likes length; the true win rate ignores length"
        )
    if not config.judge:
        from prefeval.harness.judges.reward_model import CAVEAT

        return CAVEAT
    return ""


def shared_stages(config: SweepConfig, materials: materialise.Materials) -> list[list[Job]]:
    """What is computed once for all trials; each stage needs the one before."""
    task = materials.task
    kinds = {METHODS[m].data for m in config.methods if not config.settings(m).get("rounds")}
    shared = [Job("reference answers", "reference", task)]
    if "pairs" in kinds:
        shared.append(Job("reference log-probabilities", "pairs", task))
    if "thumbs" in kinds:
        shared.append(Job("thumbs", "thumbs", task))
    if config.needs_reward_model:
        settings = config.reward_model_settings()
        shared.insert(0, Job("reward model", "reward_model", task, settings=settings))
    stages = [shared]
    if materials.trains_judge:
        judge = Job("judge", "judge", task, settings=config.reward_model_settings())
        stages.insert(0, [judge])
    return stages


def run_shared(jobs: Sequence[Job], executor: Executor, run: RunFolder, console: Console) -> None:
    """Run jobs that others need: the first failure ends the sweep."""
    with live.Progress(console, "shared by all trials", len(jobs)) as progress:
        for event in executor.run(jobs):
            progress.see(event)
            if event.kind == "failed":
                run.log("failed", job=event.job, error=event.error, **event.row)
                raise executors.JobFailed(f"{event.job}: {event.error}")
            if event.kind == "done":
                run.log("done", job=event.job)


def _run_trials(
    materials: materialise.Materials,
    trials: Sequence[Trial],
    executor: Executor,
    run: RunFolder,
    console: Console,
    on_trial: Callable[[], object],
) -> dict[str, str]:
    """Run every trial; the failed ones by name, with the reason."""
    jobs = [Job(t.name, "trial", materials.task, t) for t in trials]
    failed: dict[str, str] = {}
    with live.Progress(console, "trials", len(jobs)) as progress:
        for event in executor.run(jobs):
            progress.see(event)
            if event.kind in ("started", "done", "failed"):
                run.log(event.kind, job=event.job, error=event.error or None, **event.row)
            if event.kind == "failed":
                failed[event.job] = event.error
            if event.kind in ("done", "failed"):
                on_trial()
    return failed


def weight_notes(config: SweepConfig, materials: materialise.Materials) -> list[str]:
    """KTO's class weights, suggested from the counts where those in use let one class pull harder.

    Raises ``PrefevalError`` where KTO is to learn from thumbs of one kind.
    """
    if "kto" not in config.methods:
        return []
    from prefeval.minitrainers.kto import suggest_weights

    up = materials.counts["thumbs_up"]
    down = materials.counts["thumbs"] - up
    suggested = suggest_weights(up, down)
    settings = config.settings("kto")
    used = settings.get("desirable_weight", 1.0), settings.get("undesirable_weight", 1.0)
    if 0.8 <= used[0] * up / (used[1] * down) <= 1.5:
        return []
    return [
        f"{up} thumbs up and {down} down, weighted {used[0]:g} and {used[1]:g}: one class pulls "
        f"{max(used[0] * up / (used[1] * down), used[1] * down / (used[0] * up)):.1f} times as "
        f"hard; KTO's paper would have --desirable-weight {suggested.desirable:.3g} "
        f"--undesirable-weight {suggested.undesirable:.3g}"
    ]


def judge_notes(run: RunFolder, materials: materialise.Materials) -> list[str]:
    """What the automatically trained judge is worth, said plainly wherever its numbers are."""
    if not materials.trains_judge:
        return []
    audit = records.read_json(run.judge / "audit.json")
    manifest = records.read_json(run.manifest)
    manifest["judge"] |= {
        "held_out_accuracy": audit["audit"]["accuracy"]["value"] / 100,
        "length_reliance": audit["audit"]["length_correlation"]["value"],
        "audit": audit["text"],
    }
    records.write_json(run.manifest, manifest)
    return [f"{manifest['judge']['caveat']} It {audit['text']}."]


def train_only(
    config: SweepConfig,
    *,
    out: Path,
    console: Console,
    command: Sequence[str] = (),
    name: str | None = None,
) -> list[Path]:
    """One trial up to its checkpoints, without measuring them; their folders.

    The run is the one that a sweep of this single point would make, and which it continues.
    """
    run = RunFolder((out / (name or config.name)).absolute())
    (trial,) = config.trials()
    with run.in_use():
        run.open(config.hash)
        materials = prepare_inputs(config, run, console, command)
        for note in weight_notes(config, materials):
            console.print(f"! {note}", markup=False, highlight=False, soft_wrap=True)
        with open_executor("local", 1) as executor:
            shared = [j for j in shared_stages(config, materials)[-1] if j.kind != "reference"]
            run_shared(shared, executor, run, console)
            job = Job(trial.name, "trial", materials.task, trial, {"measure": False})
            run_shared([job], executor, run, console)
    return sorted(run.trial(trial).glob("checkpoint-*"))


def command_line() -> list[str]:
    """The command as it was given, for the manifest."""
    import shlex

    return ["prefeval", *(shlex.quote(a) for a in sys.argv[1:])]
