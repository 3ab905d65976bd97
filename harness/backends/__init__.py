"""Where models run: one protocol for generation and scoring, one file an implementation.

A backend is named on the command line as ``name`` or ``name:argument``; its function in `BACKENDS`
is called with the task, the checkpoint and the argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from prefeval.records import Completion, Messages, PrefevalError, Prompt, Sampling

if TYPE_CHECKING:
    from prefeval.harness.task import Task

DEFAULT = "hugging_face"
BACKENDS: Mapping[str, str] = {
    DEFAULT: "prefeval.harness.backends.hugging_face:open_backend",
    "vllm": "prefeval.harness.backends.vllm:open_backend",
}


@dataclass(frozen=True)
class Scored:
    """The policy and the reference along one completion, as sums over its tokens."""

    logps: float
    """nats/sequence"""
    ref_logps: float
    """nats/sequence"""
    kl: float
    """full-vocabulary KL(policy || reference), nats/sequence"""
    entropy: float
    """the policy's, nats/sequence"""
    n_tokens: int
    k2: float = 0.0
    """sum of Schulman's estimate of each token, log(pi/pi_ref)^2 / 2"""
    k3: float = 0.0
    """sum of pi_ref/pi - 1 + log(pi/pi_ref)"""
    kl_by_position: tuple[float, ...] = ()
    """the terms of ``kl``, (n_tokens,) nats/token"""


@dataclass(frozen=True)
class ScoredPair:
    """One model along both answers of a pair, their end tokens included."""

    chosen_logps: float
    """nats/sequence"""
    rejected_logps: float
    chosen_lengths: int
    """tokens"""
    rejected_lengths: int
    ches: float
    """how far the answers' states point the same way, the lengths divided out: see `ches`"""


class Backend(Protocol):
    """A model that can be asked and read. Implementations: `hugging_face.HuggingFaceBackend`, and
    `vllm.VllmBackend` on top of it."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """``sampling.n`` completions of every prompt, in order; prompt-major."""

    def pair_logps(self, pairs: Sequence[tuple[Messages, str, str]]) -> list[ScoredPair]:
        """Prompt, chosen and rejected answer of each pair, read."""

    def compare(
        self, reference: Backend, items: Sequence[tuple[Messages, Sequence[int]]]
    ) -> list[Scored]:
        """This model and ``reference`` along the tokens of completions that this model drew."""


def identity(spec: str) -> str:
    """The backend without what only says where it runs: this much of it names a run."""
    return spec.partition(":")[0]


def versions(spec: str) -> dict[str, str]:
    """What a backend brings beside prefeval's own packages, by distribution.

    Raises ``PrefevalError`` for an unknown backend, a wrong argument, or one that is not installed.
    """
    name, colon, argument = spec.partition(":")
    if name not in BACKENDS:
        raise PrefevalError(f"unknown backend {name!r}; use {' or '.join(BACKENDS)}")
    if name == "vllm":
        from prefeval.harness.backends.vllm_process import Options

        return dict([Options.parse(argument).version()])
    if colon:
        raise PrefevalError(f"the backend {name} takes no argument, got {argument!r}")
    return {}


def open_backend(task: Task, path: str) -> Backend:
    """A model of this task, ready to generate and score: the one place that opens one."""
    name, _, argument = task.backend.partition(":")
    module, _, function = BACKENDS[name].partition(":")
    found: Backend = getattr(import_module(module), function)(task, path, argument)
    return found
