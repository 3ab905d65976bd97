"""Which completions a report holds, and how they are packed.

All of them, where they fit: one piece of the page for each checkpoint, compressed, which the page's
script unpacks when somebody looks at that checkpoint. Beyond ``BUDGET`` the report takes a stated
share: from each checkpoint some of every kind that a person looks for (verdict flipped by order,
longest, most drifted, lost behaviour, refused, judge and oracle at odds), filled up with others in
an order fixed by their ids.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefeval.reports.files import read_rows
from prefeval.reports.labels import key_id
from prefeval.reports.run import CheckpointRow, Run
from prefeval.reports.verdict import Verdict

BUDGET = 14_000_000  # characters of base64 in the page
FEWEST = 20  # of a checkpoint, however many checkpoints there are
MAX_CHARACTERS = 6000
KINDS = {
    "flipped": "Order flips the verdict",
    "longest": "Longest first",
    "kl": "Biggest KL first",
    "lost": "Lost format or behaviour",
    "gained": "Gained",
    "refused": "Refused",
    "fooled": "Judge prefers it, oracle does not",
}
ORDERS: Mapping[str, Callable[[Sample], float]] = {
    "longest": lambda s: -len(s.text),
    "kl": lambda s: -s.kl if s.kl is not None else math.inf,
}
"""Kinds that are an order of the samples, the first ones first; the others are told by a sample."""


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
    kl: float | None = None
    """nats, of a sample at temperature 1"""


@dataclass(frozen=True)
class Pack:
    """The samples of a run, packed for the page.

    ``pieces`` by checkpoint id are gzip in base64 of JSON rows (see ``_packed``); the piece
    "shared" holds the prompts, ``{id: [[role, text], ...]}``, and the reference's answers,
    ``{"mode|id": text}``.
    """

    pieces: Mapping[str, str]
    counts: Mapping[str, int]
    """samples held, by checkpoint id"""
    kinds: Mapping[str, str]
    behaviours: Sequence[str]
    total: int
    cut: int
    """texts cut to ``MAX_CHARACTERS``"""

    @property
    def shown(self) -> int:
        """How many completions the page holds."""
        return sum(self.counts.values())


def pack(run: Run, verdict: Verdict, budget: int = BUDGET) -> Pack:
    """Every sample of a run, or a share of each checkpoint's where they exceed the budget.

    The recommended checkpoint keeps all that it can.
    """
    prompts = {str(p.get("id")): p for p in read_rows(run.folder / "data" / "prompts.jsonl")}
    reference = _texts(read_rows(run.folder / "reference" / "completions.jsonl"))
    found = {key_id(row.key): samples_of(row, prompts, reference) for row in run.checkpoints}
    found = {name: samples for name, samples in found.items() if samples}
    everything = [s for samples in found.values() for s in samples]
    pieces = {name: compressed([_packed(s) for s in samples]) for name, samples in found.items()}
    best = key_id(verdict.recommended_key) if verdict.recommended_key else ""
    size = sum(map(len, pieces.values()))
    if size > budget:
        share = max(0.0, budget - len(pieces.get(best, ""))) / size
        for name in found.keys() - {best} if len(pieces.get(best, "")) < budget else set(found):
            found[name] = chosen(found[name], max(FEWEST, int(share * len(found[name]))))
            pieces[name] = compressed([_packed(s) for s in found[name]])
    kept = [s for samples in found.values() for s in samples]
    told = {kind for s in kept for kind in s.kinds} | {k for k in ORDERS if _tells(k, kept)}
    shared = _shared(kept, prompts, reference)
    texts = [*(s.text for s in kept), *shared["refs"].values()]
    return Pack(
        pieces={"shared": compressed(shared), **pieces} if pieces else {},
        counts={name: len(samples) for name, samples in found.items()},
        kinds={k: words for k, words in KINDS.items() if k in told},
        behaviours=sorted({s.behaviour for s in kept}),
        total=len(everything),
        cut=sum(len(t) > MAX_CHARACTERS for t in texts),
    )


def _tells(order: str, samples: Sequence[Sample]) -> bool:
    """Whether an order puts some sample before another."""
    return len({ORDERS[order](s) for s in samples}) > 1


def compressed(value: Any) -> str:
    """JSON, gzip, base64: text in which nothing of a completion can end an element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    raw = text.encode("utf-8", "replace")  # a lone surrogate becomes "?"
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode("ascii")


def _shared(
    samples: Iterable[Sample],
    prompts: Mapping[str, Mapping[str, Any]],
    reference: Mapping[tuple[str, str], str],
) -> dict[str, Any]:
    """What the pieces have in common: prompts, and the reference's answers."""
    used = dict.fromkeys((s.prompt_id, s.mode) for s in samples)
    return {
        "prompts": {id_: _conversation(prompts.get(id_)) for id_, _ in used},
        "refs": {f"{mode}|{id_}": _cut(reference.get((id_, mode), "")) for id_, mode in used},
    }


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " […]"


def samples_of(
    row: CheckpointRow,
    prompts: Mapping[str, Mapping[str, Any]],
    reference: Mapping[tuple[str, str], str],
) -> list[Sample]:
    """Every judged or checked answer of a checkpoint."""
    if row.folder is None:
        return []
    texts = _texts(read_rows(row.folder / "completions.jsonl"))
    drift = {str(r.get("prompt_id")): r.get("kl") for r in read_rows(row.folder / "samples.jsonl")}
    found = []
    for record in read_rows(row.folder / "judgments.jsonl"):
        key = (str(record.get("prompt_id")), "sample")
        if key in texts:
            judged = _judged(record, key, texts[key], reference.get(key, ""))
            found.append(replace(judged, kl=_number(drift.get(key[0]))))
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
    kinds += ["gained"] if before is False and passed else []
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
    share = max(1, quota // (len(KINDS) + 1))
    taken: dict[int, Sample] = {}
    for kind in KINDS:
        if kind in ORDERS:
            first = sorted(order, key=ORDERS[kind])[:share]
        else:
            first = [s for s in order if kind in s.kinds][:share]
        taken |= {id(s): s for s in first}
    for sample in order:
        if len(taken) >= quota:
            break
        taken.setdefault(id(sample), sample)
    return sorted(list(taken.values())[:quota], key=lambda s: (s.mode != "sample", s.prompt_id))


def _packed(sample: Sample) -> list[Any]:
    """A sample as a list; the script names its places."""
    return [
        *(sample.prompt_id, sample.behaviour, sample.mode, _cut(sample.text), list(sample.kinds)),
        *(sample.first, sample.second, sample.truth, sample.passed, sample.ref_passed, sample.kl),
    ]


def _conversation(prompt: Mapping[str, Any] | None) -> list[list[str]]:
    """[[role, text], ...] of a prompt; empty when the prompt was not saved."""
    messages = (prompt or {}).get("messages") or []
    return [[str(m.get("role", "")), _cut(str(m.get("content", "")))] for m in messages]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return round(float(value), 3)
