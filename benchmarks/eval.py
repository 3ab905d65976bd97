"""What measuring costs: the full-vocabulary KL's memory, and generation beside ``model.generate``.

    python benchmarks/eval.py                       # everything, about five minutes
    python benchmarks/eval.py kl generate-lab       # some of it

Every measurement is a process of its own on the CPU; the two sides of a comparison alternate, on
the same model, prompts, number of rows and number of new tokens, sampling at temperature 1 without
top-p or top-k. The ratio is the median over the rounds, with the smallest and the largest. Memory
is what the process held above its two models. Nothing here is a test: run it on an otherwise idle
machine, and read it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep import machine

HERE = Path(__file__).parent
CASES: Mapping[str, Mapping[str, Any]] = {
    "kl": {"case": "kl", "model": "smollm2", "tokens": 8192, "length": 128},
    "generate-lab": {"case": "generate", "model": "lab", "batch": 256, "prompt": 40, "new": 64},
    "generate-smollm2": {
        "case": "generate",
        "model": "smollm2",
        "batch": 16,
        "prompt": 64,
        "new": 32,
    },
}


def folder(model: str) -> str:
    """SmolLM2, fetched if need be, or the lab's reference, built if need be."""
    script = {
        "smollm2": [str(HERE.parent / "scripts" / "fetch_smollm2.py")],
        "lab": ["-c", "from prefeval.harness import lab as l; a, b = l.parse_knobs('');"
                "print(l.build(a, b, lambda *x: None).reference)"],
    }[model]  # fmt: skip
    found = subprocess.run([sys.executable, *script], stdout=subprocess.PIPE, text=True, check=True)
    return found.stdout.split()[-1]


def measure(options: Mapping[str, Any]) -> dict[str, Any]:
    """One process; what it printed last."""
    command = [sys.executable, str(HERE / "eval_worker.py"), json.dumps(options)]
    threads = str(options["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise SystemExit("\n".join(run.stderr.splitlines()[-10:]))
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if unknown := [c for c in options.cases if c not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    print(f"{machine()}; {options.threads} threads\n\n| case | | |\n|---|---|---|")
    for name in options.cases or CASES:
        case = {**CASES[name], "threads": options.threads, "folder": folder(CASES[name]["model"])}
        if case["case"] == "kl":
            found = measure(case)
            print(
                f"| {name} | {found['tokens']:,} tokens in {found['seconds']:.1f} s | "
                f"{found['megabytes']:.0f} MB above the two models |"
            )
            continue
        rounds = [
            [measure({**case, "side": side})["tokens_a_second"] for side in ("prefeval", "peer")]
            for _ in range(options.repeats)
        ]
        ratios = [ours / theirs for ours, theirs in rounds]
        ours, theirs = (statistics.median(side) for side in zip(*rounds, strict=True))
        print(
            f"| {name} | {ours:,.0f} tokens/s, model.generate {theirs:,.0f} | "
            f"{statistics.median(ratios):.2f} times [{min(ratios):.2f}, {max(ratios):.2f}] |"
        )


if __name__ == "__main__":
    main()
