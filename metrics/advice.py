"""After a sweep: what to ship, which window, and what to run next, as a command line.

Each rule looks at the verdict, at the chosen checkpoints' metrics and at what was run, and has one
reason. Its command is the run's own with a few options changed. The rules come in the order in
which to follow them. Thresholds are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from prefeval.metrics import next_command as commands
from prefeval.metrics.selection import BetaVerdict, Recommendation, Rival, Window
from prefeval.metrics.situation import Situation
from prefeval.metrics.verdict import OWN_SCALE, name_of, rate

LENGTH_POINTS = 2.0  # of a raw win rate that length control takes away, at least
HARDLY_MOVED = 1.0  # nats/sequence
OFF_POLICY = -0.3  # nats/token that the policy likes the pairs less than its own answers
NOISY = 0.1  # share of flipped labels
SEEDS = 3  # the fewest that show a spread
POINTS = 5  # of a finer grid
FURTHER = math.sqrt(10)  # by which a learning rate changes
TOO_MANY = 10.0  # times the prompts that there are
MOST_HELD_OUT = 0.5
MOST_PEOPLE = 96  # of the lab
SOUND = "; not at step "  # what usable.py writes of a damaged β that was sound before


@dataclass(frozen=True)
class Advice:
    """One thing to do: what, why, and the command that does it ("" where none can)."""

    kind: str
    said: str
    why: str
    command: str = ""


Found = tuple[str, str] | None
"""What to do and its command, where a rule applies"""


@dataclass(frozen=True)
class Rule:
    """One rule and its reason."""

    kind: str
    why: str
    find: Callable[[Situation], Found]


def advise(situation: Situation) -> tuple[Advice, ...]:
    """What to do, in order; a smoke run's numbers mean nothing, so it is advised to be a run."""
    if not situation.selection.betas:
        return ()
    found = []
    for rule in RULES:
        step = rule.find(situation)
        if step is not None:
            said, command = step
            found.append(Advice(rule.kind, said[:1].upper() + said[1:], rule.why, command))
        if step is not None and rule.kind == "smoke":
            break
    return tuple(found)


def _failed(s: Situation) -> Found:
    if not s.failed:
        return None
    said = f"run the same command again: {s.failed} trials failed, what is finished is kept"
    return said, s.command


def _smoke(s: Situation) -> Found:
    if not commands.has_flag(s.command, "smoke"):
        return None
    methods = s.of_config("methods", ())  # what --smoke itself has set is not the person's
    return "run it in full", commands.next_command(s.command, {"smoke": None}, methods=methods)


def _ship(s: Situation) -> Found:
    best = s.selection.recommended
    return None if best is None else (f"ship {name_of(best)}, {rate(best.pooled)}", "")


def _window(s: Situation) -> Found:
    found = [
        f"{w.method} {w.low:.3g} to {w.high:.3g}" if w.low < w.high else f"{w.method} {w.low:.3g}"
        for w in s.selection.windows
        if w.usable
    ]
    return (f"usable β: {', '.join(found)}", "") if found else None


def _damage(s: Situation) -> Found:
    """A gain that damage vetoes: an earlier step, a stronger pull, or a lower rate."""
    vetoed = [b for b in s.ranked if b.damaged and b.reported.ci_low > 50]
    if s.usable or not vetoed:
        return None
    lost = ", ".join(sorted({name for b in vetoed for name in b.damaged}))
    start = f"the gain comes with damage to {lost}: "
    for beta in vetoed:
        steps = beta.reasons[0].partition(SOUND)[2].split(" and ")
        if steps[-1].isdecimal():
            said = (
                f"{start}stop where {beta.method} β={beta.beta:.3g} was sound, at step {steps[-1]}"
            )
            return said, s.run_on({beta.method: [beta.beta]}, max_steps=steps[-1])
    first = vetoed[0]
    window = s.window(first.method)
    if window.extension and window.at_edge == "high":
        grid = _grid_of(window)
        return f"{start}hold {first.method} closer, β {grid}", s.run_on({first.method: grid})
    said, command = _other_rate(s, first, 1 / FURTHER)
    return f"{start}{said}", command


def _other_rate(s: Situation, beta: BetaVerdict, factor: float) -> tuple[str, str]:
    """The same grid of a method at another learning rate."""
    lr = float(f"{factor * float(s.settings.get(beta.method, {}).get('lr', math.nan)):.1e}")
    if not math.isfinite(lr):
        return f"train {beta.method} at {'a lower' if factor < 1 else 'a higher'} --lr", ""
    return f"train {beta.method} at --lr {lr:g}", s.run_on(
        {beta.method: s.window(beta.method).grid}, lr=f"{lr:g}"
    )


