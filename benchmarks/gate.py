"""How often the gate is wrong, how often it decides: simulated, at changes that are known.

    python benchmarks/gate.py [CASE ...] [--repeats 4000]

Every repeat draws a baseline's and a checkpoint's results on the same prompts and asks the gate's
own code. At a true change of exactly -margin a pass is a false pass, and a failure a false failure;
at 0 a failure is false, and the share of passes is the power. Both are to be at most 5%, by the
exact interval of Clopper and Pearson (1934). Prompts are correlated between the two models and in
clusters, by a Gaussian copula, which leaves every mean exactly what it is said to be.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from prefeval.metrics import differences
from prefeval.metrics.comparison import Joined, length_controlled
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.gate.anytime import decide_anytime
from prefeval.metrics.gate.decision import Asked, decide
from prefeval.metrics.gate.lines import change_line
from prefeval.metrics.joint_rates import lc_rate, problem_of
from prefeval.metrics.stats import Array

PROMPTS, CLUSTERS, MARGIN, LOST = 560, 80, 3.0, 5.0
FAMILY_SIZE, MORE = 7, 644
MEAN, SPREAD = 0.6, 1.2  # of preferences: Beta's mean and concentration, a deviation of .33
ALIKE, FAMILY = 0.8, 0.1  # of the latent scores: between the models; in a cluster, of the rest
CHECKED, MANY, CHURN, BEHAVIOURS = 64, 250, 0.01, 6
TRUTHS = (0, 1, 2)  # margins below the baseline
LOOKS = 1000  # judgments at most, with the anytime bound
Outcomes = dict[str, int]


@dataclass(frozen=True)
class Case:
    """One kind of check: ``draw(rng, change)`` makes one repeat's outcome at a true change."""

    name: str
    n: str
    margin: float
    draw: Callable[[np.random.Generator, float], str]


def latent(rng: np.random.Generator, n: int, clusters: int) -> tuple[Array, Array, Array]:
    """Two models' standard normal scores (n,) and the prompts' clusters (n,)."""
    cluster = np.arange(n) % clusters
    shared = rng.standard_normal(n)
    own = [
        math.sqrt(FAMILY) * rng.standard_normal(clusters)[cluster]
        + math.sqrt(1 - FAMILY) * rng.standard_normal(n)
        for _ in range(2)
    ]
    a, b = (math.sqrt(ALIKE) * shared + math.sqrt(1 - ALIKE) * z for z in own)
    return a, b, cluster


def preference(score: Array, mean: float) -> Array:
    """Preferences (n,) with this mean exactly: Beta at the score's rank."""
    found: Array = special.betaincinv(mean * SPREAD, (1 - mean) * SPREAD, special.ndtr(score))
    return found


def verdict(score: Array, mean: float) -> Array:
    """Verdicts 0, 1/2 or 1 (n,), a fifth of them ties, with this mean exactly."""
    ends = special.ndtri([1 - mean - 0.1, 1 - mean + 0.1])
    found: Array = ((score > ends[0]).astype(float) + (score > ends[1])) / 2
    return found


def outcome(found: differences.Difference, margin: float) -> str:
    """The gate with one check."""
    return decide([Asked(change_line(found), "change", 1, -margin)]).outcome


def win_rate(
    rng: np.random.Generator, change: float, values: Callable[[Array, float], Array] = preference
) -> differences.Difference:
    """A raw win rate's paired difference."""
    a, b, cluster = latent(rng, PROMPTS, CLUSTERS)
    first, second = values(a, MEAN), values(b, MEAN + change / 100)
    return differences.mean_difference("win_rate", "points", 1, first, second, cluster)


def behaviour(
    rng: np.random.Generator, change: float, n: int = CHECKED, gains: float = 0.0
) -> differences.Difference:
    """A behaviour that all but ``gains`` of the prompts passed, of which some are now lost."""
    u = rng.random(n)
    before, now = (u >= gains).astype(int), np.ones(n, dtype=int)
    now[(u >= gains) & (u < 2 * gains - change / 100)] = 0
    return differences.share_difference("json", 1, before, now, np.arange(n), margin=LOST)


