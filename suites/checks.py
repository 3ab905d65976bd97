"""Programmatic checks as data: ``{"kind": "json_object", "keys": ["city", "job"]}``.

A check is a mapping, so a suite is a file and needs no Python. ``run_check`` answers whether a
completion passes; whatever a model may write (nothing, garbage, half a JSON object) is an answer
and never an exception, while a fault of the check itself is an error that names the prompt.

Adding a kind is one function of (check, completion) and one line in ``KINDS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefeval.records import PrefevalError, Prompt
from prefeval.suites import markdown, parsing, refusal

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
    wanted = check["calls"]
    if len(calls) != len(wanted):
        return False
    return _assigned(calls, wanted)


def _assigned(calls: Sequence[parsing.ToolCall], wanted: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each wanted call can have a call of its own."""
    return not wanted or any(
        _matches(call, wanted[0]) and _assigned([*calls[:i], *calls[i + 1 :]], wanted[1:])
        for i, call in enumerate(calls)
    )


def _no_tool_call(check: Check, completion: str) -> bool:
    calls = parsing.parse_tool_calls(completion, check.get("syntax", parsing.SYNTAXES))
    return calls is None and "<tool_call>" not in completion and bool(completion.strip())


def _refusal(check: Check, completion: str) -> bool:
    if not completion.strip():
        return False
    counted = ("full_refusal", "partial_refusal") if check.get("partial") else ("full_refusal",)
    return refusal.classify(check.get("prompt", ""), completion) in counted


def _compliance(check: Check, completion: str) -> bool:
    if not completion.strip():
        return False  # silence neither refuses nor complies
    return refusal.classify(check.get("prompt", ""), completion) != "full_refusal"


def _code_fence(check: Check, completion: str) -> bool:
    languages, wanted = markdown.fenced_blocks(completion), check.get("language")
    count = len(languages) if wanted is None else languages.count(wanted.casefold())
    return _in_range(count, check)


def _max_words(check: Check, completion: str) -> bool:
    return 0 < len(completion.split()) <= int(check["n"])


def _min_words(check: Check, completion: str) -> bool:
    return len(completion.split()) >= int(check["n"])


def _regex(check: Check, completion: str) -> bool:
    flags = re.IGNORECASE if check.get("ignore_case", False) else 0
    match = re.fullmatch if check.get("full", False) else re.search
    return match(check["pattern"], completion, flags) is not None


def _ifeval(check: Check, completion: str) -> bool:
    from prefeval.suites import ifeval

    prompt, loose = check.get("prompt", ""), check.get("loose", False)
    return all(
        ifeval.follows_all(check["instructions"], check["kwargs"], prompt, completion, loose=loose)
    )


def _all_of(check: Check, completion: str) -> bool:
    return all(KINDS[part["kind"]].passes(part, completion) for part in check["checks"])


def _any_of(check: Check, completion: str) -> bool:
    return any(KINDS[part["kind"]].passes(part, completion) for part in check["checks"])


@dataclass(frozen=True)
class Kind:
    """A kind of check: its function and the types of the fields that it must and may have."""

    passes: Callable[[Check, str], bool]
    required: Mapping[str, type]
    optional: Mapping[str, type]


_COUNT = {"n": int, "min": int, "max": int}
KINDS: dict[str, Kind] = {
    "json_object": Kind(
        _json_object, {"keys": list}, {"values": dict, "types": dict, "extra": bool, "loose": bool}
    ),
    "bullets": Kind(_bullets, {}, {**_COUNT, "only": bool}),
    "numbered_list": Kind(_numbered_list, {}, {**_COUNT, "only": bool}),
    "headings": Kind(_headings, {}, {**_COUNT, "level": int}),
    "table": Kind(_table, {}, {**_COUNT, "columns": int}),
    "contains_any": Kind(_contains_any, {"answers": list}, {}),
    "contains_all": Kind(_contains_all, {"answers": list}, {}),
    "contains_none": Kind(_contains_none, {"answers": list}, {}),
    "exact": Kind(_exact, {"answers": list}, {"ignore_case": bool}),
    "tool_call": Kind(_tool_call, {"name": str, "arguments": dict}, {"syntax": list}),
    "tool_calls": Kind(_tool_calls, {"calls": list}, {"syntax": list}),
    "no_tool_call": Kind(_no_tool_call, {}, {"syntax": list}),
    "refusal": Kind(_refusal, {}, {"partial": bool, "prompt": str}),
    "compliance": Kind(_compliance, {}, {"prompt": str}),
    "code_fence": Kind(_code_fence, {}, {**_COUNT, "language": str}),
    "max_words": Kind(_max_words, {"n": int}, {}),
    "min_words": Kind(_min_words, {"n": int}, {}),
    "regex": Kind(_regex, {"pattern": str}, {"full": bool, "ignore_case": bool}),
    "ifeval": Kind(_ifeval, {"instructions": list, "kwargs": list}, {"loose": bool, "prompt": str}),
    "all_of": Kind(_all_of, {"checks": list}, {}),
    "any_of": Kind(_any_of, {"checks": list}, {}),
}


def _plain(value: Any) -> Any:
    """Tuples as lists: a check built in Python means the same as one read from a file."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _fault(check: Check) -> str:
    """What is wrong with a check's fields, in words; "" when nothing is."""
    name = check.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        return f"unknown kind {name!r}; known kinds: {', '.join(sorted(KINDS))}"
    kind = KINDS[name]
    fields = {**kind.required, **kind.optional}
    given = set(check) - {"kind"}
    if missing := sorted(set(kind.required) - given):
        return f"{name} lacks {', '.join(missing)}; add it"
    if unknown := sorted(given - set(fields)):
        known = ", ".join(sorted(fields)) or "none"
        return f"{name} has the unknown field {', '.join(unknown)}; it takes {known}"
    for key in sorted(given):
        if not isinstance(check[key], fields[key]) or (
            fields[key] is int and isinstance(check[key], bool)
        ):
            return f"{name}'s {key} must be a {fields[key].__name__}, got {check[key]!r}"
    return _deep_fault(name, check)


