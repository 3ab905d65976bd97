"""A page in headless Chromium: seconds until it can be used, and until what was asked for shows."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WAIT = 120_000  # ms; what takes longer is broken


class Missing(Exception):
    """Why no page can be measured."""


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, started; raises ``Missing`` where there is none."""
    path = os.environ.get("PREFEVAL_CHROMIUM") or shutil.which("chromium")
    if not path:
        raise Missing("no Chromium: install it, or set PREFEVAL_CHROMIUM to its path")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Missing("no playwright: pip install playwright") from None
    with sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=path, args=list(FLAGS))
        yield opened
        opened.close()


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def report(opened: Any, path: Path, phrase: str) -> dict[str, float]:
    """A report's page, opened anew: what a reader does first, each in seconds.

    ``phrase`` occurs in one answer of the run: finding it means that every answer was searched.
    """
    context = opened.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    cards, picked = page.locator("#s-list article"), page.locator("#s-ck")

    def usable() -> None:
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        button = page.locator("[data-toggle]").first
        button.click()
        page.wait_for_selector('[data-toggle][aria-pressed="false"]')
        button.click()
        cards.first.wait_for()

    def other() -> None:
        last = picked.locator("option").nth(-2).get_attribute("value")  # the last is "every"
        before = cards.first.inner_text()
        picked.select_option(last)
        page.wait_for_function(
            "old => { const card = document.querySelector('#s-list article');"
            " return card && card.innerText !== old; }",
            arg=before,
        )

    def everywhere() -> None:
        page.locator("#s-query").fill(phrase)
        picked.select_option("*")
        page.get_by_text("1 of 1 shown").wait_for()

    def again() -> None:
        page.locator("#s-query").fill("no such words as these")
        page.get_by_text("0 of 0 shown").wait_for()

    acts = {"usable": usable, "other": other, "everywhere": everywhere, "again": again}
    found = {name: _seconds(act) for name, act in acts.items()}
    context.close()
    return found


def plain(opened: Any, path: Path) -> float:
    """Seconds until a plain page is parsed and its first row is on the screen."""
    context = opened.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(WAIT)

    def usable() -> None:
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        page.locator("tbody tr").first.wait_for()

    seconds = _seconds(usable)
    context.close()
    return seconds
