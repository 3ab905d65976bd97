"""Length-controlled win rate, as AlpacaEval 2.0 computes it (``length_controlled_v1``).

Dubois, Galambosi, Liang and Hashimoto 2024, "Length-Controlled AlpacaEval" (arXiv 2404.04475).
The preference y_i in [0, 1] of the model over the baseline on instruction i is modelled as
sigmoid(w1 tanh(D_i / sd(D)) + w2 difficulty_i + w3), D = len(baseline) - len(model) in
characters, sd with ddof 1 and D not centred. The fit is L1-penalised, w3 included:
|w|_1 + C sum s CE. Rows of the baseline against variants of itself ("gamed") enter with weight
0.1 and without w3. The rate is 100 mean_i sigmoid(w2 difficulty_i + w3): the length term at 0.

Where this goes beyond the paper: the interval is from a bootstrap over clusters of prompts that
refits (C, difficulties and gamed rows held fixed), because the published standard error
100 sd(p_i)/sqrt(n) leaves out the fit's own uncertainty; and where the two models' lengths do
not overlap the rate is "not identified", NaN, since control would extrapolate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from prefeval.metrics import l1_logistic, resample, stats
from prefeval.metrics.stats import Array
from prefeval.records import PrefevalError

C_GRID: Array = np.logspace(-4, 4, 10)
DEFAULT_C = float(C_GRID[5])  # 2.78: what most of the published leaderboard chose
GAMED_WEIGHT = 0.1
FOLDS = 5
NEAR = 0.25  # sd of the length difference within which two answers count as equally long
MIN_NEAR_SHARE = 0.02
TOLERANCE = 1e-7  # of a bootstrap refit: far below the bootstrap's own noise
