"""The script that scores the same answers here and by public harnesses, without the harnesses."""

import importlib
import json
import random
import sys
from pathlib import Path

import pytest

from prefeval.records import Message, Prompt
from prefeval.suites.checks import run_check

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ANSWER = [
    {"f": {"place": [{"city": ["Oslo", "Bergen"], "zip": ["", 5]}], "n": [3], "all": [True, ""]}}
]
TYPES = {"place": "dict", "n": "integer", "all": "boolean"}
PARAMETERS = {
    "properties": {name: {"type": kind} for name, kind in TYPES.items()},
    "required": ["place", "n"],
}
ROW = {"answer": ANSWER, "function": [{"name": "f", "parameters": PARAMETERS}]}


@pytest.fixture
def scripts(monkeypatch):
    if not SCRIPTS.is_dir():
        pytest.skip("scripts/ is not in this copy of the project")
    monkeypatch.syspath_prepend(SCRIPTS)
    yield importlib.import_module
    for name in ("public_scores", "public_scores_calls"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("[f(place={'city': 'Bergen'}, n=3)]", True),
        ("[f(place={'city': 'Oslo', 'zip': 5}, n=3, all=True)]", True),
        ("[f(place={'zip': 5}, n=3)]", False),
        ("[f(place={'city': 'Rome'}, n=3)]", False),
        ("[f(place={'city': ['Oslo', 'Bergen']}, n=3)]", False),
        ("f", False),
    ],
)
def test_objects_hold_lists_of_allowed_values(scripts, text, passes):
    assert run_check(scripts("public_scores_calls").call_check(ROW), text) == passes


def test_calls_are_made_right_and_wrong(scripts):
    calls = scripts("public_scores_calls")
    made = dict(calls.variants(ANSWER))
    passing = {way for way, text in made.items() if run_check(calls.call_check(ROW), text)}
    assert made[calls.FIRST] == "[f(place={'city': 'Oslo', 'zip': 5}, n=3, all=True)]"
    assert passing == {
        calls.FIRST, "the last allowed values", "optional ones left out",
        "no brackets", "a fence", "a fence that says python",
    }  # fmt: skip
    assert run_check(calls.call_check({"answer": []}), "I have no function for this.")
    assert not run_check(calls.call_check({"answer": []}), made[calls.FIRST])


def test_random_calls_are_right_and_wrong_and_the_same_again(scripts):
    calls = scripts("public_scores_calls")
    first, again = ([calls.random_calls(ANSWER, random.Random(i)) for i in range(60)] for _ in "ab")
    assert first == again
    assert {run_check(calls.call_check(ROW), text) for text in first} == {True, False}


def test_saved_answers_are_not_generated_again(scripts, tmp_path):
    script = scripts("public_scores")
    asked = []

    class Counting(script.Answers):
        def _generate(self, prompts):
            asked.extend(p.id for p in prompts)
            return [p.id.upper() for p in prompts]

    prompts = [
        Prompt(name, (Message(role="user", content=name),), "facts", "retention", name, None)
        for name in ("a", "b", "c")
    ]
    assert Counting(Path("model"), tmp_path).of("suite", prompts[:2]) == ["A", "B"]
    assert Counting(Path("model"), tmp_path).of("suite", prompts[::-1]) == ["C", "B", "A"]
    assert asked == ["a", "b", "c"]
    assert len((tmp_path / "suite.jsonl").read_text().splitlines()) == 3
    assert Counting(Path("another"), tmp_path).of("suite", prompts[:1]) == ["A"]
    assert asked == ["a", "b", "c", "a"]
    assert json.loads((tmp_path / "suite.jsonl").read_text().splitlines()[0])["id"] == "a"


def test_differences_are_counted_by_kind(scripts, capsys):
    script = scripts("public_scores")
    rows = [
        script.Row("1", True, True, "x"),
        script.Row("2", True, False, "y", "a sign"),
        script.Row("3", False, False, "z", "a sign"),
    ]
    (apart,) = script.print_scores([("Suite", "peer", rows)])
    assert apart == ("Suite, peer", rows[1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| Suite | 3 | 66.7 [")
    assert lines[2].endswith("| peer | 1 |")
    assert lines[-1] == "| Suite, peer | a sign | 1 | 0 |"
