"""Where models run: one protocol for generation and scoring, one file an implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prefeval.records import Completion, Messages, Prompt, Sampling


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


class Backend(Protocol):
    """A model that can be asked and read. Implementations: `hugging_face.HuggingFaceBackend`."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """``sampling.n`` completions of every prompt, in order; prompt-major."""

    def completion_logps(self, items: Sequence[tuple[Messages, str]]) -> list[tuple[float, int]]:
        """Sum of log-probabilities (nats/sequence) and number of tokens of each answer, its end
        token included."""

    def compare(
        self, reference: Backend, items: Sequence[tuple[Messages, Sequence[int]]]
    ) -> list[Scored]:
        """This model and ``reference`` along the tokens of completions that this model drew."""
