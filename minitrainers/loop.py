"""The training loop that every method shares: batches in, logged steps and checkpoints out."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from prefeval.minitrainers.batches import bucketed_batches
from prefeval.records import PrefevalError, to_jsonable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = dict[str, Any]
OnStep = Callable[[Row], None]


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
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the computation (autocast); the weights keep their own"""
    device: str = "cpu"
    label_smoothing: float = 0.0
    """DPO, SimPO: assumed share of flipped labels"""
    gamma: float = 1.0
    """SimPO: target margin"""
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


class CheckpointInfo(NamedTuple):
    """A saved checkpoint: an ordinary Hugging Face folder."""

    step: int
    path: Path


def all_batches(
    lengths: Sequence[int], config: TrainConfig, *, strata: Sequence[object] | None = None
) -> list[list[int]]:
    """The batches of every epoch, as indices; see `bucketed_batches`."""
    epochs = (
        bucketed_batches(lengths, config.batch_size, config.seed, epoch, strata=strata)
        for epoch in range(config.epochs)
    )
    return list(chain.from_iterable(epochs))


def lr_scale(step: int, n_steps: int, config: TrainConfig) -> float:
    """The learning rate of step 0, 1, ... as a share of its peak."""
    warmup = round(config.warmup * n_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, n_steps - warmup)
    match config.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))


def save_steps(n_steps: int, config: TrainConfig) -> set[int]:
    """The steps, counted from 1, after which to save."""
    if config.save_every:
        return {*range(config.save_every, n_steps + 1, config.save_every), n_steps}
    return {min(n_steps, max(1, round(share * n_steps))) for share in (*config.save_at, 1.0)}


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out_dir: Path, step: int
) -> CheckpointInfo:
    """Write ``checkpoint-000200/`` beside its place, then rename: never half of one is seen."""
    path = out_dir / f"checkpoint-{step:06d}"
    temporary = out_dir / f".{path.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)
    return CheckpointInfo(step, path)


class StepLog:
    """``train.jsonl``: one JSON object a step, on disk as soon as the step is done."""

    def __init__(self, out_dir: Path, on_step: OnStep | None) -> None:
        out_dir.mkdir(parents=True, exist_ok=True)
        self._file = (out_dir / "train.jsonl").open("w", encoding="utf-8", buffering=1)
        self._on_step = on_step

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, row: Row) -> None:
        """Append one step."""
        self._file.write(json.dumps(to_jsonable(row)) + "\n")
        if self._on_step:
            self._on_step(row)


class Optimiser:
    """AdamW with clipped gradients and a scheduled learning rate."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], n_steps: int, config: TrainConfig
    ) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._adamw = torch.optim.AdamW(
            self._parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._n_steps, self._config, self._step = n_steps, config, 0

    def step(self) -> float:
        """Apply the gathered gradients; returns their norm before clipping.

        A norm that is not finite changes nothing: the weights stay as the last good step left
        them.
        """
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.grad_clip).item()
        if math.isfinite(norm):
            for group in self._adamw.param_groups:
                group["lr"] = self._config.lr * lr_scale(self._step, self._n_steps, self._config)
            self._adamw.step()
        self._adamw.zero_grad()
        self._step += 1
        return norm


def autocast(config: TrainConfig) -> AbstractContextManager[Any]:
    """Mixed precision as configured; none for float32."""
    return torch.autocast(
        torch.device(config.device).type,
        dtype=torch.bfloat16,
        enabled=config.dtype == "bfloat16",
    )


def require_finite(
    values: Mapping[str, float], step: int, ids: Iterable[str], saved: Sequence[CheckpointInfo]
) -> None:
    """Stop the run at the first number that is not finite, and say where it was."""
    for name, value in values.items():
        if not math.isfinite(value):
            last = saved[-1].path if saved else "none"
            raise PrefevalError(
                f"{name} is {value} at step {step} (examples {', '.join(ids)}; last good "
                f"checkpoint: {last}); lower the learning rate or drop these examples"
            )


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
    batches: Sequence[Sequence[int]],
    losses: Callable[[Sequence[int]], Iterator[StepOutput]],
    ids: Sequence[str],
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Minimise the mean of ``losses(batch)`` over each batch in turn.

    ``losses`` yields a batch micro-batch by micro-batch; each is differentiated before the next is
    computed. Dropout is off, so that an untrained policy equals its reference.

    Raises
    ------
    PrefevalError
        When a loss or gradient is not finite, naming the step and the examples' ids.
    """
    batches = batches[: config.max_steps]
    optimiser = Optimiser(model.parameters(), len(batches), config)
    to_save = save_steps(len(batches), config)
    saved: list[CheckpointInfo] = []
    model.eval()
    with StepLog(out_dir, on_step) as log:
        for step, batch in enumerate(batches, 1):
            start = time.perf_counter()
            outputs = []
            with autocast(config):
                for output in losses(batch):
                    (output.losses.sum() / len(batch)).backward()  # type: ignore[no-untyped-call]
                    outputs.append(output._replace(losses=output.losses.detach()))
            loss = torch.cat([o.losses for o in outputs]).mean().item()
            grad_norm = optimiser.step()
            batch_ids = (ids[i] for i in batch)
            require_finite({"loss": loss, "gradient norm": grad_norm}, step, batch_ids, saved)
            log.write(
                {
                    "step": step,
                    "loss": loss,
                    **_mean_logs(outputs),
                    "grad_norm": grad_norm,
                    "tokens": sum(o.tokens for o in outputs),
                    "seconds": time.perf_counter() - start,
                }
            )
            if step in to_save:
                saved.append(save_checkpoint(model, tokenizer, out_dir, step))
    return saved
