"""Group Relative Policy Optimization (Shao et al. 2024, arXiv 2402.03300, equations 3 and 4).

    A_i    = ( R_i - mean(R_1 ... R_G) ) / std(R_1 ... R_G)      for G answers to the same prompt
    rho_it = pi(o_it) / pi_old(o_it),    q_it = pi_ref(o_it) / pi(o_it)
    L      = 1/G sum_i 1/|o_i| sum_t [ - min( rho_it A_i, clip(rho_it, 1 - eps, 1 + eps) A_i )
                                       + beta ( q_it - log q_it - 1 ) ]

PPO's rollouts and clipping without its value model: the baseline is the mean of the group, which
suits rewards that a program gives to the whole answer. A group whose answers are all rewarded alike
teaches nothing; their share is logged as ``flat_groups``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefeval.minitrainers.batches import micro_batches
from prefeval.minitrainers.cost import Cost, peak_memory_mb
from prefeval.minitrainers.logps import completion_logps, full_kl
from prefeval.minitrainers.loop import prepare
from prefeval.minitrainers.optimiser import Optimiser
from prefeval.minitrainers.precision import autocast
from prefeval.minitrainers.rollouts import (
    PromptData,
    RolloutConfig,
    Rollouts,
    draw,
    minibatches_of,
    prompt_stream,
    prompts_hash,
    reference_of,
    require_enough,
)
from prefeval.minitrainers.run import CheckpointInfo, OnStep, Run
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class GRPOConfig(RolloutConfig):
    """GRPO's settings: ``batch_size / group_size`` prompts are answered an iteration."""

    group_size: int = 8
    """answers a prompt"""


class GRPOLoss(NamedTuple):
    """Each (B,)."""

    losses: Tensor
    policy_losses: Tensor
    kl: Tensor
    """mean over the answer of the estimate k3, nats/token"""


def group_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """(B,) rewards, groups in a row, each centred and scaled by its group; 0 in a flat group."""
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(-1, keepdim=True)
    spread = groups.std(-1, keepdim=True)
    return torch.where(spread > 0, centred / (spread + 1e-4), 0.0).flatten()


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    ref_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    beta: float,
    clip_range: float,
) -> GRPOLoss:
    """GRPO's loss of each answer.

    Parameters
    ----------
    logps, old_logps, ref_logps
        (B, T) of the actions, under the policy, the one that took them, and the reference.
    advantages
        (B,) of the whole answers.
    mask
        (B, T), 1 at actions.
    beta
        Weight of the KL penalty, which is part of the loss and not of the reward.
    """
    lengths = mask.sum(-1).clamp_min(1)
    ratio = torch.exp(logps - old_logps)
    clipped_ratio = ratio.clamp(1 - clip_range, 1 + clip_range)
    gain = torch.minimum(ratio * advantages[:, None], clipped_ratio * advantages[:, None])
    policy_losses = -(gain * mask).sum(-1) / lengths
    log_q = ref_logps - logps
    kl = ((log_q.exp() - log_q - 1) * mask).sum(-1) / lengths
    return GRPOLoss(policy_losses + beta * kl, policy_losses, kl)


class Experience(NamedTuple):
    """What the updates of one iteration learn from."""

    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    logps: Tensor
    ref_logps: Tensor
    advantages: Tensor
    """(B,)"""

    def rows(self, indices: Sequence[int]) -> Experience:
        """Some rows, without the columns that are padding in all of them."""
        index = torch.as_tensor(indices, device=self.mask.device)
        width = int(self.attention_mask[index].sum(-1).max())
        return Experience(*(x[index][:, :width] if x.dim() > 1 else x[index] for x in self))


