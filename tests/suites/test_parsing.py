import json
from keyword import iskeyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval.suites.parsing import (
    ToolCall,
    equal_values,
    mentions,
    parse_json,
    parse_tool_calls,
    strip_fence,
)

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda n: not iskeyword(n))
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12), st.integers(-999, 999), st.booleans()
)
ARGUMENTS = st.dictionaries(NAMES, VALUES, max_size=3)


@given(NAMES, ARGUMENTS)
def test_one_call_reads_the_same_in_all_three_syntaxes(name, arguments):
    body = json.dumps({"name": name, "arguments": arguments})
    python = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    for text in (f"<tool_call>{body}</tool_call>", body, f"[{body}]", python, f"[{python}]"):
        assert parse_tool_calls(text) == [ToolCall(name, arguments)]


@given(st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_reads_back_bare_and_in_a_fence(value):
    text = json.dumps(value)
    assert parse_json(text) == value
    assert parse_json(f"```json\n{text}\n```") == value


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": 1, "a": 2}', "", "nul", "{'a': 1}"])
def test_what_only_looks_like_json_is_none(text):
    assert parse_json(text) is None


def test_loose_json_finds_the_first_object_within_prose_and_not_a_stray_bracket():
    assert parse_json('See [here: {"a": [1, 2]} and {"b": 2}.', loose=True) == {"a": [1, 2]}
    assert parse_json("no [bracket {closes", loose=True) is None


def test_a_fence_is_stripped_only_from_around_the_whole():
    assert strip_fence("```python\nx\n```") == "x"
    assert strip_fence("```\na\n```\ntext\n```\nb\n```").startswith("```")


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f", "arguments": {}}',  # never ended
        '<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>',
        '{"arguments": {}}',
        '{"name": 3, "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "{broken"}',
        '{"name": "f", "city": "Oslo"}',
        "f(1)",  # positional: no name to compare
        "f(**x)",
        "f(a=g())",
        "f(a=__import__('os'))",
        "(lambda: 0)()",
        "x = f(a=1)",
        "f(a=1); g()",
        "[]",
        "f",
        "5()",
    ],
)
def test_what_is_no_call_is_none(text):
    assert parse_tool_calls(text) is None


def test_calls_as_other_families_write_them():
    call = [ToolCall("f", {"a": 1})]
    assert parse_tool_calls('{"name": "f", "parameters": {"a": 1}}') == call
    assert parse_tool_calls('{"name": "f", "arguments": "{\\"a\\": 1}"}') == call
    assert (
        parse_tool_calls('I look.\n<tool_call>\n{"name":"f","arguments":{"a":1}}\n</tool_call>')
        == call
    )
    assert parse_tool_calls("```python\nf(a=1)\n```") == call
    assert parse_tool_calls("math.f(a=-1.5)") == [ToolCall("math.f", {"a": -1.5})]
    assert parse_tool_calls("f(a=1), g()") == [*call, ToolCall("g", {})]
    assert parse_tool_calls("(1, 2)") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (True, 1, False),
        (0, False, False),
        (5, 5.0, True),
        ("5", 5, False),
        ("New  York", "new york.", True),
        ("it’s", "it's", True),
        ([1, "A"], [1, "a"], True),
        ([1], [1, 2], False),
        ({"a": "X"}, {"a": "x"}, True),
        ({"a": 1}, {"b": 1}, False),
        (None, None, True),
        (None, "", False),
    ],
)
def test_values_are_the_same_when_a_reader_says_so(one, other, same):
    assert equal_values(one, other) is same
    assert equal_values(other, one) is same


@given(st.text(st.characters(categories=["L"]), min_size=1, max_size=8))
def test_an_answer_is_mentioned_as_a_word_and_not_within_one(word):
    assert mentions(f"It is {word}, I think.", word)
    assert not mentions(f"7 x{word}x 7.", word)


@pytest.mark.parametrize("text", ["12", "1.2", "2.1", "1,2", "-2", "x -2", "2,500", "2nd"])
def test_a_number_is_not_found_inside_another(text):
    assert not mentions(text, "2")


@pytest.mark.parametrize("text", ["2", "2.", "(2)", "2, or so", "2%", "2 - 2", "**2**"])
def test_a_number_is_found_beside_punctuation(text):
    assert mentions(text, "2")
