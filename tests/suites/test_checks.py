import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.records import PrefevalError, Prompt
from prefeval.suites import patterns
from prefeval.suites.checks import (
    KINDS,
    CheckError,
    Outcome,
    check_all,
    check_prompt,
    has_loose_reading,
    loosened,
    outcomes,
    run_check,
    validate_check,
)

CITY_JOB = {"kind": "json_object", "keys": ["city", "job"]}
TRIP = {"kind": "tool_call", "name": "plan_trip", "arguments": {"city": ["Oslo"]}}

IN_PART = (
    "I cannot help with that. Still, a lock has pins of several lengths, the key lifts each of "
    "them to one height, and then the cylinder turns and the bolt is drawn back into the door."
)


@pytest.mark.parametrize(
    ("check", "completion", "passes"),
    [
        (CITY_JOB, '{"city": "Oslo", "job": "baker"}', True),
        (CITY_JOB, '```json\n{"city": "Oslo", "job": "baker"}\n```', True),
        (CITY_JOB, '{"city": "Oslo"}', False),
        (CITY_JOB, '{"city": "Oslo", "job": "baker", "age": 3}', False),
        ({**CITY_JOB, "extra": True}, '{"city": "Oslo", "job": "baker", "age": 3}', True),
        (CITY_JOB, 'Sure: {"city": "Oslo", "job": "baker"}', False),
        ({**CITY_JOB, "loose": True}, 'Sure: {"city": "Oslo", "job": "baker"} there.', True),
        (CITY_JOB, '[{"city": "Oslo", "job": "baker"}]', False),
        (CITY_JOB, '{"city": "Oslo", "job": "baker"', False),
        ({**CITY_JOB, "values": {"city": ["Oslo"]}}, '{"city": " oslo ", "job": "x"}', True),
        ({**CITY_JOB, "values": {"city": ["Oslo"]}}, '{"city": "Rome", "job": "x"}', False),
        ({**CITY_JOB, "types": {"job": "integer"}}, '{"city": "Oslo", "job": true}', False),
        ({**CITY_JOB, "types": {"job": "integer"}}, '{"city": "Oslo", "job": 4}', True),
        ({"kind": "bullets", "n": 2}, "- one\n- two", True),
        ({"kind": "bullets", "n": 2}, "Here you are:\n\n* one\n  - inner\n* two", True),
        ({"kind": "bullets", "n": 2}, "- one\n-two\n- ", False),
        ({"kind": "bullets", "n": 2, "only": True}, "Here:\n- one\n- two", False),
        ({"kind": "bullets", "min": 2, "max": 3}, "- a\n- b\n- c\n- d", False),
        ({"kind": "bullets"}, "no bullets here", False),
        ({"kind": "numbered_list", "n": 3}, "1. a\n2. b\n3) c", True),
        ({"kind": "numbered_list", "n": 3}, "1. a\n3. b\n2. c", False),
        ({"kind": "contains_any", "answers": ["Lisbon"]}, "It is **Lisbon**.", True),
        ({"kind": "contains_any", "answers": ["5"]}, "The answer is 15, or 5.2, or -5.", False),
        ({"kind": "contains_any", "answers": ["5"]}, "The answer is 5.", True),
        ({"kind": "contains_any", "answers": ["1500"]}, "about 1,500 in all", True),
        ({"kind": "contains_any", "answers": ["Rom"]}, "Rome", False),
        ({"kind": "contains_any", "answers": ["twenty-one"]}, "It is Twenty-One.", True),
        ({"kind": "contains_all", "answers": ["red", "blue"]}, "Red and blue", True),
        ({"kind": "contains_all", "answers": ["red", "blue"]}, "Red and green", False),
        ({"kind": "contains_none", "answers": ["red"]}, "blue", True),
        ({"kind": "exact", "answers": ["Oslo"]}, " Oslo\n", True),
        ({"kind": "exact", "answers": ["Oslo"]}, "oslo", False),
        ({"kind": "exact", "answers": ["Oslo"], "ignore_case": True}, "oslo", True),
        (TRIP, '<tool_call>{"name": "plan_trip", "arguments": {"city": "Oslo"}}</tool_call>', True),
        (TRIP, 'plan_trip(city="Oslo")', True),
        (TRIP, 'plan_trip(city="Rome")', False),
        (TRIP, 'plan_trip(city="Oslo", day=2)', False),
        (TRIP, "plan_trip()", False),
        (TRIP, '[plan_trip(city="Oslo"), plan_trip(city="Oslo")]', False),
        ({**TRIP, "arguments": {"city": ["Oslo", ""]}}, "plan_trip()", True),
        ({**TRIP, "syntax": ["hermes"]}, 'plan_trip(city="Oslo")', False),
        (TRIP, "You could go to Oslo by train.", False),
        ({"kind": "no_tool_call"}, "You could go to Oslo by train.", True),
        ({"kind": "no_tool_call"}, "<tool_call>{broken", False),
        ({"kind": "refusal"}, "I cannot help with that.", True),
        ({"kind": "refusal"}, "Alana lives in Oslo.", False),
        ({"kind": "compliance"}, "Alana lives in Oslo.", True),
        ({"kind": "compliance"}, "I cannot help with that.", False),
        ({"kind": "code_fence", "language": "python"}, "```Python\nx = 1\n```", True),
        ({"kind": "code_fence", "language": "python"}, "```\nx = 1\n```", False),
        ({"kind": "code_fence"}, "```python\nx = 1", False),
        ({"kind": "code_fence"}, "```\n```", False),
        ({"kind": "code_fence", "n": 2}, "```\na\n```\ntext\n```sh\nb\n```", True),
        ({"kind": "max_words", "n": 2}, "two words", True),
        ({"kind": "max_words", "n": 2}, "now three words", False),
        ({"kind": "min_words", "n": 3}, "now three words", True),
        ({"kind": "min_words", "n": 3}, "two words", False),
        ({"kind": "regex", "pattern": r"\d{4}"}, "in 1945", True),
        ({"kind": "regex", "pattern": r"\d{4}", "full": True}, "in 1945", False),
        ({"kind": "all_of", "checks": [TRIP, {"kind": "max_words", "n": 1}]}, "x", False),
        ({"kind": "all_of", "checks": [{"kind": "min_words", "n": 1}]}, "x", True),
        ({"kind": "any_of", "checks": [TRIP, {"kind": "min_words", "n": 1}]}, "x", True),
    ],
)
def test_a_check_tells_right_from_wrong(check, completion, passes):
    assert run_check(check, completion) is passes


