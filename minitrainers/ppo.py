"""Proximal Policy Optimization (Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9), as
reinforcement learning from preferences uses it (Ziegler et al. 2019, arXiv 1909.08593).

    r_t    = - kl_coef (log pi_old(a_t|s_t) - log pi_ref(a_t|s_t)) + [t is last] R
    A_t    = sum_l (gamma lam)^l delta_{t+l},    delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
    rho_t  = pi(a_t|s_t) / pi_old(a_t|s_t)
    L_pi   = mean_t max( -A_t rho_t, -A_t clip(rho_t, 1 - eps, 1 + eps) )
    L_V    = mean_t 1/2 max( (V - G_t)^2, (clip(V, V_old - eps_V, V_old + eps_V) - G_t)^2 )
    L      = L_pi + value_coef L_V

A step of the log is an iteration: one set of rollouts, then a few epochs of clipped updates, an
optimizer step per mini-batch. The value model is a body of its own with a scalar head. Means run
over the policy's own tokens, which are known by position, never by comparing tokens with the
padding. An answer is terminal: nothing is bootstrapped beyond its last token, whether or not that
is an end token.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from prefeval.minitrainers.run import CheckpointInfo, OnStep, Row, Run
from prefeval.minitrainers.value import ValueModel, explained_variance, new_value_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class PPOConfig(RolloutConfig):
    """PPO's settings. ``beta`` is kl_coef, where the controller starts."""

    value_lr: float = 1e-5
    gamma: float = 1.0
    """discount (not SimPO's margin)"""
    lam: float = 0.95
    value_clip_range: float = 0.2
    value_coef: float = 0.1
    target_kl: float | None = None
    """nats/sequence that the controller of kl_coef holds; None leaves kl_coef fixed"""
    kl_gain: float = 1.0
    """K_beta of the controller: with errors clipped to 0.2, it moves at most 0.2 K_beta an
    iteration. The paper's 0.1 is for runs of thousands of iterations"""
    kl_power: float = 2.0
    """of the controller's proportional part; 0 is Ziegler et al.'s controller alone"""


class Advantages(NamedTuple):
    """Each (B, T), 0 where the mask is 0."""

    advantages: Tensor
    returns: Tensor


class PPOLoss(NamedTuple):
    """The first three (B,), such that their mean over examples is the mean over tokens."""

    losses: Tensor
    policy_losses: Tensor
    value_losses: Tensor
    clip_fraction: Tensor
    """share of the tokens at which clipping decides the policy's loss"""
    approx_kl: Tensor
    """1/2 mean of (log rho)^2 over the tokens"""


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Advantages:
    """Generalized advantage estimation (Schulman et al. 2015, arXiv 1506.02438, equation 16).

    Parameters
    ----------
    rewards, values
        (B, T); ``values[:, t]`` is that of the state in which action t is taken.
    mask
        (B, T), 1 at actions. What lies between two actions (a user's turn, padding) takes no time,
        and the value after the last action is 0.
    """
    advantages = torch.zeros_like(values)
    last_advantage = next_value = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        action = mask[:, t].bool()
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        last_advantage = torch.where(action, delta + gamma * lam * last_advantage, last_advantage)
        next_value = torch.where(action, values[:, t], next_value)
        advantages[:, t] = torch.where(action, last_advantage, 0.0)
    return Advantages(advantages, (advantages + values) * mask)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """(B, T) shifted and scaled to mean 0 and variance 1 over the mask; 0 outside it."""
    selected = values[mask.bool()]
    variance = selected.var() if len(selected) > 1 else selected.new_ones(())
    return (values - selected.mean()) * torch.rsqrt(variance + 1e-8) * mask


def token_rewards(
    logps: Tensor, ref_logps: Tensor, scores: Tensor, mask: Tensor, *, kl_coef: float
) -> Tensor:
    """(B, T) rewards: the KL penalty at every action, and the (B,) score at the last one."""
    rewards = -kl_coef * (logps - ref_logps) * mask
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).argmax(-1, keepdim=True)
    return rewards.scatter_add(-1, last, scores.unsqueeze(-1).to(rewards))


