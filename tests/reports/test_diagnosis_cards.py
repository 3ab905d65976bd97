"""Findings as the terminal, summary.md and the page show them."""

import html
import shutil
from pathlib import Path

import pytest

from prefeval import reports
from prefeval.metrics import diagnosis
from prefeval.metrics.diagnosis.terms import Signal
from prefeval.records import read_json, write_json
from prefeval.reports import diagnosis as cards
from prefeval.reports import run as runs
from prefeval.reports import summary, verdict

FOUND = diagnosis.diagnose(
    {
        "beta": Signal(0.01),
        "fall_rejected": Signal(0.9, 0.8, 1.0, 200),
        "fall_chosen": Signal(0.8, 0.7, 0.9, 200),
        "fall_both": Signal(0.8, 0.7, 0.9, 200),
        "damaged": Signal(2.0, n=6),
        "format_loss": Signal(40.0, 20.0, 60.0, 64),
        "nonfinite_rows": Signal(0.0, n=90),
    },
    method="dpo",
)


@pytest.fixture
def diagnosed(full_run: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(full_run, tmp_path / "run"))
    saved = read_json(folder / "summary.json")
    trial = runs.load(folder).trials[0].name
    write_json(folder / "summary.json", {**saved, "diagnosis": FOUND})
    told = read_json(folder / "summary.json")
    told["diagnosis"]["findings"][0]["where"] = [trial, "<b>another</b>"]
    told["diagnosis"]["findings"][0]["verdict"] = "</script><b>bold</b> claim"
    write_json(folder / "summary.json", told)
    return folder


def test_what_is_explained_has_a_card_and_no_line(diagnosed: Path) -> None:
    run = runs.load(diagnosed)
    assert [c["cause"] for c in cards.cards(run)["cards"]] == [
        "low_beta_drift", "logprob_collapse", "format_unlearned",
    ]  # fmt: skip
    (line,) = cards.lines(run)
    assert "low_beta_drift, error" in line
    assert line in "\n".join(summary.lines(run, verdict.read(run)))
    assert "low\\_beta\\_drift" in reports.write_summary(diagnosed).read_text() or (
        "low_beta_drift" in reports.write_summary(diagnosed).read_text()
    )


def test_trials_have_the_names_that_people_give_them(diagnosed: Path) -> None:
    first = cards.cards(runs.load(diagnosed))["cards"][0]
    assert first["where"].startswith("DPO 0.")
    assert "<b>another</b>" in first["where"]


def test_the_page_shows_findings_as_text(diagnosed: Path) -> None:
    text = reports.write_report(diagnosed).read_text()
    assert html.escape("</script><b>bold</b> claim") in text
    assert "<b>bold</b>" not in text
    assert text.count('<article class="card finding') == 3
    assert "Probably follows from <code>low_beta_drift</code>" in text
    assert "threshold &lt; 0.045" in text


def test_a_run_without_a_diagnosis_says_so(full_run: Path) -> None:
    run = runs.load(full_run)
    assert cards.cards(run)["known"] is False
    assert cards.lines(run) == []
    assert "before there were diagnoses" in reports.write_report(full_run).read_text()
