"""How an answer looks: headings, list items, bold words, for style control.

Li, Angelopoulos and Chiang 2024 ("Does style matter?", LMSYS) control Arena's ratings for length
and these three; here they join ``length_control``'s model as further terms that are read at zero.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from prefeval.metrics.stats import Array

CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+\S", re.MULTILINE)
ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+\S", re.MULTILINE)
BOLD = re.compile(r"\*\*(?=\S)[^*\n]+?(?<=\S)\*\*|__(?=\S)[^_\n]+?(?<=\S)__")


class Style(NamedTuple):
    """Counts in one answer, code blocks left out."""

    headings: int
    items: int
    bold: int


NEAR = 0.25  # of (baseline - output)/(baseline + output), within which two answers count as alike
SIDES = ("output", "baseline")
COLUMNS = tuple(f"{mark}_{side}" for side in SIDES for mark in Style._fields)
"""Of a frame with one answer of each side a row."""


def style_of(text: str) -> Style:
    """Count what Markdown marks.

    >>> style_of("# Title\\n- **one**\\n- two\\n```\\n# no heading\\n```")
    Style(headings=1, items=2, bold=1)
    """
    prose = CODE.sub("", text)
    return Style(*(len(pattern.findall(prose)) for pattern in (HEADING, ITEM, BOLD)))


def columns_of(output: str, baseline: str) -> dict[str, int]:
    """The counts of a model's answer and of its baseline's, by ``COLUMNS``."""
    counts = (*style_of(output), *style_of(baseline))
    return dict(zip(COLUMNS, counts, strict=True))


def unmatched_style(output: ArrayLike, baseline: ArrayLike, min_near: float) -> str:
    """Why the terms cannot be read at zero: a mark in which hardly any two answers are alike.

    "" where each mark has at least ``min_near`` of the prompts within `NEAR` of equal shares.
    """
    share = np.abs(_shares(output, baseline))
    for mark, column in zip(Style._fields, share.T, strict=True):
        near = float((column <= NEAR).mean()) if len(column) else 1.0
        if near < min_near:
            return (
                f"not identified: only {100 * near:.1f}% of prompts have answers with similar "
                f"numbers of {mark}"
            )
    return ""


def style_terms(output: ArrayLike, baseline: ArrayLike) -> Array:
    """(n, 3) terms of n prompts: (baseline - output)/(baseline + output), over its sd.

    ``output`` and ``baseline`` are counts (n, 3), ``Style`` by ``Style``. The sign is that of the
    length term: below 0 where the model has more. 0 where neither has any,
    or where the difference never varies.
    """
    share = _shares(output, baseline)
    sd = share.std(axis=0, ddof=1) if len(share) > 1 else np.zeros(3)
    return np.asarray(share / np.where(sd > 0, sd, 1) * (sd > 0))


def _shares(output: ArrayLike, baseline: ArrayLike) -> Array:
    """(baseline - output)/(baseline + output) of each mark, 0 where neither has any: (n, 3)."""
    a = np.asarray(output, dtype=np.float64).reshape(-1, 3)
    b = np.asarray(baseline, dtype=np.float64).reshape(-1, 3)
    return np.asarray((b - a) / np.maximum(a + b, 1))
