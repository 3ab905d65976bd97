"""The retention matrix against its definition, and which completions are embedded."""

import base64
import gzip
import json
import math
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scipy import stats as scipy_stats

from prefeval.records import write_jsonl
from prefeval.reports import run as runs
from prefeval.reports import samples, verdict
from prefeval.reports.quantities import Number
from prefeval.reports.retention import Cell, matrix, p_values
from prefeval.reports.run import CheckpointRow, Key


def checkpoint(folder: Path, lost: dict[str, int], n: int = 64) -> CheckpointRow:
    """A checkpoint whose checks lose so many of n prompts of each behaviour, and gain none."""
    rows = [
        {"prompt_id": f"{b}/{i}", "cluster": f"{b}{i}", "behaviour": b}
        | {"passed": int(i >= count), "ref_passed": 1}
        for b, count in lost.items()
        for i in range(n)
    ]
    write_jsonl(folder / "checks.jsonl", rows)
    return CheckpointRow(Key("dpo", 0.1, 0, 1), "t", folder, {})


def test_p_of_a_change_is_the_sign_test_corrected_over_behaviours(tmp_path: Path) -> None:
    """Only losses: exact McNemar is the two-sided binomial test; Holm doubles the smaller p."""
    found = p_values(checkpoint(tmp_path, {"json": 6, "tool": 1}))
    json_p = scipy_stats.binomtest(6, 6).pvalue
    assert found["json"][0] == pytest.approx(2 * json_p)
    assert found["tool"][0] == 1.0


def test_an_answer_whose_check_raised_is_neither_lost_nor_a_refusal(tmp_path: Path) -> None:
    row = checkpoint(tmp_path, {"refusal": 1}, n=2)
    asked = {f"refusal/{i}": {"check": {"kind": "compliance"}} for i in range(2)}
    answers = [{"prompt_id": p, "mode": "greedy", "text": "x"} for p in asked]
    write_jsonl(tmp_path / "completions.jsonl", answers)
    lost, _ = samples.samples_of(row, asked, {})
    assert (lost.passed, lost.kinds) == (False, ("lost", "refused"))
    checks = [
        {"prompt_id": p, "behaviour": "refusal", "passed": None, "ref_passed": 1} for p in asked
    ]
    write_jsonl(tmp_path / "checks.jsonl", checks)
    assert [(s.passed, s.kinds) for s in samples.samples_of(row, asked, {})] == [(None, ())] * 2


def test_damage_needs_more_than_the_margin(tmp_path: Path) -> None:
    """3 of 64 lost is 4.7 points, within 5; 20 of 64 is 31 points."""
    found = p_values(checkpoint(tmp_path, {"json": 3, "tool": 20}))
    assert found["json"][1] > 0.2
    assert found["tool"][1] < 0.001


def test_without_saved_checks_nothing_is_claimed(tmp_path: Path) -> None:
    cell = Cell("json", Number(-40.0, -50, -30), Number(60.0))
    assert p_values(CheckpointRow(Key("dpo", 0.1, 0, 1), "t", tmp_path, {})) == {}
    assert not cell.significant
    assert not cell.damaged


@pytest.mark.parametrize(
    ("change", "shade"),
    [(-2.9, "down1"), (-31.0, "down5"), (9.0, "up3"), (0.0, "zero"), (math.nan, "none")],
)
def test_shade_follows_direction_and_depth(change: float, shade: str) -> None:
    assert Cell("json", Number(change), Number(90.0)).shade == shade


def test_the_matrix_has_every_checkpoint_and_behaviour(
    full_run: Path, synthetic: ModuleType
) -> None:
    behaviours, rows = matrix(runs.load(full_run))
    assert set(behaviours) == set(synthetic.BEHAVIOURS)
    assert len(rows) == 60
    row, cells = rows[0]
    assert [c.change for c in cells] == [row.get(f"change_{b}") for b in behaviours]


@pytest.mark.parametrize(
    ("check", "passed", "expected"),
    [("refusal", True, True), ("refusal", False, False), ("compliance", False, True)],
)
def test_a_refusal_is_read_from_its_check(check: str, passed: bool, expected: bool) -> None:
    assert samples.refused(check, passed) is expected


def sample(i: int, *kinds: str, length: int = 10) -> samples.Sample:
    return samples.Sample(f"p{i:03d}", "about", "sample", "x" * length, "y", kinds)


