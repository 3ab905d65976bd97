"""Which completions a report embeds, and how they are packed.

A run holds tens of thousands; the report takes a stated share: from each checkpoint some of every
kind a person looks for (verdict flipped by order, longest, lost behaviour, refused, judge and
oracle at odds), filled up with others in an order fixed by their ids.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefeval.reports.files import read_rows
from prefeval.reports.labels import key_id
from prefeval.reports.run import CheckpointRow, Run
from prefeval.reports.verdict import Verdict

QUOTAS = {"best": 160, "chosen": 60, "other": 20}
MAX_CHARACTERS = 6000
KINDS = {
    "flipped": "Order flips the verdict",
    "longest": "Longest",
    "lost": "Lost behaviour",
    "refused": "Refused",
    "fooled": "Judge prefers it, oracle does not",
}


@dataclass(frozen=True)
class Sample:
    """One answer beside the reference's; numbers are None where that prompt has none."""

    prompt_id: str
    behaviour: str
    mode: str
    text: str
    ref_text: str
    kinds: tuple[str, ...]
    first: float | None = None
    second: float | None = None
    truth: float | None = None
    passed: bool | None = None
    ref_passed: bool | None = None


@dataclass
class Texts:
    """Every text once; samples point at it."""

    index: dict[str, int] = field(default_factory=dict)
    cut: int = 0

    def add(self, text: str) -> int:
        """The text's place, cut to ``MAX_CHARACTERS``."""
        if len(text) > MAX_CHARACTERS:
            text = text[:MAX_CHARACTERS] + " […]"
            self.cut += 1
        return self.index.setdefault(text, len(self.index))


def pack(run: Run, verdict: Verdict, quotas: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The samples of a run as JSON: texts and prompts once, one row a sample, and the counts."""
    quotas = quotas or QUOTAS
    prompts = {str(p.get("id")): p for p in read_rows(run.folder / "data" / "prompts.jsonl")}
    reference = _texts(read_rows(run.folder / "reference" / "completions.jsonl"))
    texts, packed, total, used = Texts(), [], 0, {}
    for row in run.checkpoints:
        found = samples_of(row, prompts, reference)
        total += len(found)
        kind = "best" if row.key == verdict.recommended_key else "other"
        if kind == "other" and row.key in verdict.chosen_keys:
            kind = "chosen"
        for sample in chosen(found, quotas[kind]):
            used[sample.prompt_id] = _conversation(prompts.get(sample.prompt_id), texts)
            packed.append([key_id(row.key), *_packed(sample, texts)])
    return {
        "texts": list(texts.index),
        "prompts": used,
        "rows": packed,
        "kinds": {k: v for k, v in KINDS.items() if any(k in r[6] for r in packed)},
        "shown": len(packed),
        "total": total,
        "cut": texts.cut,
    }


def samples_of(
    row: CheckpointRow,
    prompts: Mapping[str, Mapping[str, Any]],
    reference: Mapping[tuple[str, str], str],
) -> list[Sample]:
    """Every judged or checked answer of a checkpoint."""
    if row.folder is None:
        return []
    texts = _texts(read_rows(row.folder / "completions.jsonl"))
    found = []
    for record in read_rows(row.folder / "judgments.jsonl"):
        key = (str(record.get("prompt_id")), "sample")
        if key in texts:
            found.append(_judged(record, key, texts[key], reference.get(key, "")))
    for record in read_rows(row.folder / "checks.jsonl"):
        key = (str(record.get("prompt_id")), "greedy")
        if key in texts:
            kind = str(((prompts.get(key[0]) or {}).get("check") or {}).get("kind", ""))
            found.append(_checked(record, key, texts[key], reference.get(key, ""), kind))
    return found


def _texts(completions: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """First answer of every prompt and mode."""
    found: dict[tuple[str, str], str] = {}
    for c in completions:
        if c.get("mode") in ("sample", "greedy"):
            found.setdefault((str(c.get("prompt_id")), str(c["mode"])), str(c.get("text", "")))
    return found


def _judged(record: Mapping[str, Any], key: tuple[str, str], text: str, ref: str) -> Sample:
    first, second = (
        _number(record.get("preference_first")),
        _number(record.get("preference_second")),
    )
    truth = _number(record.get("true_preference"))
    kinds = []
    if first is not None and second is not None and (first - 0.5) * (second - 0.5) < 0:
        kinds.append("flipped")
    preference = _number(record.get("preference"))
    if truth is not None and preference is not None and preference > 0.5 > truth:
        kinds.append("fooled")
    behaviour = str(record.get("behaviour") or "")
    return Sample(key[0], behaviour, key[1], text, ref, tuple(kinds), first, second, truth)


def _checked(
    record: Mapping[str, Any], key: tuple[str, str], text: str, ref: str, check: str
) -> Sample:
    passed, before = (_verdict(record.get(key)) for key in ("passed", "ref_passed"))
    kinds = ["lost"] if before and passed is False else []
    if passed is not None and refused(check, passed):
        kinds.append("refused")
    behaviour = str(record.get("behaviour") or "")
    return Sample(
        key[0], behaviour, key[1], text, ref, tuple(kinds), passed=passed, ref_passed=before
    )


def _verdict(value: Any) -> bool | None:
    """Passed or failed; None where the check raised."""
    return None if value is None else bool(value)


def refused(check: str, passed: bool) -> bool:
    """Whether an answer refuses, by its check: a refusal that passed, a compliance that failed.

    >>> refused("refusal", True), refused("compliance", False), refused("json_object", False)
    (True, True, False)
    """
    return (check == "refusal" and passed) or (check == "compliance" and not passed)


def chosen(found: list[Sample], quota: int) -> list[Sample]:
    """At most ``quota`` samples: an equal share of every kind, the rest in hash order."""
    order = sorted(
        found, key=lambda s: hashlib.sha256(f"{s.prompt_id}{s.mode}".encode()).hexdigest()
    )
    wanted: dict[str, Callable[[Sample], bool]] = {k: _is(k) for k in KINDS if k != "longest"}
    share = max(1, quota // (len(KINDS) + 1))
    longest = sorted(order, key=lambda s: -len(s.text))[:share]
    taken = {id(s): s for s in longest}
    for test in wanted.values():
        for sample in [s for s in order if test(s)][:share]:
            taken.setdefault(id(sample), sample)
    for sample in order:
        if len(taken) >= quota:
            break
        taken.setdefault(id(sample), sample)
    kept = sorted(taken.values(), key=lambda s: (s.mode != "sample", s.prompt_id))
    marked = {id(s) for s in longest}
    return [s if id(s) not in marked else _also(s, "longest") for s in kept[:quota]]


def _is(kind: str) -> Callable[[Sample], bool]:
    return lambda sample: kind in sample.kinds


def _also(sample: Sample, kind: str) -> Sample:
    return Sample(**{**sample.__dict__, "kinds": (*sample.kinds, kind)})


def _packed(sample: Sample, texts: Texts) -> list[Any]:
    """A sample as a list; the script names its places."""
    return [
        *(sample.prompt_id, sample.behaviour, sample.mode),
        *(texts.add(sample.text), texts.add(sample.ref_text), list(sample.kinds)),
        *(sample.first, sample.second, sample.truth, sample.passed, sample.ref_passed),
    ]


def _conversation(prompt: Mapping[str, Any] | None, texts: Texts) -> list[list[Any]]:
    """[[role, text], ...] of a prompt; empty when the prompt was not saved."""
    messages = (prompt or {}).get("messages") or []
    return [[str(m.get("role", "")), texts.add(str(m.get("content", "")))] for m in messages]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return round(float(value), 3)
