"""prefeval's trainers and TRL's side by side: seconds a step and peak memory, at equal precision.

    python benchmarks/trainers.py --trl PYTHON --trl-ppo PYTHON     # everything, about 90 minutes
    python benchmarks/trainers.py smollm2-dpo tiny-dpo --quick      # some of it, a few steps

PYTHON is the interpreter of an environment that holds the peer (README.md makes both). Every
measurement is a process of its own on the CPU: a few warm-up steps, then the counted ones, on the
same weights, pairs, batches and order on both sides; no checkpoint is written. The two sides
alternate, and a ratio is the median over such rounds, with the smallest and the largest. In float32
both sides must get the same first loss and gradient norm, or the run stops: they did the same work.

``speed`` sets each side as fast as it goes, ``memory`` as small as it goes. TRL has the reference's
log-probabilities beforehand in both, as prefeval does. Nothing here is a test: run it on an
otherwise idle machine (the last column says how much of it others took), and read it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from sweep import machine
from trainers_table import HEAD, Round, require_same_work, table_row

HERE = Path(__file__).parent
FETCH = HERE.parent / "scripts" / "fetch_smollm2.py"
MAX_LENGTH = 128  # tokens of prompt and answer

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One method on one model."""

    method: str
    model: str
    batch_size: int
    steps: int
    warmup: int
    lr: float
    beta: float
    micro_batch: int = 1
    """prefeval's smallest setting, with gradient checkpointing"""
    precisions: tuple[str, ...] = ("float32",)
    goals: tuple[str, ...] = ("speed", "memory")


def _smollm2(method: str, beta: float) -> Case:
    precisions = ("float32", "bfloat16")
    return Case(method, "smollm2", 4, 5, 2, lr=1e-5, beta=beta, precisions=precisions)


def _tiny(method: str, beta: float) -> Case:
    return Case(method, "tiny", 16, 20, 3, lr=1e-4, beta=beta, micro_batch=4)


CASES: Mapping[str, Case] = {
    "smollm2-dpo": _smollm2("dpo", 0.1),
    "smollm2-kto": _smollm2("kto", 0.1),
    "smollm2-simpo": _smollm2("simpo", 2.0),
    "tiny-dpo": _tiny("dpo", 0.1),
    "tiny-kto": _tiny("kto", 0.1),
    "tiny-simpo": _tiny("simpo", 2.0),
    "ppo": Case("ppo", "tiny", 16, 6, 2, lr=1e-5, beta=0.05, goals=("speed",)),
}


def options_of(case: Case, work: Path, threads: int) -> dict[str, Any]:
    """What the workers of a case are told."""
    return {
        "method": case.method,
        "model": case.model,
        "folder": str(smollm2() if case.model == "smollm2" else work / "tiny"),
        "reward_folder": str(work / "reward"),
        "data": str(work / f"{case.model}-{case.method}.jsonl"),
        "pairs": case.batch_size * (1 if case.method == "ppo" else case.warmup + case.steps),
        "batch_size": case.batch_size,
        "steps": case.warmup + case.steps,
        "warmup": case.warmup,
        "max_length": 2 * MAX_LENGTH if case.method == "ppo" else MAX_LENGTH,
        "lr": case.lr,
        "beta": case.beta,
        "gamma": 1.0,
        "dtype": "float32",
        "settings": {},
        "threads": threads,
        "iterations": case.warmup + case.steps,
        "max_new_tokens": 32,
        "ppo_epochs": 4,
        "minibatches": 1,
    }


def smollm2() -> Path:
    """The model's folder, fetched where it is not there yet."""
    command = [sys.executable, str(FETCH)]
    fetched = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(fetched.stdout.split()[-1])


def worker(python: str, script: str, options: Settings, environment: Settings) -> str:
    """Run one worker to its end and return what it printed; exits with its last lines if it fails.

    Linux hands a process the peak memory of the one that started it: this one must stay small.
    """
    command = [python, str(HERE / script), json.dumps(options)]
    run = subprocess.run(command, capture_output=True, text=True, env=dict(environment))
    if run.returncode:
        tail = "\n".join(run.stderr.splitlines()[-15:])
        raise SystemExit(f"{script} ({options['method']}) ended with {run.returncode}:\n{tail}")
    return run.stdout


def sides(case: Case, goal: str) -> tuple[Settings, Settings]:
    """The settings of prefeval and of TRL for a goal."""
    if goal == "speed":
        return {}, {"gradient_checkpointing": False}
    ours = {"micro_batch": case.micro_batch, "gradient_checkpointing": True}
    return ours, {"gradient_checkpointing": True}


