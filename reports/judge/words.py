"""A judge's audit in words: plain sentences with a tone."""

from __future__ import annotations

from collections.abc import Iterator

from prefeval.reports.judge.audit import Audit
from prefeval.reports.quantities import Number, fixed, interval
from prefeval.reports.verdict import Reason

PEOPLE_LONGER, GPT4_LONGER, PEOPLE_AGREE = 64.0, 68.0, 65.7  # AlpacaEval's table of evaluators
FLIPS_GOOD, FLIPS_BAD = 15.0, 35.0  # ours; 100 less the 65% that GPT-4 keeps (Zheng et al. 2023)
UNREAD_GOOD, UNREAD_BAD = 1.0, 5.0  # ours
LONGER_BAD = 80.0  # ours
SOURCES = (
    f"People prefer the longer answer in {PEOPLE_LONGER:.0f}% and GPT-4 in {GPT4_LONGER:.0f}% of"
    f" AlpacaEval's comparisons, and a person agrees with other people in {PEOPLE_AGREE:g}%"
    " (AlpacaEval's table of evaluators; Dubois et al. 2023, arXiv 2305.14387). GPT-4 keeps 65% of"
    " its verdicts when the order changes (Zheng et al. 2023, arXiv 2306.05685). The other"
    f" thresholds are prefeval's own: flips {FLIPS_GOOD:.0f}%, no verdict {UNREAD_GOOD:.0f} and"
    f" {UNREAD_BAD:.0f}%, the longer answer {LONGER_BAD:.0f}%."
)
KINDS = {
    "lab": "The lab's own: it sees true quality, with the biases in its settings",
    "reward_model": "A reward model: it scores each answer by itself",
    "chat": "A chat model on the machine that ran the sweep",
    "endpoint": "A served chat model",
    "person": "A person, by a filled-in sheet",
    "saved": "Verdicts read from a file",
}
ORDER_FREE = {
    "reward_model": "Each answer is scored by itself: the order cannot change a verdict.",
    "person": "A person saw each pair once: what the order does is not known.",
    "saved": "A file holds one verdict for both orders: what the order does is not known.",
}


def percent(number: Number, digits: int = 1) -> str:
    """ "12.0% [10.0, 14.0]"."""
    return f"{fixed(number.value, digits)}% {interval(number, digits)}".strip()


def sentences(audit: Audit) -> list[Reason]:
    """What a reader should know before believing the win rates, the most important first."""
    found = [
        *_between_equals(audit),
        *_order(audit),
        *_length(audit),
        *_oracle(audit),
        *_held_out(audit),
        *_trend(audit),
        *_unread(audit),
        *_resolution(audit),
    ]
    if not found:
        found = [Reason("unsure", "No verdicts were saved: nothing is known of this judge.")]
    return found + [Reason("warn", problem) for problem in audit.problems]


def _tone(number: Number, good: bool, bad: bool) -> str:
    """ "unsure" unless one end of the interval decides."""
    return "ok" if good else "bad" if bad and number.has_interval else "unsure"


def _between_equals(audit: Audit) -> Iterator[Reason]:
    found = audit.itself["win_rate"]
    if not found.known:
        return
    words = f"A/A: the reference wins {percent(found)} against fresh samples of itself; "
    if found.has_interval and not found.low <= 50 <= found.high:
        yield Reason(
            "unsure",
            words + "50 is outside. One run in twenty shows that by chance; else the two sides"
            " were made or judged differently.",
        )
    elif found.has_interval:
        yield Reason("ok", words + "no bias between equals is shown.")
    else:
        yield Reason("unsure", words + "no interval can be given.")


def _order(audit: Audit) -> Iterator[Reason]:
    flips, first = audit.policies["flip_rate"], audit.policies["first_position_rate"]
    if not flips.known:
        return
    if audit.name in ORDER_FREE and flips.value == 0:
        yield Reason("ok" if audit.name == "reward_model" else "", ORDER_FREE[audit.name])
        return
    tone = _tone(flips, flips.high < FLIPS_GOOD, flips.low > FLIPS_BAD)
    more = {
        "ok": "both orders are averaged",
        "unsure": "both orders are averaged, which leaves noise and no bias",
        "bad": "GPT-4 changes 35%: use another judge, or many more prompts",
    }[tone]
    yield Reason(
        tone,
        f"The order changes {percent(flips)} of winners, and the answer shown first gets"
        f" {percent(first)}; {more}.",
    )


