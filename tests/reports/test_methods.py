"""The table of methods: what is saved is shown with its interval, what is not says why."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prefeval import reports
from prefeval.records import read_json, write_json
from prefeval.reports import methods
from prefeval.reports import run as runs

GRID = {"dpo": (0.05, 0.3), "kto": (0.1,)}
WHY = "one training seed; --seeds 2 or more shows it"


def estimate(value: float, half: float, n: int = 200, reason: str = "") -> dict[str, Any]:
    return {"value": value, "stderr": half / 2, "ci_low": value - half, "ci_high": value + half,
            "n": n, "reason": reason}  # fmt: skip


ROW: dict[str, Any] = {
    "method": "dpo",
    "beta": 0.3,
    "step": 94,
    "seeds": [0],
    "state": "usable",
    "seen": 3008.0,
    "compared": 2,
    "half_at_first": True,
    "numbers": {
        "lc": estimate(61.5, 4.0),
        "kl": estimate(2.25, 0.25, 400),
        "lever": estimate(3.5, 1.5),
        "seed": estimate(math.nan, math.nan, 0, WHY),
        "distinct": estimate(-6.25, 2.0, 32),
        "pairs": estimate(-8.0, 3.0, 32),
        "opener": estimate(12.5, 5.0, 32),
        "length_bias": estimate(-1.04, 0.5),
        "length_ratio": estimate(1.5, 0.1, 400),
        "per_thousand": estimate(3.82, 1.0),
        "half_gain": {**estimate(1504.0, 0.0), "ci_high": 1600.0},
    },
}


@pytest.fixture
def folder(synthetic: ModuleType, tmp_path: Path) -> Path:
    path = Path(synthetic.write_run(tmp_path / "run", grid=GRID))
    summary = read_json(path / "summary.json")
    write_json(path / "summary.json", {**summary, "methods": [ROW]})
    return path


def cells(folder: Path, method: str) -> dict[str, methods.Cell]:
    run = runs.load(folder)
    row = next(r for r in methods.table(run)["rows"] if r["method"] == method)
    return {c.key: v for c, v in zip(methods.columns(run), row["cells"], strict=True)}


def section(folder: Path) -> str:
    source = reports.write_report(folder).read_text(encoding="utf-8")
    start = source.index('<section id="methods"')
    return source[start : source.index("</section>", start)]


def relate(folder: Path, *others: dict[str, Any]) -> None:
    results = hashlib.sha256((folder / "results.parquet").read_bytes()).hexdigest()
    write_json(folder / "related.json", {"schema": 1, "results": results, "runs": list(others)})


def test_saved_numbers_are_shown_with_interval_and_n(folder: Path) -> None:
    shown = cells(folder, "dpo")
    assert (shown["lc"].text, shown["lc"].ci) == ("61.5", "[57.5, 65.5]")
    assert (shown["kl"].text, shown["kl"].ci) == ("2.25", "[2.00, 2.50]")
    assert shown["kl"].tip == "n = 400 prompts"
    assert (shown["pairs"].text, shown["pairs"].ci) == ("−8.0", "[−11.0, −5.0]")
    assert shown["length_bias"].text == "−1.0"
    assert shown["lever"].tip == "2 β compared, n = 200 prompts"
    assert shown["per_thousand"].tip == "n = 200 prompts; 3,008 examples at the chosen checkpoint"


def test_half_of_the_gain_at_the_first_checkpoint_is_an_upper_bound(folder: Path) -> None:
    shown = cells(folder, "dpo")["half_gain"]
    assert (shown.text, shown.ci) == ("≤ 1,504", "[≤ 1,504, 1,600]")


def test_the_best_beta_its_step_and_state_stand_with_the_method(folder: Path) -> None:
    small = {r["method"]: r["small"] for r in methods.table(runs.load(folder))["rows"]}
    assert small == {"dpo": "β 0.3, step 94 ✓", "kto": ""}


def test_what_is_not_measured_is_a_dash_with_its_reason(folder: Path) -> None:
    assert cells(folder, "dpo")["seed"].reason == WHY
    assert cells(folder, "kto")["lc"].reason == methods.NO_BEST
    page = section(folder)
    assert f'<abbr title="{WHY}">—<sup>' in page
    assert "nan" not in page.lower().replace("name", "")


def test_usable_beta_are_counted_with_the_undecided_in_brackets(folder: Path) -> None:
    summary = read_json(folder / "summary.json")
    betas = summary["selection"]["betas"]
    for beta, state in zip(
        [b for b in betas if b["method"] == "dpo"], ("usable", "undecided"), strict=True
    ):
        beta["state"] = state
    write_json(folder / "summary.json", summary)
    shown = cells(folder, "dpo")["usable"]
    assert (shown.text, shown.ci, shown.tip) == ("1 of 2", "[1, 2]", "n = 2 β")


def test_runs_of_older_versions_and_unfinished_ones_say_so(
    synthetic: ModuleType, tmp_path: Path, half_run: Path
) -> None:
    old = Path(synthetic.write_run(tmp_path / "old", grid=GRID))
    assert cells(old, "dpo")["lever"].reason == methods.OLD
    assert cells(half_run, "dpo")["lever"].reason == methods.UNFINISHED


def test_every_column_says_how_it_is_computed_by_hover_and_in_a_list(folder: Path) -> None:
    page = section(folder)
    heads = methods.columns(runs.load(folder))
    assert page.count("<th title=") + page.count('<th class="first" title=') >= len(heads)
    for column in heads:
        assert page.count(str(column.title).replace("'", "&#39;")) == 2, column.key


def test_summary_md_has_the_same_numbers_and_says_what_the_dashes_mean(folder: Path) -> None:
    text = reports.write_summary(folder).read_text(encoding="utf-8")
    assert "| DPO (β 0.3, step 94 ✓) | 61.5 [57.5, 65.5] | 2.25 [2.00, 2.50] |" in text
    assert f") {WHY}." in text
    assert "| training s" not in text


def test_without_a_noisy_run_the_column_says_how_to_make_one(folder: Path) -> None:
    assert cells(folder, "dpo")["noise"].reason == methods.NO_NOISE


def test_each_run_on_noisier_labels_has_a_column(folder: Path) -> None:
    noisy = {"reason": "", "differs": "noise 0.3, 29.8% of 6000 labels flipped"}
    relate(
        folder,
        {**noisy, "name": "a", "methods": {"dpo": estimate(-5.5, 2.0)}},
        {**noisy, "name": "b", "methods": {"dpo": estimate(math.nan, math.nan, 0, "no dpo at β")}},
        {"name": "c", "reason": "it asked other prompts"},
    )
    shown = cells(folder, "dpo")
    assert (shown["noise a"].text, shown["noise a"].ci) == ("−5.5", "[−7.5, −3.5]")
    assert shown["noise b"].reason == "no dpo at β"
    assert "noise c" not in shown
    assert "29.8% of 6000 labels flipped (a)" in section(folder)


def test_a_run_that_could_not_be_compared_is_named_with_the_reason(folder: Path) -> None:
    relate(folder, {"name": "c", "reason": "it asked other prompts"})
    assert cells(folder, "dpo")["noise"].reason == "c: it asked other prompts"


def test_what_was_related_to_other_results_is_dropped_and_named(folder: Path) -> None:
    relate(folder, {"name": "a", "reason": "", "differs": "noise 0.3", "methods": {}})
    related = read_json(folder / "related.json")
    write_json(folder / "related.json", {**related, "results": "0" * 64})
    run = runs.load(folder)
    assert run.related == ()
    assert any("results that have changed" in p for p in run.problems)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"results": "HASH", "runs": 3}', '{"results": "HASH", "runs": [1, {}]}']
)
def test_a_damaged_related_json_leaves_a_report(folder: Path, content: str) -> None:
    results = hashlib.sha256((folder / "results.parquet").read_bytes()).hexdigest()
    content = content.replace("HASH", results)
    (folder / "related.json").write_text(content, encoding="utf-8")
    assert cells(folder, "dpo")["noise"].reason == methods.NO_NOISE


def test_hostile_names_and_reasons_are_text(folder: Path) -> None:
    bad = "<img src=x onerror=alert(1)>|`x`"
    relate(folder, {"name": bad, "reason": "", "differs": bad, "methods": {}})
    summary = read_json(folder / "summary.json")
    summary["methods"][0]["numbers"]["seed"]["reason"] = bad
    write_json(folder / "summary.json", summary)
    assert "<img" not in section(folder)
    text = reports.write_summary(folder).read_text(encoding="utf-8")
    assert "<img src" not in text.replace("\\<img", "")


def test_equal_folders_give_equal_bytes(folder: Path) -> None:
    first = section(folder)
    assert section(folder) == first
