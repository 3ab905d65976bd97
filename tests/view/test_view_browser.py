"""The pages in a real browser: they follow a run without a reload, and show text as text."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import filelock
import pytest

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: .[dev]")
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
A, B = "dpo-b0.1-s0-aa", "dpo-b0.3-s0-bb"


@pytest.fixture
def open_page(
    browser: "playwright.Browser", serve: Any, root: Path
) -> Iterator[Callable[..., "playwright.Page"]]:
    """``open_page("/path")``; what the console says must be nothing."""
    server, said, contexts = serve(root), [], []

    def go(path: str, **options: Any) -> "playwright.Page":
        context = browser.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.goto(f"http://127.0.0.1:{server.server_port}{path}")
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []


def until(page: "playwright.Page", holds: Callable[[], bool]) -> None:
    """Wait some polls (the pages' policy forbids playwright's own way, which evaluates text)."""
    for _ in range(100):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("not within 10 s")


@pytest.fixture
def begun(make_run: Callable[..., Any]) -> Iterator[Any]:
    """A run that is held: one trial finished, one in training."""
    run = make_run()
    run.finish(A, lc=61.3)
    run.log(1, "started", job=B)
    run.train(B, 1, 2, 3)
    with filelock.FileLock(run.path / ".lock"):
        os.utime(run.path / ".lock", (1, 1))
        yield run


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("path", ["/", "/run/it/"])
def test_no_error_and_no_sideways_scrolling(
    path: str, viewport: dict[str, int], scheme: str, begun: Any, open_page: Any
) -> None:
    page = open_page(path, viewport=viewport, color_scheme=scheme)
    page.wait_for_selector("tbody tr")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_progress_arrives_without_a_reload_and_touches_what_changed_alone(
    begun: Any, make_run: Callable[..., Any], open_page: Any
) -> None:
    make_run("quiet")
    page = open_page("/")
    page.evaluate("window.kept = [...document.querySelectorAll('#runs tbody tr')].map(r => r)")
    page.evaluate(
        "window.touched = []; new MutationObserver(all => all.forEach(m => touched.push("
        "(m.target.closest ? m.target : m.target.parentElement).closest('tr')?.innerText || '')))"
        ".observe(document.querySelector('#runs tbody'), {childList: true, subtree: true, "
        "characterData: true, attributes: true})"
    )
    page.locator("#runs a", has_text="quiet").first.focus()
    begun.finish(B)
    page.wait_for_selector("text=2/2")
    assert page.evaluate(
        "kept.every((r, i) => r === document.querySelectorAll('#runs tbody tr')[i])"
    )
    touched = page.evaluate("touched")
    assert touched
    assert all(row.lstrip().startswith("it") for row in touched)
    assert page.evaluate("document.activeElement.textContent") == "quiet"


def test_a_new_run_and_its_end_are_announced(
    begun: Any, make_run: Callable[..., Any], open_page: Any
) -> None:
    page = open_page("/")
    assert page.locator("#runs tbody tr").count() == 1
    assert page.locator(".dot").count() == 1
    make_run("later")
    page.wait_for_selector("#runs a >> text=later")
    said = page.locator("[aria-live=polite]")
    assert said.text_content() == "later: interrupted"


def test_the_live_page_follows_a_run_to_its_report(
    synthetic: ModuleType, root: Path, open_page: Any
) -> None:
    run = synthetic.write_run(root / "whole", grid={"dpo": (0.05, 0.3)})
    kept = {name: (run / name).read_bytes() for name in ("summary.json", "results.parquet")}
    for name in kept:
        (run / name).unlink()
    with filelock.FileLock(run / ".lock"):
        page = open_page("/run/whole/")
        assert page.locator("#state").text_content() == "running"
        assert page.locator("#trials svg polyline").count() >= 4
        assert page.locator("#checkpoints tbody tr").count() == 6
        assert page.locator("#checkpoints td.g circle").count() == 6
        assert "so far" in page.locator("#next").text_content()
    for name, content in kept.items():
        (run / name).write_bytes(content)
    page.wait_for_selector("text=Open the report")
    assert page.locator("#state").text_content() == "finished"
    page.locator("text=Open the report").click()
    page.wait_for_selector("#verdict")


def test_a_curve_grows_and_a_failure_shows_its_reason(begun: Any, open_page: Any) -> None:
    page = open_page("/run/it/")
    line = page.locator("#trials tbody tr").first.locator("polyline").first
    assert len(line.get_attribute("points").split()) == 3
    begun.train(B, 4, 5)
    until(page, lambda: len(line.get_attribute("points").split()) == 5)
    assert "step 5 of 10" in page.locator("#trials tbody tr").first.inner_text()
    begun.log(9, "failed", job=B, error="loss is nan at step 6; lower the learning rate")
    page.wait_for_selector(".why >> text=lower the learning rate")
    assert page.locator("#events li").first.inner_text().count("failed") == 1


def test_runs_are_filtered_sorted_and_picked_for_comparison(
    make_run: Callable[..., Any], root: Path, open_page: Any
) -> None:
    for name, done in (("apple", 0), ("banana", 1), ("cherry", 2)):
        run = make_run(name, model=f"model of {name}")
        for trial in (A, B)[:done]:
            run.finish(trial)
    page = open_page("/")

    def names() -> list[str]:
        return page.locator("#runs tbody a[href]:not(:has(*))").all_inner_texts()

    page.locator("th button", has_text="trials").click()
    assert names() == ["cherry", "banana", "apple"]
    page.locator("th button", has_text="trials").click()
    assert names() == ["apple", "banana", "cherry"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    for name in names():
        page.get_by_label(f"compare {name}").check()
    assert page.locator("#runs input:checked").count() == 2  # the last two
    assert page.locator("#chosen-command").inner_text() == (
        f"prefeval compare {root / 'banana'} {root / 'cherry'}"
    )
    page.locator("#query").fill("model of ban")
    assert names() == ["banana"]
    page.locator("#query").fill("no such run")
    assert page.locator("#none").is_visible()


def test_hostile_names_stay_text(make_run: Callable[..., Any], open_page: Any) -> None:
    name = "<img src=x onerror=document.title='gone'>"
    run = make_run(name, [f"dpo-b0.1-s0-{name}"], model=f"{name}\u202ex", data=name)
    run.log(1, "failed", job=name, error=name)
    page = open_page("/")
    assert page.locator("#runs tbody a").first.inner_text() == name
    page.locator("#runs tbody a").first.click()
    page.wait_for_selector("#trials tbody tr")
    assert page.locator("#name").inner_text() == name
    assert page.locator("img").count() == 0
    assert "gone" not in page.title().replace(name, "")


def test_a_server_that_is_gone_is_said_and_asked_again(
    begun: Any, browser: "playwright.Browser", serve: Any, root: Path
) -> None:
    server = serve(root)
    page = browser.new_context().new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    page.route("**/api/runs", lambda route: route.abort())
    page.wait_for_selector("text=the server does not answer")
    assert "does not answer" in (page.locator("#link-state").text_content() or "")
    page.unroute("**/api/runs")
    until(page, lambda: page.locator("#link-state").text_content() == "")
    assert page.locator("#runs tbody tr").count() == 1
    page.context.close()
