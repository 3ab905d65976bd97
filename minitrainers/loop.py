"""The training loop that every method shares: batches in, logged steps and checkpoints out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from prefeval.minitrainers.batches import bucketed_batches
from prefeval.minitrainers.cost import peak_memory_mb, return_freed_memory
from prefeval.minitrainers.logps import IN_PLACE_HEAD, LITTLE_MEMORY, causal_lm
from prefeval.minitrainers.optimiser import Optimiser
from prefeval.minitrainers.precision import autocast
from prefeval.minitrainers.run import CheckpointInfo, OnStep, Row, Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run. Change one with ``dataclasses.replace``."""

    method: str
    beta: float = 0.1
    """strength of the pull to the reference (SimPO: the reward's scale); read as kl_coef by PPO"""
    seed: int = 0
    lr: float = 5e-6
    epochs: int = 1
    batch_size: int = 32
    max_length: int = 1024
    """tokens of prompt + completion"""
    warmup: float = 0.1
    """share of the steps over which the learning rate rises from 0"""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """what follows the warm-up; the last two end at 0"""
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    """largest norm of a step's gradient"""
    max_steps: int | None = None
    """stop early; the schedule then ends there too"""
    save_at: tuple[float, ...] = (1 / 3, 2 / 3, 1.0)
    """checkpoints at these shares of the steps; the last step is saved whatever it says"""
    save_every: int | None = None
    """checkpoints every so many steps instead"""
    micro_batch: int | None = None
    """examples a forward pass; less memory, the same gradients"""
    gradient_checkpointing: bool = False
    """keep only each layer's input for the backward pass: less memory, a third more time"""
    lora_rank: int = 0
    """0 trains all weights; else an adapter of this rank on every linear layer of the body"""
    lora_alpha: int = 32
    """the adapter's output is scaled by lora_alpha / lora_rank"""
    base_hash: str = ""
    """names the weights under an adapter; written beside it"""
    state_every: int | None = None
    """save the training state every so many steps, beside at every checkpoint"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the computation (autocast); the weights keep their own"""
    device: str = "cpu"
    label_smoothing: float = 0.0
    """DPO, SimPO: assumed share of flipped labels"""
    gamma: float = 1.0
    """SimPO: target margin"""
    rounds: int = 0
    """pair methods: 0 trains on given pairs; else so many rounds on pairs of the policy's own
    answers, see `rounds`"""
    round_prompts: int = 512
    """prompts that are answered a round"""
    samples: int = 2
    """answers a prompt, of which the best and the worst make the pair"""
    refresh_reference: bool = False
    """whether each round starts from a reference of its own, the policy as it then is"""
    max_new_tokens: int = 64
    """of each answer that a policy gives in training"""
    desirable_weight: float = 1.0
    """KTO"""
    undesirable_weight: float = 1.0
    """KTO"""


class StepOutput(NamedTuple):
    """One micro-batch: ``losses`` per example, of which the batch's loss is the mean, and what to
    log for each example (averaged over the batch; NaN where it does not apply)."""

    losses: Tensor
    logs: Mapping[str, Tensor]
    tokens: int
    flops: float = 0.0
    """of the whole step on it, forward and backward"""
    sft_flops: float = 0.0
    """what supervised fine-tuning on as many answers would take"""


def all_batches(
    lengths: Sequence[int], config: TrainConfig, *, strata: Sequence[object] | None = None
) -> list[list[int]]:
    """The batches of every epoch, as indices; see `bucketed_batches`."""
    epochs = (
        bucketed_batches(lengths, config.batch_size, config.seed, epoch, strata=strata)
        for epoch in range(config.epochs)
    )
    return list(chain.from_iterable(epochs))


def prepare(model: PreTrainedModel, config: TrainConfig) -> PreTrainedModel:
    """Place the model and set it up for training.

    Dropout is off, so that an untrained policy equals its reference; gradient checkpointing, which
    transformers ties to the training mode, is switched on layer by layer. Autocast would keep a
    vocabulary's gradient three times (rounded, cast, added), so there the head adds it in place.
    """
    model.to(config.device).eval()
    lm = causal_lm(model)
    if config.gradient_checkpointing or config.dtype == "bfloat16":
        setattr(lm, IN_PLACE_HEAD, True)
        table, head = lm.get_input_embeddings(), lm.get_output_embeddings()
        if head is not None and table.weight is head.weight:
            table.sparse = True  # rows that no token has get no gradient of their own
    if config.gradient_checkpointing:
        return_freed_memory()
        setattr(lm, LITTLE_MEMORY, True)
        checkpoint_layers(lm)
    return model


def checkpoint_layers(lm: PreTrainedModel) -> None:
    """Have each layer run again in the backward pass."""
    # the newer name, from transformers 5.24 on, or the older
    getattr(lm, "activation_checkpointing_enable", lm.gradient_checkpointing_enable)(
        {"use_reentrant": False}
    )
    for module in lm.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def _mean_logs(outputs: Sequence[StepOutput]) -> Row:
    """Means over the examples to which each log applies (NaN where it does not)."""
    logs = {
        name: torch.cat([o.logs[name] for o in outputs]).nanmean().item()
        for name in outputs[0].logs
    }
    if "delta_chosen" in logs:
        logs["margin"] = logs["delta_chosen"] - logs["delta_rejected"]
    return logs


def optimise(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: TrainConfig,
    *,
    n_steps: int,
    batches: Callable[[int], Iterable[Sequence[int]]],
    losses: Callable[[Sequence[int]], Iterator[StepOutput]],
    ids: Callable[[int], str],
    data: str,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Minimise the mean of ``losses(batch)`` over each batch in turn.

    ``losses`` yields a batch micro-batch by micro-batch; each is differentiated before the next is
    computed. ``batches(done)`` gives those that follow the first ``done`` steps: a run that was
    stopped goes on from its saved state. ``data`` names what is trained on (see `data_hash`).

    Raises
    ------
    PrefevalError
        When a loss or gradient is not finite, naming the step and the examples' ids; when the
        folder holds a stopped run of other settings.
    """
    n_steps = min(n_steps, config.max_steps or n_steps)
    optimiser = Optimiser(model.parameters(), n_steps, config)
    with Run(
        model,
        tokenizer,
        config,
        n_steps=n_steps,
        optimisers={"policy": optimiser},
        out_dir=out_dir,
        data=data,
        on_step=on_step,
    ) as run:
        for batch in islice(batches(run.done), n_steps - run.done):
            start = time.perf_counter()
            outputs = []
            with autocast(config):
                for output in losses(batch):
                    (output.losses.sum() / len(batch)).backward()  # type: ignore[no-untyped-call]
                    outputs.append(output._replace(losses=output.losses.detach()))
                    if config.gradient_checkpointing and len(outputs) == 1:
                        return_freed_memory()  # gradients now lie among what activations left
            loss = torch.cat([o.losses for o in outputs]).mean().item()
            lr = optimiser.lr
            grad_norm = optimiser.step()
            run.require_finite({"loss": loss, "gradient norm": grad_norm}, map(ids, batch))
            run.finish_step(
                {
                    "loss": loss,
                    **_mean_logs(outputs),
                    "grad_norm": grad_norm,
                    "lr": lr,
                    "tokens": sum(o.tokens for o in outputs),
                    "flops": sum(o.flops for o in outputs),
                    "sft_flops": sum(o.sft_flops for o in outputs),
                    "seconds": time.perf_counter() - start,
                    "peak_memory_mb": peak_memory_mb(config.device),
                }
            )
        return run.saved
