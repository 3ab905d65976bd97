"""Simple Preference Optimization (Meng et al. 2024, arXiv 2405.14734, equation 6).

    L = - log sigmoid( beta/|y_w| log pi(y_w|x) - beta/|y_l| log pi(y_l|x) - gamma )

There is no reference: nothing but the step count holds the policy near where it began. The paper's
tables give gamma / beta; here gamma is gamma.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from prefeval.minitrainers.loop import TrainConfig
from prefeval.minitrainers.pairs import PairLogps, PairSource, train_pairs
from prefeval.minitrainers.run import CheckpointInfo, OnStep

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SimPOLoss(NamedTuple):
    """Each (B,)."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def simpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    gamma: float,
    label_smoothing: float = 0.0,
) -> SimPOLoss:
    """SimPO's loss of each pair.

    Parameters
    ----------
    chosen_logps, rejected_logps
        (B,) log-probabilities of the completions, nats/sequence.
    chosen_lengths, rejected_lengths
        (B,) tokens.
    beta
        Scale of the reward, beta * nats/token.
    gamma
        Target reward margin.
    label_smoothing
        epsilon, the assumed probability that a label is flipped.
    """
    chosen_rewards = beta * chosen_logps / chosen_lengths
    rejected_rewards = beta * rejected_logps / rejected_lengths
    logits = chosen_rewards - rejected_rewards - gamma
    losses = -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
    return SimPOLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())


def train(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PairSource,
    config: TrainConfig,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Train ``policy`` in place by SimPO and save its checkpoints.

    The reference's log-probabilities in ``data`` serve the log alone.
    """

    def losses(logps: PairLogps) -> Tensor:
        return simpo_loss(
            logps.chosen,
            logps.rejected,
            logps.chosen_lengths,
            logps.rejected_lengths,
            beta=config.beta,
            gamma=config.gamma,
            label_smoothing=config.label_smoothing,
        ).losses

    return train_pairs(policy, tokenizer, data, config, losses, out_dir=out_dir, on_step=on_step)
