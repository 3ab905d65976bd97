"""Checks that raise: named, counted, and neither passed nor failed."""

import time

import numpy as np
import pandas as pd
import pytest

from prefeval import metrics, records
from prefeval.harness.check_notes import check_notes
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.retention import changes
from prefeval.records import Prompt
from prefeval.suites import checks, patterns

ENDLESS = "(a|aa)+$"
TRAP = "a" * 60 + "!"


def prompt(name, check):
    return Prompt(name, ({"role": "user", "content": "?"},), "form", "retention", "", check)


def test_a_pattern_that_takes_for_ever_is_ended(monkeypatch):
    monkeypatch.setattr(patterns, "LIMIT", 0.2)
    start = time.monotonic()
    with pytest.raises(checks.CheckError, match=r"prompt 'p'.*took more than 0.2 s"):
        checks.run_check({"kind": "regex", "pattern": ENDLESS}, TRAP, prompt_id="p")
    assert time.monotonic() - start < 5


def test_only_the_answer_on_which_a_check_raises_has_no_verdict(monkeypatch):
    monkeypatch.setattr(patterns, "LIMIT", 0.2)
    check = {"kind": "regex", "pattern": ENDLESS}
    found = checks.outcomes([prompt("a", check), prompt("b", check)], {"a": "aaa", "b": TRAP})
    assert found["a"].passed is True
    assert found["b"].passed is None
    assert "prompt 'b'" in found["b"].error


def test_a_prompt_on_which_a_check_raised_counts_for_neither_model():
    rows = pd.DataFrame(
        {
            "prompt_id": list("abcd"), "cluster": "", "behaviour": "form",
            "passed": [1, 0, None, 1], "ref_passed": [1, 1, 1, None],
        }
    )  # fmt: skip
    evidence = Evidence(checks=rows)
    found = metrics.compute(evidence, np.random.default_rng(0), ["retention"])
    named = {r.name: r for r in found}
    assert (named["unchecked_form"].value, named["unchecked_form"].n) == (2, 4)
    assert (named["retention_form"].value, named["retention_form"].n) == (50, 2)
    assert named["change_form"].value == -50
    assert [c.n for c in changes(evidence.checks)] == [2]


def test_a_behaviour_of_which_every_check_raised_is_undefined():
    rows = pd.DataFrame(
        {"prompt_id": ["a"], "cluster": "", "behaviour": "form", "passed": [None],
         "ref_passed": [1]}
    )  # fmt: skip
    found = metrics.compute(Evidence(checks=rows), np.random.default_rng(0), ["retention"])
    named = {r.name: r for r in found}
    assert np.isnan(named["retention_form"].value)
    assert named["change_form"].reason


def test_what_raised_is_said_in_one_line(tmp_path):
    assert check_notes(tmp_path) == []
    folder = tmp_path / "checkpoints" / "one"
    folder.mkdir(parents=True)
    records.write_jsonl(
        folder / "checks.jsonl",
        [
            {"prompt_id": "a", "passed": 1},
            {"prompt_id": "b", "passed": None, "error": "check of prompt 'b' (regex) raised X"},
        ],
    )
    (line,) = check_notes(tmp_path)
    assert line.startswith("1 answers to 1 prompts could not be checked")
    assert "first, in checkpoints/one, the check of prompt 'b' (regex) raised X" in line