def _length(s: Situation) -> Found:
    """A raw gain that is gone at equal length."""
    longer = [
        b
        for b in s.ranked
        if s.number(b, "win_rate_ci_low") > 50
        and not b.reported.ci_low > 50
        and s.number(b, "win_rate") - b.reported.lc_win_rate > LENGTH_POINTS
    ]
    if s.usable or not longer:
        return None
    raw = s.number(longer[0], "win_rate")
    found = (
        f"{name_of(longer[0])} wins {raw:.1f}% raw and {rate(longer[0].reported)} at equal length"
    )
    if "simpo" not in s.of_config("methods", ()) and s.has_pairs:
        return f"try SimPO, whose reward is per token: {found}", s.run_on({"simpo": "2:10"})
    return f"see how much longer the preferred answers of the data are: {found}", s.audit


def _no_gain(s: Situation) -> Found:
    """Nothing usable, nothing vetoed, and no rate worth more prompts."""
    gained = any(b.reported.ci_low > 50 for b in s.ranked)
    if s.usable or gained or _length(s) or _nearest(s) is not None:
        return None
    if max((b.kl for b in s.ranked if math.isfinite(b.kl)), default=math.nan) < HARDLY_MOVED:
        said, command = _other_rate(s, s.best, FURTHER)
        return f"no policy moved a nat from the reference: {said}, or longer", command
    return "the policies moved and did not gain: look at the data", s.audit


def _nearest(s: Situation) -> BetaVerdict | None:
    """The undecided β with the highest rate, where it is a point or more above 50."""
    near = [b for b in s.ranked if b.state == "undecided" and b.reported.lc_win_rate >= 51]
    return max(near, key=lambda b: b.reported.lc_win_rate, default=None)


def _undecided(s: Situation) -> Found:
    """So many prompts as put the lower bound at 50, were the rate as measured."""
    near = _nearest(s)
    if s.usable or near is None:
        return None
    found = near.reported
    times = ((found.lc_win_rate - found.ci_low) / (found.lc_win_rate - 50)) ** 2
    return _more_prompts(s, times, f"decide {name_of(near)}, {rate(found)}", near)


def _rivals(s: Situation) -> Found:
    best = s.selection.recommended
    alike = [r for r in (best.rivals if best else ()) if r.state == "usable"]
    known = [r for r in alike if r.needed is not None and not r.distinguishable]
    if best is None or not known:
        return None
    widest = max(known, key=lambda r: abs(r.difference))
    times = (widest.needed or 0) / max(1, s.selection.prompts_reporting)
    return _more_prompts(s, times, f"tell the recommended one from {name_of(widest)}", best, widest)


def _more_prompts(
    s: Situation, times: float, aim: str, *betas: BetaVerdict | Recommendation | Rival
) -> Found:
    """``times`` as many prompts for these β alone, where they are worth it."""
    if not 1 < times < math.inf:
        return None
    n = s.selection.prompts_choosing + s.selection.prompts_reporting
    said = f"{100 * math.ceil(n * times / 100)} prompts instead of {n} would {aim}"
    if times > TOO_MANY:
        return f"{said}: more than is worth it, so take them as equal", ""
    changes = _where_prompts_come_from(s, n, times)
    if not changes:
        return f"{said}; they take more data", ""
    grids: dict[str, list[float]] = {}
    for beta in betas:
        grids.setdefault(beta.method, []).append(beta.beta)
    return said, s.run_on(grids, **changes)


def _where_prompts_come_from(s: Situation, n: int, times: float) -> dict[str, str]:
    """The option that brings them: a higher cap, a larger share held out, a lab of more people."""
    if s.of_config("prompts"):
        return {"prompts": str(100 * math.ceil(n * times / 100))}
    if s.is_lab:
        people = math.ceil(times * (s.of_config("lab") or {}).get("people", MOST_PEOPLE))
        knobs = [k for k in commands.option(s.command, "lab").split(",") if k]
        kept = [k for k in knobs if not k.startswith("people=")]
        return {"lab": ",".join([*kept, f"people={people}"])} if people <= MOST_PEOPLE else {}
    share = math.ceil(100 * times * s.of_config("held_out", MOST_HELD_OUT)) / 100
    return {"held_out": f"{share:g}"} if share <= MOST_HELD_OUT else {}


