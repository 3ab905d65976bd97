"""BFCL's files as a suite, and its rules. ``scripts/public_scores.py --suites bfcl`` compares
them with bfcl-eval's own checker."""

import json

import pytest

from prefeval.records import TOOLS, PrefevalError
from prefeval.suites.builtin import load_suite
from prefeval.suites.checks import check_prompt, has_loose_reading, run_check, validate_check


def function(name="f", required=(), **types):
    properties = {
        key: kind if isinstance(kind, dict) else {"type": kind} for key, kind in types.items()
    }
    return {
        "name": name,
        "description": "does it",
        "parameters": {"type": "dict", "properties": properties, "required": list(required)},
    }


LIST = {"type": "array", "items": {"type": "string"}}
FLOATS = {"type": "array", "items": {"type": "float"}}
OBJECTS = {"type": "array", "items": {"type": "dict"}}


@pytest.mark.parametrize(
    ("kind", "allowed", "value", "passes"),
    [
        ("string", ["New York", "NYC"], "'new york'", True),
        ("string", ["April 1, 2024"], "'April 1,2024'", True),
        ("string", ["April 1, 2024"], "'april_1.2024'", True),
        ("string", ["it's"], "'it\"s'", True),
        ("string", ["Oslo"], "'Bergen'", False),
        ("string", ["Oslo"], "['Oslo']", False),
        ("integer", [5], "5", True),
        ("integer", [5], "5.0", False),
        ("integer", [5], "'5'", False),
        ("integer", [1], "True", False),
        ("float", [5.0], "5", True),
        ("float", [5.5], "5.5", True),
        ("boolean", [True], "True", True),
        ("boolean", [True], "1", False),
        ("any", ["x"], "'X'", True),
        ("integer", ["n"], "'n'", True),  # a variable: the answer's type stands for the described
        ("integer", ["n"], "'N'", False),  # and is compared as it is written
        (LIST, [["a b", "C"]], "['A-B', 'c']", True),
        (LIST, [["a", "b"]], "['b', 'a']", False),
        (LIST, [["a", "b"]], "('a', 'b')", False),
        (LIST, [["a"]], "[1]", False),
        (FLOATS, [[1.0, 2.0]], "[1.0, 2.0]", True),
        (FLOATS, [[1.0, 2.0]], "[1, 2]", False),
        ({**LIST, "type": "tuple"}, [["a", "b"]], "('a', 'b')", True),
        ("dict", [{"city": ["Oslo", "Bergen"], "zip": ["", 5]}], "{'city': 'bergen'}", True),
        ("dict", [{"city": ["Oslo"], "zip": ["", 5]}], "{'city': 'Oslo', 'zip': 6}", False),
        ("dict", [{"city": ["Oslo"], "zip": [5]}], "{'city': 'Oslo'}", False),
        ("dict", [{"city": ["Oslo"]}], "{'city': 'Oslo', 'more': 1}", False),
        (OBJECTS, [[{"a": [1]}, {"a": [2]}]], "[{'a': 1}, {'a': 2}]", True),
        (OBJECTS, [[{"a": [1]}, {"a": [2]}]], "[{'a': 2}, {'a': 1}]", False),
        (OBJECTS, [[{"a": [1]}]], "[{'a': 1}, {'a': 1}]", False),
    ],
)
def test_values_match_by_bfcls_rules(kind, allowed, value, passes):
    check = {"kind": "bfcl", "functions": [function(x=kind)], "answers": [{"f": {"x": allowed}}]}
    assert run_check(check, f"[f(x={value})]") is passes


TWO = [function("f", ["x"], x="integer", y="string"), function("g", x="string")]


@pytest.mark.parametrize(
    ("answers", "text", "passes"),
    [
        ([{"f": {"x": [1], "y": ["", "a"]}}], "f(x=1)", True),
        ([{"f": {"x": [1], "y": ["", "a"]}}], "f(x=1, y='A')", True),
        ([{"f": {"x": [1], "y": ["", "a"]}}], "f(x=1, y='b')", False),
        ([{"f": {"x": [1], "y": ["a"]}}], "f(x=1)", False),
        ([{"f": {"x": ["", 1]}}], "f()", False),  # required, whatever the answer allows
        ([{"f": {"x": [1]}}], "f(x=1, z=2)", False),
        ([{"f": {"x": [1]}}], "g(x=1)", False),
        ([{"f": {"x": [1]}}], "[f(x=1), f(x=1)]", False),
        ([{"f": {"x": [1]}}], "One is the answer.", False),
        ([{"f": {"x": [1]}}, {"g": {"x": ["a"]}}], "[g(x='a'), f(x=1)]", True),
        ([{"f": {"x": [1]}}, {"f": {"x": [2]}}], "[f(x=2), f(x=1)]", True),
        ([{"f": {"x": [1]}}, {"f": {"x": [2]}}], "[f(x=2), f(x=2)]", False),
        ([{"f": {"x": [1, 2]}}, {"f": {"x": [1]}}], "[f(x=1), f(x=2)]", True),
        (
            [{"f": {"x": [1]}}],
            '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>',
            True,
        ),
    ],
)
def test_calls_match_each_once_in_any_order(answers, text, passes):
    assert run_check({"kind": "bfcl", "functions": TWO, "answers": answers}, text) is passes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": []}, "answers are empty"),
        ({"answers": [{"h": {}}]}, "call 'h', which its functions lack"),
        ({"answers": ["f(x=1)"]}, "not in BFCL's form"),
        ({"functions": [{"name": "f"}]}, "not in BFCL's form"),
        ({"functions": [function(x="HashMap")]}, "unknown type 'HashMap'"),
        ({"syntax": ["xml"]}, "unknown tool-call syntax"),
    ],
)
def test_a_faulty_check_is_named(change, message):
    check = {"kind": "bfcl", "functions": TWO, "answers": [{"f": {"x": [1]}}], **change}
    with pytest.raises(PrefevalError, match=message):
        validate_check(check)


