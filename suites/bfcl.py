"""The Berkeley Function Calling Leaderboard's questions, and its rules for what a right call is.

A file holds JSON lines of ``id``, ``question`` and ``function``; ``possible_answer/`` beside it a
file of the same name with ``id`` and ``ground_truth`` (https://gorilla.cs.berkeley.edu, the AST
categories for Python, Apache-2.0). Questions of the irrelevance categories have no answers: there
a call is wrong.

The rules are those of bfcl-eval's ast_checker: every wanted call has a call of its own, in any
order; a value has the described type (whole numbers pass as floats) or, as a variable would, the
type of the answer; an argument is left out where "" is among its allowed values; texts are compared
without case, blanks and ``,./-_*^``. Where two wanted calls both fit a call, an assignment that
fits all is looked for; bfcl-eval takes the first that comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefeval.suites import parsing

ANSWERS = "possible_answer"
_TYPES: Mapping[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list,
    "tuple": list, "dict": dict, "any": str,
}  # fmt: skip
_JSON_TYPES = {"float": "number", "dict": "object", "tuple": "array", "any": "string"}


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of BFCL's questions."""
    return {"id", "question", "function"} <= set(row)


def answers_beside(path: Path) -> dict[str, list[Any]]:
    """The answers of a file of questions by id; empty where there are none beside it."""
    beside = path.parent / ANSWERS / path.name
    if not beside.is_file():
        return {}
    rows = map(json.loads, filter(str.strip, beside.read_text(encoding="utf-8").splitlines()))
    return {row["id"]: row["ground_truth"] for row in rows}


def as_row(row: Mapping[str, Any], answers: Mapping[str, list[Any]]) -> dict[str, Any]:
    """A question as a suite's row; raises ``ValueError`` with what is wrong with it.

    The functions go to the model as tools. The behaviour is the category: ``bfcl_parallel``.
    """
    category = re.sub(r"(_\d+)?(-\d+)*$", "", str(row["id"]))
    questions, functions = row["question"], row["function"]
    if "java" in category or len(questions) != 1 or not isinstance(questions[0], list):
        raise ValueError(
            f"{row['id']!r} is of BFCL's category {category}, which is not among those that are "
            "checked here (one question, Python's types); leave its file out"
        )
    if row["id"] in answers:
        check = {"kind": "bfcl", "functions": functions, "answers": answers[row["id"]]}
    elif "irrelevance" in category:
        check = {"kind": "no_tool_call"}
    else:
        raise ValueError(f"{row['id']!r} has no answer; put its file into {ANSWERS}/ beside it")
    return {
        "id": f"bfcl-{row['id']}", "messages": questions[0], "behaviour": f"bfcl_{category}",
        "tools": [_as_tool(function) for function in functions], "check": check,
    }  # fmt: skip


def _as_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function's description as OpenAI and Hugging Face write tools."""
    described = {**function, "parameters": _as_schema(function["parameters"])}
    return {"type": "function", "function": described}


def _as_schema(value: Any) -> Any:
    """BFCL's types as JSON Schema's."""
    if isinstance(value, Mapping):
        return {
            key: _JSON_TYPES.get(part, part)
            if key == "type" and isinstance(part, str)
            else _as_schema(part)
            for key, part in value.items()
        }
    return [_as_schema(part) for part in value] if isinstance(value, list) else value


def fault(check: Mapping[str, Any]) -> str:
    """What is wrong with a check's fields, in words; "" when nothing is."""
    try:
        known = {f["name"]: f["parameters"]["properties"] for f in check["functions"]}
        types = {d["type"] for properties in known.values() for d in properties.values()}
        asked = [(name, dict(wanted)) for call in check["answers"] for name, wanted in call.items()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"bfcl's functions or answers are not in BFCL's form ({error!r}); correct them"
    if not asked:
        return "bfcl's answers are empty; give at least one call, or use no_tool_call"
    if unknown := sorted({name for name, _ in asked} - set(known)):
        return f"bfcl's answers call {unknown[0]!r}, which its functions lack; describe it"
    if unknown := sorted(types - set(_TYPES)):
        return f"unknown type {unknown[0]!r} in bfcl's functions; known: {', '.join(_TYPES)}"
    return ""


def passes(calls: Sequence[parsing.ToolCall], check: Mapping[str, Any]) -> bool:
    """Whether the calls are the wanted ones, each once, in any order."""
    functions = {function["name"]: function for function in check["functions"]}
    return parsing.assigned(
        calls,
        [(name, wanted) for call in check["answers"] for name, wanted in call.items()],
        lambda call, asked: call.name == asked[0] and _fits(call, asked[1], functions[asked[0]]),
    )


def _fits(call: parsing.ToolCall, wanted: Mapping[str, Any], function: Mapping[str, Any]) -> bool:
    parameters, given = function["parameters"], call.arguments
    if not set(parameters.get("required", ())) <= set(given):
        return False
    return all(
        name in wanted
        and name in parameters["properties"]
        and _allowed(value, wanted[name], parameters["properties"][name])
        for name, value in given.items()
    ) and all(name in given or "" in allowed for name, allowed in wanted.items())


def _type_of(allowed: Sequence[Any]) -> type | None:
    """The type of the answer: that of the first value which is not "" (may be left out)."""
    return next((type(value) for value in allowed if value != ""), None)


def _allowed(value: Any, allowed: Sequence[Any], described: Mapping[str, Any]) -> bool:
    """Whether a value has a type that it may have, and is one of the allowed ones."""
    name = described["type"]
    wanted, answered = _TYPES[name], _type_of(allowed)
    inner = _TYPES.get(described.get("items", {}).get("type", "")) if wanted is list else None
    if name == "tuple" and isinstance(value, tuple):
        value = list(value)
    if name == "float" and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        return type(value) is answered and value in allowed
    if inner and not any(_items_fit(value, items, inner) for items in allowed):
        return False
    if answered is not None and answered is not wanted:
        return value in allowed
    return _is_among(value, allowed, inner)


def _items_fit(values: Any, allowed: Any, inner: type) -> bool:
    """Whether each item has the described type or that of the answer's items."""
    return not isinstance(allowed, list) or all(
        type(value) is inner or type(value) is _type_of(allowed) for value in values
    )


def _is_among(value: Any, allowed: Sequence[Any], inner: type | None) -> bool:
    if isinstance(value, dict):
        return any(_object_fits(value, wanted) for wanted in allowed)
    if isinstance(value, list) and inner is dict:
        return any(
            len(value) == len(wanted) and all(map(_object_fits, value, wanted))
            for wanted in allowed
        )
    if isinstance(value, list):
        return _plain_items(value) in map(_plain_items, allowed)
    return _plain(value) in map(_plain, allowed)


def _object_fits(value: Any, wanted: Any) -> bool:
    """Keys and allowed values of one object, one level deep."""
    return (
        isinstance(value, dict)
        and isinstance(wanted, dict)
        and all(k in wanted and _plain(v) in map(_plain, wanted[k]) for k, v in value.items())
        and all(k in value or "" in allowed for k, allowed in wanted.items())
    )


def _plain_items(value: Any) -> list[Any]:
    return [_plain(item) for item in value]


def _plain(value: Any) -> Any:
    """A text without case, blanks and the signs that dates and names differ by."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')
