"""The judge's audit: rates against plain loops, and judges with a planted fault."""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prefeval import reports
from prefeval.metrics.diagnosis.measurement_rules import CAUSES
from prefeval.records import read_json, read_jsonl, write_json, write_jsonl
from prefeval.reports import summary
from prefeval.reports import verdict as verdicts
from prefeval.reports.judge import audit as judge_audit
from prefeval.reports.judge import tables as judge_tables
from prefeval.reports.judge import words as judge_words
from prefeval.reports.run import load

GRID = {"dpo": (0.05, 0.1, 0.3), "kto": (0.1,)}
PROMPTS = 60
Row = dict[str, Any]
Plant = Callable[[random.Random, float], Row]


def fair(draw: random.Random, far: float) -> Row:
    """A judge that follows the truth in nine cases of ten, whatever the lengths and the order."""
    truth = float(draw.random() < 0.5)
    wins = truth if draw.random() < 0.9 else 1 - truth
    return {
        "preference_first": 0.1 + 0.8 * wins,
        "preference_second": 0.1 + 0.8 * wins,
        "true_preference": truth,
        "len_output": draw.choice([80, 90, 110, 120]),
        "len_baseline": 100,
    }


def likes_length(draw: random.Random, far: float) -> Row:
    row = fair(draw, far)
    wins = 0.9 if row["len_output"] > 100 else 0.1
    return {**row, "preference_first": wins, "preference_second": wins}


def order_decides(draw: random.Random, far: float) -> Row:
    return {**fair(draw, far), "preference_first": 0.8, "preference_second": 0.2}


def worse_far_out(draw: random.Random, far: float) -> Row:
    row = fair(draw, far)
    if far > 0.5 and draw.random() < 0.5:
        row |= {k: 1 - row[k] for k in ("preference_first", "preference_second")}
    return row


def as_rows(plant: Plant, key: str, far: float = 0.0) -> Iterator[Row]:
    """One verdict a prompt; two prompts are of one person."""
    for number in range(PROMPTS):
        row = plant(random.Random(f"{key}/{number}"), far)
        first, second = row["preference_first"], row["preference_second"]
        mean = None if None in (first, second) else (first + second) / 2
        named = {"prompt_id": f"about/{number}", "cluster": f"person {number // 2}"}
        yield named | {"behaviour": "about"} | row | {"preference": mean}


