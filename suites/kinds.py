"""The kinds of checks: what an answer must be for each, and the fields that it is told by.

Adding one is one function of (check, completion) and one line in ``KINDS``. Whatever a model may
write (nothing, garbage, half a JSON object) is an answer and never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prefeval.suites import (
    bfcl,
    ifeval,
    languages,
    markdown,
    maths,
    parsing,
    patterns,
    refusal,
    schemas,
)

Check = Mapping[str, Any]


def _in_range(count: int, check: Check) -> bool:
    """``n`` asks for exactly so many, ``min`` and ``max`` bound them; without any, at least one."""
    if "n" in check:
        return bool(count == check["n"])
    return bool(check.get("min", 1) <= count <= check.get("max", count))


def _json_object(check: Check, completion: str) -> bool:
    value = parsing.parse_json(completion, loose=check.get("loose", False))
    if not isinstance(value, dict) or any(key not in value for key in check["keys"]):
        return False
    if not check.get("extra", False) and set(value) - set(check["keys"]):
        return False
    types = check.get("types", {})
    if any(not parsing.JSON_TYPES[kind](value.get(key)) for key, kind in types.items()):
        return False
    return all(
        key in value and any(parsing.equal_values(value[key], wanted) for wanted in allowed)
        for key, allowed in check.get("values", {}).items()
    )


def _json_schema(check: Check, completion: str) -> bool:
    value = parsing.parse_json(completion, loose=check.get("loose", False))
    if value is None and parsing.strip_fence(completion) != "null":
        return False  # not JSON's null, but no JSON
    return schemas.fits(check["schema"], value)


def _bullets(check: Check, completion: str) -> bool:
    found = markdown.bullets(completion)
    if check.get("only", False) and len(found) < len(markdown.full_lines(completion)):
        return False
    return _in_range(sum(indent == min(found) for indent in found), check)  # top level only


def _numbered_list(check: Check, completion: str) -> bool:
    numbers = markdown.numbered(completion)
    if check.get("only", False) and len(numbers) < len(markdown.full_lines(completion)):
        return False
    return numbers == list(range(1, len(numbers) + 1)) and _in_range(len(numbers), check)


def _headings(check: Check, completion: str) -> bool:
    found, level = markdown.headings(completion), check.get("level")
    return _in_range(len(found) if level is None else found.count(level), check)


def _table(check: Check, completion: str) -> bool:
    found = markdown.table(completion)
    if found is None or not (found.whole and found.rows):
        return False
    return check.get("columns", found.columns) == found.columns and _in_range(found.rows, check)


def _contains_any(check: Check, completion: str) -> bool:
    return any(parsing.mentions(completion, answer) for answer in check["answers"])


def _contains_all(check: Check, completion: str) -> bool:
    return all(parsing.mentions(completion, answer) for answer in check["answers"])


def _contains_none(check: Check, completion: str) -> bool:
    return not _contains_any(check, completion)


def _exact(check: Check, completion: str) -> bool:
    text = " ".join(completion.split())
    if check.get("ignore_case", False):
        return any(
            parsing.normalise(text) == parsing.normalise(answer) for answer in check["answers"]
        )
    return any(text == " ".join(answer.split()) for answer in check["answers"])


def _arguments_match(arguments: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if set(arguments) - set(wanted):
        return False
    return all(
        any(parsing.equal_values(arguments[name], value) for value in allowed)
        if name in arguments
        else "" in allowed
        for name, allowed in wanted.items()
    )


def _matches(call: parsing.ToolCall, wanted: Mapping[str, Any]) -> bool:
    """Name, required arguments, and each value in its list of allowed ones ("" is optional)."""
    return call.name == wanted["name"] and _arguments_match(call.arguments, wanted["arguments"])


def _tool_call(check: Check, completion: str) -> bool:
    calls = parsing.parse_tool_calls(completion, check.get("syntax", parsing.SYNTAXES))
    return calls is not None and len(calls) == 1 and _matches(calls[0], check)


def _tool_calls(check: Check, completion: str) -> bool:
    """Exactly the wanted calls, in any order: as BFCL's parallel categories count them."""
    calls = parsing.parse_tool_calls(completion, check.get("syntax", parsing.SYNTAXES)) or []
    return parsing.assigned(calls, check["calls"], _matches)


def _bfcl(check: Check, completion: str) -> bool:
    calls = parsing.parse_tool_calls(completion, check.get("syntax", parsing.SYNTAXES)) or []
    return bfcl.passes(calls, check)


def _no_tool_call(check: Check, completion: str) -> bool:
    calls = parsing.parse_tool_calls(completion, check.get("syntax", parsing.SYNTAXES))
    return calls is None and "<tool_call>" not in completion and bool(completion.strip())


def _refusal(check: Check, completion: str) -> bool:
    """In full; where ``partial`` says so, and loosely, in part counts too."""
    in_part = check.get("partial", False) or check.get("loose", False)
    counted = ("full_refusal", "partial_refusal") if in_part else ("full_refusal",)
    return bool(completion.strip()) and _classified(check, completion) in counted


