"""How far two backends agree in greedy mode, where only rounding may tell them apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from prefeval.records import Completion

NEAR_TIE = 1e-4
"""nats between the two likeliest tokens, below which rounding decides between them"""


@dataclass(frozen=True)
class Difference:
    """Where two answers to one prompt part; what follows has another past, and says nothing."""

    prompt_id: str
    position: int
    """in the answer, from 0"""
    tokens: tuple[int | None, int | None]
    """of either; None where that answer had ended"""
    gap: float
    """nats between the two likeliest tokens there, as the first backend has it"""

    @property
    def near_tie(self) -> bool:
        """Whether rounding alone explains it."""
        return self.gap < NEAR_TIE


def differences(
    ours: Sequence[Completion], theirs: Sequence[Completion], gaps: Mapping[str, Sequence[float]]
) -> list[Difference]:
    """The first place at which each two answers differ, for those that do.

    ``gaps`` are of our answers' tokens by prompt (`VllmBackend.gaps` of the answers it gave). Both
    hold one answer a prompt, in the same order.
    """
    found = []
    for a, b in zip(ours, theirs, strict=True):
        assert a.prompt_id == b.prompt_id
        for position, both in enumerate(zip_longest(a.token_ids, b.token_ids)):
            if both[0] != both[1]:
                gap = gaps[a.prompt_id][position] if both[0] is not None else math.inf
                found.append(Difference(a.prompt_id, position, both, gap))
                break
    return found
