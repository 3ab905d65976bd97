"""Which prompts changed most between two checkpoints, and how their texts are shown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from prefeval.metrics.comparison import Joined
from prefeval.reports.compare.data import Answer, Changed

KINDS = {
    "against": "Verdict turned against B",
    "for": "Verdict turned for B",
    "lost": "Check lost in B",
    "gained": "Check gained in B",
    "longer": "B much longer",
    "shorter": "B much shorter",
    "further": "KL risen most",
    "nearer": "KL fallen most",
}
MOST = 15  # of each kind
SIDES = ("a", "b", "reference")


@dataclass(frozen=True)
class Answers:
    """Texts by (prompt id, mode): A's, B's and the reference's."""

    a: Mapping[tuple[str, str], str]
    b: Mapping[tuple[str, str], str]
    reference: Mapping[tuple[str, str], str]


def changed(
    joined: Joined,
    answers: Answers,
    prompts: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    judged: bool = True,
) -> tuple[tuple[Changed, ...], dict[str, int]]:
    """The prompts that changed most, at most ``MOST`` of each kind, and how many changed at all.

    ``prompts`` are the turns by id. Not ``judged``: verdicts do not compare.
    """
    scores = _scores(joined, judged=judged)
    kinds: dict[tuple[str, str], list[str]] = {}
    for kind in KINDS:
        mode = "greedy" if kind in ("lost", "gained") else "sample"
        ranked = sorted(scores[kind].items(), key=lambda item: (-item[1], item[0]))
        for prompt, _ in ranked[:MOST]:
            if (prompt, mode) in answers.a and (prompt, mode) in answers.b:
                kinds.setdefault((prompt, mode), []).append(kind)
    numbers = _numbers(joined, judged=judged)
    found = tuple(
        _sample(place, tuple(names), answers, prompts, numbers) for place, names in kinds.items()
    )
    return found, {kind: len(scores[kind]) for kind in KINDS}


def _scores(joined: Joined, *, judged: bool) -> dict[str, dict[str, float]]:
    """How much each prompt changed, by kind; only those that changed."""
    a, b = joined.a, joined.b
    turned = _by_id(a.judgments, b.judgments["preference"] - a.judgments["preference"])
    passed = _by_id(a.checks, b.checks["passed"] - a.checks["passed"])
    said = (a.samples["n_tokens"] > 0) & (b.samples["n_tokens"] > 0)
    ratio = (b.samples["n_tokens"] / a.samples["n_tokens"])[said].map(math.log)
    length = _by_id(a.samples[said], ratio)
    kl = _by_id(a.samples, b.samples["kl"] - a.samples["kl"])
    pairs = {
        ("for", "against"): turned if judged else {},
        ("gained", "lost"): passed,
        ("longer", "shorter"): length,
        ("further", "nearer"): kl,
    }
    found = {}
    for (up, down), change in pairs.items():
        found[up] = {p: v for p, v in change.items() if v > 0}
        found[down] = {p: -v for p, v in change.items() if v < 0}
    return found


def _by_id(frame: pd.DataFrame, values: pd.Series[Any]) -> dict[str, float]:
    found = zip(frame["prompt_id"], values.astype("float64"), strict=True)
    return {str(p): float(v) for p, v in found if math.isfinite(v)}


def _numbers(joined: Joined, *, judged: bool) -> dict[tuple[str, str, str], Any]:
    """What is known of each answer, by (side, prompt id, mode)."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}

    def note(side: str, mode: str, frame: pd.DataFrame, columns: Mapping[str, str]) -> None:
        for row in frame.to_dict("records"):
            own = found.setdefault((side, str(row["prompt_id"]), mode), {})
            own |= {k: _plain(row[c]) for k, c in columns.items() if c in row}

    verdict = {"preference": "preference", "first": "preference_first",
               "second": "preference_second"} if judged else {}  # fmt: skip
    for side, evidence in (("a", joined.a), ("b", joined.b)):
        note(side, "sample", evidence.judgments, {**verdict, "truth": "true_preference"})
        note(side, "sample", evidence.samples, {"tokens": "n_tokens", "kl": "kl"})
        note(side, "greedy", evidence.checks, {"passed": "passed", "behaviour": "behaviour"})
    for frame in (joined.a.judgments, joined.a.samples):
        note("a", "sample", frame, {"behaviour": "behaviour"})
    note("reference", "sample", joined.a.samples, {"tokens": "ref_n_tokens"})
    note("reference", "greedy", joined.a.checks, {"passed": "ref_passed"})
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else None


def _sample(
    place: tuple[str, str],
    kinds: tuple[str, ...],
    answers: Answers,
    prompts: Mapping[str, Sequence[Mapping[str, Any]]],
    numbers: Mapping[tuple[str, str, str], Mapping[str, Any]],
) -> Changed:
    prompt, mode = place
    made = {}
    for side in SIDES:
        own = dict(numbers.get((side, prompt, mode), {}))
        own.pop("behaviour", None)
        for name, kind in (("passed", bool), ("tokens", int)):
            if own.get(name) is not None:
                own[name] = kind(own[name])
        text = getattr(answers, side).get(place, "")
        made[side] = Answer(text, len(text.split()), **own)
    turns = tuple(
        (str(m.get("role", "")), str(m.get("content", ""))) for m in prompts.get(prompt, ())
    )
    behaviour = str(numbers.get(("a", prompt, mode), {}).get("behaviour") or "")
    return Changed(prompt, behaviour, kinds, turns, made["a"], made["b"], made["reference"])


def few(samples: Iterable[Changed]) -> list[tuple[str, Changed]]:
    """For a terminal: the first of each kind, no prompt twice."""
    rest, found = list(samples), []
    for kind in KINDS:
        first = next((s for s in rest if kind in s.kinds), None)
        if first is not None:
            found.append((kind, first))
            rest.remove(first)
    return found


def visible(text: str) -> str:
    """``text`` in one line, with every character that is not printed shown by its number.

    >>> visible("a\\n  b\\x1b[31m")
    'a b<U+001B>[31m'
    """
    words = [word for word in re.split(r"[ \t\r\n]+", text) if word]
    return "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in " ".join(words))


def cut(text: str, width: int) -> str:
    """At most ``width`` characters, the end shown as an ellipsis."""
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"