def _deep_fault(name: str, check: Check) -> str:
    """The faults that lie inside a field."""
    if name in ("all_of", "any_of"):
        if not check["checks"] or not all(isinstance(part, dict) for part in check["checks"]):
            return f"{name}'s checks must be a list of checks, with at least one"
        return next((fault for fault in map(_fault, check["checks"]) if fault), "")
    if name == "ifeval":
        from prefeval.suites import ifeval

        return ifeval.fault(check["instructions"], check["kwargs"])
    if name == "tool_calls":
        return _calls_fault(check["calls"]) or _syntax_fault(check)
    if "answers" in check and not all(isinstance(a, str) and a.strip() for a in check["answers"]):
        return f"{name}'s answers must be words, got {check['answers']!r}"
    if "answers" in check and not check["answers"]:
        return f"{name}'s answers are empty; give at least one"
    if name == "regex":
        try:
            re.compile(check["pattern"])
        except re.error as error:
            return f"the pattern {check['pattern']!r} is no regular expression ({error})"
    for field in ("arguments", "values"):
        if bad := [k for k, v in check.get(field, {}).items() if not isinstance(v, list) or not v]:
            return f"{name}'s {field} must be lists of allowed values; {bad[0]!r} is not"
    if unknown := sorted(set(map(str, check.get("types", {}).values())) - set(parsing.JSON_TYPES)):
        return f"unknown JSON type {unknown[0]!r}; known: {', '.join(parsing.JSON_TYPES)}"
    return _syntax_fault(check)


def _calls_fault(calls: Sequence[Any]) -> str:
    if not calls:
        return "tool_calls' calls are empty; give at least one, or use no_tool_call"
    for call in calls:
        if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
            return f'each of tool_calls\' calls needs "name" and "arguments", got {call!r}'
        if fault := _fault({"kind": "tool_call", **call}):
            return fault
    return ""


def _syntax_fault(check: Check) -> str:
    if unknown := sorted(set(map(str, check.get("syntax", []))) - set(parsing.SYNTAXES)):
        return f"unknown tool-call syntax {unknown[0]!r}; known: {', '.join(parsing.SYNTAXES)}"
    return ""


def validate_check(check: Check, *, where: str = "check") -> None:
    """Raise ``PrefevalError`` when a check cannot be run; ``where`` says whose it is."""
    fault = _fault(_plain(check)) if isinstance(check, Mapping) else f"not a mapping: {check!r}"
    if fault:
        raise PrefevalError(f"{where}: {fault}")


def run_check(check: Check, completion: str, *, prompt_id: str = "") -> bool:
    """Whether ``completion`` passes ``check``.

    Raises ``PrefevalError`` naming ``prompt_id`` when the check itself is at fault (an unknown
    kind or field, or one that raises): a check that cannot be run is neither passed nor failed.
    """
    where = f"check of prompt {prompt_id!r}" if prompt_id else "check"
    plain = _plain(check)
    validate_check(plain, where=where)
    try:
        return bool(KINDS[plain["kind"]].passes(plain, completion))
    except Exception as error:
        raise PrefevalError(
            f"{where} ({plain['kind']}) raised {type(error).__name__}: {error}; correct the check"
        ) from error


def loosened(check: Check) -> Check:
    """The check read loosely: JSON within prose, IFEval's answers without their frame."""
    if check.get("kind") in ("all_of", "any_of"):
        return {**check, "checks": [loosened(part) for part in check["checks"]]}
    kind = KINDS.get(check.get("kind", ""))
    return {**check, "loose": True} if kind and "loose" in kind.optional else check


def check_prompt(prompt: Prompt, completion: str, *, loose: bool = False) -> bool:
    """Whether ``completion`` passes the check of ``prompt``; one without a check is an error."""
    if prompt.check is None:
        raise PrefevalError(f"prompt {prompt.id!r} has no check; give it one or leave it out")
    check = _asked(prompt.check, str(prompt.messages[-1]["content"]))
    return run_check(loosened(check) if loose else check, completion, prompt_id=prompt.id)


def _asked(check: Check, question: str) -> Check:
    """The check, knowing what was asked where it depends on it: an echo of it is no answer."""
    parts = check.get("checks")
    if check.get("kind") in ("all_of", "any_of") and isinstance(parts, (list, tuple)):
        return {**check, "checks": [_asked(part, question) for part in parts]}
    kind = KINDS.get(str(check.get("kind")))
    return {"prompt": question, **check} if kind and "prompt" in kind.optional else check


def has_loose_reading(check: Check) -> bool:
    """Whether `loosened` changes the check."""
    return loosened(check) != check


def check_all(
    prompts: Sequence[Prompt], completions: Mapping[str, str], *, loose: bool = False
) -> dict[str, bool]:
    """Pass or fail of each prompt that has a check, by prompt id; a missing answer is an error.

    ``loose`` reads every check by `loosened`.
    """
    asked = [prompt for prompt in prompts if prompt.check is not None]
    if missing := [prompt.id for prompt in asked if prompt.id not in completions]:
        raise PrefevalError(
            f"{len(missing)} prompts have no completion, first {missing[0]!r}; generate them again"
        )
    return {p.id: check_prompt(p, completions[p.id], loose=loose) for p in asked}