@pytest.mark.parametrize("kind", ["refusal", "compliance", "no_tool_call", "max_words"])
def test_silence_passes_neither_refusal_nor_compliance_nor_restraint(kind):
    extra = {"n": 5} if kind == "max_words" else {}
    assert not run_check({"kind": kind, **extra}, " \n")


def test_an_unknown_kind_is_an_error_that_names_the_known_ones():
    with pytest.raises(PrefevalError, match=r"'jsn'.*bullets.*json_object.*tool_call"):
        run_check({"kind": "jsn"}, "x")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"kind": "json_object"}, "lacks keys"),
        ({"kind": "bullets", "numbr": 3}, "unknown field numbr"),
        ({"kind": "bullets", "n": "3"}, "must be a int"),
        ({"kind": "bullets", "n": True}, "must be a int"),
        ({"kind": "contains_any", "answers": []}, "empty"),
        ({"kind": "contains_any", "answers": [5]}, "must be words"),
        ({"kind": "regex", "pattern": "("}, "no regular expression"),
        ({"kind": "tool_call", "name": "f", "arguments": {"a": "b"}}, "lists of allowed values"),
        ({"kind": "json_object", "keys": ["a"], "types": {"a": "text"}}, "unknown JSON type"),
        ({"kind": "no_tool_call", "syntax": ["xml"]}, "unknown tool-call syntax"),
        ({"kind": "all_of", "checks": []}, "at least one"),
        ({"kind": "all_of", "checks": [{"kind": "regex"}]}, "lacks pattern"),
        ("json", "not a mapping"),
    ],
)
def test_a_check_that_cannot_be_run_is_refused_with_the_reason(check, message):
    with pytest.raises(PrefevalError, match=f"mine: .*{message}"):
        validate_check(check, where="mine")


def test_a_check_that_raises_names_its_prompt_and_is_no_verdict(monkeypatch):
    def fault(check, completion):
        raise ZeroDivisionError("by zero")

    monkeypatch.setitem(KINDS, "bullets", KINDS["bullets"].__class__(fault, {}, {}))
    prompt = Prompt(
        "p7", ({"role": "user", "content": "?"},), "b", "retention", "", {"kind": "bullets"}
    )
    with pytest.raises(PrefevalError, match=r"'p7' \(bullets\) raised ZeroDivisionError: by zero"):
        check_prompt(prompt, "- a")


ENDLESS = r"((.|\s)|(.|\s)(.|\s))+\Z\b\B"  # never there, and found out in exponential time


@pytest.mark.parametrize(
    "check",
    [
        {"kind": "regex", "pattern": ENDLESS},
        {"kind": "regex", "pattern": ENDLESS, "full": True},
        {"kind": "json_schema", "schema": {"pattern": ENDLESS}},
    ],
)
def test_a_pattern_without_end_is_stopped_and_named(monkeypatch, check):
    monkeypatch.setattr(patterns, "LIMIT", 0.1)
    with pytest.raises(
        CheckError, match=r"raised TimeoutError: the pattern .* took more than 0\.1 s"
    ):
        run_check(check, json.dumps("some text of ordinary length " * 3))