QUESTION = {
    "id": "parallel_3",
    "question": [[{"role": "user", "content": "Do it with 1 and 2."}]],
    "function": [function("f", ["x"], x={"type": "tuple", "items": {"type": "float"}}, y="dict")],
}


def files(folder, *questions, answers=()):
    (folder / "possible_answer").mkdir()
    for place, rows in ((folder, questions), (folder / "possible_answer", answers)):
        text = "\n".join(map(json.dumps, rows))
        (place / "BFCL_v4_parallel.json").write_text(text, encoding="utf-8")
    return folder


def test_bfcls_files_are_a_suite_as_they_are(tmp_path):
    answer = {"id": "parallel_3", "ground_truth": [{"f": {"x": [[1.0]]}}, {"f": {"x": [[2.0]]}}]}
    unfit = {**QUESTION, "id": "live_irrelevance_0-1-2"}
    fit, none = sorted(load_suite(files(tmp_path, QUESTION, unfit, answers=[answer])),
                       key=lambda p: p.behaviour, reverse=True)  # fmt: skip
    assert (fit.id, fit.behaviour) == ("bfcl-parallel_3", "bfcl_parallel")
    assert none.behaviour == "bfcl_live_irrelevance"
    tools, asked = fit.messages
    assert (tools["role"], asked) == (TOOLS, {"role": "user", "content": "Do it with 1 and 2."})
    (tool,) = json.loads(tools["content"])
    assert tool["function"]["parameters"] == {  # JSON Schema's types, not BFCL's
        "type": "object",
        "properties": {"x": {"type": "array", "items": {"type": "number"}},
                       "y": {"type": "object"}},
        "required": ["x"],
    }  # fmt: skip
    assert check_prompt(fit, "[f(x=(2.0,)), f(x=(1.0,))]")
    assert not check_prompt(fit, "[f(x=(1.0,))]")
    assert has_loose_reading(fit.check)
    assert check_prompt(fit, "Here you are:\n[f(x=(2.0,)), f(x=(1.0,))]", loose=True)
    assert check_prompt(none, "I cannot do that with these functions.")
    assert not check_prompt(none, "f(x=[1.0])")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (QUESTION, "'parallel_3' has no answer; put its file into possible_answer/"),
        ({**QUESTION, "id": "simple_java_0"}, "of BFCL's category simple_java, which is not"),
        ({**QUESTION, "question": QUESTION["question"] * 2}, "one question"),
    ],
)
def test_what_cannot_be_checked_is_named_by_file_and_line(tmp_path, question, message):
    with pytest.raises(PrefevalError, match=rf"BFCL_v4_parallel\.json:1: .*{message}"):
        load_suite(files(tmp_path, question))


def test_all_of_bfcls_files_load_and_their_own_answers_pass(shared):
    """1498 questions; the first allowed value of every argument is a right call. In four questions
    no call is right, by bfcl-eval neither: two answers have an argument that the function has not,
    two have one without any allowed value."""
    prompts = load_suite(shared / "data/bfcl")
    assert len(prompts) == 1498

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(first(v)) for k, v in value.items() if first(v) is not None}
        return [plain(item) for item in value] if isinstance(value, list) else value

    def first(allowed):
        return next((value for value in allowed if value != ""), None)

    failed = []
    for prompt in (p for p in prompts if p.check["kind"] == "bfcl"):
        calls = []
        for name, wanted in (item for call in prompt.check["answers"] for item in call.items()):
            given = [f"{k}={plain(first(v))!r}" for k, v in wanted.items() if v != [""]]
            calls.append(f"{name}({', '.join(given)})")
        if not check_prompt(prompt, f"[{', '.join(calls)}]"):
            failed.append(prompt.id)
    assert failed == [
        "bfcl-live_simple_106-63-0", "bfcl-live_simple_112-68-0",
        "bfcl-parallel_multiple_12", "bfcl-parallel_multiple_26",
    ]  # fmt: skip
