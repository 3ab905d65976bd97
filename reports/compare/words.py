"""A comparison in words: each line's numbers and verdict, what got better and worse, the answer."""

from __future__ import annotations

import math
from collections.abc import Iterable

from prefeval.metrics.comparison import WIN_RATES
from prefeval.metrics.differences import POINTS, TIMES, Difference
from prefeval.reports.compare.data import Compared
from prefeval.reports.labels import listed
from prefeval.reports.quantities import DASH, fixed, p_text, significant

TITLES = {
    "lc_win_rate": "LC win rate",
    "win_rate": "raw win rate",
    "true_win_rate": "true win rate",
    "flip_rate": "flipped verdicts",
    "kl": "KL",
    "entropy": "entropy",
    "length_ratio": "length",
    "paired_length_ratio": "length per prompt",
    "eos_rate": "ended answers",
    "distinct": "distinct samples",
    "delta_chosen": "Δchosen",
    "delta_rejected": "Δrejected",
    "implicit_accuracy": "implicit accuracy",
}
MEANINGS = {
    "lc_win_rate": "length-controlled win rate against the reference, percent",
    "win_rate": "win rate against the reference, percent, both orders",
    "true_win_rate": "win rate by the lab's oracle, percent",
    "flip_rate": "verdicts whose winner changes with the order shown, percent",
    "kl": "reverse KL from the reference, nats/sequence",
    "entropy": "of the policy's own samples, nats/token",
    "length_ratio": "mean tokens; the difference is the ratio of the means",
    "paired_length_ratio": "geometric mean tokens; the difference is that of B/A of each prompt",
    "eos_rate": "answers that end by themselves, percent",
    "distinct": "different texts among the samples of a prompt, percent",
    "delta_chosen": "log-probability gained over the reference on held-out chosen answers, nats",
    "delta_rejected": "the same on rejected answers, nats",
    "implicit_accuracy": "held-out pairs with Δchosen > Δrejected, percent",
}
TONES = {"better": "ok", "worse": "bad", "more": "moved", "less": "moved"}
MARKS = {"better": "✓", "worse": "✗", "more": "↑", "less": "↓"}


def title(line: Difference) -> str:
    """What a line is called; a behaviour by its own name."""
    return TITLES.get(line.name, line.name)


def meaning(line: Difference) -> str:
    """What a line measures, for a tooltip."""
    return MEANINGS.get(line.name, f"{line.name} checks passed, percent, greedy answers")


def value(line: Difference, number: float) -> str:
    """A's or B's value."""
    if line.unit == POINTS or line.unit == TIMES:
        return fixed(number, 1)
    return significant(number)


def change(line: Difference) -> str:
    """``+4.1``, or ``×1.13``."""
    return _amount(line, line.difference.value)


def span(line: Difference) -> str:
    """``[+0.6, +7.6]``, or nothing where there is no interval."""
    found = line.difference
    if not (math.isfinite(found.ci_low) and math.isfinite(found.ci_high)):
        return ""
    low, high = (_amount(line, end).lstrip("×") for end in (found.ci_low, found.ci_high))
    return f"[{low}, {high}]"


def _amount(line: Difference, number: float) -> str:
    if not math.isfinite(number):
        return DASH
    if line.unit == TIMES:
        return f"×{fixed(number, 2)}"
    if line.unit == POINTS:
        return fixed(number, 1, sign=True)
    return _signed(number)


def _signed(number: float) -> str:
    text = significant(number)
    return f"+{text}" if number > 0 and text.strip("0.") else text


def verdict(line: Difference) -> str:
    """better, worse, more, less; or how large a difference is still possible; or why none."""
    if line.verdict == "not compared":
        return f"not compared: {line.difference.reason or 'undefined'}"
    if line.verdict != "no difference shown":
        return line.verdict
    return f"no difference shown{_up_to(line)}"


def _up_to(line: Difference) -> str:
    found = line.difference
    if found.ci_low == found.ci_high:
        return ": none on any prompt" if found.value == line.null else ""
    if not math.isfinite(line.up_to):
        return ""
    if line.unit == TIMES:
        return f" (could be up to ×{fixed(line.up_to, 2)})"
    size = fixed(line.up_to, 1) if line.unit == POINTS else significant(line.up_to)
    return f" (could be up to ±{size})"


def counts(line: Difference) -> str:
    """How many prompts B alone and A alone passed."""
    if line.gained is None or line.lost is None:
        return ""
    return f"+{line.gained} −{line.lost}"


def p_value(line: Difference) -> str:
    """The p-value after Holm's correction."""
    return p_text(line.p_holm).removeprefix("p ").removeprefix("= ")


