"""Identity Preference Optimization (Azar et al. 2023, arXiv 2310.12036, equation 17).

    h = log pi(y_w|x)/pi_ref(y_w|x) - log pi(y_l|x)/pi_ref(y_l|x)
    L = ( h - 1 / (2 beta) )^2

The regression gives every margin a finite target, where DPO's grows without bound on pairs that
are always labelled alike. The paper's tau is named beta here, as everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from prefeval.minitrainers.loop import TrainConfig
from prefeval.minitrainers.pairs import PairLogps, PairSource, train_pairs
from prefeval.minitrainers.run import CheckpointInfo, OnStep

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class IPOLoss(NamedTuple):
    """Each (B,)."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def ipo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    average: bool = False,
) -> IPOLoss:
    """IPO's loss of each pair.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps
        (B,) log-probabilities of the completions, nats/sequence.
    chosen_lengths, rejected_lengths
        (B,) tokens; read only when averaging.
    beta
        The margin aimed at is 1 / (2 beta) nats.
    average
        False is the paper's sum over tokens. True averages each log-ratio over its completion, as
        TRL does: the target is then in nats/token, another scale of beta altogether.
    """
    chosen_logratios = chosen_logps - ref_chosen_logps
    rejected_logratios = rejected_logps - ref_rejected_logps
    if average:
        chosen_logratios = chosen_logratios / chosen_lengths
        rejected_logratios = rejected_logratios / rejected_lengths
    h = chosen_logratios - rejected_logratios
    losses = (h - 1 / (2 * beta)) ** 2
    return IPOLoss(losses, beta * chosen_logratios.detach(), beta * rejected_logratios.detach())


def train(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PairSource,
    config: TrainConfig,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Train ``policy`` in place by IPO, in the paper's form, and save its checkpoints."""

    def losses(logps: PairLogps) -> Tensor:
        return ipo_loss(*logps, beta=config.beta).losses

    return train_pairs(policy, tokenizer, data, config, losses, out_dir=out_dir, on_step=on_step)
