"""What length control freezes before a run: C, each prompt's difficulty, the gamed rows.

So that one checkpoint's number does not move when another joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from prefeval.metrics.stats import Array, Estimate

C_GRID: Array = np.logspace(-4, 4, 10)
DEFAULT_C = float(C_GRID[5])  # 2.78: what cross-validation chose for most published models
GAMED_WEIGHT = 0.1


@dataclass(frozen=True, eq=False)
class GamedRows:
    """Judgments of the baseline against variants of itself, or of the reference against itself.

    preference, length (tanh of the standardised difference), difficulty: all (m,). They tell
    the length coefficient what length alone does.
    """

    preference: Array
    length: Array
    difficulty: Array
    weight: float = GAMED_WEIGHT


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is frozen before a run, so that a number does not move when a checkpoint joins.

    ``C`` None is chosen by cross-validation at each fit. ``name`` says which estimator this is.
    """

    C: float | None = DEFAULT_C
    gamed: GamedRows | None = None
    name: str = "length_controlled_v1, C fixed"
    self_play: Estimate | None = None
    """Win rate of the reference's fresh samples against its own answers, percent: 50 but for noise,
    so its interval is the floor under every other rate."""


def difficulty_from_self_play(
    prompt_ids: Sequence[str], preferences: ArrayLike, *, strength: float = 2.0
) -> pd.Series[float]:
    """How easily the reference itself beats the baseline's answer to each prompt: a logit.

    ``preferences`` (k,) in [0, 1]: fresh samples of the reference against the baseline
    completion, any number a prompt; NaN (unread) is skipped. ``strength`` imaginary ties shrink
    each logit towards 0, so one sample cannot make it infinite: log((w + s/2)/(k - w + s/2)).
    Like the published difficulty it grows with the policy's chance. Indexed by prompt id, sorted.
    """
    if not strength > 0:
        raise ValueError("strength must be > 0")
    frame = pd.DataFrame({"prompt_id": list(prompt_ids), "wins": np.asarray(preferences, float)})
    sums = frame.groupby("prompt_id", sort=True)["wins"].agg(["sum", "count"])
    won, lost = sums["sum"] + strength / 2, sums["count"] - sums["sum"] + strength / 2
    logits = np.log(won.to_numpy() / lost.to_numpy())
    return pd.Series(logits, index=sums.index, name="difficulty", dtype="float64")


def gamed_rows(
    preference: ArrayLike,
    len_output: ArrayLike,
    len_baseline: ArrayLike,
    difficulty: ArrayLike | None = None,
    *,
    weight: float = GAMED_WEIGHT,
) -> GamedRows:
    """Reference-against-reference judgments (m,) as gamed rows; unread (NaN) ones are dropped."""
    y = np.asarray(preference, dtype=np.float64)
    delta = np.asarray(len_baseline, dtype=np.float64) - np.asarray(len_output, dtype=np.float64)
    hard = np.zeros(len(y)) if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    read = np.isfinite(y)
    length = length_term(delta[read], np.ones((1, int(read.sum()))))[0]
    return GamedRows(y[read], length, hard[read], weight)


def length_term(delta: Array, weights: Array) -> Array:
    """tanh(D / sd(D)), sd by the counts ``weights`` (B, n) with ddof 1; 0 where D never varies."""
    total = weights.sum(axis=1)
    mean = weights @ delta / np.maximum(total, 1)
    square = weights @ delta**2 - total * mean**2
    sd = np.sqrt(np.maximum(square, 0) / np.maximum(total - 1, 1))
    varies = sd > 1e-9 * (1 + np.abs(mean))
    scale = np.where(varies, 1 / np.where(varies, sd, 1), 0)
    return np.asarray(np.tanh(delta * scale[:, None]))
