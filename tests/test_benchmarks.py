"""The benchmark's measurements, on processes whose time and memory are known."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PARENT = """
import subprocess, sys, time
child = "import time; held = b'x' * 80_000_000; time.sleep(0.6)"
subprocess.run([sys.executable, "-c", child], check=True)
"""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("sweep")


@pytest.fixture(scope="module")
def table() -> ModuleType:
    return load("trainers_table")


def measurement(seconds: float, megabytes: float, **changed: object) -> dict[str, object]:
    return {
        "median_seconds": seconds,
        "peak_megabytes": megabytes,
        "megabytes_before": 200.0,
        "tokens_per_step": 512,
        "settings": "whole batches",
        "losses": [0.6931, 0.69],
        "grad_norms": [2.0, 1.5],
        "tokens": [500, 524],
        **changed,
    }


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


def test_row_of_the_trainers_gives_the_median_ratio_and_its_range(table: ModuleType) -> None:
    """TRL takes 2, 3 and 1.5 times the seconds; prefeval 1/2, 3/4 and 1/4 of the memory."""
    rounds = [
        table.Round(measurement(1.0, 500), measurement(2.0, 1000), 0.01),
        table.Round(measurement(1.0, 750), measurement(3.0, 1000), 0.04),
        table.Round(measurement(2.0, 250), measurement(3.0, 1000), 0.02),
    ]
    assert table.table_row("tiny-dpo", "float32", "speed", rounds) == (
        "| tiny-dpo | float32 | speed | 1.000 | 3.000 | 2.00 [1.50, 3.00] "
        "| 500 (200) | 1000 (200) | 0.50 [0.25, 0.75] | 512 | 0e+00, 0e+00; 0e+00 "
        "| whole batches / whole batches | 4% |"
    )
    assert len(table.HEAD.splitlines()[0].split("|")) == len(
        table.table_row("ppo", "float32", "speed", rounds).split("|")
    )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tokens": [500, 525]}, "different tokens"),
        ({"losses": [0.6941, 0.69]}, "first losses 1.0e-03 apart"),
        ({"grad_norms": [2.02, 1.5]}, "1.0e-02 of their size"),
        ({"grad_norms": [float("nan"), 1.5]}, "do not do the same work"),
    ],
)
def test_trainers_that_did_other_work_are_not_compared(
    table: ModuleType, changed: dict[str, object], says: str
) -> None:
    pair = table.Round(measurement(1.0, 500, **changed), measurement(2.0, 1000))
    with pytest.raises(SystemExit, match=says):
        table.require_same_work(pair, "tiny-dpo", "float32")


def test_other_losses_are_no_other_work_in_bfloat16(table: ModuleType) -> None:
    pair = table.Round(measurement(1.0, 500, losses=[0.7, 0.69]), measurement(2.0, 1000))
    assert table.agreement(pair).first_loss > table.LOSS_TOLERANCE
    table.require_same_work(pair, "smollm2-dpo", "bfloat16")  # printed, and no error
    with pytest.raises(SystemExit, match="do not do the same work"):
        table.require_same_work(pair, "smollm2-dpo", "float32")