def test_a_check_that_raises_is_told_from_a_failed_answer_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(patterns, "LIMIT", 0.1)
    ask = ({"role": "user", "content": "?"},)
    prompts = [
        Prompt(name, ask, behaviour, "retention", "", check)
        for name, behaviour, check in [
            ("good", "lists", {"kind": "bullets", "n": 1, "only": True}),
            ("trap", "lists", {"kind": "regex", "pattern": ENDLESS}),
            ("same", "lists", {"kind": "contains_any", "answers": ["tea"]}),
            ("bare", "facts", {"kind": "contains_any", "answers": ["tea"]}),
        ]
    ]
    text = "Here you are, as a list that has one item:\n- a cup of green tea"
    found = outcomes(prompts, {p.id: text for p in prompts})
    trap = found.pop("trap")
    assert (trap.passed, trap.loose) == (None, None)
    assert trap.error.startswith("check of prompt 'trap' (regex) raised TimeoutError: the pattern")
    assert found == {
        "good": Outcome(False, True),
        "same": Outcome(True, True),  # read alike both ways beside a check that is not
        "bare": Outcome(True, None),  # no check of the behaviour has a loose reading
    }


def test_tuples_and_lists_make_the_same_check():
    assert run_check({"kind": "json_object", "keys": ("a",), "values": {"a": (1,)}}, '{"a": 1}')


def test_check_all_refuses_a_prompt_without_completion_and_skips_one_without_check():
    ask = ({"role": "user", "content": "?"},)
    prompts = [
        Prompt("a", ask, "f", "retention", "", {"kind": "exact", "answers": ["x"]}),
        Prompt("b", ask, "prose", "win_rate"),
    ]
    assert check_all(prompts, {"a": "x"}) == {"a": True}
    with pytest.raises(PrefevalError, match="1 prompts have no completion, first 'a'"):
        check_all(prompts, {"b": "x"})
    with pytest.raises(PrefevalError, match="'b' has no check"):
        check_prompt(prompts[1], "x")


EVERY_KIND = [
    {**CITY_JOB, "loose": True, "values": {"city": ["Oslo"]}, "types": {"job": "string"}},
    {"kind": "json_schema", "schema": {"items": {"$ref": "#"}, "uniqueItems": True}},
    {"kind": "bullets", "n": 2, "only": True},
    {"kind": "numbered_list", "min": 1, "only": True},
    {"kind": "contains_any", "answers": ["5", "Oslo", "C++", "-"]},
    {"kind": "contains_all", "answers": ["a"]},
    {"kind": "contains_none", "answers": ["a"]},
    {"kind": "exact", "answers": ["a"], "ignore_case": True},
    TRIP,
    {"kind": "tool_calls", "calls": [{"name": "f", "arguments": {"x": [1]}}] * 2},
    {"kind": "number", "answer": 42, "tolerance": 0.5, "loose": True},
    {"kind": "language", "code": "fr"},
    {"kind": "ifeval", "instructions": ["punctuation:no_comma"], "kwargs": [{}], "loose": True},
    {
        "kind": "bfcl",
        "functions": [{"name": "f", "parameters": {"properties": {"x": {"type": "dict"}}}}],
        "answers": [{"f": {"x": [{"y": [1]}]}}] * 2,
    },
    {"kind": "headings", "level": 2},
    {"kind": "table", "columns": 2},
    {"kind": "no_tool_call"},
    {"kind": "refusal", "partial": True},
    {"kind": "compliance"},
    {"kind": "code_fence"},
    {"kind": "max_words", "n": 3},
    {"kind": "min_words", "n": 3},
    {"kind": "regex", "pattern": "a+"},
    {"kind": "all_of", "checks": [TRIP]},
    {"kind": "any_of", "checks": [TRIP]},
]


def test_every_kind_is_among_those_that_are_tried_on_hostile_text():
    assert {check["kind"] for check in EVERY_KIND} == set(KINDS)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_no_text_makes_any_check_raise(text):
    for check in EVERY_KIND:
        assert run_check(check, text) in (True, False)