def play_round(
    options: Settings, settings: tuple[Settings, Settings], python: str, environment: Settings
) -> Round:
    """Measure prefeval, then TRL."""
    start, before = time.monotonic(), busy_elsewhere()
    found = []
    for interpreter, script, chosen in zip(
        (sys.executable, python), ("trainers_own.py", "trainers_trl.py"), settings, strict=True
    ):
        printed = worker(interpreter, script, {**options, "settings": chosen}, environment)
        found.append(json.loads(printed.splitlines()[-1]))
    cores = psutil.cpu_count() or 1
    others = (busy_elsewhere() - before) / (time.monotonic() - start) / cores
    return Round(*found, others=max(0.0, others))


def busy_elsewhere() -> float:
    """Processor seconds since the start that went to other than our own ended processes."""
    times, ours = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "steal"))
    return float(busy - ours.ru_utime - ours.ru_stime)


def versions(python: str) -> str:
    """The packages of an environment, in words; an empty text where TRL is not among them."""
    script = (
        "from importlib.metadata import version as v;"
        "print(', '.join(f'{p} {v(p)}' for p in ('trl', 'torch', 'transformers')))"
    )
    try:
        run = subprocess.run([python, "-c", script], capture_output=True, text=True)
    except OSError:
        return ""
    return run.stdout.strip()


def environment_of(work: Path, threads: int) -> dict[str, str]:
    """The workers' environment: no GPU, no hub, and every cache in a folder that goes away."""
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(work / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }


def measured_rows(
    name: str, case: Case, options: argparse.Namespace, work: Path
) -> Iterator[tuple[str, list[Round]]]:
    """The lines of one case's table, each with its measurements, as they are done."""
    environment = environment_of(work, options.threads)
    told = options_of(case, work, options.threads)
    source = str(options.data.absolute()) if options.data else None
    worker(sys.executable, "trainers_data.py", {**told, "source": source}, environment)
    python = options.trl_ppo if case.method == "ppo" else options.trl
    for precision in case.precisions:
        for goal in case.goals:
            rounds = []
            for _ in range(options.repeats):
                setting = {**told, "dtype": precision}
                rounds.append(play_round(setting, sides(case, goal), python, environment))
                if case.method != "ppo":  # whose two sides sample answers of their own
                    require_same_work(rounds[-1], name, precision)
            yield table_row(name, precision, goal, rounds), rounds


def read_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--trl", default=sys.executable, metavar="PYTHON", help="has TRL")
    parser.add_argument("--trl-ppo", metavar="PYTHON", help="has TRL 1.12; without it, no PPO")
    parser.add_argument("--data", type=Path, help="pairs; without it, made-up ones")
    parser.add_argument("--threads", type=int, default=2, help="torch's, on both sides")
    parser.add_argument("--repeats", type=int, default=3, help="rounds a line of the table")
    parser.add_argument("--quick", action="store_true", help="one round of a few steps")
    parser.add_argument("--log", type=Path, help="append every measurement, a JSON object a line")
    options = parser.parse_args()
    if options.quick:
        options.repeats = 1
    options.cases = options.cases or list(CASES)
    if unknown := [c for c in options.cases if c not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    if options.data and not options.data.is_file():
        parser.error(f"no such file: {options.data}")
    return options


def main() -> None:
    """Measure the chosen cases and print the table."""
    options = read_arguments()
    print(f"{machine()}; {options.threads} threads on each side")
    if options.trl_ppo is None and "ppo" in options.cases:
        print("ppo: skipped, since --trl-ppo does not name the interpreter that has TRL 1.12")
        options.cases = [c for c in options.cases if c != "ppo"]
    if not options.cases:
        return
    pythons = {options.trl_ppo if CASES[c].method == "ppo" else options.trl for c in options.cases}
    for python in sorted(pythons):
        if not (found := versions(python)):
            raise SystemExit(f"{python} has no trl; see benchmarks/README.md for how to get it")
        print(f"peer: {found}")
    print(f"pairs: {options.data.name if options.data else 'made up'}\n\n{HEAD}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cases:
            case = CASES[name]
            if options.quick:
                case = replace(case, warmup=1, steps=2)
            for row, rounds in measured_rows(name, case, options, Path(folder)):
                print(row, flush=True)
                if options.log:
                    with options.log.open("a", encoding="utf-8") as log:
                        log.writelines(json.dumps(r._asdict()) + "\n" for r in rounds)


if __name__ == "__main__":
    main()
