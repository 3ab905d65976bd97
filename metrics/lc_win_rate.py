"""The length-controlled win rate as a metric: ``length_control`` applied to one checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from prefeval.metrics import length_control, stats
from prefeval.metrics.evidence import Evidence
from prefeval.records import MetricResult

N_BOOT = 300


def lc_win_rate(
    evidence: Evidence, *, rng: np.random.Generator, n_boot: int = N_BOOT
) -> list[MetricResult]:
    """``lc_win_rate`` (percent), ``lc_coef_length`` (logit) and ``lc_overlap`` (percent).

    Source: arXiv 2404.04475, see ``length_control``. The interval is from ``n_boot`` cluster
    bootstrap refits. ``lc_overlap`` is the share of prompts whose two answers differ in length
    by less than a quarter of a standard deviation; where it is too small the rate is NaN.
    """
    frame = evidence.judgments
    names = (("lc_win_rate", "percent", True), ("lc_coef_length", "logit", None))
    if frame.empty:
        none = stats.undefined("no judgments")
        return [none.metric(*name) for name in (*names, ("lc_overlap", "percent", None))]
    fit = length_control.length_controlled(
        frame["preference"],
        frame["len_output"],
        frame["len_baseline"],
        frame["difficulty"],
        clusters=frame["cluster"].to_numpy(),
        gamed=evidence.calibration.gamed,
        C=evidence.calibration.C,
        n_boot=n_boot,
        rng=rng,
    )
    rate = MetricResult(
        name="lc_win_rate",
        value=fit.lc_win_rate,
        n=fit.n,
        stderr=fit.lc_se,
        ci_low=fit.lc_ci_low,
        ci_high=fit.lc_ci_high,
        unit="percent",
        higher_is_better=True,
        reason=fit.reason,
    )
    if not fit.reason and math.isnan(fit.lc_se):
        rate = replace(rate, reason=stats.ONE_CLUSTER)
    coefficient = MetricResult(
        "lc_coef_length", fit.coef_length, fit.n, unit="logit", reason=fit.reason
    )
    overlap = MetricResult("lc_overlap", 100 * fit.overlap.near, fit.n, unit="percent")
    if math.isnan(overlap.value):
        overlap = replace(overlap, reason=fit.reason)
    return [rate, coefficient, overlap]
