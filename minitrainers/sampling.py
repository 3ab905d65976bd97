"""Sampling from a causal LM: a bare cached loop, fast for small models and repeatable for any.

Each row draws by inverting its own cumulative distribution with uniforms of a counter-based
generator keyed by (seed, row key): what a row says depends neither on its batch mates nor on the
order of the prompts. Temperature 1 without top-p or top-k is the policy itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from prefeval.minitrainers.logps import cache_argument, causal_lm, lm_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that writes into a buffer with room to spare, where its parent copies all of
    the past for every token."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        if start == 0:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
            self.keys, self.values = key_states, value_states
            self.buffers = (key_states, value_states)
            return self.buffers
        end = start + key_states.shape[-2]
        if end > self.buffers[0].shape[-2]:
            room = max(32, end // 2)
            self.buffers = (_with_room(self.keys, room), _with_room(self.values, room))
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.buffers = (self.keys, self.values)


def _with_room(states: Tensor, room: int) -> Tensor:
    batch, heads, time, dim = states.shape
    buffer = states.new_empty(batch, heads, time + room, dim)
    buffer[:, :, :time] = states
    return buffer


def _new_cache(model: PreTrainedModel) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    cache.layers = [_GrowingLayer() if type(x) is DynamicLayer else x for x in cache.layers]
    return cache


def _uniforms(seed: int, keys: Sequence[int], n: int) -> Tensor:
    """(len(keys), n) uniforms in [0, 1): row i is a function of (seed, keys[i]) alone."""
    rows = [np.random.Generator(np.random.Philox(key=(seed, key))).random(n) for key in keys]
    return torch.from_numpy(np.stack(rows))


def _draw(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """One token a row: the first whose cumulative probability exceeds the row's uniform."""
    if temperature == 0:
        return logits.argmax(-1)
    cdf = (logits / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    target = uniform.unsqueeze(-1) * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True).squeeze(-1).clamp_max(cdf.shape[-1] - 1)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """No module in training mode inside the block: layers that checkpoint gradients drop the cache
    in it, with transformers before 5.24."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    eos_token_id: int,
    seed: int,
    batch_size: int = 128,
    row_keys: Sequence[int] | None = None,
) -> list[list[int]]:
    """Continue every prompt; the end token is part of the answer when the model gave it.

    Parameters
    ----------
    prompts
        Token ids, none empty.
    temperature
        0 is greedy.
    seed, row_keys
        Row i's draws are a function of ``(seed, row_keys[i])``; the key is the row's index unless
        given.
    """
    keys = range(len(prompts)) if row_keys is None else row_keys
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        uniforms = _uniforms(seed, [keys[i] for i in rows], max_new_tokens)
        with _evaluating(model):
            answers = _generate_batch(
                model, [prompts[i] for i in rows], uniforms, temperature, eos_token_id
            )
        for i, answer in zip(rows, answers, strict=True):
            completions[i] = answer
    return completions


@torch.inference_mode()
def _generate_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    temperature: float,
    eos_token_id: int,
) -> list[list[int]]:
    lm = causal_lm(model)
    device = lm.device
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask, uniforms = ids.to(device), mask.to(device), uniforms.to(device)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    rows = torch.arange(len(prompts), device=device)  # which prompt each live row answers
    cache, name = _new_cache(lm), cache_argument(lm)
    answers: list[list[int]] = [[] for _ in prompts]
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for step in range(uniforms.shape[1]):
        output = lm.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{name: cache},
        )
        logits = lm_logits(lm, output.last_hidden_state[:, -1])
        tokens = _draw(logits, temperature, uniforms[rows, step])
        for row, token, ended in zip(rows.tolist(), tokens.tolist(), done.tolist(), strict=True):
            if not ended:
                answers[row].append(token)
        done = done | (tokens == eos_token_id)
        n_live = int((~done).sum())
        if n_live == 0:
            break
        if n_live < 0.8 * len(rows):  # finished rows cost as much as live ones: drop them
            live = (~done).nonzero().squeeze(-1)
            cache.batch_select_indices(live)
            rows, tokens, mask, positions, done = (
                x[live] for x in (rows, tokens, mask, positions, done)
            )
        ids = tokens.unsqueeze(-1)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=-1)
        positions = positions[:, -1:] + 1
    return answers
