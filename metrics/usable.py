"""Which β are usable, and which checkpoint to ship.

The rule (ours). A β is **usable** when its chosen checkpoint has a length-controlled win rate
whose lower 95% bound is above 50, and no behaviour is shown worse than the reference by more than
the margin (5 points, Holm over behaviours). It is **not usable** when a behaviour is shown
damaged, or when the whole interval is at or below 50. Shown neither way, it is **undecided**.

Choosing and reporting use different prompts, because the best of many is flattered by being the
best (of 20 equal checkpoints it looks 1.9 standard errors too good):

1. Clusters of judged prompts are split in two halves by a hash of their names. (A single
   checkpoint is not chosen from anything: all prompts report.)
2. On the choosing half each β's checkpoint is the one with the highest lower bound, and β are
   ranked by that bound (ties, to 0.1 points, go to the lower KL), damaged ones last. Damage vetoes
   a β and does not send us back to an earlier step of it: stopped early enough, every β is
   harmless. Where such a step exists the reasons name it.
3. Every stated win rate, and so whether a β is usable, comes from the reporting half.
4. Recommended is the highest-ranked usable β. Below the first rank it must have had its lower
   bound above 50 on the choosing half too: with many β some pass on the reporting half by luck.
5. The other β's checkpoints are compared with it on the reporting half by simultaneous (max-T)
   bootstrap intervals; usable ones that it is not shown to beat are named.

Damage is looked for on all checked prompts: retention is a veto, not what is maximised, so
looking at all of it flatters nothing and misses less.

Several seeds of one (method, β, step) are pooled: the rate is the mean over seeds; its variance
is that of the mean over resamples of the prompts plus the variance between seeds over their
number (t, Satterthwaite's degrees of freedom); their checks are stacked, clustered by prompt. The
seed to ship is the one with the highest bound on the choosing half, those not themselves shown
damaged first. With one seed the intervals cover prompts, not training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefeval import metrics
from prefeval.metrics import resample, stats, verdict
from prefeval.metrics.evidence import Evidence, require_aligned
from prefeval.metrics.pooling import (
    Half,
    Recipe,
    Rules,
    choosing_half,
    damage,
    pooled_rate,
    rates_of_half,
    recipes_of,
)
from prefeval.metrics.retention import MARGIN, changes
from prefeval.metrics.selection import (
    BetaVerdict,
    Key,
    Recommendation,
    Rival,
    Selection,
    State,
)
from prefeval.metrics.stats import Array
from prefeval.records import PrefevalError

PRINTED = ("win_rate", "kl", "length")  # metrics of the recommended checkpoint, reporting half


def key_of(checkpoint: Any) -> Key:
    """(method, β, seed, step) of a ``records.Checkpoint``, or of anything with those four."""
    trial = getattr(checkpoint, "trial", checkpoint)
    if isinstance(checkpoint, tuple) and not hasattr(checkpoint, "method"):
        return Key(*checkpoint)
    return Key(str(trial.method), float(trial.beta), int(trial.seed), int(checkpoint.step))


def select(
    checkpoints: Sequence[tuple[Any, Evidence]],
    *,
    rng: np.random.Generator,
    margin: float = MARGIN,
    level: float = 0.95,
    n_boot: int = 300,
) -> Selection:
    """The usable window of each method and the checkpoint to ship, by the rule above.

    ``checkpoints`` are pairs of a key (``records.Checkpoint`` or (method, beta, seed, step)) and
    its evidence, in any order. Raises ``PrefevalError`` when there are none, when one occurs
    twice, or when they were not judged on the same prompts.
    """
    rules = Rules(margin, level, n_boot)
    entries = sorted(((key_of(c), e) for c, e in checkpoints), key=lambda entry: entry[0])
    keys = [key for key, _ in entries]
    if not keys:
        raise PrefevalError("there is no checkpoint to select from; run the sweep first")
    doubled = sorted({verdict.name_of(k) for k in keys if keys.count(k) > 1})
    if doubled:
        raise PrefevalError(f"{doubled[0]} occurs twice; give each checkpoint once")
    evidences = [evidence for _, evidence in entries]
    require_aligned({verdict.name_of(k): e for k, e in entries})
    clusters = evidences[0].judgments["cluster"].to_numpy()
    chooses = choosing_half(clusters) if len(keys) > 1 else np.zeros(len(clusters), dtype=bool)
    seen = set(clusters[chooses])
    reporting = rates_of_half(evidences, ~chooses, rules, rng)
    choosing = rates_of_half(evidences, chooses, rules, rng) if len(keys) > 1 else reporting
    recipes = recipes_of(keys, evidences, choosing, reporting, rules)
    chosen = _chosen(recipes)
    betas = [_judge(recipe, keys, recipes) for recipe in chosen]
    place = place_to_recommend(betas)
    best = None
    if place is not None:
        best = _recommendation(place, chosen, betas, entries, seen, choosing, reporting, rules)
    windows = verdict.windows(betas)
    return Selection(
        recommended=best,
        verdict=verdict.sentence(best, betas, rules.margin, unseen=bool(seen)),
        betas=tuple(sorted(betas, key=lambda b: (b.method, b.beta))),
        windows=windows,
        warnings=verdict.warnings(betas, evidences, best),
        prompts_choosing=int(chooses.sum()),
        prompts_reporting=reporting.n,
        margin=margin,
        level=level,
        n_boot=n_boot,
        estimator=evidences[0].calibration.name,
        self_play=evidences[0].calibration.self_play,
    )


def _chosen(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The best recipe of each (method, β), best first.

    Only steps that all its seeds reached: fewer seeds would look more certain, not less.
    """
    seeds: dict[tuple[str, float], int] = {}
    for r in recipes:
        seeds[r.method, r.beta] = max(seeds.get((r.method, r.beta), 0), len(r.members))
    best: dict[tuple[str, float], Recipe] = {}
    for r in sorted(recipes, key=lambda r: (*r.order, r.method)):
        if len(r.members) == seeds[r.method, r.beta]:
            best.setdefault((r.method, r.beta), r)
    return sorted(best.values(), key=lambda r: (bool(r.damaged), *r.order, r.method))


