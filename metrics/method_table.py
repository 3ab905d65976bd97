"""What each method is like to use: a row a method, every number with its interval.

Of a method's best β (that of its window) and, for what spans the grid, of every β, always by the
checkpoint that the verdict chose. The choosing half of the prompts chose them, so all that contains
a win rate is measured on the other half: nothing here is flattered by having been picked. All
checkpoints answer the same prompts, so differences between them are paired (see ``joint_rates``).

**Sensitivity to the lever** is the change of the rate a doubling of β, noise taken out (``lever``).
**Sensitivity to the seed** is the SD between training seeds at equal β and step with the sampling
noise of the prompts taken out (``seed_spread``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prefeval.metrics import collapse, joint_rates, resample, stats
from prefeval.metrics.data_efficiency import half_gain, per_thousand
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.joint_rates import Influenced, Prompts, over_seeds, prompts_of
from prefeval.metrics.lever import lever_sensitivity
from prefeval.metrics.seed_spread import seed_spread
from prefeval.metrics.selection import BetaVerdict, Key, Selection
from prefeval.metrics.stats import Array, Estimate

ONE_SEED = "one training seed; --seeds 2 or more shows it"
N_BOOT = 1000  # cheap: the influences are reweighted, nothing is fitted again


@dataclass(frozen=True)
class MethodRow:
    """One method. Win rates and their differences are in points.

    ``lc`` is the verdict's; ``lever`` points a doubling of β; ``seed`` the SD
    between seeds; ``distinct`` and ``opener`` changes against the reference; ``length_bias`` raw
    less length-controlled; ``per_thousand`` points of gain a thousand examples (pairs, thumbs,
    rollouts) trained on; ``half_gain`` examples until half of the gain, at most so many where
    ``half_at_first``: the first checkpoint had it already. ``compared`` counts the β in ``lever``.
    """

    method: str
    beta: float
    step: int
    seeds: tuple[int, ...]
    state: str
    seen: float
    compared: int
    half_at_first: bool
    numbers: Mapping[str, Estimate] = field(default_factory=dict)


def method_table(
    checkpoints: Sequence[tuple[Key, Evidence]],
    selection: Selection,
    *,
    sizes: Mapping[str, float],
    rng: np.random.Generator,
) -> tuple[MethodRow, ...]:
    """A row for every method of the verdict, by name.

    ``sizes`` is how many examples a step of each method takes. Checkpoints must be aligned, as
    ``usable.select`` requires.
    """
    evidence = dict(checkpoints)
    reporting = prompts_of(evidence, reporting=selection.prompts_choosing > 0)
    every = prompts_of(evidence, reporting=False)
    weights = resample.cluster_weights(reporting.codes, len(reporting.codes), N_BOOT, rng)
    rows = []
    for window in selection.windows:
        betas = [b for b in selection.betas if b.method == window.method]
        best = next((b for b in betas if b.beta == window.best), None)
        size = sizes.get(window.method, math.nan)
        rows.append(_row(window.method, betas, best, reporting, every, weights, size))
    return tuple(rows)


def _row(
    method: str,
    betas: Sequence[BetaVerdict],
    best: BetaVerdict | None,
    reporting: Prompts,
    every: Prompts,
    weights: Array,
    size: float,
) -> MethodRow:
    groups = [[_key(b, s) for s in b.seeds] for b in betas]
    lever, compared = lever_sensitivity(betas, reporting)
    numbers = {"lever": lever, "seed": seed_sensitivity(groups, every)}
    if best is None:
        return MethodRow(method, math.nan, 0, (), "", math.nan, compared, False, numbers)
    keys = [_key(best, s) for s in best.seeds]
    lc = best.reported
    half = (lc.ci_high - lc.ci_low) / 2
    numbers["lc"] = Estimate(lc.lc_win_rate, half, lc.ci_low, lc.ci_high, lc.n, lc.reason)
    at_first, reached = half_gain(best, reporting, weights, size)
    numbers |= {
        "length_bias": over_seeds(
            [reporting.raw(k) - reporting.lc(k) for k in keys], reporting.codes
        ),
        "per_thousand": per_thousand(keys, reporting, size),
        "half_gain": reached,
        **_of_samples([every.evidence[k] for k in keys]),
    }
    seen = best.step * size
    return MethodRow(
        method, best.beta, best.step, best.seeds, best.state, seen, compared, at_first, numbers
    )


def _key(beta: BetaVerdict, seed: int) -> Key:
    return Key(beta.method, beta.beta, seed, beta.step)


def _of_samples(evidences: Sequence[Evidence]) -> dict[str, Estimate]:
    """What needs no win rate, over all prompts and seeds: KL, length ratio, mode collapse."""
    samples = [e.samples for e in evidences]
    if any(frame.empty for frame in samples):
        none = stats.undefined("no samples at temperature 1")
        return {"kl": none, "length_ratio": none, **collapse.changes(evidences)}
    codes = stats.cluster_codes(samples[0]["cluster"].to_numpy(), len(samples[0]))
    kl = over_seeds([joint_rates.mean_of(f["kl"].to_numpy()) for f in samples], codes)
    return {"kl": kl, "length_ratio": _length_ratio(evidences, codes)} | collapse.changes(evidences)


def _length_ratio(evidences: Sequence[Evidence], codes: NDArray[np.intp]) -> Estimate:
    """Mean tokens of the policy over the reference's, geometric mean over seeds."""

    def log_ratio(evidence: Evidence) -> Influenced:
        own, base = (evidence.samples[c].to_numpy() for c in ("n_tokens", "ref_n_tokens"))
        if not (own.sum() > 0 and base.sum() > 0):
            return Influenced(math.nan, 0.0 * own, "one side has no tokens")
        ratio = float(own.sum() / base.sum())
        return Influenced(math.log(ratio), own / own.sum() - base / base.sum())

    log = over_seeds([log_ratio(e) for e in evidences], codes)
    ends = (math.exp(x) for x in (log.value, log.ci_low, log.ci_high))
    value, low, high = ends
    return Estimate(value, value * log.stderr, low, high, log.n, log.reason)


