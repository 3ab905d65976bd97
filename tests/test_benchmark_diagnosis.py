"""The planted-cause benchmark: faults are planted as said, and one whole run of it at the smallest
size."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import planted
import planted_faults
import planted_score
from planted_cases import cases
from planted_faults import Case

from prefeval.harness.diagnose import diagnose


def pairs(n: int = 400) -> list[dict[str, Any]]:
    words = [f"w{i}" for i in range(30)]
    draw = random.Random(0)

    def turn() -> list[dict[str, str]]:
        return [{"role": "assistant", "content": " ".join(draw.choices(words, k=20))}]

    prompt = [{"role": "user", "content": "Say something."}]
    return [{"prompt": prompt, "chosen": turn(), "rejected": turn()} for _ in range(n)]


def case(plant: str, strength: float) -> Case:
    return Case("x", plant, "dpo", 0.1, 0, "tune", plant=plant, strength=strength)


def test_there_are_enough_runs_of_both_worlds() -> None:
    found = cases()
    healthy = [c for c in found if not c.cause]
    assert len(found) >= 300
    assert len(healthy) >= 150
    assert {c.world for c in found} == {"tune", "judge"}
    kinds = {c.plant for c in found if c.plant}
    known = {*planted_faults.TEXTS, *planted_faults.TOKENS, *planted.PATCHES}
    assert kinds <= {*known, "shaken_reference", "shaken_weights", "coin"}


def test_labels_are_swapped_in_their_share_and_nothing_else_changes() -> None:
    rows = pairs()
    out = planted_faults.swap(rows, case("swap", 0.3), random.Random(1))
    swapped = [a["chosen"] == b["rejected"] for a, b in zip(rows, out, strict=True)]
    assert 0.2 < sum(swapped) / len(rows) < 0.4
    assert all(a == b for a, b, s in zip(rows, out, swapped, strict=True) if not s)


def test_near_pairs_differ_in_a_word_and_foreign_ones_in_their_share() -> None:
    def apart(a: Any, b: Any) -> int:
        first, second = (x[0]["content"].split() for x in (a, b))
        return sum(x != y for x, y in zip(first, second, strict=True))

    near = planted_faults.near(pairs(), case("near", 1.0), random.Random(1))
    assert max(apart(r["chosen"], r["rejected"]) for r in near) == 1
    rows = pairs()
    foreign = planted_faults.foreign(rows, case("foreign", 0.2), random.Random(1))
    changed = sum(apart(a["chosen"], b["chosen"]) for a, b in zip(rows, foreign, strict=True))
    assert 0.15 < changed / (20 * len(rows)) < 0.25


def test_tokens_lose_their_end_gain_a_bos_or_are_cut() -> None:
    answer = [[1, 4, 9, 5], [7, 8, 2], False]
    draw = random.Random(0)
    assert planted_faults.no_end(answer, 1.0, draw) == [[1, 4, 9, 5], [7, 8], False]
    assert planted_faults.double_bos(answer, 1.0, draw) == [[1, 1, 4, 9, 5], [7, 8, 2], False]
    assert planted_faults.cut_off(answer, 2, draw) == [[1, 4, 9, 5], [7, 8], True]
    assert planted_faults.cut_off(answer, 3, draw) == answer


def test_an_answer_is_right_by_what_was_planted() -> None:
    def right(cause: str, said: str, accepted: tuple[str, ...] = ()) -> bool:
        made = Case("x", cause, "dpo", 0.1, 0, "tune", accepted=accepted)
        return planted_score._right(planted_score.Answer(made, said, True))

    assert right("overfit", "overfit")
    assert not right("overfit", "")
    assert right("compound", "b", ("a", "b"))
    assert not right("compound", "compound", ("a", "b"))


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PREFEVAL_CACHE", str(tmp_path / "cache"))
    size = {"seed": 0, "people": 16, "hidden": 48, "demonstrations": 640, "epochs": 1}
    monkeypatch.setitem(planted.WORLDS, "tune", size)
    monkeypatch.setitem(planted.LABELS, "plain", {"pairs": 96, "thumbs": 64})
    return tmp_path / "out"


def test_two_planted_runs_are_made_and_diagnosed(small_world: Path) -> None:
    def make(cause: str, plant: str) -> Path:
        made = Case(
            cause, cause, "dpo", 0.1, 0, "tune", plant=plant, prompts=8,
            settings={"max_steps": 6, "batch_size": 16},
        )  # fmt: skip
        folder = planted.make(made, small_world)
        assert not list(folder.rglob("model.safetensors"))
        return next((folder / "trials").iterdir())

    for cause, plant in (("bos_eos_broken", "no_end"), ("policy_is_reference", "own_reference")):
        (subject,) = diagnose.read(make(cause, plant))
        assert subject.diagnosis.findings[0].cause == cause
