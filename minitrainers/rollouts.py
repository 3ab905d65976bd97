"""Rollouts: the policy's own answers to prompts, with their rewards, in one turn or several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prefeval.minitrainers.batches import (
    Batch,
    EndOfTurn,
    end_of_turn,
    epoch_order,
    pad,
    prompt_text,
    tokenize,
)
from prefeval.minitrainers.loop import TrainConfig
from prefeval.minitrainers.sampling import generate
from prefeval.records import Message, Messages, PrefevalError, content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Reward = Callable[[Sequence[int], Sequence[str]], Sequence[float]]
"""Rewards, given the indices of the prompts and the texts of the (last) answers."""

Respond = Callable[[int, Sequence[str]], str | None]
"""The user's next message, given the prompt's index and the policy's turns so far; None ends the
episode."""


@dataclass(frozen=True)
class RolloutConfig(TrainConfig):
    """Settings of the methods that learn from rollouts. ``batch_size`` episodes are played an
    iteration, a step of the log; ``epochs`` is not read."""

    iterations: int = 40
    ppo_epochs: int = 4
    """passes over each set of rollouts"""
    minibatches: int = 4
    """optimizer steps a pass"""
    clip_range: float = 0.2


@dataclass(frozen=True)
class PromptData:
    """Prompts that a policy answers itself, and what rewards the answers."""

    ids: Sequence[str]
    prompts: Sequence[Messages]
    reward: Reward
    respond: Respond | None = None


class Rollouts(NamedTuple):
    """One row an episode; the completion mask marks the policy's own tokens."""

    batch: Batch
    rewards: Sequence[float]
    ended: Sequence[bool]
    """whether the last turn came to its end token"""


class Episode:
    """One conversation under way: its tokens, and which of them are the policy's."""

    def __init__(self, prompt: Messages, text: str, ids: list[int]) -> None:
        self.messages: list[Message] = list(prompt)
        self.text = text
        self.ids = ids
        self.mask = [0] * len(ids)
        self.turns: list[str] = []
        self.ended = False

    def take_turn(
        self, answer: list[int], tokenizer: PreTrainedTokenizerBase, end: EndOfTurn
    ) -> None:
        """Append the policy's answer, as the very tokens it drew."""
        self.ended = answer[-1] == end.token_id
        turn = tokenizer.decode(answer[:-1] if self.ended else answer, skip_special_tokens=True)
        self.ids = self.ids + answer
        self.mask = self.mask + [1] * len(answer)
        self.text += turn + end.text
        self.turns.append(turn)
        self.messages.append({"role": "assistant", "content": turn})

    def hear(self, message: str, tokenizer: PreTrainedTokenizerBase, room: int) -> bool:
        """Append the user's reply if it takes at most ``room`` tokens; says whether it did.

        Raises
        ------
        PrefevalError
            If the chat template renders earlier turns anew, so that tokens cannot be appended.
        """
        messages: list[Message] = [*self.messages, {"role": "user", "content": message}]
        text = prompt_text(tokenizer, messages)
        if not text.startswith(self.text):
            raise PrefevalError(
                "the chat template rewrites earlier turns, so an episode cannot be continued token "
                "by token; use a template that only appends"
            )
        ids = tokenizer(text[len(self.text) :], add_special_tokens=False).input_ids
        if len(ids) > room:
            return False
        self.messages, self.text = messages, text
        self.ids = self.ids + ids
        self.mask = self.mask + [0] * len(ids)
        return True


def _open(
    tokenizer: PreTrainedTokenizerBase,
    data: PromptData,
    prompt_indices: Sequence[int],
    room: int,
) -> list[Episode]:
    texts = [prompt_text(tokenizer, data.prompts[i]) for i in prompt_indices]
    rows = tokenize(tokenizer, texts)
    for i, ids in zip(prompt_indices, rows, strict=True):
        if len(ids) > room:
            raise PrefevalError(
                f"prompt {data.ids[i]} has {len(ids)} tokens, where max_length leaves room for "
                f"{room}; drop it or raise max_length"
            )
    return [
        Episode(data.prompts[i], text, ids)
        for i, text, ids in zip(prompt_indices, texts, rows, strict=True)
    ]