def _sound_steps(recipe: Recipe, recipes: Sequence[Recipe]) -> str:
    """Which other steps of this β are better than the reference and not shown damaged."""
    sound = [
        str(r.step)
        for r in recipes
        if (r.method, r.beta) == (recipe.method, recipe.beta)
        and not r.damaged
        and r.choosing.ci_low > 50
    ]
    return f"; not at step {' and '.join(sound)}" if sound else ""


def _judge(recipe: Recipe, keys: Sequence[Key], recipes: Sequence[Recipe]) -> BetaVerdict:
    """Usable, not usable or undecided, and why."""
    rate = recipe.reported
    state: State = "undecided"
    reasons = []
    if recipe.damaged:
        state = "not usable"
        losses = [b for b in recipe.behaviours if b.behaviour in recipe.damaged]
        words = ", ".join(verdict.loss(b) for b in losses)
        reasons.append(f"damage: {words}{_sound_steps(recipe, recipes)}")
    if rate.ci_high <= 50:
        state = "not usable"
        reasons.append(f"no gain: {verdict.rate(rate)} on {rate.n} prompts is not above 50")
    elif not rate.ci_low > 50:
        includes = f"{verdict.rate(rate)} on {rate.n} prompts includes 50"
        reasons.append(f"gain not shown: {rate.reason or includes}")
    elif not recipe.damaged:
        state = "usable"
        reasons.append(f"gain: {verdict.rate(rate)} on {rate.n} prompts")
    return BetaVerdict(
        method=recipe.method,
        beta=recipe.beta,
        step=recipe.step,
        seeds=tuple(keys[i].seed for i in recipe.members),
        state=state,
        reasons=tuple(reasons),
        choosing=recipe.choosing,
        reported=rate,
        kl=recipe.kl,
        damaged=recipe.damaged,
        behaviours=recipe.behaviours,
    )