# -- length control ------------------------------------------------------------------------------


def judged(
    rng: np.random.Generator, intercepts: tuple[float, float], n: int, clusters: int
) -> Joined:
    """Two models whose preference follows length and quality: A as long as the reference, B 20%
    longer; ``intercepts`` are their log odds at equal length."""
    a, b, cluster = latent(rng, n, clusters)
    base = np.exp(rng.normal(5, 0.3, n))
    frames = []
    for z, stretch, intercept in zip((a, b), (1.0, 1.2), intercepts, strict=True):
        length = base * stretch * np.exp(rng.normal(0, 0.3, n))
        delta = base - length
        odds = intercept - 0.3 * np.tanh(delta / delta.std(ddof=1))
        y = special.expit(odds + 1.6 * z)
        frames.append(
            pd.DataFrame(
                {"prompt_id": [f"{i:07d}" for i in range(n)], "cluster": cluster.astype(str)}
                | {"behaviour": "", "preference": y, "preference_first": y}
                | {"preference_second": y, "true_preference": math.nan, "difficulty": 0.0}
                | {"len_output": length, "len_baseline": base}
            )
        )
    return Joined(Evidence(judgments=frames[0]), Evidence(judgments=frames[1]), {})


def intercept_for(change: float, n: int, repeats: int = 1500) -> float:
    """B's log odds at which its length-controlled rate is expected to be A's plus ``change``.

    The rate is the published, penalised fit, so its truth is what that fit gives on average at this
    ``n``: the penalty makes a change that is 3.0 points on very many prompts about 2.9 on 560.
    """

    def gap(intercept: float) -> float:
        total = 0.0
        for seed in range(repeats):
            joined = judged(np.random.default_rng([1, seed]), (0.3, intercept), n, n // FAMILY_SIZE)
            every = np.ones(n, dtype=bool)
            a, b = (
                lc_rate(problem_of(e, every), e.calibration.C).value for e in (joined.a, joined.b)
            )
            total += 100 * (b - a)
        return total / repeats - change

    start = 0.3 + 0.055 * change
    x, y = [start, start + 0.02], [gap(start), gap(start + 0.02)]
    for _ in range(2):  # a straight line, all but
        x.append(x[-1] - y[-1] * (x[-1] - x[-2]) / (y[-1] - y[-2]))
        y.append(gap(x[-1]))
    return x[-1]


def length_controlled_case(n: int) -> Case:
    """The rate that a policy names first; 200 refits a repeat where the gate takes 1000."""
    known: dict[float, float] = {}

    def draw(rng: np.random.Generator, change: float) -> str:
        if change not in known:
            known[change] = intercept_for(change, n)
        joined = judged(rng, (0.3, known[change]), n, n // FAMILY_SIZE)
        return outcome(length_controlled(joined, rng=rng, n_boot=200), MARGIN)

    return Case("LC win rate", str(n), MARGIN, draw)


# -- several at once, and looking on -------------------------------------------------------------


def together(rng: np.random.Generator, change: float, *, all_at: bool) -> str:
    """A win rate and six behaviours: one behaviour, or all of it, at the change."""
    scale = LOST / MARGIN
    rest = change if all_at else 0.0
    lines = [behaviour(rng, scale * change, MANY, CHURN)]
    lines += [behaviour(rng, scale * rest, MANY, CHURN) for _ in range(BEHAVIOURS - 1)]
    asked = [Asked(change_line(win_rate(rng, rest)), "change", 1, -MARGIN)]
    asked += [Asked(change_line(line), "change", 1, -LOST) for line in lines]
    return decide(asked).outcome


def looking(rng: np.random.Generator, change: float, most: int = LOOKS) -> tuple[str, int]:
    """Judgments one by one until the bound decides; the outcome and how many it took."""
    a, b, _ = latent(rng, most, most)
    gaps = 100 * (preference(b, MEAN + change / 100) - preference(a, MEAN))
    found, at = decide_anytime(list(gaps), "win_rate", -MARGIN)
    return found.outcome, at


def cases() -> dict[str, Case]:
    """Every case by the name on the command line."""
    return {
        "raw": Case(
            "raw win rate", f"{PROMPTS}", MARGIN, lambda r, c: outcome(win_rate(r, c), MARGIN)
        ),
        "verdicts": Case(
            "raw win rate, verdicts 0, ½, 1", f"{PROMPTS}", MARGIN,
            lambda r, c: outcome(win_rate(r, c, verdict), MARGIN),
        ),
        "lc": length_controlled_case(PROMPTS),
        "lc-more": length_controlled_case(MORE),
        "kept": Case(
            "behaviour, losses alone", f"{CHECKED}", LOST,
            lambda r, c: outcome(behaviour(r, c), LOST),
        ),
        "churn": Case(
            "behaviour, 2% gained", "250", LOST,
            lambda r, c: outcome(behaviour(r, c, 250, 0.02), LOST),
        ),
        "one": Case(
            f"win rate and {BEHAVIOURS} behaviours, one of them changed",
            f"{PROMPTS}, {MANY} each", MARGIN, lambda r, c: together(r, c, all_at=False),
        ),
        "all": Case(
            f"win rate and {BEHAVIOURS} behaviours, all changed",
            f"{PROMPTS}, {MANY} each", MARGIN, lambda r, c: together(r, c, all_at=True),
        ),
        "anytime": Case(
            "raw win rate, a look after each judgment", f"≤ {LOOKS}", MARGIN,
            lambda r, c: looking(r, c)[0],
        ),
    }  # fmt: skip


def interval(hits: int, repeats: int) -> str:
    """A share in percent with its exact 95% interval."""
    low = special.betaincinv(hits, repeats - hits + 1, 0.025) if hits else 0.0
    high = special.betaincinv(hits + 1, repeats - hits, 0.975) if hits < repeats else 1.0
    return f"{100 * hits / repeats:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def row(case: Case, repeats: int) -> Iterator[str]:
    """A table's row for each true change: 0, -margin, -2 margins."""
    for times in TRUTHS:
        change = -times * case.margin
        rng = np.random.default_rng([2026, times, *case.name.encode()])
        counts = {"pass": 0, "inconclusive": 0, "fail": 0}
        for _ in range(repeats):
            counts[case.draw(rng, change)] += 1
        shares = " | ".join(interval(counts[k], repeats) for k in counts)
        truth = {0: "0", 1: "−margin", 2: "−2 margins"}[times]
        yield f"| {case.name} | {case.n} | {case.margin:g} | {truth} | {shares} |"


def looks(repeats: int) -> Iterator[str]:
    """How many judgments the anytime bound took, by the true change."""
    for times in (0, 2):
        rng = np.random.default_rng([2027, times])
        found = [looking(rng, -times * MARGIN)[1] or math.inf for _ in range(repeats)]
        half, most = (np.quantile(found, q, method="lower") for q in (0.5, 0.8))
        truth = "0" if not times else "−2 margins"
        yield f"anytime, true change {truth}: half decide by {half:g} judgments, 80% by {most:g}"


def main() -> int:
    """Print the table."""
    known = cases()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", choices=[[], *known], help="all if none is named")
    parser.add_argument("--repeats", type=int, default=4000)
    given = parser.parse_args()
    print("| check | n | margin | true change | passes % | inconclusive % | fails % |")
    print("|---|---|---:|---|---|---|---|")
    for name in given.case or known:
        for line in row(known[name], given.repeats):
            print(line, flush=True)
    if not given.case or "anytime" in given.case:
        print(*looks(max(1, given.repeats // 8)), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
