"""The lab's judges: the oracle that ignores length, and judges that do not.

``length_bias`` is in quality units a word; ``temperature`` turns a difference of scores into a
probability; ``position_bias`` (logits towards the answer shown first) is why every pair is
judged in both orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefeval.records import Comparison, PrefevalError, Prompt, Verdict
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


KNOBS: Mapping[str, type] = {
    "seed": int, "people": int, "shape": str, "length_bias": float, "temperature": float,
    "position_bias": float,
}  # fmt: skip


def from_text(text: str = "", *, device: str = "cpu", dtype: str = "float32") -> LabJudge:
    """The judge of ``seed=0,people=64,shape=saturating,length_bias=0.12``; it runs no model.

    Raises ``PrefevalError`` for an unknown knob or shape, or what is no number.
    """
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        if name not in KNOBS:
            raise PrefevalError(f"unknown knob {name!r} of the lab's judge; use {', '.join(KNOBS)}")
        try:
            values[name] = KNOBS[name](value)
        except ValueError:
            raise PrefevalError(f"the lab judge's {name} takes a number, got {value!r}") from None
    shape = values.get("shape", "saturating")
    if shape not in lab_oracle.JUDGE_SHAPES:
        shapes = ", ".join(lab_oracle.JUDGE_SHAPES)
        raise PrefevalError(f"unknown judge shape {shape!r}; use one of {shapes}")
    if values.get("temperature", 1.0) <= 0:
        raise PrefevalError("the lab judge's temperature must be > 0")
    size = {k: values.pop(k) for k in ("seed", "people") if k in values}
    return LabJudge(World(**size), **values)
