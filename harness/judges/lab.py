"""The lab's judges: the oracle that ignores length, and judges that do not.

``length_bias`` is in quality units a word; ``temperature`` turns a difference of scores into a
probability; ``position_bias`` (logits towards the answer shown first) is why every pair is
judged in both orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefeval.records import Comparison, Prompt, Verdict
from prefeval.suites import lab_oracle
from prefeval.suites.lab_world import World


class LabJudge:
    """A judge of one of `lab_oracle.JUDGE_SHAPES`."""

    name = "lab"

    def __init__(
        self,
        world: World,
        *,
        shape: str = "saturating",
        length_bias: float = 0.0,
        temperature: float = 1.0,
        position_bias: float = 0.0,
    ) -> None:
        self.world = world
        self.shape, self.length_bias = shape, length_bias
        self.temperature, self.position_bias = temperature, position_bias

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a verdict depends on, beside the texts."""
        return {
            "world": [self.world.seed, self.world.people],
            "shape": self.shape,
            "length_bias": self.length_bias,
            "temperature": self.temperature,
            "position_bias": self.position_bias,
        }

    def quality(self, prompt: Prompt, text: str) -> float:
        """True quality of an answer, whatever this judge makes of it."""
        check = prompt.check or {}
        return lab_oracle.quality(self.world, check["family"], check["subject"], text)

    def score(self, prompt: Prompt, text: str) -> float:
        """What this judge makes of one answer."""
        quality = self.quality(prompt, text)
        return lab_oracle.judge_score(self.shape, quality, text, length_bias=self.length_bias)

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        """The probability that the answer shown first is preferred."""
        tilt = self.position_bias * self.temperature
        return [
            Verdict(
                lab_oracle.preference(
                    self.score(item.prompt, item.first) + tilt,
                    self.score(item.prompt, item.second),
                    temperature=self.temperature,
                )
            )
            for item in items
        ]

    def truth(self, prompt: Prompt, text: str, other: str) -> float:
        """1 if the first answer is truly better, 0 if worse, one half if they are equal."""
        difference = self.quality(prompt, text) - self.quality(prompt, other)
        return 0.5 if abs(difference) < 1e-9 else float(difference > 0)
