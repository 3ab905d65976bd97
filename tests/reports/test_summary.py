"""The verdict as text: headline, reasons, table, windows, warnings."""

import io
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from rich.console import Console

from prefeval import reports
from prefeval.metrics.overoptimisation import Curve
from prefeval.metrics.selection import Selection
from prefeval.metrics.stats import Estimate
from prefeval.records import read_json, to_jsonable, write_json
from prefeval.reports import run as runs
from prefeval.reports import summary, verdict


def test_the_headline_names_the_recommended_checkpoint(
    full_run: Path, synthetic: ModuleType
) -> None:
    best = synthetic.selection().recommended
    run = runs.load(full_run)
    read = verdict.read(run)
    assert read.recommended_key == (best.method, best.beta, best.seed, best.step)
    assert read.headline == f"Ship {best.method.upper()} β = {best.beta:.3g}, step {best.step}"


def test_every_field_of_a_selection_survives_its_file(synthetic: ModuleType) -> None:
    """The reader below uses these names; a renamed field must fail here and not show a dash."""
    saved = to_jsonable(synthetic.selection())
    assert set(saved) == set(Selection.__dataclass_fields__)
    used = {"method", "beta", "step", "seeds", "state", "reasons", "reported", "behaviours"}
    assert used <= set(saved["betas"][0])
    assert {"lc_win_rate", "ci_low", "ci_high", "n", "reason"} <= set(saved["betas"][0]["reported"])
    assert {"behaviour", "change", "ci_low", "ci_high", "n"} <= set(
        saved["betas"][0]["behaviours"][0]
    )
    assert {"numbers", "pooled", "not_ruled_out", "rivals", "seed"} <= set(saved["recommended"])
    assert {"grid", "usable", "gaps", "text", "at_edge", "extension"} <= set(saved["windows"][0])


def test_the_win_rate_in_the_table_is_the_reporting_halfs(
    full_run: Path, synthetic: ModuleType
) -> None:
    run = runs.load(full_run)
    row = summary.rows(run, verdict.read(run))[0]
    reported = next(
        b.reported for b in synthetic.selection().betas if (b.method, b.beta) == ("dpo", 0.05)
    )
    assert row.lc.startswith(f"{reported.lc_win_rate:.1f} [{reported.ci_low:.1f}, ")


def test_the_other_columns_are_those_of_the_chosen_checkpoint(full_run: Path) -> None:
    run = runs.load(full_run)
    read = verdict.read(run)
    frame = pd.read_parquet(full_run / "results.parquet")
    for row in summary.rows(run, read):
        same = (frame["method"] == row.method.lower()) & (frame["step"] == int(row.step))
        match = frame[same & (frame["beta"].map("{:.3g}".format) == row.beta)]
        assert row.raw == f"{match['win_rate'].item():.1f}"
        assert row.length == f"{match['length_ratio'].item():.2f}"


def test_one_row_a_beta_and_one_star(full_run: Path) -> None:
    run = runs.load(full_run)
    rows = summary.rows(run, verdict.read(run))
    assert len(rows) == 20
    assert [r.verdict for r in rows if "★" in r.verdict] == ["usable ★"]


def test_bands_join_neighbouring_usable_betas_only() -> None:
    window = verdict.Window("dpo", (1, 2, 3, 4, 5), (1, 2, 4), (3,), "", "", "")
    blank = verdict.Verdict(
        state="none",
        recommended_key=None,
        lc=verdict.missing("-"),
        numbers={},
        text="",
        betas=(),
        windows=(window,),
        reasons=(),
        warnings=(),
        chosen_keys=frozenset(),
        margin=5.0,
        halves=None,
    )
    assert blank.bands("dpo") == [(1, 2), (4, 4)]
    assert blank.bands("ipo") == []


def test_without_a_usable_beta_nothing_is_shipped_and_the_nearest_is_named(
    synthetic: ModuleType, tmp_path: Path
) -> None:
    run = runs.load(synthetic.write_run(tmp_path / "run", grid={"kto": (0.05, 0.6)}))
    read = verdict.read(run)
    assert read.headline == "Ship nothing yet: no β is shown usable"
    assert any("undecided; nearest KTO 0.05" in r.text for r in read.reasons)


def test_the_reasons_say_what_put_it_before_other_usable_betas(
    full_run: Path, tmp_path: Path
) -> None:
    """As long as it is so: with another's bound raised above it, the claim is not made."""
    folder = shutil.copytree(full_run, tmp_path / "run")
    saved = read_json(folder / "summary.json")
    usable = [b for b in saved["selection"]["betas"] if b["state"] == "usable"]
    best = saved["selection"]["recommended"]
    mine = next(b for b in usable if (b["method"], b["beta"]) == (best["method"], best["beta"]))
    mine["choosing"] = {"lc_win_rate": 71.2, "ci_low": 66.6, "ci_high": 75.5, "n": 200}
    for other in usable:
        if other is not mine:
            other["choosing"]["ci_low"] = min(other["choosing"]["ci_low"], 66.0)

    def told() -> list[str]:
        write_json(folder / "summary.json", saved)
        reasons = verdict.read(runs.load(folder)).reasons
        return [r.text for r in reasons if "lower bound of" in r.text]

    words = f"Highest lower bound of {len(usable)} usable β on the 200 prompts that choose"
    assert told() == [f"{words}: 71.2% [66.6, 75.5]"]
    next(b for b in usable if b is not mine)["choosing"]["ci_low"] = 67.0
    assert told() == []


