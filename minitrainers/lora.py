"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on a policy, by peft.

The base stays as it was and is the reference, with the adapter switched off: neither a second model
nor optimizer state for the base has to be held.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefeval.minitrainers.loop import TrainConfig


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without the warnings that transformers gives of the names that peft still calls."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def attach(
    model: PreTrainedModel, config: TrainConfig, *, task: str = "CAUSAL_LM"
) -> PreTrainedModel:
    """``model`` with a new adapter as configured, which changes nothing yet (B is 0); the model
    itself where ``lora_rank`` is 0. ``task`` is peft's name for what the model does."""
    if not config.lora_rank:
        return model
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type=task,
    )
    with torch.random.fork_rng(devices=[]), quiet_peft():
        torch.manual_seed(config.seed)
        policy: PreTrainedModel = get_peft_model(model, settings)
    return policy
