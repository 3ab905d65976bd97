"""The page in a real browser: no error, nothing fetched, controls act, text stays text."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from prefeval import reports

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: .[dev]")
CHROMIUM = os.environ.get("PREFEVAL_CHROMIUM") or shutil.which("chromium") or ""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    if not CHROMIUM:
        pytest.skip("no Chromium: install it, or set PREFEVAL_CHROMIUM to its path")
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


def open_page(
    browser: "playwright.Browser", folder: Path, **context: object
) -> "tuple[playwright.Page, list[str]]":
    """The report of a run, and what the console and the network said."""
    path = reports.write_report(folder)
    page = browser.new_context(**{"viewport": WIDE, **context}).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    return page, [s for s in said if s not in (path.as_uri(), "data:,")]


@pytest.fixture
def page(browser: "playwright.Browser", full_run: Path) -> Iterator["playwright.Page"]:
    opened = open_page(browser, full_run)[0]
    yield opened
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_no_error_no_request_and_no_sideways_scrolling(
    browser: "playwright.Browser", full_run: Path, scheme: str, viewport: dict[str, int]
) -> None:
    page, said = open_page(browser, full_run, color_scheme=scheme, viewport=viewport)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


@pytest.mark.parametrize("kind", ["real_run", "half_run"])
def test_other_kinds_of_run_show_no_error_either(
    browser: "playwright.Browser", kind: str, request: pytest.FixtureRequest
) -> None:
    assert open_page(browser, request.getfixturevalue(kind))[1] == []


def test_which_checkpoint_and_why_are_on_the_first_screen(page: "playwright.Page") -> None:
    for selector in (".hero h1", ".forest tr.best", ".side li >> nth=0", ".win .chip.best"):
        box = page.locator(selector).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= WIDE["height"], selector


def test_a_method_switched_off_leaves_every_chart_and_table(page: "playwright.Page") -> None:
    marks = page.locator('[data-method="kto"]')
    shown = page.locator('#frontier [data-method="kto"]:visible')
    assert shown.count() > 12
    button = page.locator('[data-toggle="kto"]').first
    button.click()
    assert shown.count() == 0
    assert page.locator('tr[data-method="kto"]:visible').count() == 0
    assert page.locator('tr[data-method="dpo"]:visible').count() > 0
    button.click()
    assert marks.count() > 12
    assert shown.count() > 12


def test_hovering_a_point_names_it_and_lights_it_everywhere(page: "playwright.Page") -> None:
    point = page.locator("#frontier .wide-only g.pt:not(.faint)").first
    point.locator(".mark").hover()
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "LC win rate" in tip.inner_text()
    identity = point.get_attribute("data-ck")
    lit = page.locator(".hot").evaluate_all("nodes => nodes.map(n => n.dataset.ck)")
    assert set(lit) == {identity}
    assert len(lit) > 3


def test_the_checkpoint_table_sorts_by_value(page: "playwright.Page") -> None:
    page.locator("#checkpoints th button", has_text="raw WR").click()
    column = page.locator("#checkpoints thead th").evaluate_all(
        "heads => heads.findIndex(h => h.ariaSort || h.getAttribute('aria-sort'))"
    )
    values = page.locator("#checkpoints tbody tr").evaluate_all(
        "(rows, i) => rows.map(r => Number(r.cells[i].dataset.v))", column
    )
    assert len(values) == 60
    assert values == sorted(values, reverse=True)


def test_filters_and_search_choose_the_samples(page: "playwright.Page") -> None:
    def cards() -> list[str]:
        return page.locator("#s-list article").all_inner_texts()

    page.locator("#s-ck").select_option("simpo|2|0|140")
    page.locator('[data-kind="lost"]').click()
    assert cards()
    assert all("Lost behaviour" in card and "fails its check" in card for card in cards())
    page.locator('[data-kind=""]').click()
    page.locator("#s-query").fill("person 3")
    assert [card for card in cards() if "person 3" not in card] == []
    page.locator("#s-query").fill("no such text")
    assert "No embedded sample fits" in page.locator("#s-list").inner_text()
    page.locator("#s-query").fill("")


def test_hostile_completions_stay_text(page: "playwright.Page", synthetic: ModuleType) -> None:
    texts = page.locator("#s-list .text").all_text_contents()
    assert synthetic.HOSTILE[0] in texts
    assert synthetic.HOSTILE[3] in texts
    assert page.locator("#s-list img, #s-list b b, #s-list svg").count() == 0
    reversed_text = next(t for t in texts if "desrever" in t)
    assert reversed_text == "U+202Etxet desreverU+202C normal U+2028 line"


def test_every_section_is_printed(browser: "playwright.Browser", full_run: Path) -> None:
    page, _ = open_page(browser, full_run)
    page.emulate_media(media="print")
    assert all(s.bounding_box() for s in page.locator("main > section").all())
    assert not page.locator(".bar nav").is_visible()
    assert len(page.pdf(prefer_css_page_size=True)) > 20_000
