"""The report's benchmark: the run it makes, what it counts in the page, and when it fails."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from prefeval import reports

NAMES = ("report", "report_run", "report_page", "sweep")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The script beside its modules, which it finds in its own folder."""
    folder = str(Path(__file__).resolve().parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("report")
    sys.path.remove(folder)
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def small(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark") / "run"
    size = benchmark.Size(methods=("dpo", "kto"), betas=(0.1,), seeds=(0,), steps=(50, 100))
    assert (size.checkpoints, size.completions) == (4, 400)
    benchmark.write_run(folder, size)
    reports.write_report(folder)
    return folder


def test_the_run_has_the_size_that_is_promised(benchmark: ModuleType) -> None:
    size = benchmark.Size()
    assert (size.checkpoints, size.completions) == (200, 20_000)


def test_answers_are_distinct_of_stated_length_and_compress_like_prose(
    benchmark: ModuleType, small: Path
) -> None:
    texts = benchmark.completions(small)["text"]
    assert texts.nunique() == len(texts) == 400
    words = texts.str.split().str.len()
    assert words.between(60, 200).all()
    assert 100 < words.median() < 160
    assert 0.33 < benchmark.compressibility(small) < 0.45


def test_every_completion_is_counted_in_the_page_and_a_missing_one_is_missed(
    benchmark: ModuleType, small: Path
) -> None:
    texts = benchmark.completions(small)["text"].tolist()
    assert benchmark.held(small / "report.html", texts) == 400
    assert benchmark.held(small / "report.html", [*texts, "not in it"]) == 400
    assert benchmark.held(small / "report.html", ["not in it"]) == 0


def test_a_row_over_its_limit_is_marked(benchmark: ModuleType) -> None:
    over = benchmark.Row("page", [1.0, 9.0, 3.0], "s", 2)
    assert over.broken
    assert str(over) == "| page | 3.00 s | 1.00 to 9.00 | 2 s | **over** |"
    assert not benchmark.Row("page", [2.0], "s", 2).broken
    assert not benchmark.Row("page", [99.0], "s").broken


def test_without_chromium_the_page_is_skipped_with_a_reason(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFEVAL_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(benchmark.report_page.Missing, match="no Chromium"):
        benchmark.report_page.browser().__enter__()
