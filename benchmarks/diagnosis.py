"""How often is `prefeval diagnose` right? Lab runs with one planted fault each, and healthy ones.

    python benchmarks/diagnosis.py make --out DIR      # about 350 runs, resumable
    python benchmarks/diagnosis.py score --out DIR     # confusion matrices, in a minute

Thresholds were set on the world "tune" alone; the figures to quote are those of "judge".
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path

from planted import make
from planted_cases import cases
from planted_faults import Case
from planted_score import score


def main() -> int:
    """Make the runs, or judge the diagnoses of those that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "score"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--world", choices=("tune", "judge"), help="score this one alone")
    parser.add_argument("--misses", action="store_true", help="list every miss")
    options = parser.parse_args()
    chosen = [c for c in cases() if options.only in c.name and options.world in (None, c.world)]
    if options.what == "score":
        return score(chosen, options.out, misses=options.misses)
    return make_all(chosen, options.out, options.workers)


def make_all(chosen: list[Case], out: Path, workers: int) -> int:
    """Every case that is not there yet, the order mixed so that a part of them is a fair part."""
    chosen = sorted(chosen, key=lambda c: hashlib.sha256(c.name.encode()).hexdigest())
    waiting = [c for c in chosen if not (out / "cases" / c.name / ".done").exists()]
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    start, failed = time.monotonic(), []
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        jobs = pool.imap_unordered(_make, [(c, out) for c in waiting])
        for number, (name, error) in enumerate(jobs, 1):
            left = (time.monotonic() - start) / number * (len(waiting) - number) / 60
            print(f"[{number}/{len(waiting)}] {name}, {left:.0f} min left", flush=True)
            if error:
                failed.append(name)
                print(error, file=sys.stderr, flush=True)
    if failed:
        print(f"{len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _make(job: tuple[Case, Path]) -> tuple[str, str]:
    import filelock
    import torch

    case, out = job
    torch.set_num_threads(1)
    try:
        base = out / "bases" / f".{case.world}-{case.labels}-{case.prompts}.lock"
        base.parent.mkdir(parents=True, exist_ok=True)
        from planted import prepare_base

        with filelock.FileLock(base):
            prepare_base(case.world, case.labels, out, case.prompts)
        make(case, out)
    except Exception:
        return case.name, traceback.format_exc()
    return case.name, ""


if __name__ == "__main__":
    sys.exit(main())
