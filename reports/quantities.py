"""A measured number as a report shows it; undefined is a dash with its reason, never 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

DASH = "\u2014"
MINUS = "\u2212"


@dataclass(frozen=True)
class Number:
    """One metric of one checkpoint. ``reason`` says why ``value`` is NaN."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int | None = None
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a value to show."""
        return math.isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def missing(reason: str) -> Number:
    """A number that is not there."""
    return Number(math.nan, reason=reason)


def fixed(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """``value`` with a true minus sign, or a dash; never "-0.0".

    >>> fixed(-1.26, 1), fixed(2, 1, sign=True), fixed(float("nan")), fixed(-0.01, 1)
    ('−1.3', '+2.0', '—', '0.0')
    """
    if value is None or not math.isfinite(value):
        return DASH
    rounded = round(float(value), digits) + 0.0
    body = f"{abs(rounded):,.{digits}f}"
    if rounded < 0:
        return MINUS + body
    return "+" + body if sign and rounded > 0 else body


def significant(value: float | None, digits: int = 3) -> str:
    """``value`` in a few significant digits: KL runs from .01 to 100.

    >>> significant(0.01234), significant(41.96), significant(1234.5), significant(None)
    ('0.0123', '42.0', '1,234', '—')
    """
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return fixed(value, max(0, min(places, 4)))


def interval(number: Number, digits: int = 1, *, sign: bool = False) -> str:
    """``[low, high]``, or nothing when the interval is unknown."""
    if not number.has_interval:
        return ""
    return f"[{fixed(number.low, digits, sign=sign)}, {fixed(number.high, digits, sign=sign)}]"


def beta_text(value: float) -> str:
    """A lever's value as people write it: 0.05, 2, 1e-05."""
    return f"{value:.3g}"


def p_text(p: float) -> str:
    """A p value as papers print it.

    >>> p_text(0.0004), p_text(0.0312), p_text(0.4)
    ('p < .001', 'p = .031', 'p = .40')
    """
    if not math.isfinite(p):
        return ""
    if p < 0.001:
        return "p < .001"
    text = f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"p = {text.lstrip('0')}"
