"""From conversations to token batches that mean what they should.

The prompt's tokens are a prefix of the prompt's and completion's tokens (checked), there is one
beginning-of-sequence token where the tokenizer has one, and the end-of-turn token closes the
completion. Batches hold sequences of similar length, in an order fixed by the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefeval.records import Message, PrefevalError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUCKET_BATCHES = 16
"""Sequences are sorted by length within shuffled groups of this many batches: enough to leave
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
    prompt = _render(tokenizer, [user])
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


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    text: str = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=False
    )
    return text


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids with exactly one bos where the tokenizer adds one of its own accord."""
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
    prompts = [_render(tokenizer, messages) for messages, _ in examples]
    end = end_of_turn(tokenizer).text
    wholes = [
        prompt if completion is None else prompt + completion + end
        for prompt, (_, completion) in zip(prompts, examples, strict=True)
    ]
    encoded = []
    for prompt_ids, ids in zip(
        _tokenize(tokenizer, prompts), _tokenize(tokenizer, wholes), strict=True
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


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of n examples in one epoch, a function of its arguments alone."""
    return np.random.default_rng((seed, epoch)).permutation(n)


def bucketed_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """One epoch's batches of indices: similar lengths together, batches in shuffled order.

    Every index comes exactly once; the last batch formed may be smaller.
    """
    rng = np.random.default_rng((seed, epoch))
    order = epoch_order(len(lengths), seed, epoch)
    size = np.asarray(lengths)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * BUCKET_BATCHES):
        group = order[start : start + batch_size * BUCKET_BATCHES]
        group = group[np.argsort(size[group], kind="stable")]
        batches += [
            group[i : i + batch_size].tolist() for i in range(0, len(group), batch_size)
        ]
    return [batches[i] for i in rng.permutation(len(batches))]


def micro_batches(batch: Sequence[int], micro_batch: int | None) -> Iterator[Sequence[int]]:
    """Cut a batch into parts of at most ``micro_batch``; all of it when None."""
    size = micro_batch or len(batch)
    return (batch[start : start + size] for start in range(0, len(batch), size))
