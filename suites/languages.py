"""Which language a text is in: by its script where that decides, else by py3langid.

The classifier (Lui and Baldwin 2012's langid.py, trained anew by py3langid) knows 140 languages;
only those that the script admits and `SCRIPTS` names are compared, since on a few words the rarer
ones win by chance. Fenced code, code in a line and addresses belong to no language.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from prefeval.suites import markdown

SCRIPTS: Mapping[str, tuple[str, str]] = {  # letters, and the languages written in them
    "Latin": (
        "A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿ",
        "af ca cs cy da de en es et eu fi fr ga gl hr hu id is it la lt lv ms nl no pl pt ro sk sl "
        "sq sr sv sw tl tr vi",
    ),
    "Cyrillic": ("Ѐ-ԯ", "be bg kk ky mk mn ru sr tg tt uk"),
    "Greek": ("Ͱ-Ͽἀ-῿", "el"),
    "Hebrew": ("֐-׿", "he"),
    "Arabic": ("؀-ۿݐ-ݿ", "ar fa ku ps ug ur"),
    "Devanagari": ("ऀ-ॿ", "hi mr ne"),
    "Bengali": ("ঀ-৿", "bn"),
    "Tamil": ("஀-௿", "ta"),
    "Telugu": ("ఀ-౿", "te"),
    "Thai": ("฀-๿", "th"),
    "Georgian": ("Ⴀ-ჿ", "ka"),
    "Armenian": ("԰-֏", "hy"),
    "Hangul": ("가-힣ᄀ-ᇿ㄰-㆏", "ko"),
    "kana": ("ぁ-ヿ", "ja"),
    "Han": ("㐀-䶿一-鿿", "zh"),
}
CODES = frozenset(" ".join(codes for _, codes in SCRIPTS.values()).split())
_LETTERS = {name: re.compile(f"[{letters}]") for name, (letters, _) in SCRIPTS.items()}
_NO_WORDS = re.compile(r"`[^`\n]*`|https?://\S+")
_READ = 5_000  # characters: more changes no verdict
_FEW = 10  # Han letters that may be Japanese words


def likelihoods(text: str) -> dict[str, float]:
    """How likely each language is, 1 the likeliest; empty for a text without letters."""
    text = _NO_WORDS.sub(" ", "\n".join(markdown.prose(text)))[:_READ]
    counts = Counter({name: len(found.findall(text)) for name, found in _LETTERS.items()})
    if counts["kana"] and 10 * counts["kana"] >= counts["Han"]:
        counts["kana"] += counts.pop("Han", 0)  # Japanese has both, Chinese Han alone
    ((script, most),) = counts.most_common(1)
    if not most:
        return {}
    codes = SCRIPTS[script][1].split()
    if script == "Han" and most <= _FEW:
        return {"zh": 1.0, "ja": 0.5}
    return {codes[0]: 1.0} if len(codes) == 1 else _classified(text, codes)


def _classified(text: str, codes: list[str]) -> dict[str, float]:
    import py3langid

    found = {code: float(score) for code, score in py3langid.rank(text) if code in codes}
    best, scale = max(found.values()), math.sqrt(len(text.encode("utf-8", "replace")))
    return {code: math.exp((score - best) / scale) for code, score in found.items()}


def passes(check: Mapping[str, Any], completion: str) -> bool:
    """Whether ``code`` is the likeliest language; loosely, at least half as likely as that."""
    found = likelihoods(completion)
    return found.get(check["code"], 0.0) >= (0.5 if check.get("loose", False) else 1.0)


def fault(code: str) -> str:
    """What is wrong with a language's code, in words; "" when nothing is."""
    known = ", ".join(sorted(CODES))
    return "" if code in CODES else f"unknown language {code!r}; known: {known} (ISO 639-1)"