def ppo_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    value_clip_range: float,
    value_coef: float,
) -> PPOLoss:
    """The clipped losses of policy and value; every tensor is (B, T).

    Parameters
    ----------
    logps, old_logps
        Of the actions, under the policy and under the one that took them, nats/token.
    values, old_values
        Of the states in which they were taken, now and at the time of the rollout.
    advantages, returns
        See `gae`; the advantages whitened.
    mask
        1 at actions.
    """
    per_example = mask / mask.sum() * len(mask)

    ratio = torch.exp(logps - old_logps)
    clipped_ratio = ratio.clamp(1 - clip_range, 1 + clip_range)
    unclipped, clipped = -advantages * ratio, -advantages * clipped_ratio
    policy_losses = (torch.maximum(unclipped, clipped) * per_example).sum(-1)

    clipped_values = values.clamp(old_values - value_clip_range, old_values + value_clip_range)
    squares = torch.maximum((values - returns) ** 2, (clipped_values - returns) ** 2)
    value_losses = 0.5 * (squares * per_example).sum(-1)

    with torch.no_grad():
        clip_fraction = ((clipped > unclipped) * per_example).sum(-1).mean()
        approx_kl = 0.5 * ((logps - old_logps) ** 2 * per_example).sum(-1).mean()
    losses = policy_losses + value_coef * value_losses
    return PPOLoss(losses, policy_losses, value_losses, clip_fraction, approx_kl)


