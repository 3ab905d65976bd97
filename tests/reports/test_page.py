"""The page: complete, self-contained, safe with hostile text, the same twice."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import zlib
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prefeval import reports
from prefeval.records import read_json, write_json
from prefeval.reports import document
from prefeval.reports import page as report_page


class Page(HTMLParser):
    """What a browser would make of the page: elements, attributes, scripts, text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        elif self.inside == "style":
            self.styles.append(data)
        else:
            self.words.append(data)

    def data(self, name: str) -> object:
        return json.loads(next(text for a, text in self.scripts if a.get("id") == name))


@pytest.fixture(scope="module")
def source(full_run: Path) -> str:
    return reports.write_report(full_run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_every_section_is_there_and_linked(page: Page) -> None:
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    links = [a["href"] for tag, a in page.elements if tag == "a" and a.get("class") != "skip"]
    assert sections == list(report_page.SECTIONS)
    wanted = [f"#{s}" for s in report_page.SECTIONS]
    assert links[: len(wanted)] == wanted
    assert set(links) == set(wanted)


def test_the_verdict_comes_first(page: Page) -> None:
    words = [w.strip() for w in page.words if w.strip()]
    assert words.index("Recommended checkpoint") < words.index("Why")
    headline = words[words.index("Recommended checkpoint") + 1]
    assert headline.startswith("Ship ")


def test_the_page_loads_nothing_and_carries_no_inline_handler_or_style(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"img", "iframe", "object", "embed", "form", "base"}
        assert not {"src", "srcset", "style", "action", "formaction"} & set(attributes)
        assert not [a for a in attributes if a.startswith("on")]
        if "href" in attributes:
            assert (attributes["href"] or "").startswith(("#", "data:,"))


def test_the_policy_allows_the_pages_own_script_and_style_by_hash_only(page: Page) -> None:
    policy = next(
        a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    code = [text for a, text in page.scripts if "type" not in a]
    assert len(code) == len(page.styles) == 1

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest(code[0])}';" in policy
    assert f"style-src 'sha256-{digest(page.styles[0])}';" in policy
    assert "unsafe" not in policy


def unpacked(piece: str) -> Any:
    """A piece of samples read back by other means than the page's."""
    return json.loads(zlib.decompress(base64.b64decode(piece), wbits=31))


def test_hostile_completions_are_data_and_come_back_unchanged(
    page: Page, source: str, synthetic: ModuleType
) -> None:
    packed = {a["data-of"]: text for a, text in page.scripts if a.get("class") == "packed"}
    texts = [row[3] for name, text in packed.items() if name != "shared" for row in unpacked(text)]
    for text in synthetic.HOSTILE:
        assert text in texts
        assert text not in source
    assert all(re.fullmatch("[A-Za-z0-9+/=]*", text) for text in packed.values())
    assert "onerror" not in {name for _, a in page.elements for name in a}
    assert {"img", "svg onload"}.isdisjoint({tag for tag, _ in page.elements})


def test_hostile_names_errors_and_commands_are_escaped(
    synthetic: ModuleType, tmp_path: Path
) -> None:
    """Behaviours, prompt ids, errors and the manifest can hold anything, too."""
    bad = "<script>alert(1)</script>{{ 7*7 }}"
    folder = synthetic.write_run(tmp_path / "run", grid={"dpo": (0.1,)})
    saved = read_json(folder / "manifest.json")
    write_json(
        folder / "manifest.json",
        {**saved, "command": bad, "versions": {bad: bad}, "judge": {"caveat": bad}},
    )
    summary = read_json(folder / "summary.json")
    write_json(
        folder / "summary.json",
        {**summary, "failed": [{"trial": bad, "error": bad}], "warnings": [bad]},
    )
    source = reports.write_report(folder).read_text(encoding="utf-8")
    page = Page(source)
    assert bad not in source
    assert len([s for s in page.scripts if "type" not in s[0]]) == 1
    assert any(bad in words for words in page.words)


@pytest.mark.parametrize(
    "text", ["</script>", "<!--", "\u2028", "\u202e", "\ud800", "&amp;", "]]>", "\x85"]
)
def test_inline_json_reads_back_and_holds_no_dangerous_character(text: str) -> None:
    inline = str(document.inline_json([text]))
    assert json.loads(inline) == [text]
    assert not re.search("[<>&\x85\u2028\u202e\ud800]", inline)
    inline.encode("utf-8")


def test_undefined_numbers_are_dashes_with_footnotes_and_never_zero(
    real_run: Path, synthetic: ModuleType
) -> None:
    source = reports.write_report(real_run).read_text(encoding="utf-8")
    table = source[source.index('id="checkpoints"') : source.index('id="samples"')]
    assert table.count(f'<abbr title="{synthetic.NO_ORACLE}">—<sup>a</sup></abbr>') == 9
    assert f"<b>a</b> {synthetic.NO_ORACLE}" in table
    assert "true win rate" not in source[: source.index('id="frontier"')]


def test_a_metric_nobody_measured_has_no_column(real_run: Path) -> None:
    source = reports.write_report(real_run).read_text(encoding="utf-8")
    assert ">entropy</button>" in source
    assert "pass@k" not in source


def test_an_unfinished_run_is_shown_as_such(half_run: Path) -> None:
    page = Page(reports.write_report(half_run).read_text(encoding="utf-8"))
    words = " ".join(page.words)
    assert "No verdict yet: the run is unfinished" in words
    assert "1 of 3 trials have finished" in words
    assert "1 unfinished, 1 not started, 1 finished of 3" in words
    assert "Ship " not in words


def test_a_run_without_any_checkpoint_still_says_how_far_it_got(
    half_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(half_run, tmp_path / "run"))
    for path in folder.glob("trials/*/checkpoint-*"):
        shutil.rmtree(path)
    page = Page(reports.write_report(folder).read_text(encoding="utf-8"))
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == ["verdict", "dynamics", "manifest"]


def test_failed_trials_are_named_with_their_reason(page: Page, synthetic: ModuleType) -> None:
    words = " ".join(page.words)
    assert "Trials: 1 failed of 21" in words
    assert synthetic.FAILED in words
    assert synthetic.WHY in words


def test_a_run_without_completions_says_so(real_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(real_run, tmp_path / "run"))
    for path in folder.glob("trials/*/checkpoint-*"):
        shutil.rmtree(path)
    page = Page(reports.write_report(folder).read_text(encoding="utf-8"))
    assert any("No completions were saved" in w for w in page.words)


def test_every_checkpoint_is_in_the_table_and_the_frontier(page: Page, source: str) -> None:
    table = source[source.index('id="checkpoints"') : source.index('id="samples"')]
    ids = set(re.findall(r'<tr class="[^"]*" data-method="\w+" data-ck="([^"]+)"', table))
    frontier = source[source.index('id="frontier"') : source.index('id="window"')]
    tips = page.data("tips-data")
    assert isinstance(tips, dict)
    assert len(ids) == 60
    assert set(re.findall(r'data-ck="([^"]+)"', frontier)) == ids == set(tips)


def test_methods_differ_by_marker_as_well_as_colour(source: str) -> None:
    forest = source[: source.index('id="frontier"')]
    shapes = {
        m: re.search(rf'class="m{i}"><svg[^>]*><(circle|polygon points="[^"]+")', forest)
        for i, m in enumerate(("dpo", "ipo", "kto", "simpo", "ppo"))
    }
    found = [s.group(1) for s in shapes.values() if s]
    assert len(set(found)) == len(found) == 5


def test_equal_folders_give_equal_bytes(synthetic: ModuleType, tmp_path: Path) -> None:
    grid = {"dpo": (0.05, 0.3), "kto": (0.1,)}
    pages = []
    for parent in ("a", "b"):
        folder = synthetic.write_run(tmp_path / parent / "run", grid=grid)
        pages.append(reports.write_report(folder).read_bytes())
    assert pages[0] == pages[1]
    assert reports.write_report(folder).read_bytes() == pages[1]


def test_thirty_checkpoints_take_less_than_five_seconds(
    synthetic: ModuleType, tmp_path: Path
) -> None:
    grid = {"dpo": (0.05, 0.1, 0.2, 0.3, 0.5), "kto": (0.05, 0.1, 0.2, 0.3, 0.5)}
    folder = synthetic.write_run(tmp_path / "run", grid=grid, count=40)
    start = time.perf_counter()
    path = reports.write_report(folder)
    assert time.perf_counter() - start < 5
    assert path.stat().st_size < 3e6


def test_reports_never_import_torch() -> None:
    code = (
        "import sys, prefeval.reports.page, prefeval.reports.summary;"
        "print({'torch', 'transformers', 'plotly', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