@pytest.fixture
def run_of(synthetic: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """A run whose verdicts are planted; ``equals`` are those between answers of the reference."""

    def make(plant: Plant = fair, *, equals: Plant | None = fair, judge: Row | None = None) -> Path:
        folder: Path = synthetic.write_run(tmp_path / "run", grid=GRID, count=4)
        run = load(folder)
        by_drift = sorted(run.checkpoints, key=lambda c: c.get("kl").value)
        for place, row in enumerate(by_drift):
            assert row.folder is not None
            far = place / (len(by_drift) - 1)
            rows = as_rows(plant, str(row.folder.relative_to(folder)), far)
            write_jsonl(row.folder / "judgments.jsonl", list(rows))
        if equals is not None:
            rows = (
                {**row, "replicate": r, "true_preference": None}
                for r in (1, 2)
                for row in as_rows(equals, f"A/A {r}")
            )
            write_jsonl(folder / "reference" / "self_play.jsonl", list(rows))
        if judge is not None:
            saved = read_json(folder / "manifest.json")
            write_json(folder / "manifest.json", {**saved, "judge": judge})
        return folder

    return make


def audit_of(folder: Path) -> judge_audit.Audit:
    return judge_audit.read(load(folder))


def said(folder: Path, words: str) -> tuple[str, str]:
    """The tone and the text of the one sentence that holds these words."""
    found = [s for s in judge_words.sentences(audit_of(folder)) if words in s.text]
    assert len(found) == 1, [s.text for s in judge_words.sentences(audit_of(folder))]
    return found[0].tone, found[0].text


def all_rows(folder: Path) -> list[Row]:
    files = sorted(folder.glob("trials/*/checkpoint-*/judgments.jsonl"))
    return [row for path in files for row in read_jsonl(path)]


def noisy(draw: random.Random, far: float) -> Row:
    """Everything that a rate counts: flips, ties, unread orders, equal lengths."""
    row = fair(draw, far)
    first, second = (
        draw.choice([0.2, 0.5, 0.9, None if draw.random() < 0.3 else 0.6]) for _ in "ab"
    )
    lengths = {"len_output": draw.choice([90, 100, 110])}
    return {**row, **lengths, "preference_first": first, "preference_second": second}


def test_pooled_rates_are_those_of_a_plain_loop(run_of: Callable[..., Path]) -> None:
    folder = run_of(noisy)
    rows = all_rows(folder)
    read = [r for r in rows if r["preference"] is not None]
    flips = [(r["preference_first"] - 0.5) * (r["preference_second"] - 0.5) < -1e-12 for r in read]
    ties = [((r["preference_first"] == 0.5) + (r["preference_second"] == 0.5)) / 2 for r in read]
    first = [(r["preference_first"] + 1 - r["preference_second"]) / 2 for r in read]
    longer = [
        (r["len_output"] > r["len_baseline"]) == (r["preference"] > 0.5)
        for r in read
        if r["len_output"] != r["len_baseline"] and abs(r["preference"] - 0.5) > 1e-9
    ]
    expected = {
        "flip_rate": flips,
        "tie_rate": ties,
        "first_position_rate": first,
        "prefers_longer": longer,
        "unread_rate": [r["preference"] is None for r in rows],
    }
    got = audit_of(folder).policies
    for name, values in expected.items():
        assert got[name].value == pytest.approx(100 * sum(values) / len(values)), name
        assert got[name].n == len(values), name
        assert got[name].low < got[name].value < got[name].high, name
    assert 0 < len(read) < len(rows)


def test_the_same_verdicts_on_more_checkpoints_do_not_narrow_an_interval(
    run_of: Callable[..., Path],
) -> None:
    """Intervals are clustered by prompt: a copied checkpoint adds rows and no knowledge."""
    folder = run_of(noisy)
    files = sorted(folder.glob("trials/*/checkpoint-*/judgments.jsonl"))
    one = read_jsonl(files[0])
    for path in files[1:]:
        path.unlink()
    alone = audit_of(folder).policies
    for path in files:
        write_jsonl(path, one)
    copied = audit_of(folder).policies
    for name in ("flip_rate", "first_position_rate", "prefers_longer", "unread_rate"):
        assert copied[name].n == len(files) * (alone[name].n or 0)
        # clusters of two prompts each: with 12 copies nothing is left of what is within them
        assert copied[name].high - copied[name].low > 0.7 * (alone[name].high - alone[name].low)


def test_a_fair_judge_is_believed(run_of: Callable[..., Path]) -> None:
    folder = run_of()
    assert said(folder, "A/A")[0] == "ok"
    assert said(folder, "prefers the longer")[0] == "ok"
    tone, text = said(folder, "agrees with the oracle")
    assert tone == "ok"
    assert re.search(r"in 9\d\.\d% \[8\d\.\d, 9\d\.\d\] of comparisons, κ 0\.[78]\d \[", text)
    assert said(folder, "picks the longer")[0] == "ok"
    assert said(folder, "Agreement with the oracle is")[0] == "ok"


def test_a_judge_that_goes_by_length_is_named(run_of: Callable[..., Path]) -> None:
    folder = run_of(likes_length, equals=likes_length)
    tone, text = said(folder, "prefers the longer")
    assert tone == "bad"
    assert "100.0% " in text
    assert text.endswith("(people: 64%): read the length-controlled rate.")
    tone, text = said(folder, "picks the longer")
    assert tone == "bad"
    assert "picks the longer in 100.0%" in text
    assert "picks the shorter in 0.0%" in text


def test_longer_and_better_policies_alone_do_not_make_a_judge_like_length(
    run_of: Callable[..., Path],
) -> None:
    """Between answers of the reference it has no liking: it is doubted, and no more."""
    longer = {"len_output": 150, "preference_first": 0.9, "preference_second": 0.9}
    folder = run_of(lambda draw, far: {**fair(draw, far), **longer})
    tone, text = said(folder, "prefers the longer")
    assert tone == "unsure"
    assert "100.0%" in text
    assert text.endswith(
        "so longer checkpoints may be better ones: read the length-controlled rate too."
    )
    (folder / "reference" / "self_play.jsonl").unlink()
    tone, text = said(folder, "prefers the longer")
    assert tone == "unsure"
    assert text.endswith("(people: 64%): read the length-controlled rate.")


def test_an_order_that_decides_is_bad(run_of: Callable[..., Path]) -> None:
    tone, text = said(run_of(order_decides), "The order changes")
    assert tone == "bad"
    assert text.startswith("The order changes 100.0% [")
    assert "the answer shown first gets 80.0%" in text


@pytest.mark.parametrize(
    ("name", "tone", "words"),
    [
        ("reward_model", "ok", "the order cannot change a verdict"),
        ("person", "", "what the order does is not known"),
        ("saved", "", "what the order does is not known"),
        ("endpoint", "ok", "The order changes 0.0% [0.0, "),
    ],
)
def test_a_judge_that_sees_no_order_is_not_praised_for_it(
    run_of: Callable[..., Path], name: str, tone: str, words: str
) -> None:
    folder = run_of(judge={"name": name, "settings": f"{name}:model=m,mode=text", "caveat": ""})
    assert said(folder, words)[0] == tone
    section = judge_tables.section(audit_of(folder))
    assert section["name"] == name
    assert section["settings"] == "model=m, mode=text"
    assert "plug-in" not in section["kind"]


def test_self_play_away_from_50_is_doubted(run_of: Callable[..., Path]) -> None:
    wins = {"preference_first": 0.8, "preference_second": 0.7}
    tone, text = said(run_of(equals=lambda draw, far: {**fair(draw, far), **wins}), "A/A")
    assert tone == "unsure"
    assert "wins 75.0% [" in text
    assert "50 is outside" in text


def test_a_judge_that_gets_worse_far_out_is_named(run_of: Callable[..., Path]) -> None:
    folder = run_of(worse_far_out)
    tone, text = said(folder, "Agreement with the oracle is")
    assert tone == "unsure"
    assert text.endswith("so far out a win says less than near.")
    trend = audit_of(folder).trend
    assert trend is not None
    assert trend.change.value == pytest.approx(trend.far.value - trend.near.value)
    assert trend.change.high < -20


def test_without_an_oracle_the_trend_is_of_length_and_the_oracle_a_dash(
    run_of: Callable[..., Path],
) -> None:
    folder = run_of(lambda draw, far: {**fair(draw, far), "true_preference": None})
    audit = audit_of(folder)
    assert not audit.has_oracle
    assert said(folder, "liking for the longer answer")[0] == "ok"
    rows = judge_tables.section(audit)["known"]
    oracle = [row for row in rows if row["name"].startswith("oracle")]
    assert [row["cell"]["value"].reason for row in oracle] == [audit.oracle["agreement"].reason]
    source = reports.write_report(folder).read_text(encoding="utf-8")
    section = source[source.index('<section id="judge"') : source.index('<section id="manifest"')]
    assert section.count("<figure>") == 1  # the planted judge flips nothing
    assert "these comparisons have no oracle" in section


def test_unread_verdicts_are_counted_and_too_many_are_bad(run_of: Callable[..., Path]) -> None:
    def unread(draw: random.Random, far: float) -> Row:
        lost = {"preference_second": None} if draw.random() < 0.3 else {}
        return {**fair(draw, far), **lost}

    tone, text = said(run_of(unread), "no verdict in one order")
    assert tone == "bad"
    assert re.match(r"(2|3)\d\.\d% \[", text)


def test_a_broken_file_is_named_and_the_rest_is_shown(run_of: Callable[..., Path]) -> None:
    folder = run_of()
    first, second, *rest = sorted(folder.glob("trials/*/checkpoint-*/judgments.jsonl"))
    rows = read_jsonl(first)
    write_jsonl(first, [{**rows[0], "len_output": "many"}, *rows[1:]])
    second.write_text('{"prompt_id": "about/1", "pref\n', encoding="utf-8")
    audit = audit_of(folder)
    assert audit.policies["unread_rate"].n == PROMPTS * len(rest)
    assert any(
        "judgments.len_output is not a finite number at about/0" in p for p in audit.problems
    )
    assert any("is not valid JSON" in p for p in audit.problems)
    assert len(audit.problems) == 2
    assert [s.tone for s in judge_words.sentences(audit)][-2:] == ["warn", "warn"]


def test_every_file_is_read_once(
    run_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = run_of(), []
    run = load(folder)
    original = judge_audit.read_rows
    monkeypatch.setattr(
        judge_audit,
        "read_rows",
        lambda path, problems: seen.append(path) or original(path, problems),
    )
    judge_audit.read(run)
    assert len(seen) == len(set(seen)) == len(run.checkpoints) + 1


def held_out(name: str, value: float, half: float) -> Row:
    return {"name": name, "value": value, "ci_low": value - half, "ci_high": value + half, "n": 512}


def test_a_trained_judge_is_measured_against_the_longer_one_wins(
    run_of: Callable[..., Path],
) -> None:
    folder = run_of()
    rows = {
        "accuracy": held_out("judge_accuracy", 55, 4),
        "accuracy_chosen_shorter": held_out("judge_accuracy_chosen_shorter", 34, 6),
        "accuracy_chosen_longer": held_out("judge_accuracy_chosen_longer", 79, 6),
        "length_accuracy": held_out("judge_length_accuracy", 62, 4),
    }
    (folder / "judge").mkdir()
    write_json(folder / "judge" / "audit.json", {"audit": rows, "text": ""})
    tone, text = said(folder, "of 512 held-out pairs")
    assert tone == "bad"
    assert "agrees with 55.0% [51.0, 59.0]" in text
    assert "always would agree with 62.0% [58.0, 66.0]" in text
    assert said(folder, "preferred answer is the shorter")[0] == "bad"
    rows |= {
        "accuracy": held_out("judge_accuracy", 55, 4),
        "length_accuracy": held_out("judge_length_accuracy", 48, 4),
    }
    write_json(folder / "judge" / "audit.json", {"audit": rows, "text": ""})
    assert said(folder, "of 512 held-out pairs")[0] == "unsure"  # above chance, below people
    rows["accuracy"] = held_out("judge_accuracy", 68, 4)
    write_json(folder / "judge" / "audit.json", {"audit": rows, "text": ""})
    assert said(folder, "of 512 held-out pairs")[0] == "ok"
    names = [row["name"] for row in judge_tables.section(audit_of(folder))["known"]]
    assert "… “the longer wins” agrees" in names


def test_a_manifest_without_a_judge_and_hostile_names_do_no_harm(
    run_of: Callable[..., Path],
) -> None:
    bad = "<script>alert(1)</script>"
    folder = run_of(judge={"name": bad, "settings": f"x:{bad}", "caveat": bad})
    source = reports.write_report(folder).read_text(encoding="utf-8")
    assert bad not in source
    assert source.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
    for judge in ("none", None, [1]):
        saved = read_json(folder / "manifest.json")
        write_json(folder / "manifest.json", {**saved, "judge": judge})
        assert audit_of(folder).name == ""


def test_the_page_draws_every_checkpoint_and_the_text_says_the_same(
    run_of: Callable[..., Path],
) -> None:
    folder = run_of(judge={"name": "endpoint", "settings": "endpoint:model=m", "caveat": "A | B."})
    run = load(folder)
    source = reports.write_report(folder).read_text(encoding="utf-8")
    section = source[source.index('<section id="judge"') : source.index('<section id="manifest"')]
    marks = re.findall(r'<g class="pt[^"]*" data-method="(\w+)" data-ck="([^"]+)"', section)
    assert len(marks) == 2 * len(run.checkpoints)  # agreement, and the liking for length
    assert len(set(marks)) == len(run.checkpoints)
    assert "judge agrees with the oracle in " in section
    words = judge_words.sentences(judge_audit.read(run))
    assert len(words) >= 6
    text = summary.markdown(run, verdicts.read(run), judge_audit.read(run))
    block = text[text.index("## The judge") :].partition("\n## ")[0]
    assert block.count("\n- ") == len(words) + 1
    assert "- Judge: endpoint. A served chat model. A \\| B." in block


def test_a_run_without_verdicts_says_so(run_of: Callable[..., Path]) -> None:
    folder = run_of(equals=None, judge={"name": "lab"})
    for path in folder.glob("trials/*/checkpoint-*/judgments.jsonl"):
        path.unlink()
    words = judge_words.sentences(audit_of(folder))
    assert [s.text for s in words] == ["No verdicts were saved: nothing is known of this judge."]
    source = reports.write_report(folder).read_text(encoding="utf-8")
    section = source[source.index('<section id="judge"') : source.index('<section id="manifest"')]
    assert "no verdict was saved" in section
    assert "<figure>" not in section


def test_thresholds_are_those_of_the_diagnosis() -> None:
    noisy_judge = next(c for c in CAUSES if c.id == "judge_too_noisy")
    above = {c.signal: c.above for route in noisy_judge.routes for c in route.conditions}
    assert above == {
        "flip_rate": judge_words.FLIPS_BAD,
        "unread_rate": judge_words.UNREAD_BAD,
    }


def test_the_audit_is_the_same_twice(run_of: Callable[..., Path]) -> None:
    folder = run_of(noisy)
    first, second = (judge_tables.section(audit_of(folder)) for _ in "ab")
    assert json.dumps(first, default=str) == json.dumps(second, default=str)
