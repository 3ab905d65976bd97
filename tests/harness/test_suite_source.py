"""Suites by name: files, tables that ``datasets`` reads, and a hub that is away."""

import json
from pathlib import Path

import datasets
import pytest

from prefeval.harness import suite_source
from prefeval.records import PrefevalError
from prefeval.suites.builtin import BEHAVIOURS
from prefeval.suites.checks import check_prompt

ROWS = [
    {"id": "a", "prompt": "Bullets?", "behaviour": "lists", "check": {"kind": "bullets", "n": 2}},
    {"id": "b", "prompt": "Oslo?", "behaviour": "facts",
     "check": {"kind": "contains_any", "answers": ["Norway"]}},
]  # fmt: skip


def table(folder: Path, rows: list, split: str = "test") -> Path:
    """A folder as a hub's data set lies in one."""
    (folder / "data").mkdir(parents=True)
    found = datasets.Dataset.from_list(rows)
    found.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def test_a_table_that_fills_every_row_up_is_the_suite_that_it_was_made_of(tmp_path):
    a, b = suite_source.load(f"{table(tmp_path / 'mine', ROWS)}:test")
    assert (a.check, b.check) == (ROWS[0]["check"], ROWS[1]["check"])  # no empty fields
    assert check_prompt(a, "- x\n- y")
    assert not check_prompt(b, "- x\n- y")


def test_checks_may_be_json_and_the_split_is_train_unless_said(tmp_path):
    rows = [{**row, "check": json.dumps(row["check"])} for row in ROWS]
    folder = table(tmp_path / "mine", rows, "train")
    assert [p.check for p in suite_source.load(str(folder))] == [row["check"] for row in ROWS]
    with pytest.raises(PrefevalError, match="test"):
        suite_source.load(f"{folder}:test")


def test_gsm8ks_rows_and_ifevals_come_from_a_table_too(tmp_path):
    rows = [{"question": "2 and 3?", "answer": "#### 5"}]
    (prompt,) = suite_source.load(f"{table(tmp_path / 'gsm8k', rows)}:test")
    assert check_prompt(prompt, "It is 5.")
    pytest.importorskip("if_verifiable", reason="needs the extra 'ifeval'")
    rows = [
        {"key": 1, "instruction_id_list": ["punctuation:no_comma"],
         "kwargs": [{"num_words": None}]},
        {"key": 2, "instruction_id_list": ["length_constraints:number_words"],
         "kwargs": [{"num_words": 10, "relation": "at least"}]},
    ]  # fmt: skip
    rows = [{"prompt": "Write.", **row} for row in rows]
    first, second = suite_source.load(f"{table(tmp_path / 'ifeval', rows)}:test")
    assert check_prompt(first, "no such sign here")
    assert not check_prompt(second, "too short")


def test_a_row_at_fault_is_named(tmp_path):
    folder = table(tmp_path / "mine", [*ROWS, {**ROWS[0], "id": "c", "check": {"kind": "jsn"}}])
    with pytest.raises(PrefevalError, match=r"mine:test: row 2: .*unknown kind 'jsn'"):
        suite_source.load(f"{folder}:test")
    with pytest.raises(PrefevalError, match=r"row 1: id 'a' is taken by .*row 0"):
        suite_source.load(f"{table(tmp_path / 'twice', ROWS[:1] * 2)}:test")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("owner/no-such-suite", "owner/no-such-suite is no file here and could not be loaded"),
        ("owner/no-such-suite:main:test", "check the name, the split 'test' and the network"),
        ("owner/name:a:b:c", "give NAME, NAME:SPLIT or NAME:CONFIGURATION:SPLIT"),
        ("nowhere", "no suite 'nowhere'; give 'builtin'"),
    ],
)
def test_what_is_not_there_is_an_error_of_one_line(monkeypatch, source, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PrefevalError, match=message) as found:
        suite_source.load(source)
    assert "\n" not in str(found.value)


def test_files_and_the_built_in_suite_come_as_ever(tmp_path):
    assert {p.behaviour for p in suite_source.load("builtin")} == set(BEHAVIOURS)
    with pytest.raises(PrefevalError, match=r"has no \.jsonl file"):
        suite_source.load(str(tmp_path))
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    assert [p.id for p in suite_source.load(str(tmp_path))] == ["a", "b"]
    assert [p.id for p in suite_source.load(str(tmp_path / "mine.jsonl"))] == ["a", "b"]
