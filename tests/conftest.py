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


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct: ``PREFEVAL_SMOLLM2``, or the user's cache."""
    import platformdirs

    default = Path(platformdirs.user_cache_dir("prefeval")) / "smollm2-135m-instruct"
    found = Path(os.environ.get("PREFEVAL_SMOLLM2") or default)
    if not (found / "model.safetensors").is_file():
        pytest.skip(f"no model at {found}; run scripts/fetch_smollm2.py")
    return found
