"""Length-controlled win rates as metrics: ``length_control`` applied to one checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from prefeval.metrics import length_control, stats, style
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.length_control import LengthControlled
from prefeval.metrics.stats import Array
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
    names = (("lc_win_rate", "percent", True), ("lc_coef_length", "logit", None))
    if evidence.judgments.empty:
        none = stats.undefined("no judgments")
        return [none.metric(*name) for name in (*names, ("lc_overlap", "percent", None))]
    fit = _fit(evidence, rng, n_boot)
    coefficient = MetricResult(
        "lc_coef_length", fit.coef_length, fit.n, unit="logit", reason=fit.reason
    )
    overlap = MetricResult("lc_overlap", 100 * fit.overlap.near, fit.n, unit="percent")
    if math.isnan(overlap.value):
        overlap = replace(overlap, reason=fit.reason)
    return [_rate("lc_win_rate", fit), coefficient, overlap]


def style_win_rate(
    evidence: Evidence, *, rng: np.random.Generator, n_boot: int = N_BOOT
) -> list[MetricResult]:
    """``style_win_rate`` (percent): at equal length, headings, list items and bold words.

    A second view, after Li, Angelopoulos and Chiang 2024 (see ``style``): the same fit with three
    more terms that are read at zero. Undefined where no answer has any of them, or where hardly any
    two answers have similar numbers of one.
    """
    frame = evidence.judgments
    reason, output, baseline = "", np.zeros((0, 3)), np.zeros((0, 3))
    if frame.empty:
        reason = "no judgments"
    elif any(column not in frame for column in style.COLUMNS):
        reason = "the styles of the answers were not counted"
    elif not frame[list(style.COLUMNS)].to_numpy().any():
        reason = "no answer has headings, lists or bold words"
    else:
        output, baseline = (
            frame[[f"{m}_{side}" for m in style.Style._fields]].to_numpy() for side in style.SIDES
        )
        reason = style.unmatched_style(output, baseline, length_control.MIN_NEAR_SHARE)
    if reason:
        return [stats.undefined(reason, len(frame)).metric("style_win_rate", "percent", True)]
    fit = _fit(evidence, rng, n_boot, style.style_terms(output, baseline))
    return [_rate("style_win_rate", fit)]


def _fit(
    evidence: Evidence, rng: np.random.Generator, n_boot: int, terms: Array | None = None
) -> LengthControlled:
    frame = evidence.judgments
    return length_control.length_controlled(
        frame["preference"],
        frame["len_output"],
        frame["len_baseline"],
        frame["difficulty"],
        clusters=frame["cluster"].to_numpy(),
        gamed=evidence.calibration.gamed,
        C=evidence.calibration.C,
        n_boot=n_boot,
        rng=rng,
        style=terms,
    )


def _rate(name: str, fit: LengthControlled) -> MetricResult:
    reason = fit.reason or (stats.ONE_CLUSTER if math.isnan(fit.lc_se) else "")
    return MetricResult(
        name=name,
        value=fit.lc_win_rate,
        n=fit.n,
        stderr=fit.lc_se,
        ci_low=fit.lc_ci_low,
        ci_high=fit.lc_ci_high,
        unit="percent",
        higher_is_better=True,
        reason=reason,
    )
