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
