"""What the policy can do in K samples of every checked prompt, at temperature 1.

Greedy answers (`retention`) say what a user gets; samples say how surely, and pass@k what is still
within reach. A policy that has narrowed can gain in the first and lose in pass@k.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from prefeval.metrics import paired, stats
from prefeval.metrics.evidence import Evidence, checked
from prefeval.metrics.stats import Array
from prefeval.records import MetricResult


def pass_at_k(n: ArrayLike, passed: ArrayLike, k: int) -> Array:
    """1 - C(n - c, k) / C(n, k): the chance that one of ``k`` samples passes, without bias from
    the ``passed`` of ``n`` that did (Chen et al. 2021, arXiv 2107.03374, equation 1). Shares.

    >>> pass_at_k(4, 1, 2)
    array(0.5)
    """
    n, passed = np.asarray(n, dtype=np.float64), np.asarray(passed, dtype=np.float64)
    if k < 1 or (n < k).any():
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples of every prompt")
    return np.asarray(1 - special.binom(n - passed, k) / special.binom(n, k))


def sampled(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``sampled_retention_<behaviour>`` (percent of samples that pass), ``sampled_change_`` (points
    against the reference's samples), the same after ``loose_``, where the checks have a loose
    reading, and ``pass_at_<k>_`` with ``pass_at_<k>_change_`` for k = 2, 4, 8, ... up to K.

    Everything is clustered, a prompt's samples at least; n is prompts. Prompts on which a check
    raised are left out. Without samples there is no behaviour to report.
    """
    results = []
    for behaviour, asked in evidence.sampled.groupby("behaviour", sort=True):
        rows = checked(asked)
        results += _rate(rows, str(behaviour), "passed", "")
        loosely = [f"{side}passed_loose" for side in ("", "ref_")]
        if set(loosely) <= set(rows) and rows[loosely].notna().to_numpy().all():
            results += _rate(rows, str(behaviour), "passed_loose", "loose_")
        results += _within_k(rows, str(behaviour))
    return results


def _rate(rows: pd.DataFrame, behaviour: str, column: str, prefix: str) -> list[MetricResult]:
    """Samples are paired by their index, which says nothing, and clustered by prompt, which takes
    back what that adds."""
    cluster, n = rows["cluster"].to_numpy(), int(rows["prompt_id"].nunique())
    kept = stats.proportion(rows[column], cluster).scaled(100)
    change = paired.paired_change(rows[column], rows[f"ref_{column}"], cluster).change.scaled(100)
    names = (f"{prefix}sampled_retention_{behaviour}", f"{prefix}sampled_change_{behaviour}")
    return [
        replace(kept, n=n).metric(names[0], "percent", True),
        replace(change, n=n).metric(names[1], "points", True),
    ]


def _within_k(rows: pd.DataFrame, behaviour: str) -> list[MetricResult]:
    prompts = rows.groupby("prompt_id", sort=True).agg(
        n=("passed", "size"), passed=("passed", "sum"), ref_passed=("ref_passed", "sum"),
        cluster=("cluster", "first"),
    )  # fmt: skip
    results, cluster = [], prompts["cluster"].to_numpy()
    fewest = int(prompts["n"].min()) if len(prompts) else 0
    for k in takewhile(lambda k: k <= fewest, (2**i for i in range(1, 20))):
        now, before = (pass_at_k(prompts["n"], prompts[c], k) for c in ("passed", "ref_passed"))
        share = stats.bounded_mean(now, cluster).scaled(100)
        change = stats.clustered_mean(now - before, cluster).scaled(100)
        if not change.stderr:
            change = stats.undefined("no prompt changed, so no interval can be given", change.n)
        results += [
            share.metric(f"pass_at_{k}_{behaviour}", "percent", True),
            change.metric(f"pass_at_{k}_change_{behaviour}", "points", True),
        ]
    return results
