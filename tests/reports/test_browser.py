"""The page in a real browser: no error, nothing fetched, controls act, text stays text."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from prefeval import reports

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: .[dev]")
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def open_page(
    browser: "playwright.Browser", folder: Path, **context: object
) -> "tuple[playwright.Page, list[str]]":
    """The report of a run, and what the console and the network say, also later."""
    path = reports.write_report(folder)
    page = browser.new_context(**{"viewport": WIDE, **context}).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    own = (path.as_uri(), "data:,")
    page.on("request", lambda r: None if r.url.split("#")[0] in own else said.append(r.url))
    page.goto(path.as_uri())
    return page, said


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
    assert samples(page)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


@pytest.mark.parametrize("kind", ["real_run", "half_run"])
def test_other_kinds_of_run_show_no_error_either(
    browser: "playwright.Browser", kind: str, request: pytest.FixtureRequest
) -> None:
    page, said = open_page(browser, request.getfixturevalue(kind))
    assert samples(page)
    assert said == []


def test_which_checkpoint_and_why_are_on_the_first_screen(page: "playwright.Page") -> None:
    for selector in (
        *(".hero h1", ".forest tr.best", ".side li >> nth=0", ".glance .ring", ".win .chip.best"),
    ):
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


def samples(page: "playwright.Page") -> list[str]:
    """The samples shown, once those asked for last are there."""
    page.locator('#s-list[aria-busy="false"]').wait_for()
    return page.locator("#s-list article").all_inner_texts()


def test_the_samples_of_the_biggest_kl_and_the_longest_come_first(page: "playwright.Page") -> None:
    page.locator('[data-kind="kl"]').click()
    found = [float(t.split("KL ")[1].split(" nats")[0]) for t in samples(page) if "KL " in t]
    assert len(found) > 3
    assert found == sorted(found, reverse=True)
    page.locator('[data-kind="longest"]').click()
    samples(page)
    sizes = page.locator("#s-list .pair > div:last-child .text").evaluate_all(
        "nodes => nodes.map(n => n.textContent.length)"
    )
    assert sizes[0] == max(sizes)


def test_a_prompt_is_followed_through_every_checkpoint(page: "playwright.Page") -> None:
    samples(page)
    page.get_by_text("in every checkpoint").first.click()
    samples(page)
    assert page.locator("#s-count").inner_text() == "10 of 60 shown"
    names = page.locator("#s-list article header b").all_inner_texts()
    assert len(set(names)) == len(names) == 10
    page.locator('[data-toggle="dpo"]').first.click()
    samples(page)
    assert page.locator("#s-count").inner_text() == "10 of 48 shown"


def test_the_word_difference_shows_both_texts_whole(page: "playwright.Page") -> None:
    """Taking out what only the other side has gives each text back."""
    page.locator("#s-ck").select_option("dpo|0.3|0|47")
    page.locator("#s-query").fill("person")
    samples(page)
    marked = page.locator("#s-list .pair").evaluate_all(
        "nodes => nodes.map(n => [...n.querySelectorAll('.text')].map(t => t.textContent))"
    )
    assert page.locator("#s-list ins, #s-list del").count() > 0
    assert page.locator("#s-list .pair > div:first-child ins").count() == 0
    page.locator("#s-plain").uncheck()
    samples(page)
    plain = page.locator("#s-list .pair").evaluate_all(
        "nodes => nodes.map(n => [...n.querySelectorAll('.text')].map(t => t.textContent))"
    )
    assert page.locator("#s-list ins, #s-list del").count() == 0
    assert marked == plain


def test_one_selection_is_followed_through_every_chart_and_table(page: "playwright.Page") -> None:
    row = page.locator("#checkpoints tr[data-ck='kto|0.09|0|94']")
    row.locator(".pick").click()
    chosen = page.locator(".sel").evaluate_all("nodes => nodes.map(n => n.dataset.ck)")
    assert set(chosen) == {"kto|0.09|0|94"}
    held = page.locator(".sel").evaluate_all("ns => ns.map(n => n.closest('section').id)")
    wanted = {"frontier", "window", "dynamics", "length", "retention", "checkpoints"}
    assert wanted <= set(held)
    assert "KTO β = 0.09, seed 0, step 94" in page.locator("#picked").inner_text()
    samples(page)
    assert page.locator("#s-ck").input_value() == "kto|0.09|0|94"
    page.keyboard.press("Escape")
    assert page.locator(".sel").count() == 0
    assert page.locator("#picked").is_hidden()


def test_a_beta_switched_off_leaves_the_others(page: "playwright.Page") -> None:
    page.locator('button[data-toggle="dpo|0.05"]').click()
    assert page.locator('tr[data-ck^="dpo|0.05|"]:visible').count() == 0
    assert page.locator('#frontier .pt[data-ck^="dpo|0.05|"]:visible').count() == 0
    assert page.locator('tr[data-ck^="dpo|0.3|"]:visible').count() > 0
    page.locator("[data-all]:visible").first.click()
    assert page.locator('tr[data-ck^="dpo|0.05|"]:visible').count() > 0


def test_dragging_zooms_by_the_charts_own_scales(page: "playwright.Page") -> None:
    """A mark's new place is where its value lies between the new ends."""
    chart = page.locator("#frontier .wide-only svg.chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    scale = box["width"] / float((chart.get_attribute("viewBox") or "").split()[2])
    mark = """nodes => nodes.map(n => {
        const box = n.querySelector(".mark").getBoundingClientRect();
        return [n.dataset.ck, box.x + box.width / 2];
    })"""
    before = dict(chart.locator(".pt").evaluate_all(mark))
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.8 * box["height"], steps=4)
    page.mouse.up()
    assert chart.evaluate("node => node.classList.contains('zoomed')")
    after = dict(chart.locator(".pt:not(.outside)").evaluate_all(mark))
    assert 0 < len(after) < len(before)
    start, end = map(float, (chart.get_attribute("data-x") or "").split()[2:4])
    ratio = (end - start) * scale / (0.4 * box["width"])
    first, *others = after
    for name in others:
        moved = after[name] - after[first]
        assert moved == pytest.approx(ratio * (before[name] - before[first]), abs=1.5)
    chart.dblclick(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert dict(chart.locator(".pt").evaluate_all(mark)) == pytest.approx(before)


def test_zoom_by_keys_stops_at_a_thousandth_and_goes_back(page: "playwright.Page") -> None:
    """On and on, ticks would come closer than numbers can be told apart."""
    chart = page.locator("#frontier svg.chart:visible").first
    chart.focus()
    for _ in range(40):
        page.keyboard.press("+")
    ticks = chart.locator(".zoom-axes .tick").all_text_contents()
    assert 4 < len(ticks) < 30
    page.wait_for_timeout(300)
    range_ = page.evaluate("new URLSearchParams(location.hash.split('?')[1]).get('zoom')")
    whole = [float(v) for v in (chart.get_attribute("data-x") or "").split()[:2]]
    low, high = map(float, range_.split(",")[1:3])
    assert 0.001 <= (high - low) / (whole[1] - whole[0]) < 0.002
    page.keyboard.press("0")
    assert chart.locator(".zoom-axes").count() == 0


def test_a_link_opens_the_same_view(browser: "playwright.Browser", full_run: Path) -> None:
    page, _ = open_page(browser, full_run)
    page.locator('[data-toggle="ppo"]').first.click()
    page.locator("#checkpoints tr[data-ck='dpo|0.05|0|94'] .pick").click()
    page.locator("#t-words").fill("kl<1")
    page.locator("#checkpoints th button", has_text="LC WR").click()
    page.locator('[data-kind="refused"]').click()
    page.locator("#frontier svg.chart:visible").first.focus()
    page.keyboard.press("+")
    page.wait_for_timeout(300)
    address = page.url
    other, said = page.context.new_page(), []
    other.on("pageerror", lambda error: said.append(str(error)))
    other.goto(address)
    assert said == []
    for one in (page, other):
        assert one.locator('tr[data-method="ppo"]:visible').count() == 0
        assert one.locator("#picked b").inner_text().startswith("DPO β = 0.05")
    rows = "#checkpoints tbody tr:visible"
    assert page.locator(rows).all_inner_texts() == other.locator(rows).all_inner_texts()
    assert samples(page) == samples(other)
    ticks = "#frontier svg.zoomed .zoom-axes .tick"
    assert page.locator(ticks).all_text_contents() == other.locator(ticks).all_text_contents()
    assert page.locator(ticks).count() > 4


@pytest.mark.parametrize(
    "address",
    [
        *("#frontier?zoom=frontier.0,nan,1,2", "#frontier?zoom=nosuch.1,1,2,3,4"),
        *(
            "#samples?ck=<img src=x>&kind=zzz",
            "#nosuch?sort=zzz:up&off=x|y&rows=zz<3",
            "#?=%E0%A4%A",
        ),
        "#frontier?zoom=frontier.0,2,1,2,1",
        "#frontier?zoom=frontier.0,-1e308,1e308,-Infinity,Infinity",
        "#frontier?zoom=frontier.0,1,1.0000000000000002,55,55.00000000000001",
        "#?ck=__proto__&of=constructor&sort=__proto__:up&zoom=__proto__",
        "#samples?kind=__proto__&behaviour=toString&prompt=constructor",
    ],
)
def test_a_broken_link_shows_the_page_without_an_error(
    browser: "playwright.Browser", full_run: Path, address: str
) -> None:
    page, said = open_page(browser, full_run)
    page.goto(page.url + address)
    page.reload()
    assert page.locator(".hero h1").is_visible()
    samples(page)
    assert page.locator("#picked").is_hidden()
    assert said == []


def test_the_table_filters_by_words_comparisons_and_verdict(page: "playwright.Page") -> None:
    rows = page.locator("#checkpoints tbody tr:visible")
    page.locator("#t-words").fill("kto kl<0.5")
    kept = rows.evaluate_all("rs => rs.map(r => [r.dataset.method, Number(r.cells[5].dataset.v)])")
    assert kept
    assert all(method == "kto" and kl < 0.5 for method, kl in kept)
    page.locator("#t-words").fill("nosuch<3")
    assert "no column is called nosuch<3" in page.locator("#t-count").inner_text()
    page.locator("#t-words").fill("")
    page.locator("#t-state").select_option("usable")
    states = rows.evaluate_all("rs => rs.map(r => r.dataset.state)")
    assert states
    assert set(states) == {"usable"}


def test_the_keyboard_reaches_and_selects_a_checkpoint(page: "playwright.Page") -> None:
    page.locator("#frontier svg.chart:visible").first.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#said").inner_text()
    page.keyboard.press("ArrowRight")
    assert "LC win rate" in first
    assert page.locator("#said").inner_text() != first
    page.keyboard.press("Enter")
    assert page.locator("#picked").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("Escape")
    assert page.locator("#picked").is_hidden()


def test_a_link_to_a_section_takes_the_keyboard_there(page: "playwright.Page") -> None:
    page.locator(".bar a[href='#checkpoints']").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "checkpoints"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('section').id") == "checkpoints"


def test_what_scrolls_can_be_scrolled_by_the_keyboard(page: "playwright.Page") -> None:
    page.set_viewport_size(PHONE)
    page.locator("#manifest details summary").click()
    boxes = page.locator(".scroll, pre").evaluate_all(
        "ns => ns.filter(n => n.scrollWidth > n.clientWidth + 1).map(n => n.tabIndex)"
    )
    assert len(boxes) > 2
    assert set(boxes) == {0}


def test_colours_follow_the_button_and_the_choice_is_kept(page: "playwright.Page") -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator("#theme").click()
    assert page.evaluate(ground) == light
    page.locator("#theme").click()
    assert page.evaluate(ground) != light
    page.reload()
    assert page.evaluate(ground) != light


def test_every_control_has_a_name_and_no_id_is_used_twice(page: "playwright.Page") -> None:
    samples(page)
    nameless = page.locator("button, input, select, svg.chart").evaluate_all(
        "ns => ns.filter(n => ![n.textContent.trim(), n.ariaLabel, n.title].some(Boolean))"
        ".filter(n => !n.labels?.length).map(n => n.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    ids = page.locator("[id]").evaluate_all("ns => ns.map(n => n.id)")
    assert len(ids) == len(set(ids))


def test_filters_and_search_choose_the_samples(page: "playwright.Page") -> None:
    page.locator("#s-ck").select_option("simpo|2|0|140")
    page.locator('[data-kind="lost"]').click()
    cards = samples(page)
    assert cards
    assert all("Lost format" in card and "fails its check" in card for card in cards)
    page.locator('[data-kind=""]').click()
    page.locator("#s-query").fill("person 3")
    cards = samples(page)
    assert cards
    assert all("person 3" in card for card in cards)
    page.locator("#s-query").fill("no such text")
    assert samples(page) == []
    assert "No embedded sample fits" in page.locator("#s-list").inner_text()


def test_hostile_completions_stay_text(page: "playwright.Page", synthetic: ModuleType) -> None:
    samples(page)
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


def test_a_behaviour_is_chosen_and_more_samples_are_shown(page: "playwright.Page") -> None:
    page.locator("#s-behaviour").select_option("refusal")
    cards = samples(page)
    assert cards
    assert {c.split("\n")[0] for c in cards} == {"refusal"}
    page.locator("#s-behaviour").select_option("")
    assert len(samples(page)) == 10
    page.locator("#s-ck").select_option("*")
    assert len(samples(page)) == 10
    page.locator("#s-more").click()
    page.locator("#s-list article >> nth=29").wait_for()
    assert page.locator("#s-count").inner_text().startswith("30 of ")


def test_shift_shows_a_method_alone_and_again_all(page: "playwright.Page") -> None:
    shown = "rs => [...new Set(rs.map(r => r.dataset.method))].sort()"
    rows = page.locator("#checkpoints tbody tr:visible")
    everyone = rows.evaluate_all(shown)
    page.locator('[data-toggle="kto"]').first.click(modifiers=["Shift"])
    assert rows.evaluate_all(shown) == ["kto"]
    page.locator('[data-toggle="kto"]').first.click(modifiers=["Shift"])
    assert rows.evaluate_all(shown) == everyone == ["dpo", "ipo", "kto", "ppo", "simpo"]


def test_the_chosen_of_every_beta_are_a_filter(page: "playwright.Page") -> None:
    page.locator("#t-state").select_option("chosen")
    found = page.locator("#checkpoints tbody tr:visible").evaluate_all(
        "rs => rs.map(r => r.dataset.ck.split('|').slice(0, 3).join('|'))"
    )
    assert len(found) == len(set(found)) == 20


def test_keys_search_the_samples_and_list_themselves(page: "playwright.Page") -> None:
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "s-query"
    assert page.locator("#s-query").input_value() == ""
    page.keyboard.type("?")
    assert page.locator("#help").is_hidden()
    page.locator("body").press("Tab")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()


def test_the_link_button_copies_the_address_of_the_view(
    browser: "playwright.Browser", full_run: Path
) -> None:
    page, _ = open_page(browser, full_run, permissions=["clipboard-read", "clipboard-write"])
    page.locator("#t-words").fill("kto")
    page.locator("#link").click()
    page.get_by_text("copied", exact=True).wait_for()
    address = page.evaluate("navigator.clipboard.readText()")
    assert address == page.url.split("#")[0] + "#verdict?rows=kto"