def test_the_chosen_samples_hold_some_of_every_kind_and_the_longest() -> None:
    found = [sample(i) for i in range(200)]
    found += [sample(200, "flipped"), sample(201, "lost"), sample(202, "refused")]
    found += [sample(203, length=999)]
    kept = samples.chosen(found, 12)
    assert len(kept) == 12
    assert {"flipped", "lost", "refused"} <= {k for s in kept for k in s.kinds}
    assert any(len(s.text) == 999 for s in kept)


def test_the_choice_of_samples_does_not_depend_on_their_order() -> None:
    found = [sample(i, "flipped") if i % 3 else sample(i) for i in range(90)]
    assert samples.chosen(found, 20) == samples.chosen(found[::-1], 20)


def unpacked(packed: samples.Pack, name: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(packed.pieces[name]), wbits=31))


def test_every_completion_is_packed_where_they_fit(full_run: Path, synthetic: ModuleType) -> None:
    run = runs.load(full_run)
    packed = samples.pack(run, verdict.read(run))
    each = len(synthetic.prompts(8))
    assert packed.shown == packed.total == 60 * each
    rows = {name: unpacked(packed, name) for name in packed.counts}
    assert {name: len(found) for name, found in rows.items()} == dict.fromkeys(rows, each)
    kinds = {kind for found in rows.values() for row in found for kind in row[4]}
    assert kinds <= set(packed.kinds)


def test_beyond_the_budget_the_recommended_checkpoint_keeps_most(
    full_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "FEWEST", 4)
    run = runs.load(full_run)
    read = verdict.read(run)
    whole = samples.pack(run, read)
    size = sum(map(len, whole.pieces.values()))
    packed = samples.pack(run, read, budget=size // 2)
    best = samples.key_id(read.recommended_key)
    assert packed.counts[best] == whole.counts[best]
    assert max(n for name, n in packed.counts.items() if name != best) < whole.counts[best]
    assert min(packed.counts.values()) >= min(samples.FEWEST, whole.counts[best])
    assert sum(map(len, packed.pieces.values())) < size
    assert packed.total == whole.total


def test_a_packed_row_and_the_shared_piece_read_back(full_run: Path, synthetic: ModuleType) -> None:
    run = runs.load(full_run)
    packed = samples.pack(run, verdict.read(run))
    shared = unpacked(packed, "shared")
    row = next(r for r in unpacked(packed, next(iter(packed.counts))) if r[0] == "about/000")
    assert row[3] == synthetic.HOSTILE[0]
    assert shared["refs"]["sample|about/000"] == synthetic.answer("about/000", 2)
    assert shared["prompts"]["about/000"] == [["user", "Tell me about person 0."]]


def test_equal_runs_are_packed_into_equal_bytes(full_run: Path) -> None:
    run = runs.load(full_run)
    read = verdict.read(run)
    assert samples.pack(run, read) == samples.pack(run, read)


def test_a_long_text_is_cut_and_a_lone_surrogate_is_replaced() -> None:
    long = samples.Sample("p", "about", "sample", "x" * 7000 + "\ud800", "y", ())
    text = samples._packed(long)[3]
    assert len(text) == samples.MAX_CHARACTERS + 4
    assert text.endswith(" […]")
    read = json.loads(gzip.decompress(base64.b64decode(samples.compressed(["\ud800"]))))
    assert read == ["?"]


def test_a_verdict_that_the_order_flips_is_marked_and_an_unread_one_is_not(tmp_path: Path) -> None:
    judged = [
        {"prompt_id": "a", "preference": 0.5, "preference_first": 0.8, "preference_second": 0.2},
        {"prompt_id": "b", "preference": 0.7, "preference_first": 0.8, "preference_second": 0.6},
        {"prompt_id": "c", "preference": None, "preference_first": 0.8, "preference_second": None},
        {"prompt_id": "d", "preference": 0.9, "true_preference": 0.0},
    ]
    said = [{"prompt_id": p, "mode": "sample", "index": 0, "text": p} for p in "abcd"]
    write_jsonl(tmp_path / "judgments.jsonl", judged)
    write_jsonl(tmp_path / "completions.jsonl", said)
    row = CheckpointRow(Key("dpo", 0.1, 0, 1), "t", tmp_path, {})
    found = {s.prompt_id: s.kinds for s in samples.samples_of(row, {}, {})}
    assert found == {"a": ("flipped",), "b": (), "c": (), "d": ("fooled",)}
