"""What all tests share: where the real data and the model lie, and a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium: ``PREFEVAL_CHROMIUM``, or the one on the path."""
    tool = pytest.importorskip("playwright.sync_api", reason="needs playwright: .[dev]")
    chromium = os.environ.get("PREFEVAL_CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip("no Chromium: install it, or set PREFEVAL_CHROMIUM to its path")
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    ]
    with tool.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()
