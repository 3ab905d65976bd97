"""Programmatic checks as data: ``{"kind": "json_object", "keys": ["city", "job"]}``.

A check is a mapping, so a suite is a file and needs no Python. ``run_check`` answers whether a
completion passes; whatever a model may write is an answer and never an exception, while a fault of
the check itself is an error that names the prompt. The kinds lie in ``prefeval.suites.kinds``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefeval.records import PrefevalError, Prompt
from prefeval.suites import bfcl, languages, parsing, patterns, schemas
from prefeval.suites.kinds import KINDS, Check


class CheckError(PrefevalError):
    """A check that raised on an answer, which thereby has neither passed nor failed."""


@dataclass(frozen=True)
class Outcome:
    """One answer's verdicts; both None where the check raised, with the ``error`` that it did.

    ``loose`` is also None where no check of the behaviour has a loose reading; a check that has
    none is read alike both ways.
    """

    passed: bool | None
    loose: bool | None = None
    error: str = ""


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
        types = fields[key]
        allowed = types if isinstance(types, tuple) else (types,)
        flag = isinstance(check[key], bool)  # Python's True is an int, JSON's is none
        if not isinstance(check[key], allowed) or (flag and bool not in allowed):
            names = " or ".join(t.__name__ for t in allowed)
            return f"{name}'s {key} must be a {names}, got {check[key]!r}"
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
    if name == "number" and not all(
        math.isfinite(check[key]) and (key == "answer" or check[key] >= 0)
        for key in ("answer", "tolerance")
        if key in check
    ):
        return "number's answer must be finite and its tolerance 0 or more; correct them"
    if name == "language":
        return languages.fault(check["code"])
    if name == "json_schema":
        return schemas.fault(check["schema"])
    if name == "bfcl":
        return bfcl.fault(check) or _syntax_fault(check)
    if name == "tool_calls":
        return _calls_fault(check["calls"]) or _syntax_fault(check)
    if "answers" in check and not all(isinstance(a, str) and a.strip() for a in check["answers"]):
        return f"{name}'s answers must be words, got {check['answers']!r}"
    if "answers" in check and not check["answers"]:
        return f"{name}'s answers are empty; give at least one"
    if name == "regex":
        return patterns.fault(check["pattern"])
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
    kind or field), and its kind ``CheckError`` when the check raises: neither is a failed answer.
    """
    where = f"check of prompt {prompt_id!r}" if prompt_id else "check"
    plain = _plain(check)
    validate_check(plain, where=where)
    try:
        return bool(KINDS[plain["kind"]].passes(plain, completion))
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise CheckError(
            f"{where} ({plain['kind']}) raised {type(error).__name__}: {said}; correct the check"
        ) from error


def loosened(check: Check) -> Check:
    """The check read loosely: JSON within prose, lists, calls and short answers without the first
    line, the last line and asterisks (IFEval's way), refusals in part, any number that is given."""
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


def outcomes(prompts: Sequence[Prompt], completions: Mapping[str, str]) -> dict[str, Outcome]:
    """Strict and loose verdicts by prompt id, a check that raises included; see `check_all`."""
    asked = _answered(prompts, completions)
    loosely = {p.behaviour for p in asked if has_loose_reading(p.check or {})}

    def outcome(prompt: Prompt) -> Outcome:
        text, both = completions[prompt.id], prompt.behaviour in loosely
        try:
            passed = check_prompt(prompt, text)
            return Outcome(passed, check_prompt(prompt, text, loose=True) if both else None)
        except CheckError as error:
            return Outcome(None, None, str(error))

    return {prompt.id: outcome(prompt) for prompt in asked}


def check_all(
    prompts: Sequence[Prompt], completions: Mapping[str, str], *, loose: bool = False
) -> dict[str, bool]:
    """Pass or fail of each prompt that has a check, by prompt id; a missing answer is an error.

    ``loose`` reads every check by `loosened`.
    """
    asked = _answered(prompts, completions)
    return {p.id: check_prompt(p, completions[p.id], loose=loose) for p in asked}


def _answered(prompts: Sequence[Prompt], completions: Mapping[str, str]) -> list[Prompt]:
    """The prompts that have a check; one without an answer is an error."""
    asked = [prompt for prompt in prompts if prompt.check is not None]
    if missing := [prompt.id for prompt in asked if prompt.id not in completions]:
        raise PrefevalError(
            f"{len(missing)} prompts have no completion, first {missing[0]!r}; generate them again"
        )
    return asked
