"""compare.html: what it holds, and in a browser that it works and keeps text as text."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefeval.harness.compare import command as compare
from prefeval.harness.compare import targets as compare_targets
from prefeval.reports.compare import page as compare_page

At = Callable[[Path, float, int], Path]
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture
def page_file(run: Path, at: At, tmp_path: Path) -> Path:
    a, b = (compare_targets.find(str(at(run, beta, 20))) for beta in (0.3, 0.1))
    return compare_page.write(tmp_path / "out", compare.compare(a, b))[0]


def test_the_page_is_one_file_that_allows_its_own_script_alone(page_file: Path) -> None:
    text = html.unescape(page_file.read_text(encoding="utf-8"))
    assert "default-src 'none'; script-src 'sha256-" in text
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)
    assert not re.search(r"\sstyle=|\son\w+=\"", text)


def test_no_answer_is_markup_in_the_page(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert "<img" not in text
    assert "\u202e" not in text
    assert text.count("</script>") == 2
    assert "\\u003cimg src=x onerror=alert(1)\\u003e" in text


def test_the_page_says_what_the_table_says(page_file: Path) -> None:
    text = re.sub(r"<[^>]+>", " ", page_file.read_text(encoding="utf-8"))
    assert re.search(r"B wins more often at equal length \(\+\d+\.\d points\); B is .*json", text)
    assert "json −33.3 points" in text
    assert "could be up to" in text


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_no_error_no_request_no_sideways_scrolling_and_text_stays_text(
    browser: Any, page_file: Path, viewport: dict[str, int], scheme: str, hostile: tuple[str, ...]
) -> None:
    page = browser.new_context(viewport=viewport, color_scheme=scheme).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(page_file.as_uri())
    assert [s for s in said if s not in (page_file.as_uri(), "data:,")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    page.locator("#s-query").fill("onerror")
    texts = page.locator("#s-list .text").all_text_contents()
    assert hostile[0] in texts
    assert page.locator("#s-list img").count() == 0
    assert len(page.screenshot()) > 10_000
    page.context.close()


@pytest.mark.browser
def test_filters_and_the_word_diff_act(browser: Any, page_file: Path) -> None:
    page = browser.new_context(viewport=WIDE).new_page()
    page.goto(page_file.as_uri())
    page.locator('[data-kind="lost"]').click()
    cards = page.locator("#s-list article")
    assert cards.count() == 10
    assert all("Check lost in B" in text for text in cards.all_inner_texts())
    page.locator("#s-more").click()
    assert cards.count() == 15
    page.locator('[data-kind="longer"]').click()
    assert page.locator("#s-list ins").count() > 0
    first = page.locator("#s-list article").first
    marked = first.locator(".text").all_text_contents()
    page.locator("#s-diff").uncheck()
    assert page.locator("#s-list ins, #s-list del").count() == 0
    assert first.locator(".text").all_text_contents() == marked
    page.context.close()


@pytest.mark.browser
def test_every_sample_is_printed(browser: Any, page_file: Path) -> None:
    page = browser.new_context(viewport=WIDE).new_page()
    page.goto(page_file.as_uri())
    total = int(re.findall(r"\d+", page.locator('[data-kind=""]').inner_text())[0])
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#s-list article").count() == total
    assert len(page.pdf(prefer_css_page_size=True)) > 20_000
    page.context.close()
