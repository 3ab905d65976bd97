"""Texts beside each other: how many edits apart, and which are nearly the same.

Near duplicates are found by MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman
2020, chapter 3) over sets of three words in a row, and checked by their exact Jaccard similarity,
as Lee et al. 2022 do (arXiv 2107.06499).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
WORD = re.compile(r"\w+|[^\w\s]")
SHINGLE = 3  # words in a row
BANDS, ROWS = 16, 4  # two sets of similarity 0.8 meet in some band with probability 0.9998
SIMILAR = 0.8  # Jaccard similarity from which two texts are nearly the same (Lee et al. 2022)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """Words and punctuation marks, case aside.

    >>> words("It's fine.")
    ['it', "'", 's', 'fine', '.']
    """
    return WORD.findall(text.casefold())


def normalised(text: str) -> str:
    """``text`` for telling equal texts: case and spaces aside.

    >>> normalised(" Yes,  I Do\\n")
    'yes, i do'
    """
    return " ".join(text.casefold().split())


def word_hashes(text: str) -> Hashes:
    """A hash of each word of ``text``, the same on any machine: (words,)."""
    return np.fromiter(
        (zlib.crc32(w.encode(errors="surrogatepass")) for w in words(text)), dtype=np.uint64
    )


def runs(hashes: Hashes, n: int) -> Hashes:
    """A hash of each run of ``n`` words; of the whole where there are fewer."""
    n = max(1, min(n, len(hashes)))
    found = np.zeros(max(0, len(hashes) - n + 1), dtype=np.uint64)
    for offset in range(n):
        found = (found ^ hashes[offset : offset + len(found)]) * _MIX
        found ^= found >> np.uint64(29)
    return found


def shingles(text: str) -> Hashes:
    """The set of runs of three words of a text, hashed and sorted."""
    return np.unique(runs(word_hashes(text), SHINGLE))


def jaccard(a: Hashes, b: Hashes) -> float:
    """Shared members over all members of two sets; 1 for two empty ones."""
    if not len(a) and not len(b):
        return 1.0
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """How many insertions, deletions and replacements lead from ``a`` to ``b`` (Levenshtein).

    Hyyrö's 2001 form of Myers' 1999 bit-parallel algorithm: a column of the table is two integers.

    >>> edit_distance("kitten", "sitting")
    3
    """
    if not a or not b:
        return max(len(a), len(b))
    places: dict[Hashable, int] = {}
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = full, 0, len(a)  # where a column rises and falls by one
    for item in b:
        equal = places.get(item, 0)
        vertical = equal | down
        across = (((equal & up) + up) ^ up) | equal
        right_up, right_down = down | ~(across | up) & full, up & across
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up = (right_down | ~(vertical | right_up)) & full
        down = right_up & vertical & full
    return distance


def similarity(a: str, b: str) -> float:
    """1 less the edit distance in words over the longer one's words: 1 for equal texts.

    >>> similarity("the answer is four", "the answer is five")
    0.75
    """
    first, second = words(a), words(b)
    longer = max(len(first), len(second))
    return 1 - edit_distance(first, second) / longer if longer else 1.0


def near_duplicates(
    rows: Sequence[Sequence[str]], *, threshold: float = SIMILAR
) -> NDArray[np.intp]:
    """For each row the place of an earlier row that is nearly the same, else -1: (n,).

    A row is one or more texts, each of which must have a Jaccard similarity of ``threshold`` to
    its counterpart. The n rows cost n comparisons a band, not n^2.
    """
    sets = [[shingles(text) for text in row] for row in rows]
    earlier = np.full(len(rows), -1)
    signatures = _signatures([np.concatenate(parts) for parts in sets])
    for band in np.split(signatures, BANDS, axis=1):
        first: dict[bytes, list[int]] = {}
        for place, key in enumerate(map(bytes, np.ascontiguousarray(band))):
            seen = first.setdefault(key, [])
            if earlier[place] < 0:
                for other in seen:
                    both = zip(sets[place], sets[other], strict=True)
                    if all(jaccard(x, y) >= threshold for x, y in both):
                        earlier[place] = other
                        break
            seen[1:] = [place]  # the first of a bucket and the latest stand for all of it
    return earlier


def _signatures(sets: Sequence[Hashes]) -> Hashes:
    """The least of 64 hashes over each set: (n, 64)."""
    draw = np.random.default_rng(0)
    factors = draw.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64) << np.uint64(1)
    factors |= np.uint64(1)
    found = np.zeros((len(sets), BANDS * ROWS), dtype=np.uint64)
    for row, members in zip(found, sets, strict=True):
        if len(members):
            hashed = members[:, None] * factors
            row[:] = (hashed ^ (hashed >> np.uint64(32))).min(axis=0)
    return found