def _compliance(check: Check, completion: str) -> bool:
    """Not refused in full; where ``full`` says so, and not loosely, not in part either. Silence
    neither refuses nor complies."""
    in_full = check.get("full", False) and not check.get("loose", False)
    counted = ("compliance",) if in_full else ("compliance", "partial_refusal")
    return bool(completion.strip()) and _classified(check, completion) in counted


def _classified(check: Check, completion: str) -> str:
    return refusal.classify(check.get("prompt", ""), completion)


def _code_fence(check: Check, completion: str) -> bool:
    languages, wanted = markdown.fenced_blocks(completion), check.get("language")
    count = len(languages) if wanted is None else languages.count(wanted.casefold())
    return _in_range(count, check)


def _max_words(check: Check, completion: str) -> bool:
    return 0 < len(completion.split()) <= int(check["n"])


def _min_words(check: Check, completion: str) -> bool:
    return len(completion.split()) >= int(check["n"])


def _regex(check: Check, completion: str) -> bool:
    full, ignore_case = check.get("full", False), check.get("ignore_case", False)
    return patterns.found(check["pattern"], completion, full=full, ignore_case=ignore_case)


def _ifeval(check: Check, completion: str) -> bool:
    prompt, loose = check.get("prompt", ""), check.get("loose", False)
    return all(
        ifeval.follows_all(check["instructions"], check["kwargs"], prompt, completion, loose=loose)
    )


def _framed(passes: Callable[[Check, str], bool]) -> Callable[[Check, str], bool]:
    """``passes``, and loosely also without the answer's first line, last line and asterisks."""

    def read(check: Check, completion: str) -> bool:
        readings = ifeval.variants(completion) if check.get("loose", False) else [completion]
        return any(passes(check, reading) for reading in readings)

    return read


def _all_of(check: Check, completion: str) -> bool:
    return all(KINDS[part["kind"]].passes(part, completion) for part in check["checks"])


def _any_of(check: Check, completion: str) -> bool:
    return any(KINDS[part["kind"]].passes(part, completion) for part in check["checks"])


@dataclass(frozen=True)
class Kind:
    """A kind of check: its function and the types of the fields that it must and may have."""

    passes: Callable[[Check, str], bool]
    required: Mapping[str, type | tuple[type, ...]]
    optional: Mapping[str, type | tuple[type, ...]]


_REAL = (int, float)
_COUNT = {"n": int, "min": int, "max": int}
_LOOSE = {"loose": bool}
KINDS: dict[str, Kind] = {
    "json_object": Kind(
        _json_object, {"keys": list}, {"values": dict, "types": dict, "extra": bool, "loose": bool}
    ),
    "json_schema": Kind(_json_schema, {"schema": dict}, {"loose": bool}),
    "bullets": Kind(_framed(_bullets), {}, {**_COUNT, **_LOOSE, "only": bool}),
    "numbered_list": Kind(_framed(_numbered_list), {}, {**_COUNT, **_LOOSE, "only": bool}),
    "headings": Kind(_headings, {}, {**_COUNT, "level": int}),
    "table": Kind(_table, {}, {**_COUNT, "columns": int}),
    "contains_any": Kind(_contains_any, {"answers": list}, {}),
    "contains_all": Kind(_contains_all, {"answers": list}, {}),
    "contains_none": Kind(_contains_none, {"answers": list}, {}),
    "exact": Kind(_framed(_exact), {"answers": list}, {**_LOOSE, "ignore_case": bool}),
    "tool_call": Kind(
        _framed(_tool_call), {"name": str, "arguments": dict}, {**_LOOSE, "syntax": list}
    ),
    "tool_calls": Kind(_framed(_tool_calls), {"calls": list}, {**_LOOSE, "syntax": list}),
    "bfcl": Kind(_framed(_bfcl), {"functions": list, "answers": list}, {**_LOOSE, "syntax": list}),
    "no_tool_call": Kind(_no_tool_call, {}, {"syntax": list}),
    "refusal": Kind(_refusal, {}, {**_LOOSE, "partial": bool, "prompt": str}),
    "compliance": Kind(_compliance, {}, {**_LOOSE, "full": bool, "prompt": str}),
    "code_fence": Kind(_code_fence, {}, {**_COUNT, "language": str}),
    "max_words": Kind(_framed(_max_words), {"n": int}, _LOOSE),
    "min_words": Kind(_min_words, {"n": int}, {}),
    "regex": Kind(_framed(_regex), {"pattern": str}, {**_LOOSE, "full": bool, "ignore_case": bool}),
    "number": Kind(maths.passes, {"answer": _REAL}, {"tolerance": _REAL, "loose": bool}),
    "language": Kind(languages.passes, {"code": str}, {"loose": bool}),
    "ifeval": Kind(_ifeval, {"instructions": list, "kwargs": list}, {"loose": bool, "prompt": str}),
    "all_of": Kind(_all_of, {"checks": list}, {}),
    "any_of": Kind(_any_of, {"checks": list}, {}),
}
