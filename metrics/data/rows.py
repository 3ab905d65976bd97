"""What the audit's frames of pairs and thumbs have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from prefeval.metrics.data import text as data_text
from prefeval.metrics.stats import Array

MOST_ROWS = 20_000
"""Rows that the estimates rest on; a larger file is sampled. What is counted is counted in all."""


def sample(frame: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """The frame, or ``most`` of its rows in their order."""
    if len(frame) <= most:
        return frame
    places = np.random.default_rng(seed).choice(len(frame), most, replace=False)
    return frame.iloc[np.sort(places)]


def labels_of(frame: pd.DataFrame) -> Array:
    """1 and -1: liked or not; of pairs always 1, since a row is chosen less rejected."""
    if "chosen" in frame:
        return np.ones(len(frame))
    return np.where(frame["desirable"], 1.0, -1.0)


def clusters_of(frame: pd.DataFrame) -> Any:
    """What intervals are clustered by: (n,) strings."""
    return frame["cluster"].to_numpy(dtype=object).astype(str)


def texts_of(frame: pd.DataFrame) -> list[str]:
    """The columns that hold answers."""
    return ["chosen", "rejected"] if "chosen" in frame else ["completion"]


def groups_of(frame: pd.DataFrame) -> Any:
    """Equal for the same prompt with the same answer, or the same two in any order."""
    plain = [frame[name].map(data_text.normalised) for name in ("prompt", *texts_of(frame))]
    rows = [
        "\x00".join([prompt, *sorted(answers)]) for prompt, *answers in zip(*plain, strict=True)
    ]
    return pd.factorize(np.asarray(rows, dtype=object))[0]


def orders_of(frame: pd.DataFrame) -> Array:
    """1 or -1: two rows of one group have the same label where these are the same."""
    if "chosen" not in frame:
        return labels_of(frame)
    chosen, rejected = (frame[name].map(data_text.normalised) for name in texts_of(frame))
    return np.where(chosen <= rejected, 1.0, -1.0)
