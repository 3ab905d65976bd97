"""Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    L = - log sigmoid( beta * [ log pi(y_w|x)/pi_ref(y_w|x) - log pi(y_l|x)/pi_ref(y_l|x) ] )

With label smoothing, the conservative form for labels flipped with probability epsilon (Mitchell
2023, "A note on DPO with noisy preferences and relationship to IPO", equation 3):

    L = - (1 - epsilon) log sigmoid(beta * margin) - epsilon log sigmoid(-beta * margin)
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


class DPOLoss(NamedTuple):
    """Each (B,)."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> DPOLoss:
    """DPO's loss of each pair.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps
        (B,) log-probabilities of the completions, nats/sequence.
    beta
        Strength of the KL constraint; the implicit reward is beta * log(pi / pi_ref).
    label_smoothing
        epsilon, the assumed probability that a label is flipped.
    """
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    logits = chosen_rewards - rejected_rewards
    losses = -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
    return DPOLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())


def train(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PairSource,
    config: TrainConfig,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Train ``policy`` in place by DPO and save its checkpoints."""

    def losses(logps: PairLogps) -> Tensor:
        return dpo_loss(
            logps.chosen,
            logps.rejected,
            logps.ref_chosen,
            logps.ref_rejected,
            beta=config.beta,
            label_smoothing=config.label_smoothing,
        ).losses

    return train_pairs(policy, tokenizer, data, config, losses, out_dir=out_dir, on_step=on_step)
