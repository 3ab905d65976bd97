"""One small run of two trials, measured once, and a copy of it for every test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = ("sweep", "--smoke", "--methods", "dpo", "--beta", "0.05,0.3", "--name", "run")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, to be read and never written."""
    out = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "prefeval", *SWEEP, "--out", str(out)]
    environment = {**os.environ, "PREFEVAL_CACHE": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs" / "run"))
