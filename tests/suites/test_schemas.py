"""Checks of kind ``json_schema``."""

import json
import socket

import pytest

from prefeval.records import PrefevalError
from prefeval.suites.builtin import load_suite
from prefeval.suites.checks import has_loose_reading, run_check, validate_check

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}


def passes(schema, text, **fields):
    return run_check({"kind": "json_schema", "schema": schema, **fields}, text)


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        (PERSON, '{"name": "Ada", "age": 36}', True),
        (PERSON, '```json\n{"name": "Ada", "age": 36, "pets": ["cat"]}\n```', True),
        (PERSON, '{"name": "Ada", "age": 36.5}', False),
        (PERSON, '{"name": "Ada", "age": true}', False),
        (PERSON, '{"name": "Ada"}', False),
        (PERSON, '{"name": "", "age": 1}', False),
        (PERSON, '{"name": "Ada", "age": 1, "job": "x"}', False),
        (PERSON, '{"name": "Ada", "age": 1, "pets": ["cat", "fox"]}', False),
        (PERSON, '{"name": "Ada", "age": 1', False),
        (PERSON, "Ada is 36.", False),
        ({"type": "array", "minItems": 2}, "[1, 2]", True),
        ({"type": "null"}, "null", True),
        ({"type": "null"}, "nothing", False),
        ({}, "no JSON", False),
        (TREE, '{"left": {"right": {}}}', True),
        (TREE, '{"left": {"right": 3}}', False),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1,
          "exclusiveMinimum": True}, "1", False),
        ({"minimum": 1}, "1", True),
    ],
)  # fmt: skip
def test_a_schema_tells_right_from_wrong(schema, text, expected):
    assert passes(schema, text) is expected


def test_within_prose_it_passes_loosely_only():
    check, text = {"kind": "json_schema", "schema": PERSON}, 'Here: {"name": "A", "age": 1}. Bye'
    assert has_loose_reading(check)
    assert not run_check(check, text)
    assert run_check({**check, "loose": True}, text)
    assert not run_check({**check, "loose": True}, 'Here: {"name": "A"}. Bye')


@pytest.mark.parametrize("text", ["[" * 900 + "]" * 900, '{"left":' * 900 + "{}" + "}" * 900])
def test_what_is_nested_without_end_is_an_answer_and_no_error(text):
    assert passes({"items": {"$ref": "#"}, **TREE}, text) in (True, False)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "text"}, "schema is none at type: 'text' is not valid"),
        ({"properties": {"a": {"minimum": "3"}}}, "none at properties/a/minimum"),
        ({"$ref": "#/$defs/person"}, "refers to '#/\\$defs/person', which it lacks"),
        ({"items": {"$ref": "http://example.com/s"}}, "refers to 'http://example.com/s'"),
        ({"$ref": "#"}, "refers to itself without end"),
        ("object", "schema must be a dict"),
    ],
)
def test_a_faulty_schema_is_named_without_asking_the_network(monkeypatch, schema, message):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(PrefevalError, match=message):
        validate_check({"kind": "json_schema", "schema": schema})


def test_a_faulty_schema_in_a_suite_is_named_by_file_and_line(tmp_path):
    row = {"id": "a", "prompt": "?", "behaviour": "json"}
    rows = [
        {**row, "check": {"kind": "json_schema", "schema": {}}},
        {**row, "id": "b", "check": {"kind": "json_schema", "schema": {"required": "name"}}},
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(PrefevalError, match=r"mine\.jsonl:2: check: json_schema's schema is none"):
        load_suite(tmp_path)
