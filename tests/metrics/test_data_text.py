"""Edit distance and near duplicates beside naive computations."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval.metrics.data import text as data_text


def naive_distance(a: Sequence[object], b: Sequence[object]) -> int:
    """The table of Wagner and Fischer, cell by cell."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@given(st.text("abc", max_size=90), st.text("abcd", max_size=90))
def test_edit_distance_is_that_of_the_whole_table(a: str, b: str) -> None:
    assert data_text.edit_distance(a, b) == naive_distance(a, b)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("", "", 1.0),
        ("same words", "Same  words", 1.0),
        ("a b c d", "a b c e", 0.75),
        ("a", "b", 0),
    ],
)
def test_similarity_counts_words_and_not_case(a: str, b: str, expected: float) -> None:
    assert data_text.similarity(a, b) == expected


def test_jaccard_is_shared_over_all_runs_of_three_words() -> None:
    a, b = data_text.shingles("one two three four five"), data_text.shingles("one two three four")
    assert data_text.jaccard(a, b) == 2 / 3
    assert data_text.jaccard(a, a) == 1
    assert data_text.jaccard(a, data_text.shingles("quite other words here")) == 0


def test_near_duplicates_are_those_that_all_comparisons_find() -> None:
    draw = random.Random(0)
    words = [f"w{i}" for i in range(400)]
    rows: list[tuple[str, str]] = []
    for _ in range(60):
        text = [draw.choice(words) for _ in range(60)]
        answer = [draw.choice(words) for _ in range(60)]
        rows.append((" ".join(text), " ".join(answer)))
        for changes in draw.choice([(), (1,), (1, 2), (12,)]):
            near = list(answer)
            for _ in range(changes):
                near[draw.randrange(60)] = "other"
            rows.append((" ".join(text), " ".join(near)))
    sets = [[data_text.shingles(t) for t in row] for row in rows]

    def near_one(i: int) -> bool:
        return any(
            all(data_text.jaccard(x, y) >= 0.8 for x, y in zip(sets[i], sets[j], strict=True))
            for j in range(i)
        )

    expected = [near_one(i) for i in range(len(rows))]
    assert 10 < sum(expected) < len(rows) - 60
    assert (data_text.near_duplicates(rows) >= 0).tolist() == expected


def test_answers_alike_to_other_prompts_are_no_duplicates() -> None:
    answer = "I am sorry but I cannot help you with that request today."
    rows = [("How do I bake a cake for ten people?", answer), ("Who won the cup in 1990?", answer)]
    assert data_text.near_duplicates(rows).tolist() == [-1, -1]


def test_empty_and_short_texts_are_taken() -> None:
    assert data_text.near_duplicates([("", ""), ("a", ""), ("", "")]).tolist() == [-1, -1, 0]
    assert data_text.near_duplicates([]).tolist() == []
