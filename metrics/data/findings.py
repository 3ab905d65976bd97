"""Findings of a data audit: a number, what it says, and a level by a stated threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from prefeval.metrics.stats import Estimate

Level = Literal["ok", "info", "warning", "error"]


@dataclass(frozen=True)
class Threshold:
    """From where on a finding is a warning or an error, and who says so.

    A finding with an interval must be shown to be there: its near bound counts, not its value.
    """

    warning: float
    error: float
    source: str
    below: bool = False
    """it is the low values that are bad"""

    def level(self, value: float, low: float, high: float) -> Level:
        """What a finding with this value, or interval, is."""
        sign = -1 if self.below else 1
        end = high if self.below else low
        shown = sign * (value if math.isnan(end) else end)
        if shown < sign * self.warning:
            return "ok"
        return "error" if shown >= sign * self.error else "warning"

    def __str__(self) -> str:
        words = "down to" if self.below else "from"
        error = f", error {words} {self.error:.3g}" if math.isfinite(self.error) else ""
        warning = (
            "any is a warning" if self.warning == ANY else f"warning {words} {self.warning:.3g}"
        )
        return f"{warning}{error} ({self.source})"


OURS = "ours"
ANY = 1e-9  # a warning from the first row on
THRESHOLDS: Mapping[str, Threshold] = {
    "rows_refused": Threshold(0.01, 0.1, OURS),
    "identical_answers": Threshold(0.01, 0.1, OURS),
    "empty_answers": Threshold(0.01, 0.1, OURS),
    "exact_duplicates": Threshold(0.005, 0.05, OURS),
    "near_duplicates": Threshold(0.02, 0.2, "ours; similarity 0.8 as Lee et al. 2022"),
    "contradicting_labels": Threshold(ANY, 0.01, OURS),
    "prompts_held_out_too": Threshold(ANY, 0.01, OURS),
    "near_identical_pairs": Threshold(0.05, 0.3, "ours; the risk: Pal et al. 2024"),
    "low_contrast_pairs": Threshold(0.2, 0.6, "ours; the risk: Pal et al. 2024"),
    "longer_chosen": Threshold(0.6, 0.8, "ours; people prefer the longer one in 64%"),
    "length_predicts": Threshold(0.6, 0.75, OURS),
    "style_adds": Threshold(0.03, 0.1, OURS),
    "noise_at_least": Threshold(ANY, 0.01, OURS),
    "noise_retest": Threshold(0.1, 0.3, OURS),
    "noise_beside_trusted": Threshold(0.1, 0.3, OURS),
    "labels_predicted": Threshold(0.55, -math.inf, "ours; no more than a coin tells", below=True),
    "class_ratio_off": Threshold(ANY, 4.0, "Ethayarajh et al. 2024, section 4.2; error: ours"),
    "prefix_broken": Threshold(ANY, 0.01, OURS),
    "template_marks": Threshold(ANY, 0.01, OURS),
    "truncated": Threshold(0.01, 0.2, OURS),
    "prompt_too_long": Threshold(ANY, 0.05, OURS),
    "not_rendered": Threshold(ANY, 0.05, OURS),
    "special_tokens": Threshold(ANY, 0.01, OURS),
    "chosen_in_range": Threshold(0.5, -math.inf, OURS, below=True),
    "pairs_in_range": Threshold(0.5, -math.inf, OURS, below=True),
}


@dataclass(frozen=True)
class Finding:
    """One thing measured of a file. ``value`` and interval are shares (0 to 1) where ``unit`` is
    "%", else in that unit; an undefined value is NaN with a ``reason``."""

    subject: str
    name: str
    value: float
    n: int
    says: str
    ci_low: float = math.nan
    ci_high: float = math.nan
    unit: str = "%"
    level: Level = "info"
    threshold: str = ""
    reason: str = ""


def finding(
    subject: str, name: str, measured: Estimate | float, says: str, *, n: int = 0, unit: str = "%"
) -> Finding:
    """A finding with the level that `THRESHOLDS` give it; one without a threshold is "info"."""
    if isinstance(measured, Estimate):
        m = measured
        found = Finding(subject, name, m.value, m.n, says, m.ci_low, m.ci_high, unit)
        found = replace(found, reason=m.reason)
    else:
        found = Finding(subject, name, measured, n, says, unit=unit)
    limits = THRESHOLDS.get(name)
    if limits is None or math.isnan(found.value):
        return found
    level = limits.level(found.value, found.ci_low, found.ci_high)
    return replace(found, level=level, threshold=str(limits))


def worst(findings: Sequence[Finding]) -> Level:
    """The gravest level among findings."""
    levels = {f.level for f in findings}
    for level in ("error", "warning"):
        if level in levels:
            return level  # type: ignore[return-value]
    return "ok"
