"""The benchmark's measurements, on processes whose time and memory are known."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "sweep.py"
PARENT = """
import subprocess, sys, time
child = "import time; held = b'x' * 80_000_000; time.sleep(0.6)"
subprocess.run([sys.executable, "-c", child], check=True)
"""


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_sweep", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def test_memory_of_children_and_their_time_are_counted(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    """The child alone holds 80 MB for 0.6 s; two interpreters hold some ten more."""
    measured = benchmark.measure([sys.executable, "-c", PARENT], os.environ, tmp_path / "log")
    assert 80 < measured.megabytes < 160
    assert measured.seconds > 0.6


def test_command_that_fails_is_shown_and_not_measured(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such lab')"]
    with pytest.raises(SystemExit, match="no such lab"):
        benchmark.measure(command, os.environ, tmp_path / "log")


def test_row_marks_what_is_over_its_limit(benchmark: ModuleType) -> None:
    case = benchmark.Case(("sweep", "--out", "{out}"), 360, megabytes=3000)
    within = benchmark.table_row(case, benchmark.Measured(100.0, 2000.0))
    assert within == "| `prefeval sweep` | 100.00 | 360 | 2000 | 3000 |"
    beyond = benchmark.table_row(case, benchmark.Measured(361.0, 3100.0))
    assert beyond == "| `prefeval sweep` | 361.00 **over** | 360 | 3100 **over** | 3000 |"