def _extend(s: Situation) -> Found:
    """The grids whose best point is their end, in one command."""
    if _damage(s) or _no_gain(s):  # they say where to go
        return None
    wanted = {b.method for b in s.usable or s.ranked if not b.damaged}
    found = [w for w in s.selection.windows if w.extension and w.method in wanted]
    if not found:
        return None
    found.sort(key=lambda w: w.method != s.best.method)
    grids = {w.method: _grid_of(w) for w in found}
    told = ", ".join(f"{method} to {grid}" for method, grid in grids.items())
    return f"extend the grid of {told}", s.run_on(grids)


def _grid_of(window: Window) -> str:
    """The range of a window's extension, "0.3:1"."""
    return window.extension.rpartition(" ")[2].rpartition("=")[2]


def _refine(s: Situation) -> Found:
    """A finer grid within the recommended method's window, over seeds."""
    best = s.selection.recommended
    if best is None:
        return None
    window, seeds = s.window(best.method), len(s.best.seeds)
    if window.at_edge or (seeds >= SEEDS and len(window.usable) >= POINTS):
        return None
    low, high = window.low, window.high
    if low == high:  # as far as the neighbours, which are not usable
        low = max((b for b in window.grid if b < low), default=low)
        high = min((b for b in window.grid if b > high), default=high)
    grid = f"{low:g}:{high:g}:{POINTS}" if low < high else f"{low:g}"
    changes = {} if seeds >= SEEDS else {"seeds": SEEDS}
    said = f"try {best.method} β {low:.3g} to {high:.3g} in {POINTS} points over "
    said += f"{max(seeds, SEEDS)} seeds"
    return said, s.run_on({best.method: grid}, **changes)


def _stale(s: Situation) -> Found:
    """Pairs of which the policy would write none any more."""
    beta = next((b for b in (s.best, *s.ranked) if b.method in commands.PAIRS), None)
    if beta is None or "rounds" in (s.of_config("training") or {}):
        return None
    gap, before = s.number(beta, "off_policy_gap"), s.number(beta, "ref_off_policy_gap")
    if gap - before < OFF_POLICY:
        why = f"it opened by {before - gap:.2f} in training"
    elif before < OFF_POLICY:
        why = f"it was {-before:.2f} before training"
    else:
        return None
    said = (
        f"make pairs of the policy's own answers: {name_of(beta)} likes the given ones {-gap:.2f} "
        f"nats/token less ({why})"
    )
    return said, s.run_on({beta.method: [beta.beta]}, rounds=3)


def _noise(s: Situation) -> Found:
    """Labels known to be noisy, and no IPO yet."""
    noise = (s.of_config("lab_data") or {}).get("noise", 0.0) if s.is_lab else 0.0
    if noise < NOISY or "ipo" in s.of_config("methods", ()):
        return None
    same = next((w.grid for w in s.selection.windows if w.method not in OWN_SCALE), (0.05, 0.3))
    return f"try IPO: {noise:.0%} of the labels are flipped", s.run_on({"ipo": same})


def _then(s: Situation) -> Found:
    """A phase on the policy's own answers, from the recommended point."""
    best = s.selection.recommended
    if best is None or best.method not in commands.OFFLINE or not s.has_pairs:
        return None
    if s.window(best.method).at_edge or (s.of_config("training") or {}).get("then"):
        return None
    said = f"go on from {best.method} β={best.beta:.3g} (KL {best.numbers['kl']:.3g}) with PPO"
    return said, s.run_on({best.method: [best.beta]}, then="ppo")


RULES = (
    Rule("failed", "a verdict of a part of the grid may name another β than all of it", _failed),
    Rule("smoke", "two steps and a few prompts show that it runs, and nothing else", _smoke),
    Rule("ship", "the highest lower bound on the prompts that chose, without damage", _ship),
    Rule("window", "β shown better than the reference at equal length, without damage", _window),
    Rule("damage", "damage grows with distance from the reference, and higher β, fewer steps or "
         "a lower rate keep nearer", _damage),
    Rule("length", "a judge that likes length rewards it; at equal length nothing is gained",
         _length),
    Rule("no_gain", "where nothing moved training was too short; where it moved without gain the "
         "data do not teach what the judge prefers", _no_gain),
    Rule("undecided", "the interval narrows with the square root of the prompts", _undecided),
    Rule("extend", "the best point ends its grid, and a better one may lie beyond", _extend),
    Rule("refine", "one seed covers prompts, not training; between grid points lies the best β",
         _refine),
    Rule("rivals", "a difference that is not shown is no reason to choose", _rivals),
    Rule("stale", "pairs that the policy would not write teach it little about what it does write",
         _stale),
    Rule("noise", "IPO's loss is bounded where DPO's pulls ever harder at a flipped pair", _noise),
    Rule("then", "pairs set the direction; own answers correct what the pairs never showed", _then),
)  # fmt: skip
"""In the order in which to follow them."""