def test_an_unfinished_run_has_no_verdict_and_counts_its_trials(half_run: Path) -> None:
    run = runs.load(half_run)
    read = verdict.read(run)
    assert read.headline == "No verdict yet: the run is unfinished"
    assert any(r.text == "1 of 3 trials have finished" for r in read.reasons)


def test_failed_trials_and_the_judges_caveat_are_among_the_warnings(
    full_run: Path, synthetic: ModuleType
) -> None:
    run = runs.load(full_run)
    found = summary.warnings(run, verdict.read(run))
    assert any("1 of 21 trials failed" in w and synthetic.WHY in w for w in found)
    assert any("proxy" in w for w in found)
    assert len(set(found)) == len(found)


def test_a_caveat_already_in_a_warning_is_not_repeated(full_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(full_run, tmp_path / "run")
    saved = read_json(folder / "summary.json")
    caveat = read_json(folder / "manifest.json")["judge"]["caveat"]
    write_json(folder / "summary.json", {**saved, "warnings": [f"{caveat} Its accuracy is 71%."]})
    run = runs.load(folder)
    assert sum(caveat in w for w in summary.warnings(run, verdict.read(run))) == 1


def test_summary_md_holds_the_table_and_escapes_markup(full_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(full_run, tmp_path / "run")
    saved = read_json(folder / "summary.json")
    warning = "a|b <img src=x> [link](http://x) `code`"
    write_json(folder / "summary.json", {**saved, "warnings": [warning]})
    text = reports.write_summary(folder).read_text(encoding="utf-8")
    assert text.startswith("# Ship ")
    assert text.count("\n| ") == 21 + 6  # a heading and 20 β, a heading and 5 methods
    assert "a\\|b \\<img src=x> [link]\\(http://x) \\`code\\`" in text
    assert "prefeval sweep --beta 0.05:0.3" in text


def test_summary_md_is_the_same_twice(full_run: Path) -> None:
    first = reports.write_summary(full_run).read_bytes()
    assert reports.write_summary(full_run).read_bytes() == first


@pytest.mark.parametrize("width", [80, 140])
def test_the_terminal_table_shows_every_verdict_in_full(full_run: Path, width: int) -> None:
    run = runs.load(full_run)
    read = verdict.read(run)
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(summary.table(run, read))
    lines = out.getvalue().splitlines()
    assert sum("usable ★" in line for line in lines) == 1
    assert sum("[" in line and "]" in line for line in lines) >= 20  # intervals are not markup
    assert sum("tool" in line for line in lines) == sum(
        "tool" in row.worst for row in summary.rows(run, read)
    )
    assert "…" not in out.getvalue()


def test_plain_text_ends_with_the_reports_path(full_run: Path) -> None:
    run = runs.load(full_run)
    text = summary.plain(run, verdict.read(run), Path("runs/x/report.html"))
    assert text.rstrip().endswith("Report: runs/x/report.html")
    assert "try --methods" in text


def test_with_several_seeds_the_headline_names_the_seed_to_ship(
    full_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(full_run, tmp_path / "run")
    saved = read_json(folder / "summary.json")
    for beta in saved["selection"]["betas"]:
        beta["seeds"] = [0, 1]
    saved["selection"]["recommended"]["seed"] = 1
    write_json(folder / "summary.json", saved)
    read = verdict.read(runs.load(folder))
    assert ", seed 1, step " in read.headline
    assert len(read.chosen_keys) == 40


def test_turning_points_are_told_for_each_method(full_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full_run, tmp_path / "run"))
    saved = read_json(folder / "summary.json")
    method = runs.load(folder).methods[0]
    turned = Curve("rl", 5.0, 4.0, 1.39, 1.18, 1.85, 18)
    nan = float("nan")
    rising = Curve("rl", 5.0, 0.1, nan, nan, nan, 18, "not shown to turn within 3.1")
    curves = {"gold": "true_win_rate", "gold_curve": turned, "proxy": "win_rate",
              "proxy_curve": rising}  # fmt: skip
    write_json(folder / "summary.json", {**saved, "overoptimisation": {method: curves}})
    reports.write_summary(folder)
    said = (folder / "summary.md").read_text(encoding="utf-8")
    assert "true win rate peaks at √KL 1.39 [1.18, 1.85]; raw win rate not shown to turn" in said
    reports.write_report(folder)
    assert "peaks at √KL 1.39 [1.18, 1.85]" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_judges_noise_stands_beside_its_name(full_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full_run, tmp_path / "run"))
    saved = read_json(folder / "summary.json")
    again = Estimate(50.4, 0.9, 48.6, 52.2, 800)
    selection = {**saved["selection"], "self_play": to_jsonable(again)}
    write_json(folder / "summary.json", {**saved, "selection": selection})
    reports.write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "A/A: the reference wins 50.4% [48.6, 52.2]" in page


def test_the_estimator_is_named_beside_its_rates(full_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full_run, tmp_path / "run"))
    name = read_json(folder / "summary.json")["selection"]["estimator"]
    assert name
    reports.write_summary(folder)
    reports.write_report(folder)
    for file in ("summary.md", "report.html"):
        assert f"LC WR is {name}." in (folder / file).read_text(encoding="utf-8")
