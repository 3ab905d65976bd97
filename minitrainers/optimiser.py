"""AdamW with clipped gradients and a scheduled learning rate, and its state as plain tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from prefeval.minitrainers.loop import TrainConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


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


class Optimiser:
    """Steps the parameters that require gradients."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], n_steps: int, config: TrainConfig
    ) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._adamw = torch.optim.AdamW(
            self._parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._n_steps, self._config, self._step = n_steps, config, 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._config.lr * lr_scale(self._step, self._n_steps, self._config)

    def step(self) -> float:
        """Apply the gathered gradients; returns their norm before clipping.

        A norm that is not finite changes nothing: the weights stay as the last good step left
        them.
        """
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.grad_clip).item()
        if math.isfinite(norm):
            for group in self._adamw.param_groups:
                group["lr"] = self.lr
            self._adamw.step()
        self._adamw.zero_grad()
        self._step += 1
        return norm

    def state(self) -> dict[str, Tensor]:
        """Weights, moments and step counts: all that the next step depends on."""
        tensors = {"step": torch.tensor(self._step)}
        for i, parameter in enumerate(self._parameters):
            tensors[f"{i}.weight"] = parameter.detach()
            known = self._adamw.state.get(parameter)
            if known:
                tensors |= {f"{i}.{name}": known[name] for name in MOMENTS}
                tensors[f"{i}.step"] = known["step"]
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; the weights too are set."""
        self._step = int(tensors["step"])
        for i, parameter in enumerate(self._parameters):
            parameter.copy_(tensors[f"{i}.weight"])
            if f"{i}.step" in tensors:
                self._adamw.state[parameter] = {
                    "step": tensors[f"{i}.step"].to(parameter.device, copy=True),
                    **{m: tensors[f"{i}.{m}"].to(parameter.device, copy=True) for m in MOMENTS},
                }
