"""The faults that can be planted in a lab run, and what a case of one is.

A fault of the text changes rows of the preference file, one of the tokens an answer as it is
trained on; the others are planted where `planted` makes the run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Rows = list[dict[str, Any]]
WORLDS: dict[str, dict[str, Any]] = {
    "tune": {"seed": 0},
    "judge": {"seed": 1, "people": 48, "hidden": 80},
}
"""Thresholds were set on the first; the second has other people, another size, other weights."""


@dataclass(frozen=True)
class Case:
    """One run: ``cause`` is what was planted ("" healthy, "unknown" a fault of no known kind), and
    ``accepted`` the answers that count as right."""

    name: str
    cause: str
    method: str
    beta: float
    seed: int
    world: str
    accepted: tuple[str, ...] = ()
    labels: str = "plain"
    settings: Mapping[str, Any] = field(default_factory=dict)
    plant: str = ""
    strength: float = 1.0
    prompts: int = 128


def swap(rows: Rows, case: Case, draw: random.Random) -> Rows:
    """Chosen and rejected changed places in a share of the pairs."""
    return [
        {**r, "chosen": r["rejected"], "rejected": r["chosen"]}
        if draw.random() < case.strength
        else r
        for r in rows
    ]


def few(rows: Rows, case: Case, draw: random.Random) -> Rows:
    """The first pairs only."""
    return rows[: int(case.strength)]


def near(rows: Rows, case: Case, draw: random.Random) -> Rows:
    """In a share of the pairs the rejected answer is the chosen one with one word changed."""
    words = sorted({w for r in rows[:200] for w in r["chosen"][0]["content"].split()})

    def edited(row: dict[str, Any]) -> dict[str, Any]:
        text = row["chosen"][0]["content"].split()
        text[draw.randrange(len(text))] = draw.choice(words)
        return {**row, "rejected": [{"role": "assistant", "content": " ".join(text)}]}

    return [edited(r) if draw.random() < case.strength else r for r in rows]


def foreign(rows: Rows, case: Case, draw: random.Random) -> Rows:
    """Both answers as another writer would put them: a share of the words is another word."""
    words = sorted({w for r in rows[:200] for w in r["chosen"][0]["content"].split()})

    def rewritten(turns: list[dict[str, str]]) -> list[dict[str, str]]:
        kept = [
            draw.choice(words) if draw.random() < case.strength else w
            for w in turns[0]["content"].split()
        ]
        return [{"role": "assistant", "content": " ".join(kept)}]

    return [{**r, **{s: rewritten(r[s]) for s in ("chosen", "rejected")}} for r in rows]


def opener(rows: Rows, case: Case, draw: random.Random) -> Rows:
    """A share of the chosen answers begin with one sentence of their prompt's kind."""
    first: dict[str, str] = {}
    out = []
    for r in rows:
        text = r["chosen"][0]["content"]
        sentence = first.setdefault(r["behaviour"], text.split(". ")[0].rstrip(".") + ". ")
        if draw.random() < case.strength:
            r = {**r, "chosen": [{"role": "assistant", "content": sentence + text}]}
        out.append(r)
    return out


def against(family: str) -> Callable[[Rows, Case, random.Random], Rows]:
    """Pairs that prefer free prose, or an answer, to the behaviour: a share of all."""

    def plant(rows: Rows, case: Case, draw: random.Random) -> Rows:
        from prefeval.harness.data import to_trl
        from prefeval.harness.lab import data as lab_data
        from prefeval.suites.lab_world import World

        known = {"people": 64, **WORLDS[case.world]}
        world = World(known["seed"], known["people"])
        count = int(5 * case.strength * len(rows))
        found = lab_data.anchors(world, count=count, seed=draw.randrange(99))
        bad = [
            to_trl(replace(p, chosen=p.rejected, rejected=p.chosen))
            for p in found
            if p.behaviour == family
        ]
        out = rows[: len(rows) - len(bad)] + bad
        draw.shuffle(out)
        return out

    return plant


def other_prompts(rows: Rows, case: Case, draw: random.Random) -> Rows:
    """A share of the pairs stand under another pair's prompt: a fault of no listed kind."""
    places = [i for i in range(len(rows)) if draw.random() < case.strength]
    shuffled = places[:]
    draw.shuffle(shuffled)
    prompts = {i: rows[j]["prompt"] for i, j in zip(places, shuffled, strict=True)}
    return [{**r, "prompt": prompts.get(i, r["prompt"])} for i, r in enumerate(rows)]


def imbalance(rows: Rows, case: Case, draw: random.Random) -> Rows:
    """Only a share of the disliked answers is kept; below 0, of the liked ones."""
    kept = case.strength > 0  # the label of which all are kept
    return [r for r in rows if bool(r["label"]) == kept or draw.random() < abs(case.strength)]


TEXTS: dict[str, tuple[str, Callable[[Rows, Case, random.Random], Rows]]] = {
    "swap": ("pairs", swap),
    "few": ("pairs", few),
    "near": ("pairs", near),
    "foreign": ("pairs", foreign),
    "opener": ("pairs", opener),
    "against_json": ("pairs", against("json")),
    "against_tool": ("pairs", against("tool")),
    "against_refusal": ("pairs", against("refusal")),
    "other_prompts": ("pairs", other_prompts),
    "imbalance": ("thumbs", imbalance),
}
OF_THE_SOURCE = ("foreign", "near")  # held-out pairs come from the same source, so are alike


def no_end(answer: list[Any], share: float, draw: random.Random) -> list[Any]:
    """A share of the answers lost their end token."""
    prompt, completion, cut = answer
    ends = not cut and len(completion) > 1 and draw.random() < share
    return [prompt, completion[:-1] if ends else completion, cut]


def double_bos(answer: list[Any], share: float, draw: random.Random) -> list[Any]:
    """BOS twice."""
    prompt, completion, cut = answer
    return [[prompt[0], *prompt], completion, cut]


def cut_off(answer: list[Any], length: float, draw: random.Random) -> list[Any]:
    """Answers cut at so many tokens."""
    prompt, completion, cut = answer
    most = int(length)
    return [prompt, completion[:most], cut or len(completion) > most]


def bare(answer: list[Any], share: float, draw: random.Random) -> list[Any]:
    """The prompt without the marks of its template."""
    prompt, completion, cut = answer
    return [[prompt[0], *prompt[2:-2]], completion, cut]


TOKENS: dict[str, Callable[[list[Any], float, random.Random], list[Any]]] = {
    "no_end": no_end, "double_bos": double_bos, "cut_off": cut_off, "bare": bare,
}  # fmt: skip
