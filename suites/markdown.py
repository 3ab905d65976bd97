"""What Markdown a text holds: items, headings, tables, fenced code. Counts, no verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise, takewhile
from typing import NamedTuple

_BULLET = re.compile(r"^(?P<indent>[ \t]*)[-*+•–][ \t]+\S")
_NUMBERED = re.compile(r"^[ \t]*(?P<number>\d{1,3})[.)][ \t]+\S")
_HEADING = re.compile(r"^ {0,3}(?P<marks>#{1,6})[ \t]+\S")
_RULE = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?")
_FENCE = re.compile(r" {0,3}```[ \t]*([\w+#.-]*)[^`]*")


class Table(NamedTuple):
    """One table; ``whole`` is whether every row has as many cells as the heading."""

    columns: int
    rows: int
    whole: bool


def full_lines(text: str) -> list[str]:
    """The lines that are not blank."""
    return [line for line in text.splitlines() if line.strip()]


def bullets(text: str) -> list[int]:
    """The indent of each bullet, in columns."""
    found = filter(None, map(_BULLET.match, full_lines(text)))
    return [len(match["indent"].expandtabs(4)) for match in found]


def numbered(text: str) -> list[int]:
    """The number of each item of numbered lists."""
    return [int(match["number"]) for match in map(_NUMBERED.match, full_lines(text)) if match]


def headings(text: str) -> list[int]:
    """The level of each heading, 1 to 6."""
    found = filter(None, map(_HEADING.match, prose(text)))
    return [len(match["marks"]) for match in found]


def table(text: str) -> Table | None:
    """The first table: a heading, its rule, and the rows that follow."""
    lines = [line.strip() for line in prose(text)]
    for place, (top, rule) in enumerate(pairwise(lines)):
        if "|" in top and _RULE.fullmatch(rule) and _cells(top) == _cells(rule):
            rows = list(takewhile(lambda line: "|" in line, lines[place + 2 :]))
            return Table(_cells(top), len(rows), all(_cells(r) == _cells(top) for r in rows))
    return None


def _cells(line: str) -> int:
    return len(re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|")))


def fenced_blocks(text: str) -> list[str]:
    """The languages ("" for none) of the fenced code blocks that are ended and not empty."""
    found, lines = [], 0
    for line, language, ends in _by_fence(text):
        if ends and language is not None:
            found += [language] if lines else []
        lines = 0 if language is None or ends else lines + bool(line.strip())
    return found


def prose(text: str) -> list[str]:
    """The lines outside fenced code."""
    return [line for line, language, ends in _by_fence(text) if language is None and not ends]


def _by_fence(text: str) -> Iterator[tuple[str, str | None, bool]]:
    """Each line, the language of the block that it is in (None outside), and whether it is a fence:
    one that ends the block, or, outside, one that begins one."""
    language: str | None = None
    for line in text.splitlines():
        fence = _FENCE.fullmatch(line)
        if language is None:
            yield line, None, bool(fence)
            language = fence[1].casefold() if fence else None
        elif fence and not line.strip(" \t`"):
            yield line, language, True
            language = None
        else:
            yield line, language, False
