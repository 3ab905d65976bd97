"""What figures on paper look like: sizes, fonts, colours and marks, the page's own.

Lengths are the page's pixels: 11 of them, the height of its text, are 8 pt here. Nothing is taken
from a user's matplotlibrc, and no text is read as TeX.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from prefeval.reports.charts import svg
from prefeval.reports.quantities import Number

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.markers import MarkerStyle

PIXEL = 8 / 11  # pt
ONE, TWO = 3.3 * 72 / PIXEL, 6.8 * 72 / PIXEL  # the width of one and of two columns, in pixels
INK, MUTE, GRID, SOFT, OK = "#1a2130", "#566072", "#e8ebf0", "#eef1f5", "#07694c"
COLOURS = ("#0068b5", "#cc7a00", "#00875f", "#b93f93", "#8a2b06", "#55606e", "#55606e")
WORDS = (COLOURS[0], "#955800", *COLOURS[2:])  # of labels: orange is too light to read
KINDS = {"chosen": "#0068b5", "rejected": "#c9540a"}
USABLE, COLLAPSE = ("#00906a", 0.13), ("#a8261b", 0.11)
STYLE: Mapping[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8.0,
    "pdf.fonttype": 42,
    "svg.hashsalt": "prefeval",
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "text.color": INK,
}
WIDTH = 6.8  # px of a character, on average
FOOT = 5.0  # px below the last axis title


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults and ``STYLE``, whatever the user has set; both are put back."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


@dataclass(frozen=True)
class Drawn:
    """One figure, its file's name without an ending, and what its caption has to say."""

    name: str
    figure: Figure
    caption: str


def words(text: str) -> str:
    """Text on one line, without characters that the font lacks.

    >>> words("a\\nb"), words("\\U0001f600")
    ('a b', '\\ufffd')
    """
    return "".join(c if ord(c) in _glyphs() else "\ufffd" for c in " ".join(text.split()))


def cut(name: str, width: float) -> str:
    """A name that fits ``width`` pixels.

    >>> cut("overrefusal", 100), cut("a behaviour with a long name", 100)
    ('overrefusal', 'a behaviour w…')
    """
    longest = max(int(width / WIDTH), 2)
    return name if len(name) <= longest else name[: longest - 1] + "…"


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib import font_manager, ft2font

    return frozenset(ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())


def counted(numbers: Iterable[Number]) -> str:
    """Of how many prompts or pairs these are: "n = 64", "n = 60–64"; "n unknown" if not saved."""
    sizes = sorted({number.n for number in numbers if number.known and number.n})
    if not sizes:
        return "n unknown"
    return f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]}–{sizes[-1]}"


def letter(index: int) -> str:
    """(a), (b), ... before a plot's title."""
    return f"({chr(97 + index)})"


@cache
def marker(shape: int) -> tuple[MarkerStyle, float]:
    """The page's shape, and its extent in radii, by which matplotlib scales it."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path

    corners = [(x, -y) for x, y in svg.SHAPES[shape % len(svg.SHAPES)]]
    if not corners:
        return MarkerStyle("o"), 1.0
    extent = max(abs(v) for corner in corners for v in corner)
    return MarkerStyle(Path([*corners, corners[0]], closed=True)), extent


def label_colour(classes: str) -> str:
    """The colour that the page's style gives a label of these classes."""
    role = classes.split()[-1]
    if role[0] == "m" and role[1:].isdigit():
        return WORDS[int(role[1:])]
    return {"best": OK, "quiet": MUTE, **KINDS}.get(role, INK)
