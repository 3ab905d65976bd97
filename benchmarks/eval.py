"""What measuring costs: the full-vocabulary KL's memory, generation beside ``model.generate``, and
log-probabilities beside lm-evaluation-harness.

    python benchmarks/eval.py                       # all but the last, about five minutes
    python benchmarks/eval.py kl generate-lab       # some of it
    python benchmarks/eval.py score --data PAIRS --lm-eval PYTHON

Every measurement is a process of its own on the CPU; the two sides of a comparison alternate, on
the same model, prompts, number of rows and number of new tokens, sampling at temperature 1 without
top-p or top-k. ``score`` reads the chosen and rejected answers of 64 pairs, 8 answers a batch on
both sides; PYTHON is the interpreter of an environment that has lm-evaluation-harness
(benchmarks/README.md), and how far apart the log-probabilities are is printed too. The ratio is the
median over the rounds, with the smallest and the largest. Memory is what the process held above its
two models. Nothing here is a test: run it on an otherwise idle machine, and read it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
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
    "score": {"case": "score", "model": "smollm2", "pairs": 64, "batch": 8},
}


def folder(model: str) -> str:
    """SmolLM2, fetched if need be, or the lab's reference, built if need be."""
    script = {
        "smollm2": [str(HERE.parent / "scripts" / "fetch_smollm2.py")],
        "lab": ["-c", "from prefeval.harness.lab import lab as l; a, b = l.parse_knobs('');"
                "print(l.build(a, b, lambda *x: None).reference)"],
    }[model]  # fmt: skip
    found = subprocess.run([sys.executable, *script], stdout=subprocess.PIPE, text=True, check=True)
    return found.stdout.split()[-1]


def measure(
    options: Mapping[str, Any], python: str = sys.executable, script: str = "eval_worker.py"
) -> dict[str, Any]:
    """One process; what it printed last."""
    command = [python, str(HERE / script), json.dumps(options)]
    threads = str(options["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise SystemExit("\n".join(run.stderr.splitlines()[-10:]))
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def score(case: Mapping[str, Any], peer: str, repeats: int) -> None:
    """Both sides in turn, on the same texts."""
    with tempfile.TemporaryDirectory() as folder:
        case = {**case, "requests": str(Path(folder) / "requests.json")}
        rounds = [
            [measure(case), measure(case, peer, "eval_peer.py")] for _ in range(repeats)
        ]  # ours comes first, and writes the requests
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in rounds]
    ours, theirs = (
        statistics.median(s["seconds"] for s in side) for side in zip(*rounds, strict=True)
    )
    apart = max(
        abs(a - b)
        for mine, other in rounds
        for a, b in zip(mine["logps"], other["logps"], strict=True)
    )
    print(
        f"| score | {2 * case['pairs']} answers in {ours:.1f} s, lm-evaluation-harness "
        f"{theirs:.1f} s; sums at most {apart:.0e} nats apart | "
        f"{statistics.median(ratios):.2f} times [{min(ratios):.2f}, {max(ratios):.2f}] |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", metavar="PAIRS", help="preference pairs, for score")
    parser.add_argument("--lm-eval", metavar="PYTHON", help="of the peer's environment, for score")
    options = parser.parse_args()
    if unknown := [c for c in options.cases if c not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    both = options.data and options.lm_eval
    if "score" in options.cases and not both:
        parser.error("score needs --data PAIRS and --lm-eval PYTHON")
    print(f"{machine()}; {options.threads} threads\n\n| case | | |\n|---|---|---|")
    for name in options.cases or [c for c in CASES if c != "score" or both]:
        case = {**CASES[name], "threads": options.threads, "folder": folder(CASES[name]["model"])}
        if case["case"] == "score":
            score({**case, "data": options.data}, options.lm_eval, options.repeats)
            continue
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
