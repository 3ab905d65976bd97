"""Two checkpoints compared, as plain records: what the terminal, compare.md and the page show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefeval.metrics.differences import Difference


@dataclass(frozen=True)
class Side:
    """One of the two: its name, and its run's name with the place in it."""

    name: str
    path: str


@dataclass(frozen=True)
class Answer:
    """One model's answer to a prompt; numbers are None where there is none.

    ``preference`` is the probability of beating the reference, mean of both orders; ``first`` and
    ``second`` by the place shown; ``kl`` in nats.
    """

    text: str
    words: int
    preference: float | None = None
    first: float | None = None
    second: float | None = None
    truth: float | None = None
    passed: bool | None = None
    tokens: int | None = None
    kl: float | None = None


@dataclass(frozen=True)
class Changed:
    """A prompt on which the two differ much: why it is shown, and three answers to it."""

    prompt_id: str
    behaviour: str
    kinds: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]
    a: Answer
    b: Answer
    reference: Answer


@dataclass(frozen=True)
class TrialDifference:
    """One cell of the grid that both runs have: its length-controlled win rates."""

    name: str
    line: Difference


@dataclass(frozen=True)
class Compared:
    """The comparison. ``rows`` are the rows of A, of B and of both, of each frame; ``counts`` how
    many prompts changed in each kind, of which ``samples`` holds the most changed; ``manifest``
    what differs between the runs, as (name, A's, B's)."""

    a: Side
    b: Side
    measures: tuple[Difference, ...]
    behaviours: tuple[Difference, ...]
    rows: Mapping[str, tuple[int, int, int]]
    notes: tuple[str, ...] = ()
    samples: tuple[Changed, ...] = ()
    counts: Mapping[str, int] | None = None
    trials: tuple[TrialDifference, ...] = ()
    manifest: tuple[tuple[str, str, str], ...] = ()

    @property
    def lines(self) -> tuple[Difference, ...]:
        """Every line of the table."""
        return self.measures + self.behaviours
