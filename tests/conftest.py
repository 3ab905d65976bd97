"""What all tests share: where the real data lie."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data: ``PREFEVAL_SHARED``, or ``shared`` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("PREFEVAL_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set PREFEVAL_SHARED to a folder that has it")
    return folder
