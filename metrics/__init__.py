"""Metrics of one checkpoint: pure functions over frames, each number with n and an interval.

A metric is ``f(evidence, *, rng) -> list[MetricResult]``, one family a file. ``METRICS`` names
the built-in ones; packages add theirs through the entry point group ``prefeval.metrics``. Nothing
is imported before it is used. All rates and shares are percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from prefeval.records import MetricResult, PrefevalError

if TYPE_CHECKING:
    import numpy as np

    from prefeval.metrics.evidence import Evidence

ENTRY_POINTS = "prefeval.metrics"
METRICS: dict[str, str] = {
    "win_rate": "prefeval.metrics.win_rate:win_rate",
    "lc_win_rate": "prefeval.metrics.lc_win_rate:lc_win_rate",
    "style_win_rate": "prefeval.metrics.lc_win_rate:style_win_rate",
    "kl": "prefeval.metrics.kl:kl",
    "logps": "prefeval.metrics.logps:logps",
    "length": "prefeval.metrics.length:length",
    "retention": "prefeval.metrics.retention:retention",
    "sampled": "prefeval.metrics.sampled:sampled",
    "diversity": "prefeval.metrics.diversity:diversity",
    "judge": "prefeval.metrics.judge:judge",
}
EXTRAS = ("lm_eval_", "inspect_", "trainer_")
"""How the names begin of metrics that other tools measured (``prefeval import``)."""
INTERVAL_COLUMNS = {"lc_win_rate": ("lc_ci_low", "lc_ci_high")}


class Metric(Protocol):
    """What a metric is."""

    def __call__(self, evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
        """The results of one family."""
        ...


def plugins() -> dict[str, Any]:
    """Third parties' metrics by name, as entry points not yet loaded."""
    from importlib.metadata import entry_points

    found: dict[str, Any] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in METRICS or entry.name in found:
            raise PrefevalError(
                f"metric plugin {entry.name!r} ({entry.value}) has the name of another metric;"
                " rename or uninstall it"
            )
        found[entry.name] = entry
    return found


def get(name: str) -> Metric:
    """The metric function of this name. Raises ``PrefevalError`` for an unknown or broken one."""
    from importlib import import_module

    if name in METRICS:
        module, _, function = METRICS[name].partition(":")
        metric: Metric = getattr(import_module(module), function)
        return metric
    extra = plugins()
    if name not in extra:
        known = ", ".join([*METRICS, *extra])
        raise PrefevalError(f"unknown metric {name!r}; the metrics are {known}")
    try:
        loaded: Metric = extra[name].load()
    except Exception as error:
        raise _broken(name, error) from error
    return loaded


def _broken(name: str, error: Exception) -> PrefevalError:
    return PrefevalError(
        f"metric plugin {name!r} failed ({type(error).__name__}: {error});"
        " update or uninstall the package it comes from"
    )


def compute(
    evidence: Evidence, rng: np.random.Generator, names: Sequence[str] | None = None
) -> list[MetricResult]:
    """All metrics of one checkpoint, or those of ``names``.

    Each metric gets a generator of its own, made from one draw of ``rng`` and its name, so its
    numbers do not depend on which others run. Raises ``PrefevalError`` naming a plugin that
    fails or that reports a name already taken.
    """
    import zlib

    import numpy as np

    root = int(rng.integers(2**63))
    results: dict[str, MetricResult] = {}
    for name in [*METRICS, *plugins()] if names is None else names:
        own = np.random.default_rng([root, zlib.crc32(name.encode())])
        metric = get(name)
        try:
            found = metric(evidence, rng=own)
        except Exception as error:
            if name in METRICS:
                raise
            raise _broken(name, error) from error
        for result in found:
            if result.name in results:
                raise PrefevalError(
                    f"metric {name!r} reports {result.name!r}, which another metric reports too;"
                    " rename it"
                )
            results[result.name] = result
    return list(results.values())


def row(results: Sequence[MetricResult]) -> dict[str, float | int]:
    """Results as one flat row: ``m``, ``m_ci_low``, ``m_ci_high``, ``m_n`` for each metric m.

    The interval of ``lc_win_rate`` is ``lc_ci_low``, ``lc_ci_high``.

    >>> row([MetricResult("kl", 1.5, 400, ci_low=1.0, ci_high=2.0)])
    {'kl': 1.5, 'kl_ci_low': 1.0, 'kl_ci_high': 2.0, 'kl_n': 400}
    """
    flat: dict[str, float | int] = {}
    for result in results:
        name = result.name
        low, high = INTERVAL_COLUMNS.get(name, (f"{name}_ci_low", f"{name}_ci_high"))
        flat |= {name: result.value, low: result.ci_low, high: result.ci_high}
        flat[f"{name}_n"] = result.n
    return flat
