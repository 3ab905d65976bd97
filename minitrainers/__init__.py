"""Minimal trainers, a file a method, and what they share with evaluation.

``logps`` (log-probabilities, exact KL) and ``sampling`` serve the harness too. Importing this
package imports nothing heavy: ``METHODS`` names each method's module, which `load` imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from types import ModuleType

    from prefeval.minitrainers.loop import TrainConfig


@dataclass(frozen=True)
class Method:
    """A preference method. Its module has ``train(policy, tokenizer, data, config, *, out_dir,
    on_step=None)``."""

    module: str
    data: Literal["pairs", "thumbs", "prompts"]
    lever: Literal["beta", "kl_coef"]
    """what a grid's beta sets"""
    anchored: bool
    """whether the loss holds the policy to a reference"""
    config: str = "TrainConfig"
    """the class of its settings, in its module"""
    models: int = 1
    """of the policy's size in memory while it trains; a cached reference is none"""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """settings that differ from the config's own defaults"""


METHODS: Mapping[str, Method] = {
    "dpo": Method("prefeval.minitrainers.dpo", "pairs", "beta", anchored=True),
    "ipo": Method("prefeval.minitrainers.ipo", "pairs", "beta", anchored=True),
    "kto": Method("prefeval.minitrainers.kto", "thumbs", "beta", anchored=True),
    "simpo": Method(
        "prefeval.minitrainers.simpo", "pairs", "beta", anchored=False, defaults={"beta": 2.0}
    ),
    "ppo": Method(
        "prefeval.minitrainers.ppo",
        "prompts",
        "kl_coef",
        anchored=True,
        config="PPOConfig",
        models=4,
    ),
    "grpo": Method(
        "prefeval.minitrainers.grpo",
        "prompts",
        "beta",
        anchored=True,
        config="GRPOConfig",
        models=3,
    ),
}


def load(method: str) -> ModuleType:
    """The module of a method.

    Raises
    ------
    PrefevalError
        If there is no such method.
    """
    if method not in METHODS:
        raise PrefevalError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    return import_module(METHODS[method].module)


def make_config(method: str, **settings: Any) -> TrainConfig:
    """The settings of a run: the method's defaults, with ``settings`` over them."""
    config_class = getattr(load(method), METHODS[method].config)
    config: TrainConfig = config_class(method=method, **{**METHODS[method].defaults, **settings})
    return config