def adapt_kl_coef(kl_coef: float, kl: float, target: float, gain: float) -> float:
    """The controller of Ziegler et al. 2019, section 2.2: kl_coef rises while kl exceeds target."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + gain * error)


def control(numbers: Mapping[str, float], kl: float, config: PPOConfig) -> dict[str, float]:
    """kl_coef of the next iteration, given the KL of this one: an integral part, which is Ziegler
    et al.'s controller, times a proportional one, (kl / target)^kl_power within a factor of 10.

    By itself their controller swings: it goes on weakening the penalty until the target is reached,
    and then takes as long to strengthen it while the policy runs on (see docs/studies.md). The
    proportional part answers to where the policy is now; while it is at the end of its range, the
    integral one waits.
    """
    if config.target_kl is None:
        return {}
    integral, pull = numbers["integral"], (max(kl, 0.0) / config.target_kl) ** config.kl_power
    if 0.1 <= pull <= 10.0 or config.kl_power == 0:
        integral = adapt_kl_coef(integral, kl, config.target_kl, config.kl_gain)
    return {"integral": integral, "kl_coef": integral * min(max(pull, 0.1), 10.0)}


class Experience(NamedTuple):
    """What the updates of one iteration learn from; (B, T) each, but for ``kl``."""

    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    logps: Tensor
    values: Tensor
    advantages: Tensor
    """whitened"""
    returns: Tensor
    entropy: Tensor
    kl: Tensor
    """(B,) exact along the sampled tokens, nats/sequence"""

    def rows(self, indices: Sequence[int]) -> Experience:
        """Some rows, without the columns that are padding in all of them."""
        index = torch.as_tensor(indices, device=self.mask.device)
        width = int(self.attention_mask[index].sum(-1).max())
        return Experience(*(x[index][:, :width] if x.dim() > 1 else x[index] for x in self))


@torch.no_grad()
def assess(
    policy: PreTrainedModel,
    ref: PreTrainedModel | None,
    value_model: ValueModel,
    rollouts: Rollouts,
    config: PPOConfig,
    kl_coef: float,
) -> Experience:
    """Log-probabilities, values, per-token rewards and advantages of a set of rollouts."""
    batch = [x.to(config.device) for x in rollouts.batch]
    columns = []
    for part in micro_batches(range(len(batch[0])), config.micro_batch):
        rows = [x[part[0] : part[-1] + 1] for x in batch]
        columns.append((*full_kl(policy, ref, *rows), value_model(*rows[:2])))
    kl, logps, ref_logps, entropy, values = map(torch.cat, zip(*columns, strict=True))
    scores = torch.as_tensor(rollouts.rewards, device=logps.device)
    input_ids, attention_mask, mask = batch
    rewards = token_rewards(logps, ref_logps, scores, mask, kl_coef=kl_coef)
    advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)
    return Experience(
        input_ids,
        attention_mask,
        mask,
        logps,
        values,
        whiten(advantages, mask),
        returns,
        entropy,
        kl.sum(-1),
    )


def train(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PromptData,
    config: PPOConfig,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
    ref: PreTrainedModel | None = None,
    value_body: PreTrainedModel | None = None,
    first_step: int = 0,
) -> list[CheckpointInfo]:
    """Train ``policy`` in place by PPO and save its checkpoints.

    Parameters
    ----------
    ref
        The reference. Unless given, the policy as it starts: its base where it has an adapter, else
        a copy.
    value_body
        The body that the value model starts from (a reward model's, say); the policy's unless
        given.
    first_step
        How many steps of another method came before in ``out_dir``; the log goes on from there.
    """
    require_enough(data, config)
    prepare(policy, config)
    ref = reference_of(policy, ref, config)
    value_model = new_value_model(policy, value_body, config)
    n_steps = min(config.iterations, config.max_steps or config.iterations)
    n_updates = n_steps * config.ppo_epochs * config.minibatches
    optimisers = {
        "policy": Optimiser(policy.parameters(), n_updates, config),
        "value": Optimiser(
            value_model.parameters(), n_updates, replace(config, lr=config.value_lr)
        ),
    }
    cost = Cost(policy, config)
    with Run(
        policy,
        tokenizer,
        config,
        n_steps=n_steps,
        optimisers=optimisers,
        out_dir=out_dir,
        data=prompts_hash(data),
        on_step=on_step,
        numbers={"kl_coef": config.beta, "integral": config.beta},
        first_step=first_step,
    ) as run:
        prompts = islice(
            prompt_stream(len(data.prompts), config.seed), run.done * config.batch_size, None
        )
        for step in range(run.done + 1, n_steps + 1):
            start = time.perf_counter()
            kl_coef = run.numbers["kl_coef"]
            indices = list(islice(prompts, config.batch_size))
            with autocast(config):
                rollouts = draw(policy, tokenizer, data, indices, config, step)
                experience = assess(policy, ref, value_model, rollouts, config, kl_coef)
            updates = []
            for rows in minibatches_of(len(indices), step, config):
                row = update_once(policy, value_model, optimisers, experience.rows(rows), config)
                run.require_finite(row, (data.ids[indices[i]] for i in rows))
                updates.append(row)
            found = describe(experience, rollouts)
            run.finish_step(
                {
                    **{name: float(np.mean([u[name] for u in updates])) for name in updates[0]},
                    **found,
                    "kl_coef": kl_coef,
                    **flops(cost, experience, config),
                    "seconds": time.perf_counter() - start,
                    "peak_memory_mb": peak_memory_mb(config.device),
                },
                **control(run.numbers, found["kl"], config),
            )
        return run.saved


def flops(cost: Cost, experience: Experience, config: PPOConfig) -> Row:
    """Drawing; policy, reference and value on what was drawn; updates of policy and value."""
    lengths = experience.attention_mask.sum(-1).tolist()
    scored = int(experience.mask.sum())
    update = cost.step(lengths, scored) + cost.step(lengths, 0)
    assessment = 2 * cost.forward(lengths, scored) + cost.forward(lengths, 0)
    drawing = cost.forward(lengths, scored)
    return {
        "flops": drawing + assessment + config.ppo_epochs * update,
        "sft_flops": cost.step(lengths, scored),
    }


def update_once(
    policy: PreTrainedModel,
    value_model: ValueModel,
    optimisers: Mapping[str, Optimiser],
    rows: Experience,
    config: PPOConfig,
) -> dict[str, float]:
    """One optimizer step of policy and value model on a mini-batch, cut as configured."""
    totals = dict.fromkeys(("loss", "policy_loss", "value_loss", "clip_fraction", "approx_kl"), 0.0)
    for micro in micro_batches(range(len(rows.mask)), config.micro_batch):
        part = rows.rows(micro)
        share = (part.mask.sum() / rows.mask.sum()).item()  # means run over tokens
        with autocast(config):
            loss = ppo_loss(
                completion_logps(policy, part.input_ids, part.attention_mask, part.mask).tokens,
                part.logps,
                part.advantages,
                value_model(part.input_ids, part.attention_mask),
                part.values,
                part.returns,
                part.mask,
                clip_range=config.clip_range,
                value_clip_range=config.value_clip_range,
                value_coef=config.value_coef,
            )
        (loss.losses.mean() * share).backward()  # type: ignore[no-untyped-call]
        for name, value in zip(totals, loss, strict=True):
            totals[name] += value.detach().mean().item() * share
    return totals | {
        "grad_norm": optimisers["policy"].step(),
        "value_grad_norm": optimisers["value"].step(),
    }


def describe(experience: Experience, rollouts: Rollouts) -> Row:
    """What the log says of a set of rollouts, before any update on it."""
    mask = experience.mask
    return {
        "reward": float(np.mean(rollouts.rewards)),
        "kl": experience.kl.mean().item(),
        "entropy": (experience.entropy.sum() / mask.sum()).item(),
        "explained_variance": explained_variance(experience.values, experience.returns, mask),
        "length": mask.sum(-1).double().mean().item(),
        "ended": float(np.mean(rollouts.ended)),
        "tokens": int(experience.attention_mask.sum()),
    }