def train(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PromptData,
    config: GRPOConfig,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
    ref: PreTrainedModel | None = None,
    first_step: int = 0,
) -> list[CheckpointInfo]:
    """Train ``policy`` in place by GRPO and save its checkpoints; ``ref`` and ``first_step`` as for
    `ppo.train`."""
    require_groups(data, config)
    prepare(policy, config)
    ref = reference_of(policy, ref, config)
    n_steps = min(config.iterations, config.max_steps or config.iterations)
    optimiser = Optimiser(
        policy.parameters(), n_steps * config.ppo_epochs * config.minibatches, config
    )
    cost = Cost(policy, config)
    with Run(
        policy,
        tokenizer,
        config,
        n_steps=n_steps,
        optimisers={"policy": optimiser},
        out_dir=out_dir,
        data=prompts_hash(data),
        on_step=on_step,
        first_step=first_step,
    ) as run:
        n_prompts = config.batch_size // config.group_size
        prompts = islice(prompt_stream(len(data.prompts), config.seed), run.done * n_prompts, None)
        for step in range(run.done + 1, n_steps + 1):
            start = time.perf_counter()
            asked = list(islice(prompts, n_prompts))
            indices = [i for i in asked for _ in range(config.group_size)]
            with autocast(config):
                rollouts = draw(policy, tokenizer, data, indices, config, step)
                experience, kl, entropy = assess(policy, ref, rollouts, config)
            updates = []
            for rows in minibatches_of(len(indices), step, config):
                row = update_once(policy, optimiser, experience.rows(rows), config)
                run.require_finite(row, (data.ids[indices[i]] for i in rows))
                updates.append(row)
            lengths = experience.attention_mask.sum(-1).tolist()
            scored = int(experience.mask.sum())
            update = cost.step(lengths, scored)
            groups = np.reshape(rollouts.rewards, (-1, config.group_size))
            run.finish_step(
                {
                    **{name: float(np.mean([u[name] for u in updates])) for name in updates[0]},
                    "reward": float(np.mean(rollouts.rewards)),
                    "flat_groups": float(np.mean(np.ptp(groups, axis=-1) == 0)),
                    "kl": kl,
                    "entropy": entropy,
                    "length": scored / len(indices),
                    "ended": float(np.mean(rollouts.ended)),
                    "tokens": sum(lengths),
                    "flops": 3 * cost.forward(lengths, scored) + config.ppo_epochs * update,
                    "sft_flops": update,
                    "seconds": time.perf_counter() - start,
                    "peak_memory_mb": peak_memory_mb(config.device),
                }
            )
        return run.saved


class Assessment(NamedTuple):
    """Rollouts as the updates need them, and what the log says of them."""

    experience: Experience
    kl: float
    """from the reference, exact along the sampled tokens, nats/sequence"""
    entropy: float
    """nats/token"""


@torch.no_grad()
def assess(
    policy: PreTrainedModel, ref: PreTrainedModel | None, rollouts: Rollouts, config: GRPOConfig
) -> Assessment:
    """Log-probabilities and advantages of a set of rollouts."""
    batch = [x.to(config.device) for x in rollouts.batch]
    columns = [
        full_kl(policy, ref, *(x[part[0] : part[-1] + 1] for x in batch))
        for part in micro_batches(range(len(batch[0])), config.micro_batch)
    ]
    kl, logps, ref_logps, entropy = map(torch.cat, zip(*columns, strict=True))
    rewards = torch.as_tensor(rollouts.rewards, device=logps.device, dtype=logps.dtype)
    advantages = group_advantages(rewards, config.group_size)
    input_ids, attention_mask, mask = batch
    return Assessment(
        Experience(input_ids, attention_mask, mask, logps, ref_logps, advantages),
        kl.sum(-1).mean().item(),
        (entropy.sum() / mask.sum()).item(),
    )


def update_once(
    policy: PreTrainedModel, optimiser: Optimiser, rows: Experience, config: GRPOConfig
) -> dict[str, float]:
    """One optimizer step on a mini-batch, cut as configured."""
    totals = dict.fromkeys(("loss", "policy_loss", "kl_loss"), 0.0)
    for micro in micro_batches(range(len(rows.mask)), config.micro_batch):
        part = rows.rows(micro)
        with autocast(config):
            loss = grpo_loss(
                completion_logps(policy, *part[:3]).tokens,
                part.logps,
                part.ref_logps,
                part.advantages,
                part.mask,
                beta=config.beta,
                clip_range=config.clip_range,
            )
        (loss.losses.sum() / len(rows.mask)).backward()  # type: ignore[no-untyped-call]
        for name, value in zip(totals, loss, strict=True):
            totals[name] += value.detach().sum().item() / len(rows.mask)
    return totals | {"grad_norm": optimiser.step()}


def require_groups(data: PromptData, config: GRPOConfig) -> None:
    """Raise ``PrefevalError`` where the rollouts of an iteration are no whole groups."""
    require_enough(data, config)
    if config.group_size < 2 or config.batch_size % config.group_size:
        raise PrefevalError(
            f"{config.batch_size} rollouts are no whole groups of {config.group_size}; make "
            "batch_size a multiple of group_size, which is at least 2"
        )
