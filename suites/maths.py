"""The number that an answer gives: which one it is, and what it is worth.

Strict takes what is stated as the answer: the last ``#### 42``, ``\\boxed{42}`` or "the answer is
42", else the last number of the last sentence, and in either place what follows the last "=".
Loose takes any number of the last sentence that has one, or of the last statement.

lm-evaluation-harness reads GSM8K by two filters of its own (tasks/gsm8k/gsm8k.yaml):
``strict-match`` takes the first ``#### N`` and nothing else, so it also measures whether the few
shots' form was copied; ``flexible-extract`` takes the last number of the whole text, wherever it
stands. Strict here lies between them: no form is asked for, yet a number left behind in the middle
of the working, or before a last sentence that has none, is no answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

_NUMBER = re.compile(
    r"(?<![\w^])(?P<sign>(?<![)\]}])[-+])?(?P<money>[$€£¥₹][ ]?(?P<inner>-)?)?"
    r"(?:(?P<whole>\d{1,9})[ ](?P<top>\d{1,9})/(?P<under>\d{1,9})"  # 2 1/2
    r"|(?P<over>\d{1,30})[ ]?/[ ]?(?P<below>\d{1,30})(?![\d/])"  # 3/4, and no date
    r"|(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d{1,3}(?:[ ]\d{3})+(?!\d)"  # 1,234.5
    r"|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}(?!\d)"  # 1.234,5 and 1.234.567
    r"|\d+,\d{1,2}(?![\d,])|\d+(?:\.\d+)?|\.\d+)"  # 0,5 and 0.5 and .5
    r"(?:[eE](?P<exponent>[-+]?\d{1,3})(?!\w)|[ ]?[×x][ ]?10\^\{?(?P<power>[-+]?\d{1,3})\}?)?)"
)
_STATED = re.compile(
    r"####|\\boxed[ ]?\{|\banswers?\b[^\d\n.!?=:]{0,40}?(?::|=|\b(?:is|are|be)\b)", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?])[*_\"')\]]*\s+|\n+")
_FRACTION = re.compile(r"\\[dt]?frac\{[ ]?(\d+)[ ]?\}\{[ ]?(\d+)[ ]?\}")
_LONGEST = 40  # digits; longer ones are no answer
_READ = 8_000  # characters from the end: there the answer stands, however long the text


def _plain(text: str) -> str:
    """LaTeX, odd spaces and signs as plain text writes them."""
    text = text[-_READ:]
    text = _FRACTION.sub(r"\1/\2", text.replace("{,}", ",").replace("\\,", "").replace("\\!", ""))
    text = text.replace("\\times", "×").replace("\\$", "$").replace("\\%", "%")
    text = re.sub(r"(?<=\d)['’](?=\d{3}(?!\d))", "", text).replace("−", "-")
    text = re.sub(r"[\u00a0\u2009\u202f]", " ", text)
    return re.sub(r"[¼-¾⅐-⅞]", _vulgar, text)


def _vulgar(match: re.Match[str]) -> str:
    return " " + unicodedata.normalize("NFKC", match[0]).replace("⁄", "/")


def _value(match: re.Match[str]) -> Fraction | None:
    """What a number is worth; None for one over zero or of endless digits."""
    sign = -1 if (match["sign"] or match["inner"]) == "-" else 1
    if match["whole"]:
        under = int(match["under"])
        return sign * (int(match["whole"]) + Fraction(int(match["top"]), under)) if under else None
    if match["over"]:
        below = int(match["below"])
        return sign * Fraction(int(match["over"]), below) if below else None
    digits = match["digits"]
    if len(digits) > _LONGEST:
        return None
    # "1.234,5" and "0,5": the comma is the point
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d+,\d{1,2}", digits):
        digits = digits.replace(".", "").replace(",", ".")
    power = int(match["exponent"] or match["power"] or 0)
    return sign * Fraction(re.sub("[, ]", "", digits)) * Fraction(10) ** power


def numbers(text: str) -> list[Fraction]:
    """Every number of a text, in order: signs, separators, decimals, fractions, powers of ten;
    units and currencies beside them are left out, and so are digits within words."""
    found = map(_value, _NUMBER.finditer(_plain(text)))
    return [value for value in found if value is not None]


def _statements(text: str) -> list[str]:
    """What follows each sign that an answer comes, up to the end of the sentence."""
    rests = [text[match.end() : match.end() + 400] for match in _STATED.finditer(text)]
    return [_SENTENCE.split(rest.lstrip(" \t\n*_:=\\([{"), maxsplit=1)[0] for rest in rests]


def _last_with_number(parts: list[str]) -> str:
    return next((part for part in reversed(parts) if numbers(part)), "")


def stated(text: str) -> Fraction | None:
    """The number stated as the answer; None where there is none."""
    text = _plain(text)
    if statement := _last_with_number(_statements(text)):
        return numbers(_after_equals(statement))[0]
    sentences = [part for part in _SENTENCE.split(text) if part.strip(" \t*_`$\\)]}.")]
    last = sentences[-1] if sentences else ""
    if (after := _after_equals(last)) != last:
        return numbers(after)[0]
    found = numbers(last)
    return found[-1] if found else None


def _after_equals(sentence: str) -> str:
    """What follows the last "=" that a number follows; the whole where there is none."""
    parts = sentence.split("=")
    return _last_with_number(parts[1:]) or sentence


def candidates(text: str) -> list[Fraction]:
    """The numbers among which the loose reading looks."""
    text = _plain(text)
    return numbers(_last_with_number(_statements(text))) + numbers(
        _last_with_number(_SENTENCE.split(text))
    )


def passes(check: Mapping[str, Any], completion: str) -> bool:
    """Whether the answer gives the number ``answer``, give or take ``tolerance`` (absolute)."""
    wanted, slack = (Fraction(str(check.get(key, 0))) for key in ("answer", "tolerance"))
    given = stated(completion)
    found = [] if given is None else [given]
    if check.get("loose", False):
        found += candidates(completion)
    return any(abs(value - wanted) <= slack for value in found)


def is_gsm8k(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of GSM8K's own (Cobbe et al. 2021, arXiv 2110.14168)."""
    return (
        set(row) == {"question", "answer"}
        and all(isinstance(text, str) for text in row.values())
        and "####" in row["answer"]
    )


def as_row(row: Mapping[str, str], name: str) -> dict[str, Any]:
    """A row of GSM8K as a suite's; raises ``ValueError`` where no number follows ``####``."""
    given = row["answer"].rpartition("####")[2].strip().replace(",", "")
    try:
        answer = float(given) if "." in given else int(given)
    except ValueError:
        raise ValueError(f"no number follows #### in the answer, but {given[:40]!r}") from None
    return {
        "id": f"gsm8k-{name}", "prompt": row["question"], "behaviour": "gsm8k",
        "check": {"kind": "number", "answer": answer},
    }  # fmt: skip
