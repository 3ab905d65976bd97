"""What a gate asks of a checkpoint: a rule a metric, and the checks that follow from them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from prefeval.metrics.comparison import Joined
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.gate import lines as gate_lines
from prefeval.metrics.gate.decision import LEVEL, Asked, Line
from prefeval.metrics.gate.lines import BEHAVIOUR, FLOORS, KINDS, Kind, Own
from prefeval.records import PrefevalError

BEHAVIOURS = "behaviours"
"""In a policy: every behaviour of the suite that has no rule of its own."""


@dataclass(frozen=True)
class Rule:
    """How far a metric may change for the worse (``margin``; None: any), and limits of its value.

    ``margin`` is in the metric's unit, or a share of the baseline's value where ``relative``.
    """

    margin: float | None = None
    relative: bool = False
    floor: float | None = None
    ceiling: float | None = None


def usual(name: str) -> Rule:
    """The rule of a metric that is named without a limit."""
    kind = kind_of(name)
    return Rule(kind.margin, kind.relative)


def kind_of(name: str) -> Kind:
    """A metric's direction and usual margin; a behaviour's where it is no metric."""
    return KINDS.get(name, BEHAVIOUR)


DEFAULT_RULES: Mapping[str, Rule] = {
    name: usual(name) for name in ("lc_win_rate", BEHAVIOURS, "length_ratio", "eos_rate")
}


@dataclass(frozen=True)
class Policy:
    """The rules by metric or behaviour; ``level`` of each bound, one-sided."""

    rules: Mapping[str, Rule] = field(default_factory=lambda: DEFAULT_RULES)
    level: float = LEVEL

    def require_known(self, behaviours: Collection[str]) -> None:
        """Raise ``PrefevalError`` for a rule about what is neither a metric nor a behaviour."""
        known = [*KINDS, BEHAVIOURS, *sorted(behaviours)]
        for name in self.rules:
            if name not in known:
                raise PrefevalError(
                    f"the policy names {name!r}, which is no metric{nearest(name, known)}; there "
                    f"are {', '.join(known)}"
                )

    def expanded(self, behaviours: Collection[str]) -> dict[str, Rule]:
        """One rule a metric or behaviour."""
        found: dict[str, Rule] = {}
        for name, rule in self.rules.items():
            names = sorted(set(behaviours) - set(self.rules)) if name == BEHAVIOURS else [name]
            found |= dict.fromkeys(names, rule)
        return found


def nearest(name: str, known: Collection[str]) -> str:
    """``; did you mean 'lc_win_rate'?`` where something is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def checks(
    policy: Policy,
    joined: Joined,
    own: Evidence,
    rng: np.random.Generator,
    *,
    same_answers: bool = False,
) -> list[Asked]:
    """Every check of the policy, on the checkpoint (``joined.b``) beside its baseline.

    ``own`` is the checkpoint's evidence on all of its prompts: floors and ceilings are of it.
    ``same_answers`` says that every answer is the baseline's, so that nothing that is measured of
    answers has changed.
    Raises ``PrefevalError`` for a rule about what is unknown, or when there is nothing to check.
    """
    frames = (joined.a.checks, joined.b.checks, own.checks)
    behaviours = {str(b) for frame in frames for b in frame["behaviour"].unique()}
    policy.require_known(behaviours)
    rules = policy.expanded(behaviours)
    moves = {name for name, rule in rules.items() if rule.margin is not None}
    relative = "kl" in rules and rules["kl"].relative
    lines = gate_lines.changes(joined, moves, rng=rng, relative_kl=relative)
    for name in gate_lines.JUDGED:
        margin = rules[name].margin if name in rules else None
        if name in lines and margin and (why := gate_lines.undiscerning(joined, margin)):
            lines[name] = gate_lines.unknown(lines[name], why)
    if same_answers:
        moved = gate_lines.moved(joined)
        lines = {
            name: line if name in moved else gate_lines.unchanged(line)
            for name, line in lines.items()
        }
    values = Own(own, rng)
    found = [
        asked
        for name, rule in rules.items()
        for asked in _of_rule(name, rule, lines.get(name) or _missing(name), values)
    ]
    if not found:
        raise PrefevalError(
            "the policy leaves nothing to check; name a metric, e.g. lc_win_rate: {margin: 3}"
        )
    return found


def _missing(name: str) -> Line:
    nan = math.nan
    return Line(name, "points", nan, nan, nan, 0, lambda _: (nan, nan), reason="no rows in common")


def _of_rule(name: str, rule: Rule, line: Line, values: Own) -> Iterator[Asked]:
    better = kind_of(name).better
    if rule.margin is not None:
        yield Asked(line, "change", better, _limit(rule.margin, better, factor=line.unit == "×"))
    if rule.floor is not None:
        yield Asked(values.line(name), "floor", 1, rule.floor)
    if rule.ceiling is not None:
        yield Asked(values.line(name), "ceiling", -1, rule.ceiling)


def _limit(margin: float, better: int, *, factor: bool) -> float:
    """The farthest change that is allowed: -3 points, or a factor of 1.25."""
    return 1 - better * margin if factor else -better * margin


def has_value(name: str) -> bool:
    """Whether a metric may have a floor or a ceiling; behaviours may."""
    return name in FLOORS or name not in KINDS


def of_reference(own: Evidence) -> Evidence:
    """The reference as if it were a checkpoint, from a checkpoint's evidence: it ties with itself,
    its KL is 0, its lengths and checks are those that were measured beside the checkpoint's."""
    judged, samples = own.judgments, own.samples
    read = judged["preference"].notna()
    ties = {
        c: pd.Series(0.5, judged.index).where(read)
        for c in ("preference", "preference_first", "preference_second")
    }
    ties["true_preference"] = pd.Series(0.5, judged.index).where(judged["true_preference"].notna())
    pairs = own.pairs
    return replace(
        own,
        judgments=judged.assign(**ties, len_output=judged["len_baseline"]),
        samples=samples.assign(
            kl=0.0, k1=0.0, n_tokens=samples["ref_n_tokens"], ended=samples["ref_ended"]
        ),
        pairs=pairs.assign(
            **{f"{side}_logps": pairs[f"ref_{side}_logps"] for side in ("chosen", "rejected")}
        ),
        checks=own.checks.assign(passed=own.checks["ref_passed"]),
        diverse=own.diverse[:0],
    )
