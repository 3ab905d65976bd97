"""A person's regular expressions, in a limited time: some take for ever on some answers.

By the package ``regex``, which reads ``re``'s syntax and knows a time limit.
"""

from __future__ import annotations

import regex

LIMIT = 2.0  # seconds an answer; a pattern that is no trap takes a thousandth of it


def fault(pattern: str) -> str:
    """What is wrong with a pattern, in words; "" when nothing is."""
    try:
        regex.compile(pattern)
    except regex.error as error:
        return f"the pattern {pattern!r} is no regular expression ({error})"
    return ""


def found(pattern: str, text: str, *, full: bool = False, ignore_case: bool = False) -> bool:
    """Whether the pattern is in ``text``, or with ``full`` is all of it.

    Raises ``TimeoutError`` after `LIMIT`.
    """
    match = regex.fullmatch if full else regex.search
    flags = regex.IGNORECASE if ignore_case else 0
    try:
        return match(pattern, text, flags, timeout=LIMIT) is not None
    except TimeoutError:
        raise TimeoutError(f"the pattern {pattern!r} took more than {LIMIT:g} s") from None
