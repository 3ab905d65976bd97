"""The value model of PPO: how much reward is still to come, read from a state."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prefeval.minitrainers import lora
from prefeval.minitrainers.logps import causal_lm, hidden_states
from prefeval.minitrainers.loop import checkpoint_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefeval.minitrainers.loop import TrainConfig


class ValueModel(nn.Module):
    """A decoder's body and a scalar head that starts at 0."""

    def __init__(self, body: PreTrainedModel) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.hidden_size, 1, device=body.device, dtype=body.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T): column t is the value of the state in which token t is chosen."""
        hidden = hidden_states(self.body, input_ids[:, :-1], attention_mask[:, :-1])
        values: Tensor = self.head(hidden).squeeze(-1)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return nn.functional.pad(values, (1, 0))


def new_value_model(
    policy: PreTrainedModel, body: PreTrainedModel | None, config: TrainConfig
) -> ValueModel:
    """On a copy of ``body``, or of the policy's with the adapter that it may have; ``lora_rank``
    gives a body of its own an adapter too."""
    copied = copy.deepcopy(causal_lm(policy).base_model if body is None else body)
    copied.get_input_embeddings().sparse = False  # a policy's may be, beside its head
    if config.gradient_checkpointing:
        checkpoint_layers(copied)
    if body is not None:
        copied = lora.attach(copied, config, task="FEATURE_EXTRACTION")
    return ValueModel(copied).to(config.device).eval()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Share of the variance of the returns that the values foretold; NaN where it has none."""
    values, returns = values[mask.bool()], returns[mask.bool()]
    variance = returns.var(correction=0).item()
    if variance == 0:
        return math.nan
    return 1 - (returns - values).var(correction=0).item() / variance