def seed_sensitivity(groups: Sequence[Sequence[Key]], prompts: Prompts) -> Estimate:
    """`seed_spread` of the length-controlled rates of each β's seeds; ``n`` counts trials."""
    values, covariances, reason = [], [], ONE_SEED
    if not prompts.codes.any():
        return stats.undefined(stats.ONE_CLUSTER)
    for keys in groups:
        if len(keys) > 1:
            rates = [prompts.lc(k) for k in keys]
            reason = next((r.reason for r in rates if r.reason), "")
            if not reason:
                values.append(np.array([r.value for r in rates]))
                covariances.append(joint_rates.covariance(rates, prompts.codes))
    return seed_spread(values, covariances) if values else stats.undefined(reason)


def noise_cost(
    betas: Mapping[float, Sequence[Key]], clean: Prompts, noisy: Prompts
) -> tuple[Estimate, tuple[float, ...]]:
    """Points that label noise takes (negative: it loses), and the β over which that is the mean.

    Noisy less clean at equal method, β, step and seed, paired by prompt: both must hold the same
    prompts. ``betas`` are the keys of each β, one a seed, the same seeds for all. A β whose rate
    is not identified in either is left out.
    """
    gaps = {b: [noisy.lc(k) - clean.lc(k) for k in keys] for b, keys in betas.items()}
    known = {b: found for b, found in gaps.items() if not any(g.reason for g in found)}
    if not known:
        reason = next((g.reason for found in gaps.values() for g in found if g.reason), "no β")
        return stats.undefined(reason, len(clean.codes)), ()
    by_seed = zip(*known.values(), strict=True)
    means = [sum(found[1:], found[0]) * (1 / len(found)) for found in by_seed]
    return over_seeds(means, clean.codes), tuple(sorted(known))
