"""What training costs: the numbers by hand, what older runs lack, where clock times may stand."""

import math
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from prefeval import reports
from prefeval.records import read_json, write_json
from prefeval.reports import costs, methods
from prefeval.reports import run as runs

NEW = ["flops", "sft_flops", "models"]
CLOCK = ["train_seconds", "eval_seconds", "peak_memory_mb"]
# Two DPO trials of different size: 2 and 3 times SFT, together (20 + 90) / (10 + 30).
DPO = [
    {
        **{"method": "dpo", "train_seconds": 20.0, "eval_seconds": 5.0, "peak_memory_mb": 800.0},
        **{"tokens": 1000, "flops": 20e12, "sft_flops": 10e12, "models": 1},
    },
    {
        **{"method": "dpo", "train_seconds": 30.0, "eval_seconds": 6.0, "peak_memory_mb": 1000.0},
        **{"tokens": 3000, "flops": 90e12, "sft_flops": 30e12, "models": 1},
    },
]
PPO = {
    **{"method": "ppo", "train_seconds": 400.0, "eval_seconds": 5.5, "peak_memory_mb": 3200.0},
    **{"tokens": 8000, "flops": 300e12, "sft_flops": 24e12, "models": 4},
}


@pytest.fixture
def folder(synthetic: ModuleType, tmp_path: Path) -> Path:
    """A run of DPO, KTO and PPO, whose costs a test replaces."""
    grid = {"dpo": (0.05, 0.3), "kto": (0.1,), "ppo": (0.1,)}
    return Path(synthetic.write_run(tmp_path / "run", grid=grid))


def noting(folder: Path, rows: list[dict[str, Any]]) -> runs.Run:
    pd.DataFrame(rows).to_parquet(folder / "costs.parquet")
    return runs.load(folder)


def cells(run: runs.Run, method: str) -> dict[str, Any]:
    """Of both tables: what equal runs have in common, and what they do not."""
    found: dict[str, Any] = {}
    for heads, table in (
        (methods.columns(run), methods.table(run)),
        (costs.COLUMNS, costs.table(run)),
    ):
        row = next(r for r in table["rows"] if r["method"] == method)
        found |= {c.key: cell for c, cell in zip(heads, row["cells"], strict=True)}
    return found


def section(page: Path) -> str:
    source = page.read_text(encoding="utf-8")
    start = source.index('<section id="methods"')
    return source[start : source.index("</section>", start)]


def test_the_ratio_to_sft_is_of_sums_and_not_a_mean_of_ratios(folder: Path) -> None:
    found = costs.by_method(noting(folder, [*DPO, PPO]))
    assert found["dpo"]["ratio"].value == 110 / 40
    assert found["ppo"]["ratio"].value == 300 / 24
    shown = cells(runs.load(folder), "ppo")
    assert (shown["ratio"].text, shown["models"].text, shown["trials"].text) == ("12.50", "4", "1")


def test_seconds_memory_and_operations_are_medians_with_their_range(folder: Path) -> None:
    shown = cells(noting(folder, DPO), "dpo")
    assert (shown["seconds"].text, shown["seconds"].ci) == ("25.0", "[20.0, 30.0]")
    assert (shown["evaluation"].text, shown["evaluation"].ci) == ("5.50", "[5.00, 6.00]")
    assert (shown["memory"].text, shown["memory"].ci) == ("900", "[800, 1,000]")
    assert (shown["tflop"].text, shown["tflop"].ci) == ("55.0", "[20.0, 90.0]")
    assert (shown["models"].text, shown["models"].ci) == ("1", "")


def test_tokens_a_second_are_all_tokens_over_all_seconds(folder: Path) -> None:
    assert cells(noting(folder, DPO), "dpo")["speed"].text == "80.0"  # 4000 / 50


def test_an_older_runs_missing_columns_are_dashes_with_a_reason(folder: Path) -> None:
    run = noting(folder, [{k: v for k, v in row.items() if k not in NEW} for row in [*DPO, PPO]])
    shown = cells(run, "dpo")
    for key in ("models", "ratio", "tflop"):
        assert (shown[key].text, shown[key].reason) == ("", costs.NOT_NOTED)
    assert shown["seconds"].text == "25.0"
    page = section(reports.write_report(folder))
    assert page.count(f'<abbr title="{costs.NOT_NOTED}">—') == 2 * 3
    assert f") {costs.NOT_NOTED}." in reports.write_summary(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, "much"])
