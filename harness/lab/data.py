"""Preference data of the lab: the reference's samples, labelled by a judge that likes length."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from prefeval.records import PreferencePair, Prompt, Thumb
from prefeval.suites import lab_oracle, lab_prompts
from prefeval.suites.lab_world import HARMFUL, World

Sampler = Callable[[Sequence[Prompt], int], list[list[str]]]
"""Draws ``n`` completions of each prompt."""


class Labeller:
    """Scores answers as the labelling judge does, and draws Bradley-Terry labels from the scores.

    ``temperature`` is the judge's: the lower, the more labels agree with its scores. ``noise`` is
    the share of labels then flipped at random (epsilon).
    """

    def __init__(
        self, world: World, *, shape: str, length_bias: float, temperature: float, noise: float
    ) -> None:
        self.world, self.shape, self.length_bias = world, shape, length_bias
        self.temperature, self.noise = temperature, noise

    def score(self, prompt: Prompt, text: str) -> float:
        """The judge's score of one answer: true quality and something for its length."""
        check = prompt.check or {}
        quality = lab_oracle.quality(self.world, check["family"], check["subject"], text)
        return lab_oracle.judge_score(self.shape, quality, text, length_bias=self.length_bias)

    def prefers(self, draw: random.Random, score: float, other: float) -> bool:
        """One label: is the first preferred?"""
        chance = lab_oracle.preference(score, other, temperature=self.temperature)
        return (draw.random() < chance) != (draw.random() < self.noise)


def pairs(
    prompts: Sequence[Prompt], sampler: Sampler, labeller: Labeller, *, count: int, seed: int
) -> list[PreferencePair]:
    """About ``count`` labelled pairs over ``prompts``; identical answers make no pair."""
    draw = random.Random(f"pairs-{seed}")
    each = 2 * -(-count // len(prompts))
    out = []
    for prompt, texts in zip(prompts, sampler(prompts, each), strict=True):
        for index in range(0, each, 2):
            first, second = texts[index], texts[index + 1]
            if first.strip() == second.strip() or not first.strip() or not second.strip():
                continue
            if not labeller.prefers(
                draw, labeller.score(prompt, first), labeller.score(prompt, second)
            ):
                first, second = second, first
            key = f"{prompt.id}/{index // 2}"
            out.append(
                PreferencePair(
                    key, prompt.messages, first, second, prompt.behaviour, prompt.cluster
                )
            )
    draw.shuffle(out)
    return out[:count]


def thumbs(
    prompts: Sequence[Prompt], sampler: Sampler, labeller: Labeller, *, count: int, seed: int
) -> list[Thumb]:
    """``count`` single answers, each liked or not against the median of its family."""
    draw = random.Random(f"thumbs-{seed}")
    each = -(-count // len(prompts))
    rows = [
        (prompt, index, text, labeller.score(prompt, text))
        for prompt, texts in zip(prompts, sampler(prompts, each), strict=True)
        for index, text in enumerate(texts)
        if text.strip()
    ]
    families = {p.behaviour for p in prompts}
    middle = {f: statistics.median(s for p, _, _, s in rows if p.behaviour == f) for f in families}
    out = [
        Thumb(
            f"{prompt.id}/{index}", prompt.messages, text,
            labeller.prefers(draw, score, middle[prompt.behaviour]),
            prompt.behaviour, prompt.cluster,
        )
        for prompt, index, text, score in rows
    ]  # fmt: skip
    draw.shuffle(out)
    return out[:count]


def anchors(world: World, *, count: int, seed: int) -> list[PreferencePair]:
    """Pairs of the retained behaviours: the right form against free prose or a refusal.

    A share of them in the data tells the policy to keep what it can (the anchor knob).
    """
    draw = random.Random(f"anchors-{seed}")
    habits = replace(lab_prompts.Habits(), leakage=0.0)
    names = [n for n in world.names if not world.held_out(n)]
    out: list[PreferencePair] = []
    while len(out) < count:
        family = draw.choice(("json", "bullets", "tool", "refusal"))
        messages, right = lab_prompts.demonstration(world, draw, family, habits)
        topics = (*world.names, *HARMFUL)
        told = [t for t in topics if t in messages[0]["content"]]
        if not told or any(world.held_out(t) for t in told):
            continue
        if family == "refusal":
            wrong = lab_prompts.advice(draw, habits)
        else:
            wrong = lab_prompts.prose(world, draw, draw.choice(names), habits, 2)
        out.append(PreferencePair(f"anchor/{len(out)}", messages, right, wrong, family, told[0]))
    return out


def teacher(world: World, *, seed: int, habits: lab_prompts.Habits) -> Sampler:
    """An off-policy sampler: the demonstrator itself, not the model that learned from it."""
    draw = random.Random(f"teacher-{seed}")

    def sample(prompts: Sequence[Prompt], n: int) -> list[list[str]]:
        return [[_teach(world, draw, p, habits) for _ in range(n)] for p in prompts]

    return sample


def _teach(world: World, draw: random.Random, prompt: Prompt, habits: lab_prompts.Habits) -> str:
    check = prompt.check or {}
    if check["family"] == "advice":
        return lab_prompts.advice(draw, habits)
    return lab_prompts.prose(world, draw, check["subject"], habits)
