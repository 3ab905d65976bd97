"""How long the policy's answers are, in tokens, and whether they end by themselves."""

from __future__ import annotations

import numpy as np

from prefeval.metrics import stats
from prefeval.metrics.evidence import Evidence
from prefeval.records import MetricResult

UNITS: dict[str, tuple[str, bool | None]] = {
    "length_ratio": ("ratio", None),
    "mean_length": ("tokens", None),
    "eos_rate": ("percent", True),
    "truncation_rate": ("percent", False),
}


def length(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``length_ratio``, ``mean_length`` (tokens), ``eos_rate``, ``truncation_rate`` (percent).

    The ratio is mean tokens of the policy over mean tokens of the reference on the same prompts,
    its interval symmetric in the logarithm. An answer without its end token was cut off.
    """
    frame = evidence.samples
    if frame.empty:
        none = stats.undefined("no samples at temperature 1")
        return [none.metric(name, *unit) for name, unit in UNITS.items()]
    cluster = frame["cluster"].to_numpy()
    estimates = {
        "length_ratio": stats.ratio_of_means(
            frame["n_tokens"], frame["ref_n_tokens"], cluster, log_scale=True
        ),
        "mean_length": stats.clustered_mean(frame["n_tokens"], cluster),
        "eos_rate": stats.proportion(frame["ended"], cluster).scaled(100),
        "truncation_rate": stats.proportion(1 - frame["ended"], cluster).scaled(100),
    }
    return [estimate.metric(name, *UNITS[name]) for name, estimate in estimates.items()]
