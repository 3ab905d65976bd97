"""Reading what models write: short answers, JSON (fenced or within prose), tool calls.

Every parser takes any text and returns None where it finds nothing; none raises.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

SYNTAXES = ("hermes", "json", "python")

JSON_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}

T = TypeVar("T")
_MAX_PYTHON = 20_000  # characters; Python's parser is not asked about endless output


def normalise(text: str) -> str:
    """``text`` for comparing short answers: one case, one kind of quote, single spaces."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("“", '"')
    return " ".join(text.replace("”", '"').casefold().split())


def equal_values(actual: Any, wanted: Any) -> bool:
    """Whether two JSON values are the same for a reader: strings by ``normalise``, 5 equals 5.0,
    and True is not 1."""
    if isinstance(actual, bool) or isinstance(wanted, bool):
        return actual is wanted
    if isinstance(actual, str) and isinstance(wanted, str):
        return normalise(actual).rstrip(".") == normalise(wanted).rstrip(".")
    if isinstance(actual, list) and isinstance(wanted, list):
        return len(actual) == len(wanted) and all(map(equal_values, actual, wanted))
    if isinstance(actual, Mapping) and isinstance(wanted, Mapping):
        return actual.keys() == wanted.keys() and all(
            equal_values(actual[key], wanted[key]) for key in wanted
        )
    return bool(actual == wanted)


def mentions(completion: str, answer: str) -> bool:
    """Whether ``answer`` stands in the completion as whole words: "5" is not in "15" or "5.2"."""
    text, wanted = normalise(completion), normalise(answer)
    if re.fullmatch(r"\d+", wanted):
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 1,500 is 1500
    start = r"(?<!\w)(?<!\d[.,])(?<!\s-)(?<!^-)" if wanted[:1].isdigit() else r"(?<!\w)"
    return re.search(rf"{start}{re.escape(wanted)}(?!\w)(?![.,]\d)", text) is not None


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's name and its arguments by name."""

    name: str
    arguments: Mapping[str, Any]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)


def strip_fence(text: str) -> str:
    """``text`` without the code fence around the whole of it, if there is one."""
    text = text.strip()
    first, newline, rest = text.partition("\n")
    if not newline or not re.fullmatch(r"```[ \t]*[\w+-]*[ \t]*", first):
        return text
    body = rest.removesuffix("```")
    within = re.search(r"^[ \t]*```", body, re.MULTILINE)
    return text if body == rest or within else body.strip()


def parse_json(text: str, *, loose: bool = False) -> Any | None:
    """The JSON value that ``text`` is, None if it is none.

    A code fence around the whole is no fault. ``loose`` also takes the first object or array that
    stands within other words. NaN, infinities and repeated keys are not JSON here.
    """
    body = strip_fence(text)
    try:
        return _DECODER.decode(body)
    except (ValueError, RecursionError):
        return _first_json(body) if loose else None


def _first_json(text: str) -> Any | None:
    """The first object or array in ``text``, tried at 50 opening brackets at most."""
    for match in list(re.finditer(r"[{\[]", text))[:50]:
        try:
            return _DECODER.raw_decode(text, match.start())[0]
        except (ValueError, RecursionError):
            continue
    return None


def _as_call(value: Any) -> ToolCall | None:
    """A call from its JSON: ``arguments`` (OpenAI, Hermes) or ``parameters`` (Llama 3), as an
    object or as a string that holds one."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    if set(value) - {"name", "arguments", "parameters", "id", "type"}:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = parse_json(arguments)
    return ToolCall(value["name"], arguments) if isinstance(arguments, dict) else None


def _all_calls(values: Sequence[Any]) -> list[ToolCall] | None:
    calls = [_as_call(value) for value in values]
    return [call for call in calls if call] if calls and all(calls) else None


def _hermes_calls(text: str) -> list[ToolCall] | None:
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, prose before it allowed."""
    parts = [part.partition("</tool_call>") for part in text.split("<tool_call>")[1:]]
    if not all(end for _, end, _ in parts):
        return None  # a call was begun and not ended
    return _all_calls([parse_json(body) for body, _, _ in parts])


def _json_calls(text: str) -> list[ToolCall] | None:
    """The whole text is one call as JSON, or a list of them."""
    value = parse_json(text)
    return _all_calls(value if isinstance(value, list) else [value])


def _python_call(node: ast.expr) -> ToolCall | None:
    if not isinstance(node, ast.Call) or node.args:
        return None  # a positional argument has no name to compare
    name = ast.unparse(node.func)
    is_name = all(part.isidentifier() for part in name.split("."))
    if not is_name or any(word.arg is None for word in node.keywords):
        return None
    try:
        values = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return ToolCall(name, values)


def _python_calls(text: str) -> list[ToolCall] | None:
    """The whole text is ``name(key=value)``, or such calls with commas between, in brackets or not;
    values are literals."""
    body = strip_fence(text)
    if not body.endswith((")", "]")) or len(body) > _MAX_PYTHON:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser's remarks on odd code: "1()", "\\d"
            tree = ast.parse(body, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    nodes = tree.elts if isinstance(tree, (ast.List, ast.Tuple)) else [tree]
    calls = [_python_call(node) for node in nodes]
    return [call for call in calls if call] if calls and all(calls) else None


_PARSERS = {"hermes": _hermes_calls, "json": _json_calls, "python": _python_calls}


def parse_tool_calls(text: str, syntaxes: Sequence[str] = SYNTAXES) -> list[ToolCall] | None:
    """The tool calls that ``text`` makes, in the first of ``syntaxes`` that reads it, else None."""
    for syntax in syntaxes:
        if calls := _PARSERS[syntax](text):
            return calls
    return None


def assigned(
    calls: Sequence[ToolCall], wanted: Sequence[T], fits: Callable[[ToolCall, T], bool]
) -> bool:
    """Whether there are as many calls as wanted ones, and each can have a call of its own."""
    if len(calls) != len(wanted):
        return False
    return not wanted or any(
        fits(call, wanted[0]) and assigned([*calls[:i], *calls[i + 1 :]], wanted[1:], fits)
        for i, call in enumerate(calls)
    )