def test_what_is_no_number_is_not_noted(folder: Path, nothing: object) -> None:
    """An infinite estimate is none; a column of texts is a damaged file, and no crash."""
    found = costs.by_method(noting(folder, [{**PPO, "flops": nothing, "models": nothing}]))["ppo"]
    assert [found[k].reason for k in ("models", "ratio", "tflop")] == [costs.NOT_NOTED] * 3


def test_a_method_that_estimates_nothing_has_no_ratio_and_no_division_by_zero(folder: Path) -> None:
    found = costs.by_method(noting(folder, [{**PPO, "flops": 0.0, "sft_flops": 0.0}]))["ppo"]
    assert math.isnan(found["ratio"].value)
    assert found["ratio"].reason == found["tflop"].reason == costs.ZERO


def test_trials_of_two_versions_count_only_where_both_numbers_are_noted(folder: Path) -> None:
    old = {**DPO[1], **dict.fromkeys(NEW)}
    shown = cells(noting(folder, [DPO[0], old]), "dpo")
    assert (shown["trials"].text, shown["ratio"].text) == ("2", "2.00")
    assert shown["ratio"].ci == shown["models"].ci == "1 of 2 trials"
    assert shown["seconds"].text == "25.0"


def test_every_method_has_a_row_in_the_order_of_methods(folder: Path) -> None:
    run = noting(folder, [PPO, *DPO])
    assert [r["name"] for r in costs.table(run)["rows"]] == ["DPO", "KTO", "PPO"]
    shown = cells(run, "kto")
    assert shown["trials"].text == "0"
    spent = ("models", "ratio", "tflop", "seconds", "speed", "evaluation", "memory")
    assert {shown[k].reason for k in spent} == {costs.NO_TRIAL}


def test_the_estimate_of_operations_is_explained_where_it_stands(folder: Path) -> None:
    page = section(reports.write_report(folder))
    assert "2 a weight and token forward, 4 backward, plus attention" in page
    assert page.count("once for all trials, is not in") == 1
    assert costs.ESTIMATE in reports.write_summary(folder).read_text(encoding="utf-8")


def test_clock_and_memory_change_the_page_and_never_summary_md(folder: Path) -> None:
    """Equal runs differ in them, and have summary.md in common."""
    noting(folder, [*DPO, PPO])
    text, page = (w(folder).read_bytes() for w in (reports.write_summary, reports.write_report))
    noting(folder, [{**row, **{k: 1.7 * row[k] for k in CLOCK}} for row in [*DPO, PPO]])
    assert reports.write_summary(folder).read_bytes() == text
    assert reports.write_report(folder).read_bytes() != page
    (row,) = [line for line in text.decode().splitlines() if line.startswith("| PPO | — (a)")]
    assert "| 4 | 12.50 |" in row


def test_a_run_without_costs_says_so_and_has_no_empty_table(half_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(half_run, tmp_path / "run"))
    page = section(reports.write_report(folder))
    assert "No costs were saved with this run" in page
    assert page.count("<table") == 1  # that of the methods
    assert f'<abbr title="{costs.NO_COSTS}">' in page


def test_a_damaged_costs_file_is_named_and_the_rest_is_shown(folder: Path) -> None:
    (folder / "costs.parquet").write_bytes(b"PAR1")
    source = reports.write_report(folder).read_text(encoding="utf-8")
    assert "costs.parquet cannot be read" in source
    assert "No costs were saved with this run" in source


def test_a_hostile_method_name_is_text(folder: Path) -> None:
    bad = "<img src=x onerror=alert(1)>|`{{ 7*7 }}"
    path = next(folder.glob("trials/kto-*/trial.json"))
    write_json(path, {**read_json(path), "method": bad})
    noting(folder, [*DPO, {**PPO, "method": bad}])
    page = section(reports.write_report(folder))
    assert "&lt;IMG SRC=X" in page
    assert "<img" not in page.lower()
    text = reports.write_summary(folder).read_text(encoding="utf-8")
    assert "\n| \\<IMG SRC=X ONERROR=ALERT(1)>\\|\\`{{ 7\\*7 }} | — (a) |" in text
