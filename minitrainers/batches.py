"""From conversations to token batches that mean what they should.

The prompt's tokens are a prefix of the prompt's and completion's tokens (checked), there is one
beginning-of-sequence token where the tokenizer has one, and the end-of-turn token closes the
completion. Batches hold sequences of similar length, in an order fixed by the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefeval.minitrainers import tools
from prefeval.records import Message, PrefevalError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUCKET_BATCHES = 16
"""Sequences are sorted by length within random groups of this many batches: enough to leave
little padding, few enough that batches stay well mixed."""


class Encoded(NamedTuple):
    """One prompt and its completion in tokens.

    ``truncated``: the completion was cut at ``max_length`` and so has no end token; one with no
    room at all is empty, for the caller to drop and count.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    truncated: bool = False

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)


class Batch(NamedTuple):
    """Rows padded on the right, each tensor (B, T)."""

    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor


class SharedBatch(NamedTuple):
    """Rows of one prompt and K answers each, in which the prompt stands once.

    A row is prompt, answer 1, ..., answer K, padding. Every answer sees the prompt and itself, and
    its positions go on from the prompt's: its log-probabilities are those that it has in a row of
    its own.
    """

    input_ids: Tensor
    """(B, T)"""
    position_ids: Tensor
    """(B, T)"""
    attention_mask: Tensor
    """(B, 1, T, T), true where the row's token may see the column's"""
    answer: Tensor
    """(B, T), which answer the token belongs to: 0 ... K-1; -1 in the prompt and in the padding"""
    predictor: Tensor
    """(B, T), the column from which the token is predicted"""


class EndOfTurn(NamedTuple):
    """What closes an assistant's turn: its text, and its single token."""

    text: str
    token_id: int


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> EndOfTurn:
    """The token with which the chat template closes an assistant's turn, else the tokenizer's eos.

    Raises
    ------
    PrefevalError
        If there is no chat template, or its generation prompt is not how its assistant turns
        begin (then training and generation would see different prompts).
    """
    if not tokenizer.chat_template:
        raise PrefevalError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; "
            "set tokenizer.chat_template and save it with the model"
        )
    user: Message = {"role": "user", "content": "Hello"}
    answer: Message = {"role": "assistant", "content": "Hi there"}
    prompt = prompt_text(tokenizer, [user])
    whole = tokenizer.apply_chat_template([user, answer], tokenize=False)
    if not whole.startswith(prompt + answer["content"]):
        raise PrefevalError(
            "the chat template's generation prompt is not how its assistant turns begin; "
            "use a template that opens both alike"
        )
    closing = whole[len(prompt) + len(answer["content"]) :].strip()
    for token_id in tokenizer(closing, add_special_tokens=False).input_ids[:1]:
        text = tokenizer.convert_ids_to_tokens(token_id)
        if closing.startswith(text) and text in tokenizer.get_added_vocab():
            return EndOfTurn(text, token_id)
    if tokenizer.eos_token is None:
        raise PrefevalError(
            "neither the chat template nor the tokenizer has an end token; set tokenizer.eos_token"
        )
    return EndOfTurn(tokenizer.eos_token, tokenizer.eos_token_id)


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The conversation as the chat template renders it, up to where the assistant speaks."""
    return tools.render(tokenizer, messages)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of whole conversations, with one bos where the tokenizer adds one unasked."""
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
    bos = tokenizer.bos_token_id
    if bos is not None and tokenizer("Hello").input_ids[:1] == [bos]:
        rows = [row if row[:1] == [bos] else [bos, *row] for row in rows]
    if bos is not None and any(row[:2] == [bos, bos] for row in rows):
        raise PrefevalError(
            "a prompt begins with two bos tokens; remove the bos from the message or the template"
        )
    return rows


def encode_all(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[tuple[Sequence[Message], str | None]],
    *,
    max_length: int,
) -> list[Encoded]:
    """Encode (messages, completion) pairs; a completion of None gives the prompt alone.

    The prompt is the rendered conversation with the generation prompt, the completion the given
    text verbatim and the end-of-turn token. Where both exceed ``max_length`` the completion is
    cut, and never of its end token alone: that would teach a finished answer to go on.

    Raises
    ------
    PrefevalError
        If a prompt's tokens are not a prefix of the whole's (the tokenizer merged characters
        across the border), or a prompt has two bos tokens.
    """
    if not examples:
        return []
    end = end_of_turn(tokenizer).text
    prompts = [prompt_text(tokenizer, messages) for messages, _ in examples]
    wholes = [
        prompt if completion is None else prompt + completion + end
        for prompt, (_, completion) in zip(prompts, examples, strict=True)
    ]
    encoded = []
    for prompt_ids, ids in zip(
        tokenize(tokenizer, prompts), tokenize(tokenizer, wholes), strict=True
    ):
        if ids[: len(prompt_ids)] != prompt_ids:
            raise PrefevalError(
                "a prompt's tokens are not a prefix of prompt + completion; strip the completion "
                f"that begins {tokenizer.decode(ids[len(prompt_ids) - 1 :][:8])!r}"
            )
        completion_ids, room = ids[len(prompt_ids) :], max_length - len(prompt_ids)
        overflow = len(completion_ids) - max(room, 0)
        if overflow > 0:
            completion_ids = completion_ids[: -max(overflow, 2)]
        encoded.append(Encoded(prompt_ids, completion_ids, overflow > 0))
    return encoded


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    completion: str | None,
    *,
    max_length: int,
) -> Encoded:
    """Encode one example; see `encode_all`, which is faster for many."""
    return encode_all(tokenizer, [(messages, completion)], max_length=max_length)[0]