def roll_out(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PromptData,
    prompt_indices: Sequence[int],
    *,
    max_new_tokens: int,
    max_length: int,
    seed: int,
) -> Rollouts:
    """Play one episode on each prompt at temperature 1 and reward it.

    Parameters
    ----------
    max_new_tokens
        Of each turn.
    max_length
        Of a whole episode, in tokens: it ends before a turn that might not fit.

    Raises
    ------
    PrefevalError
        If a prompt leaves no room for an answer.
    """
    episodes = _open(tokenizer, data, prompt_indices, max_length - max_new_tokens)
    end = end_of_turn(tokenizer)

    def goes_on(episode: Episode, prompt_index: int) -> bool:
        if data.respond is None or not episode.ended:
            return False
        reply = data.respond(prompt_index, episode.turns)
        room = max_length - max_new_tokens - len(episode.ids)
        return reply is not None and episode.hear(reply, tokenizer, room)

    live = list(range(len(episodes)))
    while live:
        answers = generate(
            policy,
            [episodes[e].ids for e in live],
            max_new_tokens=max_new_tokens,
            temperature=1.0,
            eos_token_id=end.token_id,
            seed=seed,
            row_keys=[len(episodes[e].turns) * len(episodes) + e for e in live],
        )
        for e, answer in zip(live, answers, strict=True):
            episodes[e].take_turn(answer, tokenizer, end)
        live = [e for e in live if goes_on(episodes[e], prompt_indices[e])]
    rewards = data.reward(prompt_indices, [e.turns[-1] for e in episodes])
    batch = pad([e.ids for e in episodes], [e.mask for e in episodes])
    return Rollouts(batch, rewards, [e.ended for e in episodes])


def draw(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PromptData,
    prompt_indices: Sequence[int],
    config: RolloutConfig,
    step: int,
) -> Rollouts:
    """The rollouts of one iteration: `roll_out` as configured, its draws those of the step."""
    return roll_out(
        policy,
        tokenizer,
        data,
        prompt_indices,
        max_new_tokens=config.max_new_tokens,
        max_length=config.max_length,
        seed=(config.seed << 32) + step,
    )


def reference_of(
    policy: PreTrainedModel, ref: PreTrainedModel | None, config: RolloutConfig
) -> PreTrainedModel | None:
    """The reference, placed: a copy of the policy as it starts where none is given, and None where
    the policy has an adapter, whose base it then is."""
    if ref is None and not config.lora_rank:
        ref = copy.deepcopy(policy)
    return None if ref is None else ref.to(config.device).eval()


def prompts_hash(data: PromptData) -> str:
    """Names the prompts that a run answers; of what rewards the answers it knows nothing."""
    return content_hash([list(data.ids), list(data.prompts)])


def prompt_stream(n: int, seed: int) -> Iterator[int]:
    """Indices of prompts without end, each once a pass."""
    for epoch in count():
        yield from epoch_order(n, seed, epoch).tolist()


def minibatches_of(n: int, step: int, config: RolloutConfig) -> Iterator[list[int]]:
    """The rows of every update of an iteration; each pass over n rollouts has its own order."""
    for update in range(config.ppo_epochs):
        order = epoch_order(n, config.seed, step * config.ppo_epochs + update)
        for rows in np.array_split(order, config.minibatches):
            yield rows.tolist()


def require_enough(data: PromptData, config: RolloutConfig) -> None:
    """Raise ``PrefevalError`` where there is nothing to train on, or an update without rollouts."""
    if not data.prompts:
        raise PrefevalError("there are no prompts to train on; give at least one")
    if config.batch_size < config.minibatches:
        raise PrefevalError(
            f"{config.batch_size} rollouts cannot be cut into {config.minibatches} mini-batches; "
            "raise batch_size or lower minibatches"
        )
