"""What to run next, as the terminal, summary.md and the page show it."""

import html
import json
import shutil
from pathlib import Path

import pytest

from prefeval import reports
from prefeval.metrics.advice import Advice
from prefeval.records import read_json, write_json
from prefeval.reports import run as runs
from prefeval.reports import summary, verdict

COMMAND = "prefeval sweep --data 'a <b>.jsonl' --beta 0.3:1"
ADVICE = [
    Advice("ship", "Ship it", "it is the best"),
    Advice("extend", "Extend the <grid>", "it ends", COMMAND),
    Advice("rivals", "Take them as equal", "not shown"),
    Advice("stale", "Make pairs", "they are stale", "prefeval sweep --rounds 3"),
    Advice("then", "Go on with PPO", "own answers", "prefeval sweep --then ppo"),
]


@pytest.fixture
def advised(full_run: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(full_run, tmp_path / "run"))
    saved = read_json(folder / "summary.json")
    write_json(folder / "summary.json", {**saved, "advice": ADVICE})
    return folder


def test_the_first_three_steps_end_the_terminals_text(advised: Path) -> None:
    run = runs.load(advised)
    lines = summary.lines(run, verdict.read(run))
    assert lines[lines.index("Next") + 1 :] == [
        "  1. Extend the <grid>: it ends",
        f"     {COMMAND}",
        "  2. Take them as equal: not shown",
        "  3. Make pairs: they are stale",
        "     prefeval sweep --rounds 3",
    ]


def test_summary_md_has_every_step_with_its_command_as_it_is(advised: Path) -> None:
    text = reports.write_summary(advised).read_text()
    assert "1. Extend the \\<grid>: it ends." in text
    for advice in ADVICE[1:]:
        assert not advice.command or f"\n       {advice.command}\n" in text
    assert text.count("Ship it") == 0


def test_the_page_shows_commands_as_text(advised: Path) -> None:
    text = reports.write_report(advised).read_text()
    assert f'<code class="next">{html.escape(COMMAND)}</code>'.replace("&#x27;", "&#39;") in text
    assert "Extend the &lt;grid&gt;" in text
    verdict = text[: text.index('<section id="frontier"')]
    assert verdict.count('class="next"') == 2
    assert "--then ppo" not in text


def test_a_run_without_advice_is_shown_without_it(full_run: Path) -> None:
    run = runs.load(full_run)
    assert "advice" not in json.loads((full_run / "summary.json").read_text())
    assert "Next" not in summary.lines(run, verdict.read(run))
    assert "What to run next" not in reports.write_summary(full_run).read_text()
