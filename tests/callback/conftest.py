"""Trainings with and without the callback, on the lab's smallest reference (see training.py)."""

import sys
import warnings
from collections.abc import Callable
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prefeval import PrefevalCallback
from prefeval.harness.lab import lab

WARNINGS = (
    "`gradient_checkpointing` is deprecated:FutureWarning",  # transformers, TRL's settings
    "`is_gradient_checkpointing` is deprecated:FutureWarning",  # transformers, TRL's DPO
    "`past_key_values` is deprecated:FutureWarning",  # transformers, as the lab is sampled
    ".*pin_memory:UserWarning",  # torch, without a GPU
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Other libraries' warnings are not what these tests are about."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}"))


@pytest.fixture(scope="session")
def training() -> ModuleType:
    """The module beside this file."""
    spec = util.spec_from_file_location(
        "callback_training", Path(__file__).with_name("training.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def built(training: ModuleType) -> lab.Lab:
    """The lab that ``smoke=True`` evaluates on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: lab.Lab = training.smallest_lab()
    return found


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run folder for many trainings: its reference is measured once."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def callback(shelf: Path) -> Callable[..., PrefevalCallback]:
    """The callback on the smallest lab; it never stops unless told to."""

    def make(**options: Any) -> PrefevalCallback:
        return PrefevalCallback(
            **{"reference": "lab", "smoke": True, "out": shelf, "patience": 0, **options}
        )

    return make
