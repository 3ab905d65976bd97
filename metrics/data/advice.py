"""Which method fits a preference file, and what to watch: rules as data, read top to bottom.

A condition looks at one finding: its value, or the bound that must be shown. A finding that is not
there, or is NaN, meets no condition. The first rule that holds names the method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prefeval.metrics.data.findings import Finding


@dataclass(frozen=True)
class Condition:
    """``part`` of the finding ``name`` is above (or below) ``bound``."""

    name: str
    part: Literal["value", "ci_low", "ci_high"]
    sign: Literal[">", "<", ">="]
    bound: float

    def holds(self, findings: Mapping[str, Finding]) -> bool:
        """Whether it is so; false where it cannot be known."""
        found = findings.get(self.name)
        value = math.nan if found is None else float(getattr(found, self.part))
        if self.sign == "<":
            return value < self.bound
        return value > self.bound if self.sign == ">" else value >= self.bound

    def __str__(self) -> str:
        part = {"value": "", "ci_low": " shown", "ci_high": " shown"}[self.part]
        return f"{self.name}{part} {self.sign} {self.bound:g}"


@dataclass(frozen=True)
class Rule:
    """When all of ``when`` holds, this method, and why."""

    method: str
    when: tuple[Condition, ...]
    why: str
    source: str


C = Condition
RULES: tuple[Rule, ...] = (
    Rule(
        "kto", (C("liked", "value", ">=", 0),),
        "single answers with a label each: KTO needs no pairs",
        "Ethayarajh et al. 2024, arXiv 2402.01306",
    ),
    Rule(
        "ipo", (C("noise_beside_trusted", "ci_low", ">", 0.1),),
        "labels are noisy, and IPO's target bounds what a single wrong label can do "
        "(or DPO with label smoothing at the estimated rate)",
        "Azar et al. 2023, arXiv 2310.12036; Mitchell 2023 (conservative DPO)",
    ),
    Rule(
        "ipo", (C("noise_retest", "ci_low", ">", 0.1),),
        "pairs labelled twice disagree, and IPO's target bounds what a wrong label can do",
        "Azar et al. 2023, arXiv 2310.12036",
    ),
    Rule(
        "ipo", (C("noise_at_least", "value", ">", 0.05),),
        "labels contradict each other, and IPO's target bounds what a wrong label can do",
        "Azar et al. 2023, arXiv 2310.12036",
    ),
    Rule(
        "simpo", (C("length_predicts", "ci_low", ">", 0.6), C("longer_chosen", "ci_low", ">", 0.6)),
        "longer answers win, and SimPO's length-normalised reward does not pay for length",
        "Meng, Xia and Chen 2024, arXiv 2405.14734",
    ),
    Rule(
        "dpo", (),
        "nothing in the file speaks for another: DPO, best in rounds on the policy's own answers",
        "Rafailov et al. 2023, arXiv 2305.18290; rounds: docs/studies.md",
    ),
)  # fmt: skip

NOT_IN_THE_FILE: tuple[Rule, ...] = (
    Rule(
        "ppo", (), "a program can check answers, what you want is rarely shown yet, or the horizon "
        "is long: PPO (or GRPO) explores", "docs/studies.md, Finding behaviour that the reference "
        "lacks",
    ),
    Rule(
        "simpo", (), "no memory for a reference model: SimPO needs none",
        "Meng, Xia and Chen 2024, arXiv 2405.14734",
    ),
)  # fmt: skip
"""What decides and only you know."""


@dataclass(frozen=True)
class Watch:
    """When it holds: what to look at while training."""

    when: tuple[Condition, ...]
    what: str


WATCHES: tuple[Watch, ...] = (
    Watch((), "KL from the reference, and length-controlled win rate beside it"),
    Watch(
        (C("near_identical_pairs", "value", ">", 0.05),),
        "Δchosen: near-identical pairs can lower both answers (Pal et al. 2024, arXiv 2402.13228)",
    ),
    Watch((C("length_predicts", "ci_low", ">", 0.5),), "length_ratio: length predicts the label"),
    Watch((C("length_predicts", "ci_high", "<", 0.5),), "length_ratio: the labels speak of length"),
    Watch((C("style_adds", "ci_low", ">", 0.0),), "style_win_rate: style predicts the label"),
    Watch((C("teaches_refuses", "ci_high", "<", 0.5),), "retention_refusal: refusing is unlearned"),
    Watch((C("teaches_refuses", "ci_low", ">", 0.5),), "refusals: more of harmless prompts too"),
    Watch((C("teaches_calls", "ci_high", "<", 0.5),), "retention_tool: tool calls are unlearned"),
    Watch((C("chosen_in_range", "ci_high", "<", 0.5),), "Δchosen: the pairs are off-policy"),
    Watch((C("truncated", "value", ">", 0.01),), "end-token rate: cut answers teach no end"),
)

BETAS: Mapping[str, str] = {
    "dpo": "0.1:0.3", "ipo": "0.1:0.3", "kto": "0.05:0.3", "simpo": "2:10",
}  # fmt: skip
EPOCHS = 1
"""1 to 2 passes: more of them fit the labels' noise."""


@dataclass(frozen=True)
class Advice:
    """The method, why, what else would change it, what to watch, and the grid."""

    method: str
    why: str
    source: str
    because: tuple[str, ...]
    unless: tuple[str, ...]
    watch: tuple[str, ...]
    beta: str
    epochs: int = EPOCHS


def advise(findings: Sequence[Finding]) -> Advice:
    """The first of `RULES` that holds, with all of `WATCHES` that do."""
    known = {f.name: f for f in findings}

    def holds(conditions: Sequence[Condition]) -> bool:
        return all(condition.holds(known) for condition in conditions)

    rule = next(rule for rule in RULES if holds(rule.when))
    others = NOT_IN_THE_FILE if rule.method != "kto" else NOT_IN_THE_FILE[:1]
    return Advice(
        method=rule.method,
        why=rule.why,
        source=rule.source,
        because=tuple(map(str, rule.when)),
        unless=tuple(f"{r.method}: {r.why}" for r in others),
        watch=tuple(w.what for w in WATCHES if holds(w.when)),
        beta=f"{rule.method}={BETAS[rule.method]}",
    )
