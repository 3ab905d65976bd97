"""BFCL's possible answers as a check, and calls made of them, right and wrong in named ways."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from prefeval.suites import checks

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple")
FIRST, IMPOSSIBLE = "the first allowed values", "any, of two questions"
WHY = {
    IMPOSSIBLE: "their answers have an argument that the functions have not",
    "optional ones left out": "the answers let be left out what the function requires",
    "an argument left out": "likewise",
    "5.0 for 5": "5.0 is 5 here; bfcl-eval wants the described type",
    "(1, 2) for [1, 2]": "no list here; bfcl-eval takes it where a tuple is described",
    "blanks as _": "bfcl-eval leaves blanks and , . / - _ * ^ out before it compares texts",
    "no commas": "likewise",
    "the calls turned": "bfcl-eval gives each answer the first call that fits: one is left over",
    "no last bracket": "bfcl-eval adds it",
    "a fence that says python": "bfcl-eval takes off only a fence without a language",
}
"""Each way in which the verdicts differ, in a line."""
Calls = list[tuple[str, dict[str, Any]]]
LEFT_OUT = object()


def call_check(answer: Sequence[Mapping[str, Mapping[str, list[Any]]]]) -> dict[str, Any]:
    """The check of one question; without an answer no call is right."""
    calls = [
        {"name": name, "arguments": {k: _every(allowed) for k, allowed in arguments.items()}}
        for call in answer
        for name, arguments in call.items()
    ]
    if not calls:
        return {"kind": "no_tool_call", "syntax": ["python"]}
    return {"kind": "tool_calls", "calls": calls, "syntax": ["python"]}


def _every(allowed: Sequence[Any]) -> list[Any]:
    """An argument's allowed values, each written out where objects hold lists of allowed ones."""
    return [written for value in allowed for written in _written_out(value)]


def _written_out(value: Any) -> list[Any]:
    if isinstance(value, dict):
        fields = [
            [(k, LEFT_OUT if v == "" else v) for v in (_every(a) if isinstance(a, list) else [a])]
            for k, a in value.items()
        ]
        return [{k: v for k, v in found if v is not LEFT_OUT} for found in product(*fields)]
    if isinstance(value, list):
        return [list(found) for found in product(*map(_written_out, value))]
    return [value]


def _chosen(allowed: Sequence[Any], place: int) -> Any:
    """One of an argument's allowed values, "" (it may be left out) being none; None without any."""
    values = [value for value in allowed if value != ""]
    return _plain(values[place], place) if values else None


def _plain(value: Any, place: int) -> Any:
    """A value without the lists of allowed ones that BFCL puts within objects."""
    if isinstance(value, dict):
        chosen = {k: _chosen(v, place) if isinstance(v, list) else v for k, v in value.items()}
        return {key: item for key, item in chosen.items() if item is not None}
    return [_plain(item, place) for item in value] if isinstance(value, list) else value


def _calls(answer: Sequence[Mapping[str, Any]], place: int, optional: bool = True) -> Calls:
    found: Calls = []
    for call in answer:
        for name, arguments in call.items():
            given = {
                key: _chosen(allowed, place)
                for key, allowed in arguments.items()
                if optional or "" not in allowed
            }
            found.append((name, {k: v for k, v in given.items() if v is not None}))
    return found


def _text(calls: Calls) -> str:
    parts = (f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in calls)
    return f"[{', '.join(parts)}]"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


CHANGES: Mapping[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    "5.0 for 5": (_is_int, float),
    "5 for 5.0": (lambda v: isinstance(v, float) and v.is_integer(), int),
    '"5" for 5': (_is_number, str),
    "1 for True": (lambda v: isinstance(v, bool), int),
    "another number": (_is_number, lambda v: v + 1),
    "another word": (lambda v: isinstance(v, str), lambda v: f"{v} else"),
    "capitals": (lambda v: isinstance(v, str), str.upper),
    "blanks as _": (lambda v: isinstance(v, str) and " " in v, lambda v: v.replace(" ", "_")),
    "no commas": (lambda v: isinstance(v, str) and "," in v, lambda v: v.replace(",", "")),
    "(1, 2) for [1, 2]": (lambda v: isinstance(v, list), tuple),
    "a list turned": (lambda v: isinstance(v, list) and v != v[::-1], lambda v: v[::-1]),
}
"""What is done to the first argument that it can be done to."""


def variants(answer: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Named texts, one a way that can be had of this answer."""
    calls = _calls(answer, 0)
    text = _text(calls)
    yield FIRST, text
    yield "the last allowed values", _text(_calls(answer, -1))
    yield "optional ones left out", _text(_calls(answer, 0, optional=False))
    for how, (fits, change) in CHANGES.items():
        places = [(i, k) for i, (_, given) in enumerate(calls) for k, v in given.items() if fits(v)]
        if places:
            (i, key), changed = places[0], copy.deepcopy(calls)
            changed[i][1][key] = change(calls[i][1][key])
            yield how, _text(changed)
    (name, given), *others = calls
    yield "another name", _text([(f"{name}_else", given), *others])
    yield "an argument added", _text([(name, {**given, "another": 1}), *others])
    if given:
        yield "an argument left out", _text([(name, dict(list(given.items())[1:])), *others])
        yield "values without names", f"[{name}({', '.join(map(repr, given.values()))})]"
    yield "a call twice", _text([*calls, calls[0]])
    if others:
        yield "a call left out", _text(calls[:-1])
        yield "the calls turned", _text(calls[::-1])
    yield "no brackets", text[1:-1]
    yield "no last bracket", text[:-1]
    yield "a fence", f"```\n{text}\n```"
    yield "a fence that says python", f"```python\n{text}\n```"
    yield "words before", f"Here it is: {text}"


def compare(ask: Callable[..., list[Any]]) -> None:
    """Print a line for each way of making a call whose verdicts differ; ``ask`` is the harness's.

    Says more of the two checks than the answers of a model that makes few calls.
    """
    asked = ask("prompts", categories=dict.fromkeys(CATEGORIES, 1000))
    made = [(row, way, text) for row in asked for way, text in variants(row["answer"])]
    errors = ask("bfcl", rows=[{**row, "text": text} for row, _, text in made])
    frame = pd.DataFrame(
        [
            (row["id"], way, checks.run_check(call_check(row["answer"]), text), not error)
            for (row, way, text), error in zip(made, errors, strict=True)
        ],
        columns=["id", "way", "here", "there"],
    )
    frame["apart"] = frame["here"] != frame["there"]
    impossible = set(frame.loc[frame["apart"] & (frame["way"] == FIRST), "id"])
    frame.loc[frame["id"].isin(impossible), "way"] = IMPOSSIBLE
    same, ways = len(frame) - int(frame["apart"].sum()), frame["way"].nunique()
    print(
        f"\nCalls made of BFCL's {len(asked)} answers in {ways} ways, right and wrong: "
        f"{same} of {len(frame)} have one verdict. The others:\n"
    )
    print("| made how | n | passes here alone | there alone | why |\n|---|---:|---:|---:|---|")
    for way, part in frame.groupby("way", sort=False):
        if part["apart"].any():
            here, there = (int((part["apart"] & part[s]).sum()) for s in ("here", "there"))
            print(f"| {way} | {len(part)} | {here} | {there} | {WHY[str(way)]} |")