def told(line: Difference) -> str:
    """One line in a sentence: "LC win rate +4.1 points [+0.6, +7.6]"."""
    unit = "" if line.unit == TIMES else f" {line.unit}"
    amount = f"{title(line)} {change(line)}{unit} {span(line)}".rstrip()
    return (
        f"{amount}, {line.lost} prompts lost, {line.gained} gained" if _is_check(line) else amount
    )


def _is_check(line: Difference) -> bool:
    return line.gained is not None and line.name not in TITLES


def families(compared: Compared) -> list[tuple[str, list[Difference]]]:
    """The lines by the families over which p-values are corrected."""
    rates = [line for line in compared.measures if line.name in WIN_RATES]
    others = [line for line in compared.measures if line.name not in WIN_RATES]
    named = ("Win rates", rates), ("Other measures", others)
    return [*named, ("Behaviours", list(compared.behaviours))]


def by_verdict(compared: Compared, *verdicts: str) -> list[Difference]:
    """The lines with one of these verdicts, in the table's order."""
    return [line for line in compared.lines if line.verdict in verdicts]


def headline(compared: Compared) -> tuple[str, str]:
    """The answer in a line, and its tone: ok, bad or unsure."""
    rate = _main(compared)
    good, bad = by_verdict(compared, "better"), by_verdict(compared, "worse")
    damage = [title(line) for line in bad if line in compared.behaviours]
    gains = [title(line) for line in good if line in compared.behaviours]
    known = {"better": "B wins more often", "worse": "B wins less often"}
    true = next(x for x in compared.measures if x.name == "true_win_rate")
    if rate is None:
        start = "Win rates are not compared"
    elif rate.verdict in known:
        equal = " at equal length" if rate.name == "lc_win_rate" else ", length not controlled"
        start = f"{known[rate.verdict]}{equal} ({change(rate)} points)"
    else:
        start = f"No difference in {title(rate)} shown{_up_to(rate)}"
    more = []
    if true.verdict in known:
        more = [f"truly {true.verdict} by the oracle ({change(true)} points)"]
    more += [f"worse in {listed(damage)}"] if damage else []
    more += [f"better in {listed(gains)}"] if gains else []
    count = [rate, true, *compared.behaviours]
    up, down = (any(x is not None and x.verdict == v for x in count) for v in ("better", "worse"))
    tone = "unsure" if up == down else "ok" if up else "bad"
    return (f"{start}; B is {listed(more)}" if more else start), tone


def _main(compared: Compared) -> Difference | None:
    """The win rate that counts: at equal length, or the raw one where there is no such."""
    named = {line.name: line for line in compared.measures}
    for name in ("lc_win_rate", "win_rate"):
        if named[name].verdict != "not compared":
            return named[name]
    return None


def groups(compared: Compared) -> list[tuple[str, str, list[str]]]:
    """What got better and what got worse, as (tone, heading, sentences)."""
    found = [
        ("ok", "Better in B", [told(x) for x in by_verdict(compared, "better")]),
        ("bad", "Worse in B", [told(x) for x in by_verdict(compared, "worse")]),
        ("moved", "Moved, neither better nor worse",
         [told(x) for x in by_verdict(compared, "more", "less")]),
    ]  # fmt: skip
    same = by_verdict(compared, "no difference shown")
    none = by_verdict(compared, "not compared")
    found.append(("none", "No difference shown", [", ".join(map(title, same))] if same else []))
    found.append(("none", "Not compared", list(_reasons(none))))
    return [
        (tone, heading, lines) for tone, heading, lines in found if lines or tone in ("ok", "bad")
    ]


def _reasons(lines: Iterable[Difference]) -> Iterable[str]:
    """What is not compared, by its reason."""
    why: dict[str, list[str]] = {}
    for line in lines:
        why.setdefault(line.difference.reason or "undefined", []).append(title(line))
    return (f"{', '.join(names)}: {reason}" for reason, names in why.items())


def joined(compared: Compared) -> str:
    """How many rows are in both, and how many were left out."""
    named = {"judgments": "judged prompts", "checks": "checked prompts", "pairs": "held-out pairs"}
    parts = []
    for frame, words in named.items():
        a, b, both = compared.rows.get(frame, (0, 0, 0))
        if a or b:
            left = "" if a == b == both else f" (of {a} in A and {b} in B)"
            parts.append(f"{both} {words}{left}")
    return f"Paired by prompt: {', '.join(parts)}." if parts else "Nothing in common."


UNITS = (
    "Rates, shares and behaviours in %, their differences in points; KL and Δ in nats/sequence,"
    " entropy in nats/token, lengths in tokens."
)
METHOD = (
    "B − A on the same prompts with its 95% interval, clustered; shares by the exact McNemar test,"
    " LC win rate by refits. p and verdict are corrected (Holm) within each of: win rates, other"
    " measures, behaviours."
)
TRIALS = "LC win rate of every trial and step that both runs have; p corrected (Holm) over them."
