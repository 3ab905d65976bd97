"""A small run to send, and what it holds, read without prefeval."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GRID = {"dpo": (0.05, 0.3), "simpo": (2.0,)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three trials of three checkpoints and 140 steps; the report is stood in for."""
    path = Path(__file__).parents[1] / "reports" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_for_trackers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.write_run(tmp_path / "runs" / "sweep one", grid=GRID, count=2)
    (folder / "report.html").write_text("<p>report</p>", encoding="utf-8")
    (folder / "summary.md").write_text("# Summary\n", encoding="utf-8")
    for file in folder.glob("trials/*/checkpoint-*/metrics.json"):
        saved = json.loads(file.read_text())
        for row in saved["metrics"]:
            row["stderr"] = None
        file.write_text(json.dumps(saved))
    log = folder / "trials" / trial(folder, "simpo") / "train.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows[9]["loss"] = None  # as a NaN is saved
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def trial(folder: Path, start: str) -> str:
    return sorted(p.name for p in (folder / "trials").glob(f"{start}*"))[0]


@pytest.fixture
def curve() -> Callable[[Path, str, str], dict[int, Any]]:
    """A trial's column of the training log by step."""

    def read(folder: Path, name: str, column: str) -> dict[int, Any]:
        lines = (folder / "trials" / name / "train.jsonl").read_text().splitlines()
        return {row["step"]: row[column] for row in map(json.loads, lines)}

    return read


@pytest.fixture
def measured() -> Callable[[Path, str, str], dict[int, Any]]:
    """A trial's metric by step, with its interval."""

    def read(folder: Path, name: str, metric: str) -> dict[int, Any]:
        found = {}
        for file in (folder / "trials" / name).glob("checkpoint-*/metrics.json"):
            rows = json.loads(file.read_text())["metrics"]
            (row,) = [r for r in rows if r["name"] == metric]
            found[int(file.parent.name[-6:])] = row
        return found

    return read