def pad(ids: Sequence[Sequence[int]], masks: Sequence[Sequence[int]]) -> Batch:
    """Pad rows of token ids and completion masks on the right; what pads is never looked at."""
    width = max(map(len, ids))
    input_ids = np.zeros((len(ids), width), dtype=np.int64)
    attention_mask, completion_mask = np.zeros_like(input_ids), np.zeros_like(input_ids)
    for row, (tokens, mask) in enumerate(zip(ids, masks, strict=True)):
        input_ids[row, : len(tokens)] = tokens
        attention_mask[row, : len(tokens)] = 1
        completion_mask[row, : len(mask)] = mask
    return Batch(*map(torch.from_numpy, (input_ids, attention_mask, completion_mask)))


def collate(examples: Sequence[Encoded], device: torch.device | str = "cpu") -> Batch:
    """Pad prompt + completion rows into one batch."""
    batch = pad(
        [e.prompt_ids + e.completion_ids for e in examples],
        [[0] * len(e.prompt_ids) + [1] * len(e.completion_ids) for e in examples],
    )
    return Batch(*(tensor.to(device) for tensor in batch))


def collate_shared(
    groups: Sequence[Sequence[Encoded]], device: torch.device | str = "cpu"
) -> SharedBatch:
    """Lay K answers to the same prompt out in one row each group; see `SharedBatch`."""
    lengths = [len(g[0].prompt_ids) + sum(len(e.completion_ids) for e in g) for g in groups]
    shape = (len(groups), max(lengths))
    input_ids, position_ids, predictor = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    answer = np.full(shape, -1)
    real = np.arange(shape[1]) < np.array(lengths)[:, None]
    for row, group in enumerate(groups):
        prompt = group[0].prompt_ids
        input_ids[row, : len(prompt)] = prompt
        position_ids[row, : len(prompt)] = np.arange(len(prompt))
        start = len(prompt)
        for k, ids in enumerate(e.completion_ids for e in group):
            place = slice(start, start + len(ids))
            input_ids[row, place], answer[row, place] = ids, k
            position_ids[row, place] = np.arange(len(prompt), len(prompt) + len(ids))
            predictor[row, place] = np.arange(start - 1, start - 1 + len(ids))
            predictor[row, start : start + 1] = len(prompt) - 1
            start += len(ids)
    same = (answer[:, None, :] == -1) | (answer[:, :, None] == answer[:, None, :])
    visible = np.tril(np.ones((shape[1], shape[1]), dtype=bool)) & same & real[:, None, :]
    arrays = (input_ids, position_ids, visible[:, None], answer, predictor)
    return SharedBatch(*(torch.from_numpy(a).to(device) for a in arrays))


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of n examples in one epoch, a function of its arguments alone."""
    return np.random.default_rng((seed, epoch)).permutation(n)


def bucketed_batches(
    lengths: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    strata: Sequence[object] | None = None,
    n_batches: int | None = None,
) -> list[list[int]]:
    """One epoch's batches of indices: similar lengths together, batches in shuffled order.

    Every index comes exactly once, in batches of at most ``batch_size`` that differ in size by one
    at most; in ``n_batches`` of whatever size that takes, where so many are asked for. With
    ``strata`` (a class for each index) every batch holds the classes in the proportion of the
    whole, as nearly as whole examples allow.
    """
    n_batches = n_batches or -(-len(lengths) // batch_size)
    edges = np.arange(n_batches + 1) * len(lengths) // max(1, n_batches)
    order = _interleave(epoch_order(len(lengths), seed, epoch).tolist(), strata)
    batches: list[list[int]] = []
    for group in np.array_split(np.arange(n_batches), max(1, n_batches // BUCKET_BATCHES)):
        cuts = edges[group[0] : group[-1] + 2] if len(group) else edges
        members = sorted(order[cuts[0] : cuts[-1]], key=lambda i: lengths[i])
        members = _interleave(members, strata)
        batches += [members[a - cuts[0] : b - cuts[0]] for a, b in pairwise(cuts)]
    return [batches[i] for i in epoch_order(n_batches, seed, epoch)]


def _interleave(order: list[int], strata: Sequence[object] | None) -> list[int]:
    """Spread each class evenly over the list, the order within a class kept."""
    if strata is None:
        return order
    size = Counter(strata[i] for i in order)
    seen: Counter[object] = Counter()
    place = {}
    for i in order:
        seen[strata[i]] += 1
        place[i] = (seen[strata[i]] - 0.5) / size[strata[i]]
    return sorted(order, key=place.__getitem__)


def micro_batches(batch: Sequence[int], micro_batch: int | None) -> Iterator[Sequence[int]]:
    """Cut a batch into parts of at most ``micro_batch``; all of it when None."""
    size = micro_batch or len(batch)
    return (batch[start : start + size] for start in range(0, len(batch), size))