def place_to_recommend(betas: Sequence[BetaVerdict]) -> int | None:
    """The place of the highest-ranked usable β; below the first it showed its gain twice."""
    for place, beta in enumerate(betas):
        if beta.state == "usable" and (place == 0 or beta.choosing.ci_low > 50):
            return place
    return None


def _recommendation(
    place: int,
    chosen: Sequence[Recipe],
    betas: Sequence[BetaVerdict],
    entries: Sequence[tuple[Key, Evidence]],
    seen: set[str],
    choosing: Half,
    reporting: Half,
    rules: Rules,
) -> Recommendation:
    """The seed to ship of the recommended recipe, its numbers, and what it cannot be told from.

    ``seen`` are the clusters that chose: the numbers are of all others.
    """
    recipe = chosen[place]
    position = _seed_to_ship(recipe, entries, choosing, rules)
    key, evidence = entries[position]
    own = pooled_rate(reporting, [position], rules.level)
    rest = evidence.restrict(evidence.clusters - seen)
    numbers = metrics.row(metrics.compute(rest, np.random.default_rng(0), PRINTED))
    numbers |= {"lc_win_rate": own.lc_win_rate, "lc_ci_low": own.ci_low, "lc_ci_high": own.ci_high}
    rivals = _rivals(place, chosen, betas, reporting, rules)
    return Recommendation(
        *key,
        numbers={**numbers, "lc_win_rate_n": own.n},
        pooled=recipe.reported,
        behaviours=recipe.behaviours,
        not_ruled_out=tuple(b.behaviour for b in recipe.behaviours if not b.ruled_out),
        rivals=rivals,
        indistinguishable=tuple(
            verdict.name_of(r) for r in rivals if r.state == "usable" and not r.distinguishable
        ),
    )


def _seed_to_ship(
    recipe: Recipe, entries: Sequence[tuple[Key, Evidence]], choosing: Half, rules: Rules
) -> int:
    """The member with the highest bound on the choosing half, undamaged ones first."""

    def order(i: int) -> tuple[bool, float]:
        own = changes(entries[i][1].checks, margin=rules.margin, level=rules.level)
        bound = pooled_rate(choosing, [i], rules.level).ci_low
        return bool(damage(own, rules.alpha)), -bound if math.isfinite(bound) else math.inf

    return min(recipe.members, key=order) if len(recipe.members) > 1 else recipe.members[0]


def _needed(gap: Array, n: int) -> int | None:
    """Prompts that would show a difference: ``gap`` (B + 1,) are its resamples and itself."""
    difference, stderr = abs(float(gap[-1])), float(gap[:-1].std(ddof=1))
    if difference < 0.001 or not stderr > 0:
        return None
    return stats.required_n(stderr * math.sqrt(n), difference)


def _rivals(
    place: int,
    chosen: Sequence[Recipe],
    betas: Sequence[BetaVerdict],
    half: Half,
    rules: Rules,
) -> tuple[Rival, ...]:
    """Every other undamaged β against the recommended one, on the reporting half."""

    def columns(recipe: Recipe) -> Array:
        draws = half.replicates[:, list(recipe.members)].mean(axis=1)
        return np.append(draws, half.rate[list(recipe.members)].mean())

    others = [
        i
        for i, recipe in enumerate(chosen)
        if i != place and not recipe.damaged and math.isfinite(recipe.reported.ci_low)
    ]
    if not others:
        return ()
    gaps = np.stack([columns(chosen[place]) - columns(chosen[i]) for i in others], axis=1)
    joint = resample.max_t(gaps[-1], gaps[:-1], rules.level)
    return tuple(
        Rival(
            method=betas[i].method,
            beta=betas[i].beta,
            step=betas[i].step,
            state=betas[i].state,
            difference=100 * float(gaps[-1, j]),
            ci_low=100 * float(joint.ci_low[j]),
            ci_high=100 * float(joint.ci_high[j]),
            distinguishable=bool(joint.ci_low[j] > 0),
            needed=_needed(gaps[:, j], half.n),
        )
        for j, i in enumerate(others)
    )
