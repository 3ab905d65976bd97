"""BFCL's possible answers as a check, and calls made of them, right and wrong in named ways."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from prefeval.suites import checks

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple")
FIRST, RANDOM = "the first allowed values", "several changes at random"
DRAWS = 25  # of the random way, a question
WHY = {
    RANDOM: "as for the calls turned",
    "the calls turned": "bfcl-eval gives each answer the first call that fits: one is left over",
    "no last bracket": "bfcl-eval adds it",
    "a fence that says python": "bfcl-eval takes off only a fence without a language",
}
"""Each way in which the verdicts differ, in a line."""
Calls = list[tuple[str, dict[str, Any]]]


def call_check(row: Mapping[str, Any]) -> dict[str, Any]:
    """The check of one question; without an answer no call is right."""
    if not row["answer"]:
        return {"kind": "no_tool_call", "syntax": ["python"]}
    asked = {"functions": row["function"], "answers": row["answer"]}
    return {"kind": "bfcl", **asked, "syntax": ["python"]}


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


def _tweaks(value: Any, rng: random.Random) -> list[Any]:
    """Values near this one, right and wrong."""
    if isinstance(value, dict):
        found: list[Any] = [{}, {**value, "another": 1}]
        for key in value:
            found.append({k: v for k, v in value.items() if k != key})
            found += [{**value, key: tweak} for tweak in _tweaks(value[key], rng)]
        return found
    if isinstance(value, (list, tuple)):
        value = list(value)
        found = [value[::-1], value + value[:1], value[1:], [], tuple(value), str(value)]
        place = rng.randrange(len(value)) if value else 0
        inner = _tweaks(value[place], rng) if value else []
        return found + [[*value[:place], tweak, *value[place + 1 :]] for tweak in inner]
    if isinstance(value, str):
        texts = [value.upper(), f"{value}x", value.replace(" ", "_"), value.replace("'", '"')]
        return [*texts, "", f"{value}.", f"-{value}", value[:-1], [value], 3]
    if isinstance(value, bool):
        return [not value, int(value), str(value)]
    if value is None:
        return [0]
    return [value + 1, -value, float(value), int(value), str(value), [value], None]


def random_calls(answer: Sequence[Mapping[str, Any]], rng: random.Random) -> str:
    """One text: allowed values at random, then mostly a value or more that may be wrong."""
    calls: Calls = []
    for call in answer:
        for name, arguments in call.items():
            given = {}
            for key, allowed in arguments.items():
                values = [value for value in allowed if value != ""]
                if values and not ("" in allowed and rng.random() < 0.3):
                    given[key] = _plain(rng.choice(values), rng.choice((0, -1)))
            calls.append((name, given))
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        _, given = rng.choice(calls)
        if given:
            key = rng.choice(list(given))
            given[key] = rng.choice(_tweaks(given[key], rng) or [None])
    if rng.random() < 0.2:
        rng.shuffle(calls)
    return _text(calls[: -1 if len(calls) > 1 and rng.random() < 0.05 else None])


def compare(ask: Callable[..., list[Any]]) -> None:
    """Print a line for each way of making a call whose verdicts differ; ``ask`` is the harness's.

    Says more of the two checks than the answers of a model that makes few calls.
    """
    asked, rng = ask("prompts", categories=dict.fromkeys(CATEGORIES, 1000)), random.Random(0)
    made = [(row, way, text) for row in asked for way, text in variants(row["answer"])]
    made += [(r, RANDOM, random_calls(r["answer"], rng)) for r in asked for _ in range(DRAWS)]
    errors = ask("bfcl", rows=[{**row, "text": text} for row, _, text in made])
    frame = pd.DataFrame(
        [
            (row["id"], way, checks.run_check(call_check(row), text), not error)
            for (row, way, text), error in zip(made, errors, strict=True)
        ],
        columns=["id", "way", "here", "there"],
    )
    frame["apart"] = frame["here"] != frame["there"]
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
