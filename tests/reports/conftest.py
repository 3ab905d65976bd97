"""A made-up run folder for the tests of reports (see synthetic.py beside this file)."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module beside this one; test folders are no packages, so it is loaded by its path."""
    path = Path(__file__).with_name("synthetic.py")
    spec = importlib.util.spec_from_file_location("synthetic_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def full_run(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five methods, 60 checkpoints, one failed trial, hostile completions."""
    folder = tmp_path_factory.mktemp("runs") / "full"
    return synthetic.write_run(folder, failed=True, hostile=synthetic.HOSTILE)


@pytest.fixture(scope="session")
def real_run(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods without an oracle, as a real model and real data give."""
    folder = tmp_path_factory.mktemp("runs") / "real"
    return synthetic.write_run(folder, grid={"dpo": (0.02, 0.1), "simpo": (2.5,)}, oracle=False)


@pytest.fixture(scope="session")
def half_run(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trials: one measured, one only trained, one not started; no verdict."""
    folder = tmp_path_factory.mktemp("runs") / "half"
    return synthetic.write_run(folder, grid={"dpo": (0.05, 0.3)}, finished=False)