def _length(audit: Audit) -> Iterator[Reason]:
    """Only a liking between equals is the judge's own: a policy may be longer and better."""
    policies, itself = audit.policies["prefers_longer"], audit.itself["prefers_longer"]
    if not (policies.known or itself.known):
        return
    tone, end = "ok", ""
    if policies.low > PEOPLE_LONGER:
        tone, end = "unsure", ": read the length-controlled rate"
        if itself.high < policies.low:
            end = ", so longer checkpoints may be better ones: read the length-controlled rate too"
    if itself.low > PEOPLE_LONGER:
        tone = "bad" if itself.low > LONGER_BAD else "unsure"
        end = ": read the length-controlled rate"
    if not (policies.has_interval or itself.has_interval):
        tone = "unsure"
    said = [f"{percent(policies)} of comparisons with a checkpoint"] if policies.known else []
    said += [f"{percent(itself)} between answers of the reference"] if itself.known else []
    yield Reason(
        tone,
        f"It prefers the longer answer in {' and '.join(said)}"
        f" (people: {PEOPLE_LONGER:.0f}%){end}.",
    )


def _oracle(audit: Audit) -> Iterator[Reason]:
    if not audit.has_oracle:
        return
    agrees, kappa = audit.oracle["agreement"], audit.oracle["kappa"]
    beside = f"{fixed(kappa.value, 2)} {interval(kappa, 2)}".strip()
    tone = _tone(agrees, agrees.low > PEOPLE_AGREE, agrees.high < PEOPLE_AGREE)
    yield Reason(
        tone,
        f"It agrees with the oracle in {percent(agrees)} of comparisons, κ {beside}"
        f" (people with each other: {PEOPLE_AGREE:.0f}%).",
    )
    longer, shorter = audit.oracle["longer_though_worse"], audit.oracle["shorter_though_worse"]
    if longer.known and shorter.known:
        biased = longer.has_interval and shorter.has_interval and longer.low > shorter.high
        tone = "bad" if biased and longer.low > 50 else "unsure" if biased else "ok"
        end = ": it errs for length, so read the length-controlled rate" if biased else ""
        yield Reason(
            tone,
            f"Where the shorter answer is better it picks the longer in {percent(longer)}; where"
            f" the longer is better it picks the shorter in {percent(shorter)}{end}.",
        )


def _held_out(audit: Audit) -> Iterator[Reason]:
    right, by_length = audit.held_out["accuracy"], audit.held_out["length_accuracy"]
    if not right.known:
        return
    floor = max(50.0, by_length.value) if by_length.known else 50.0
    words = f"It agrees with {percent(right)} of {f'{right.n:,} ' if right.n else ''}held-out pairs"
    if by_length.known:
        words += f"; taking the longer answer always would agree with {percent(by_length)}"
    good = right.low > floor and right.high >= PEOPLE_AGREE
    beside = f" (people with each other: {PEOPLE_AGREE:.0f}%)."
    yield Reason(_tone(right, good, right.high < floor), words + beside)
    shorter = audit.held_out["accuracy_chosen_shorter"]
    if shorter.known:
        tone = _tone(shorter, shorter.low > 50, shorter.high < 50)
        end = ": it goes by length more than by content" if tone == "bad" else ""
        said = f"Where the preferred answer is the shorter it is right in {percent(shorter)}"
        yield Reason(tone, f"{said}{end}.")


def _trend(audit: Audit) -> Iterator[Reason]:
    trend = audit.trend
    if trend is None or not trend.change.has_interval:
        return
    gap, oracle = trend.change, audit.has_oracle
    what = "Agreement with the oracle" if oracle else "Its liking for the longer answer"
    worse = gap.high < 0 if oracle else gap.low > 0
    said = (
        f"{what} is {percent(trend.near)} in the half of the checkpoints nearer to the reference"
        f" and {percent(trend.far)} in the farther: {fixed(gap.value, sign=True)} points"
        f" {interval(gap, sign=True)}"
    )
    less = "a win says less than near" if oracle else "read the length-controlled rate"
    end = f", so far out {less}" if worse else ""
    yield Reason("unsure" if worse else "ok", f"{said}{end}.")


def _unread(audit: Audit) -> Iterator[Reason]:
    unread = audit.policies["unread_rate"]
    if unread.known and unread.value > 0:
        tone = _tone(unread, unread.value <= UNREAD_GOOD, unread.low > UNREAD_BAD)
        yield Reason(
            tone,
            f"{percent(unread)} of comparisons have no verdict in one order at least, and are left"
            " out.",
        )


def _resolution(audit: Audit) -> Iterator[Reason]:
    if audit.detectable.known:
        prompts = f"With {audit.detectable.n:,} prompts a" if audit.detectable.n else "A"
        yield Reason(
            "",
            f"{prompts} raw win rate {fixed(audit.detectable.value)} points from 50 is found four"
            " times in five; a smaller gain is more often missed.",
        )


def kind(audit: Audit) -> str:
    """What the judge is, in words."""
    return KINDS.get(audit.name, "A judge from a plug-in" if audit.name else "")


def capital(text: str) -> str:
    """With a capital first letter."""
    return text[:1].upper() + text[1:]


def text_lines(audit: Audit) -> list[str]:
    """The section of summary.md: who judged, and the sentences."""
    if not audit.name:
        return [r.text for r in sentences(audit)]
    who = f"Judge: {audit.name}. {kind(audit)}. {capital(audit.caveat)}".strip()
    return [who, *(r.text for r in sentences(audit))]
