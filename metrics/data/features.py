"""Cheap features of answers: length, style, words. No model; hashed, so no vocabulary either."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from prefeval.metrics.data import text as data_text
from prefeval.metrics.stats import Array
from prefeval.metrics.style import CODE, Style, style_of

HEDGES = re.compile(
    r"\b(?:perhaps|maybe|possibly|probably|presumably|apparently|might|may|could|seems?|likely|"
    r"generally|usually|often|sometimes|i think|i believe|i guess|i suppose|not sure|it depends|"
    r"in some cases|to some extent|kind of|sort of)\b"
)
BUCKETS = 1 << 13  # of hashed words and pairs of words
WORDS_NORM = 3.0
"""Root mean square of a row's words beside each dense feature's 1: how much words may weigh."""
MARKS = (*Style._fields, "code", "hedges", "refusals")


class Features(NamedTuple):
    """Of n answers, or differences of n pairs of them."""

    length: Array
    """(n, 2) log(1 + characters), log(1 + words)"""
    style: Array
    """(n, 6) log(1 + count) of ``MARKS``, a refusal counting 1"""
    words: Any
    """(n, BUCKETS) sparse: log(1 + count) of words and of two in a row, each answer of norm 1"""

    def minus(self, other: Features) -> Features:
        """Chosen less rejected."""
        return Features(
            self.length - other.length, self.style - other.style, self.words - other.words
        )


def hedges(text: str) -> int:
    """How often a text hedges.

    >>> hedges("Perhaps it works. I think it might.")
    3
    """
    return len(HEDGES.findall(text.casefold()))


def features_of(texts: Sequence[str], refuses: Sequence[bool], *, words: bool = True) -> Features:
    """The features of answers; ``refuses`` says which of them refuse. Without ``words`` that block
    is empty."""
    length = [(len(text), len(text.split())) for text in texts]
    style = [
        (*style_of(text), len(CODE.findall(text)), hedges(text), int(no))
        for text, no in zip(texts, refuses, strict=True)
    ]
    rows, columns, values = [], [], []
    for row, text in enumerate(texts if words else []):
        single = data_text.word_hashes(text)
        both = np.concatenate([single, data_text.runs(single, 2)]) % np.uint64(BUCKETS)
        bucket, count = np.unique(both.astype(np.int64), return_counts=True)
        weight = np.log1p(count)
        rows.append(np.full(len(bucket), row))
        columns.append(bucket)
        values.append(weight / max(float(np.linalg.norm(weight)), 1e-12))
    flat = [np.concatenate(part) if part else np.zeros(0) for part in (values, rows, columns)]
    matrix = sparse.csr_matrix((flat[0], (flat[1], flat[2])), shape=(len(texts), BUCKETS))
    shape = (len(texts), -1)
    return Features(
        np.log1p(np.asarray(length, dtype=np.float64).reshape(shape)),
        np.log1p(np.asarray(style, dtype=np.float64).reshape(shape)),
        matrix,
    )


def of_pairs(frame: pd.DataFrame, *, words: bool = True) -> Features:
    """Chosen less rejected, of a frame of pairs (see ``data_audit``)."""
    chosen, rejected = (_side(frame, name, words) for name in ("chosen", "rejected"))
    return chosen.minus(rejected)


def of_thumbs(frame: pd.DataFrame, *, words: bool = True) -> Features:
    """Of the answers of a frame of thumbs."""
    return _side(frame, "completion", words)


def _side(frame: pd.DataFrame, name: str, words: bool) -> Features:
    return features_of(list(frame[name]), list(frame[f"{name}_refuses"]), words=words)


def design(features: Features, blocks: Sequence[str], *, centred: bool) -> Any:
    """The named blocks side by side (n, F), each column of spread 1; no label is looked at.

    Columns of pairs are scaled only: their 0 means "no difference". ``centred`` moves those of
    single answers to a mean of 0.
    """
    parts = []
    for name in blocks:
        block = getattr(features, name)
        if name == "words":
            size = np.sqrt(block.multiply(block).sum() / max(1, block.shape[0]))
            parts.append(block * (WORDS_NORM / size) if size else block)
            continue
        block = block - block.mean(axis=0) if centred else block
        spread = np.sqrt((block**2).mean(axis=0))
        parts.append(sparse.csr_matrix(block / np.where(spread > 0, spread, 1)))
    return sparse.hstack(parts).tocsr()
