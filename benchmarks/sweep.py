"""Wall time and peak memory of the main job, printed as a Markdown table beside their limits.

    python benchmarks/sweep.py                # everything, about ten minutes on two cores
    python benchmarks/sweep.py help dpo       # some of it

``lab`` builds the lab in an empty cache, which the sweeps then use; without it they use (and, if
need be, first fill) the user's own. Memory is the largest sum over the process tree, sampled four
times a second: proportional set size on Linux, where pages that processes share are counted once,
unique set size elsewhere. Nothing here is a test: run it on an otherwise idle machine, and read it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

EVERY = 0.25  # seconds between looks at the memory
FIRST = 0.02  # the same, in the first second
REPEATS = 5  # of a command that takes less than a second
MEASURE = "PSS" if sys.platform == "linux" else "USS"


@dataclass(frozen=True)
class Case:
    """One command, and what it may take on two cores."""

    arguments: tuple[str, ...]
    seconds: float
    megabytes: float | None = None
    repeats: int = 1
    needs_lab: bool = False
    says: str = ""


CASES: Mapping[str, Case] = {
    "help": Case(("--help",), 0.3, repeats=REPEATS, says=f"median of {REPEATS}"),
    "lab": Case(("lab", "--out", "{out}"), 90, says="empty cache"),
    "dpo": Case(
        ("sweep", "--methods", "dpo", "--beta", "0.05:0.3", "--out", "{out}"), 90, needs_lab=True
    ),
    "sweep": Case(("sweep", "--out", "{out}"), 360, megabytes=3000, needs_lab=True),
}


@dataclass(frozen=True)
class Measured:
    """What a command took."""

    seconds: float
    megabytes: float


def tree_megabytes(root: psutil.Process) -> float:
    """Memory of a process and all its descendants, in units of 10^6 bytes."""
    total = 0
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in processes:
        try:
            total += getattr(process.memory_full_info(), MEASURE.lower())
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile
            continue
    return total / 1e6


def watch(root: psutil.Process, ended: threading.Event, seen: list[float]) -> None:
    """Add what a process tree holds to ``seen`` until it has ended."""
    start = time.monotonic()
    while not ended.is_set():
        seen.append(tree_megabytes(root))
        ended.wait(EVERY if time.monotonic() - start > 1 else FIRST)


def measure(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Measured:
    """Run one command to its end; exits with its last lines if it fails."""
    seen = [0.0]
    ended = threading.Event()
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment)
        )
        watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid), ended, seen))
        watcher.start()
        process.wait()
    seconds = time.monotonic() - start
    ended.set()
    watcher.join()
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    return Measured(seconds, max(seen))


def repeated(case: Case, environment: Mapping[str, str], work: Path) -> Measured:
    """The median time and the largest memory of a case's repeats, each with a new output folder."""
    found = []
    for _ in range(case.repeats):
        out = tempfile.mkdtemp(dir=work)
        arguments = [a.format(out=out) for a in case.arguments]
        command = [sys.executable, "-m", "prefeval", *arguments]
        found.append(measure(command, environment, work / "log"))
    middle = sorted(m.seconds for m in found)[len(found) // 2]
    return Measured(middle, max(m.megabytes for m in found))


def table_row(case: Case, measured: Measured) -> str:
    """One line of the table."""
    shown = " ".join(("prefeval", *(a for a in case.arguments if a not in ("--out", "{out}"))))
    words = f"`{shown}`" + (f" ({case.says})" if case.says else "")
    over = " **over**"
    time_mark = over if measured.seconds > case.seconds else ""
    limit, memory_mark = "", ""
    if case.megabytes is not None:
        limit = f"{case.megabytes:.0f}"
        memory_mark = over if measured.megabytes > case.megabytes else ""
    return (
        f"| {words} | {measured.seconds:.2f}{time_mark} | {case.seconds:g} "
        f"| {measured.megabytes:.0f}{memory_mark} | {limit} |"
    )


def machine() -> str:
    """What this ran on, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 1e9
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "transformers"))
    load = psutil.getloadavg()[0]
    return (
        f"{platform.machine()}, {cores} cores, {memory:.1f} GB, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}; load average at the start {load:.1f}"
    )


def main() -> None:
    """Measure the chosen cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    chosen = parser.parse_args().cases or list(CASES)
    if unknown := [c for c in chosen if c not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    print(f"{machine()}\n")
    print(f"| command | wall, s | limit, s | peak {MEASURE}, MB | limit, MB |")
    print("|---|---:|---:|---:|---:|", flush=True)
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "lab" in chosen:
            environment["PREFEVAL_CACHE"] = str(work / "cache")
        elif any(CASES[c].needs_lab for c in chosen):
            repeated(CASES["lab"], environment, work)
        for name in (c for c in CASES if c in chosen):  # the lab comes before what needs it
            print(table_row(CASES[name], repeated(CASES[name], environment, work)), flush=True)


if __name__ == "__main__":
    main()
