"""What rewards a policy's own answers, by the name that ``--reward`` takes.

    model            the Bradley-Terry model of the training pairs
    judge:NAME[:..]  any judge: how surely it prefers the answer to the data's own chosen one
    labels           the lab's labelling judge, as noisy as the pairs' labels are
    kfacts, guess    a program of the lab's that checks the answer

A policy must not be judged by what it was trained on: the judge that evaluates is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.harness import data as preference_data
from prefeval.harness import judges, models
from prefeval.harness.lab import rewards as lab_rewards
from prefeval.harness.task import Task
from prefeval.records import Comparison, PreferencePair, PrefevalError, Prompt

if TYPE_CHECKING:
    from prefeval.minitrainers.rollouts import PromptData

MODEL, JUDGE, LABELS = "model", "judge", "labels"


def check(reward: str, *, is_lab: bool) -> None:
    """Raise ``PrefevalError`` for a reward that there is not, here."""
    kind, _, argument = reward.partition(":")
    if kind == JUDGE:
        if not argument:
            raise PrefevalError(
                "--reward judge needs a judge: judge:reward_model:DIR, or another by its name"
            )
        name, _, folder = argument.partition(":")
        judges.get(name)
        if name == "reward_model" and not folder:
            raise PrefevalError("the judge reward_model needs a folder: judge:reward_model:DIR")
        if name == "reward_model":
            models.check_model_dir(folder)
        return
    if argument:
        raise PrefevalError(
            f"--reward {kind} takes no argument, got {argument!r}; for a model of your own use "
            "--reward judge:reward_model:DIR"
        )
    known = [MODEL, *((LABELS, *lab_rewards.FAMILIES) if is_lab else ())]
    if kind not in known:
        raise PrefevalError(
            f"unknown reward {reward!r} here; use --reward {', '.join(known)} or judge:NAME"
        )


@dataclass(frozen=True)
class Rewarded:
    """Prompts with their reward, and the body of the model behind it, from which PPO's value model
    may start."""

    prompts: PromptData
    body: Any = None


def open_reward(task: Task, reward: str, *, room: int, seed: int = 0) -> Rewarded:
    """The prompts to train on, with their reward.

    Parameters
    ----------
    room
        Tokens that a prompt may take; longer ones are left out.
    seed
        Of the labels' noise.
    """
    kind, _, argument = reward.partition(":")
    if kind in lab_rewards.FAMILIES:
        return Rewarded(lab_rewards.prompt_data(task.judge, kind))
    if kind == LABELS:
        return Rewarded(lab_rewards.labels(task.judge, argument, seed))
    asked = _prompts(task, room)
    if kind == JUDGE:
        return Rewarded(_by_judge(task, argument, asked))
    return _by_model(task, asked)


def reward_model(task: Task) -> Path:
    """Where the reward model of the training pairs is saved."""
    return Path(task.run) / "reward_model" / "model"


def _prompts(task: Task, room: int) -> list[PreferencePair]:
    """One training pair for every distinct prompt that fits."""
    tokenizer = models.load_tokenizer(task.reference)
    pairs = preference_data.load_pairs(task.data / "pairs.jsonl").items
    asked = preference_data.with_room(preference_data.distinct(pairs), tokenizer, room)
    if not asked:
        raise PrefevalError(
            f"no prompt takes at most {room} tokens, so none leaves room for an answer; "
            "raise --max-length"
        )
    return asked


def _by_model(task: Task, asked: Sequence[PreferencePair]) -> Rewarded:
    from prefeval.harness.judges import reward_model as reward_models
    from prefeval.minitrainers import reward as reward_module
    from prefeval.minitrainers.rollouts import PromptData

    judge = reward_models.from_folder(reward_model(task), device=task.device)
    _refuse_evaluating(judge, task)

    def score(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        answers = [(asked[i].prompt, text) for i, text in zip(indices, texts, strict=True)]
        return reward_module.score(
            judge.model, judge.tokenizer, answers, max_length=task.sizes.max_length
        )

    data = PromptData([p.id for p in asked], [p.prompt for p in asked], score)
    return Rewarded(data, judge.model.base_model)


def _refuse_evaluating(judge: judges.Judge, task: Task) -> None:
    evaluating = judges.open_judge(task.judge, device=task.device, dtype=task.dtype)
    if (judge.name, judge.settings) == (evaluating.name, evaluating.settings):
        raise PrefevalError(
            "the reward is the judge that evaluates, which would then measure nothing; name "
            "another judge for --reward or for --judge"
        )


def models_needed(reward: str) -> int:
    """Models that a reward holds: none where a program or the lab's oracle gives it."""
    judge = reward.partition(":")[2].partition(":")[0]
    return int(reward == MODEL or (reward.startswith(JUDGE) and judge != "lab"))


def _by_judge(task: Task, spec: str, asked: Sequence[PreferencePair]) -> PromptData:
    """P(the answer is preferred to the data's chosen one), both orders averaged."""
    from prefeval.minitrainers.rollouts import PromptData

    if spec.partition(":")[0] == "lab":
        spec = lab_rewards.in_its_world(spec, task.judge)
    judge = judges.open_judge(spec, device=task.device, dtype=task.dtype)
    _refuse_evaluating(judge, task)
    known = lab_rewards.prose_by_messages(task.judge) if judge.name == "lab" else {}
    prompts = [
        known.get(str(p.prompt))
        or Prompt(p.id, p.prompt, p.behaviour, "win_rate", p.cluster or p.id)
        for p in asked
    ]

    def score(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        rows = [(prompts[i], text, asked[i].chosen) for i, text in zip(indices, texts, strict=True)]
        first = judge.compare([Comparison(p, text, other) for p, text, other in rows])
        second = judge.compare([Comparison(p, other, text) for p, text, other in rows])
        found = []
        for (prompt, _, _), a, b in zip(rows, first, second, strict=True):
            told = [] if a.preference is None else [a.preference]
            told += [] if b.preference is None else [1 - b.preference]
            if not told:
                raise PrefevalError(
                    f"the judge {spec} gave no readable verdict, in either order, on an answer to "
                    f"prompt {prompt.id}; use a judge that can be read"
                )
            found.append(sum(told) / len(told))
        return found

    return PromptData([p.id for p in asked], [p.prompt for p in asked], score)
