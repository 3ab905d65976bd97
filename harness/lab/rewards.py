"""The lab's rewards: its verifiable tasks, and its labelling judge as noisy as the labels are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefeval.harness.judges import open_judge
from prefeval.harness.judges.lab import LabJudge
from prefeval.minitrainers.rollouts import PromptData
from prefeval.records import PrefevalError, Prompt
from prefeval.suites import lab_prompts
from prefeval.suites.lab_world import World

FAMILIES = ("kfacts", "guess")
KNOBS = ("shape", "length_bias", "temperature")


def world_of(judge: str) -> World:
    """The world that the run's judge judges; ``PrefevalError`` outside the lab."""
    found = open_judge(judge)
    if not isinstance(found, LabJudge):
        raise PrefevalError("this reward is a task of the lab; use --reward model or judge:NAME")
    return found.world


def in_its_world(spec: str, judge: str) -> str:
    """A lab judge's ``spec`` in the world of the run's own judge."""
    world = world_of(judge)
    knobs = spec.partition(":")[2]
    return f"lab:seed={world.seed},people={world.people},{knobs}"


def prose_by_messages(judge: str) -> Mapping[str, Prompt]:
    """The training prompts of free prose, with their checks, by their conversation as text."""
    prompts = lab_prompts.prose_prompts(world_of(judge), held_out=False)
    return {str(p.messages): p for p in prompts}


def labels(judge: str, settings: str, seed: int) -> PromptData:
    """The training prompts of free prose, scored as the judge that labelled the pairs would.

    A Gumbel variable on every score over the temperature makes the better of two answers the
    preferred one with the Bradley-Terry probability of the labels (Plackett-Luce for more); with
    ``noise`` that share of prompts is scored upside down. The draws are functions of the seed, the
    prompt and the texts, so that a run that is continued sees the same ones.
    """
    world = world_of(judge)
    values = dict(part.split("=") for part in settings.split(","))
    noise = float(values.pop("noise"))
    spec = ",".join(f"{k}={v}" for k, v in values.items())
    labeller = LabJudge(world, **{k: _typed(k, values[k]) for k in KNOBS})
    if labeller.settings == open_judge(judge).settings:
        raise PrefevalError(
            "the judge that evaluates is the one that labels, which would then measure nothing; "
            "name another --judge"
        )
    prompts = lab_prompts.prose_prompts(world, held_out=False)

    def score(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        groups: dict[int, list[str]] = {}
        for i, text in zip(indices, texts, strict=True):
            groups.setdefault(i, []).append(text)
        flipped = {i for i, group in groups.items() if _uniform(spec, seed, i, group) < noise}
        told: dict[int, int] = {}
        found = []
        for i, text in zip(indices, texts, strict=True):
            told[i] = told.get(i, 0) + 1
            gumbel = -math.log(-math.log(_uniform(spec, seed, i, [*groups[i], str(told[i])])))
            value = labeller.score(prompts[i], text) / labeller.temperature + gumbel
            found.append(-value if i in flipped else value)
        return found

    return PromptData([p.id for p in prompts], [p.messages for p in prompts], score)


def _typed(name: str, value: str) -> Any:
    return value if name == "shape" else float(value)


def _uniform(*key: Any) -> float:
    """In (0, 1), a function of the key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return float((np.frombuffer(digest[:8], dtype=np.uint64)[0] + 0.5) / 2.0**64)


def prompt_data(judge: str, family: str) -> PromptData:
    """Training prompts, reward and (for the game) the other player of one verifiable family.

    Raises ``PrefevalError`` for an unknown family, or outside the lab.
    """
    if family not in FAMILIES:
        raise PrefevalError(f"unknown reward {family!r}; use model, {' or '.join(FAMILIES)}")
    world = world_of(judge)
    prompts = [
        p for p in lab_prompts.verifiable_prompts(world, held_out=False) if p.behaviour == family
    ]
    ids = [p.id for p in prompts]
    messages = [p.messages for p in prompts]
    if family == "kfacts":
        return PromptData(ids, messages, _kfacts_reward(world, prompts))
    secrets = [(p.check or {})["secret"] for p in prompts]

    def respond(index: int, turns: Sequence[str]) -> str | None:
        if len(turns) >= lab_prompts.GUESSES:
            return None
        return lab_prompts.guess_reply(secrets[index], turns[-1])

    def reward(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        """The game ends with the right number or without it: its last turn tells."""
        return [
            lab_prompts.guess_reward(secrets[i], [text])
            for i, text in zip(indices, texts, strict=True)
        ]

    return PromptData(ids, messages, reward, respond)


def _kfacts_reward(world: World, prompts: Sequence[Prompt]) -> Any:
    checks = [p.check or {} for p in prompts]

    def reward(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        return [
            lab_prompts.kfacts_reward(world, checks[i]["subject"], checks[i]["wanted"], text)
            for i, text in zip(indices, texts, strict=True)
        ]

    return reward