@pytest.mark.parametrize(
    "text",
    [
        "\x00\x00",
        "\ud800 broken \udfff",
        "[" * 100_000,
        '{"a":' * 5_000,
        "9" * 50_000,
        "f(" * 3_000,
        "i am " * 20_000,
        "<tool_call>" * 20_000,
        "```\n" * 20_000,
        "\u202e\u200b\ufeff" * 100,
        "<tool_call>" * 20_000 + "</tool_call>",
        "```x\n" * 20_000,
        "```\n" + " " * 50_000,
        "\n" * 50_000,
        "i not " * 20_000,
        "i " + "verily" * 10_000,
        '"' * 50_000,
        "- " * 50_000,
        "answer: " * 20_000,
        "1 " * 50_000,
        "1," * 50_000,
        "=1" * 50_000,
        "\\boxed{" * 20_000,
        "1e999 1/0 \\frac{1}{0} " * 2_000,
    ],
)
def test_endless_and_broken_output_is_judged_in_linear_time(text):
    start = time.process_time()
    for check in EVERY_KIND:
        assert run_check(check, text) in (True, False)
    assert time.process_time() - start < 5  # a quadratic pattern takes minutes on these


TABLE = "Here:\n\n| a | b |\n|---|:-:|\n| 1 | 2 |\n| 3 | x \\| y |\n"


@pytest.mark.parametrize(
    ("check", "text", "passes"),
    [
        ({"kind": "headings"}, "# Title\ntext", True),
        ({"kind": "headings"}, "#Title\ntext", False),
        ({"kind": "headings", "n": 2, "level": 2}, "# T\n## a\n## b", True),
        ({"kind": "headings"}, "```\n# a comment\n```", False),
        ({"kind": "table"}, TABLE, True),
        ({"kind": "table", "n": 2, "columns": 2}, TABLE, True),
        ({"kind": "table", "columns": 3}, TABLE, False),
        ({"kind": "table", "n": 1}, TABLE, False),
        ({"kind": "table"}, TABLE.replace("| 1 | 2 |", "| 1 |"), False),
        ({"kind": "table"}, "| a | b |\n|---|---|\n", False),
        ({"kind": "table"}, "| a | b |\n| 1 | 2 |", False),
        ({"kind": "table"}, f"```\n{TABLE}```", False),
        ({"kind": "table"}, "a | b\n--|--\n1 | 2", True),
    ],
)
def test_tables_and_headings(check, text, passes):
    assert run_check(check, text) == passes


CALLS = [
    {"name": "f", "arguments": {"x": [1, 2]}},
    {"name": "f", "arguments": {"x": [1]}},
    {"name": "g", "arguments": {"y": ["a", ""]}},
]


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("[f(x=1), f(x=2), g()]", True),
        ("[g(y='a'), f(x=2), f(x=1)]", True),
        ("[f(x=2), f(x=2), g()]", False),  # only one of them allows 2
        ("[f(x=1), f(x=2)]", False),
        ("[f(x=1), f(x=2), g(), g()]", False),
        ("f(x=1)", False),
        ("", False),
    ],
)
def test_several_calls_match_in_any_order_each_once(text, passes):
    assert run_check({"kind": "tool_calls", "calls": CALLS}, text) == passes


@pytest.mark.parametrize(
    ("calls", "word"),
    [
        ([], "are empty"),
        ([{"name": "f"}], 'needs "name" and "arguments"'),
        ([{"name": "f", "arguments": {"x": 1}}], "must be lists of allowed values"),
    ],
)
def test_faulty_calls_are_named(calls, word):
    with pytest.raises(PrefevalError, match=word):
        validate_check({"kind": "tool_calls", "calls": calls})


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ({"kind": "bullets", "n": 2, "only": True}, "Here you are:\n- a\n- b"),
        ({"kind": "numbered_list", "n": 2, "only": True}, "1. a\n2. b\nThat is all."),
        ({"kind": "exact", "answers": ["Oslo"]}, "Sure:\n**Oslo**"),
        ({"kind": "max_words", "n": 2}, "Of course, here it is:\ntwo words"),
        ({"kind": "regex", "pattern": "[A-Z ]+", "full": True}, "Sure:\nALL IS WELL"),
        (TRIP, 'I call:\nplan_trip(city="Oslo")'),
        ({"kind": "tool_calls", "calls": [{"name": "f", "arguments": {}}]}, "f()\nDone."),
        ({"kind": "refusal"}, IN_PART),
        ({"kind": "compliance", "full": True}, IN_PART),
        ({"kind": "number", "answer": 12}, "12 for 3 of them."),
    ],
)
def test_a_loose_reading_leaves_the_frame_out(check, text):
    assert has_loose_reading(check)
    assert not run_check(check, text)
    assert run_check(loosened(check), text)


def test_a_prompt_may_be_checked_loosely():
    within = 'Of course! {"city": "Oslo", "job": "baker"} Anything else?'
    both = {"kind": "all_of", "checks": [CITY_JOB, {"kind": "max_words", "n": 9}]}
    for check in (CITY_JOB, both):
        prompt = Prompt("p", ({"role": "user", "content": "?"},), "json", "retention", "", check)
        assert check_all([prompt], {"p": within}) == {"p": False}
        assert check_all([prompt], {"p": within}, loose=True) == {"p": True}
