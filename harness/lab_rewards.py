"""The lab's verifiable tasks as PPO's prompts: a program gives the reward, no model does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefeval.harness.judges import open_judge
from prefeval.harness.judges.lab import LabJudge
from prefeval.minitrainers.rollouts import PromptData
from prefeval.records import PrefevalError, Prompt
from prefeval.suites import lab_prompts
from prefeval.suites.lab_world import World

FAMILIES = ("kfacts", "guess")


def prompt_data(judge: str, family: str) -> PromptData:
    """Training prompts, reward and (for the game) the other player of one verifiable family.

    Raises ``PrefevalError`` for an unknown family, or outside the lab.
    """
    if family not in FAMILIES:
        raise PrefevalError(f"unknown reward {family!r}; use model, {' or '.join(FAMILIES)}")
    found = open_judge(judge)
    if not isinstance(found, LabJudge):
        raise PrefevalError(f"the reward {family!r} is a task of the lab; use --reward model")
    world = found.world
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
