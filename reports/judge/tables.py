"""A judge's audit as the page shows it: the sentences, and the tables of numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefeval.reports.judge import words as judge_words
from prefeval.reports.judge.audit import Audit
from prefeval.reports.quantities import Number, missing
from prefeval.reports.tables import Footnotes, shown

LEAD = (
    "What the saved verdicts say about the judge that made them, with 95% intervals clustered by"
    " prompt; n is comparisons, lengths are in characters."
)
RATES = (
    ("win_rate", "win rate", "mean preference; of the reference against itself it should be 50"),
    ("flip_rate", "order changes the winner", "the two orders of one comparison disagree"),
    ("first_position_rate", "shown first", "mean preference for the first answer; fair is 50"),
    ("tie_rate", "ties", "verdicts of exactly one half, each order by itself"),
    (
        "unread_rate",
        "no verdict",
        "comparisons of which an order could not be read; where there is none, the interval counts"
        " each cluster of prompts once",
    ),
    ("prefers_longer", "prefers the longer", "where the lengths differ and there is a winner"),
)
HELD_OUT = (
    ("accuracy", "held-out pairs: agrees", "scores the preferred answer higher"),
    ("accuracy_chosen_shorter", "… preferred is the shorter", "a judge of length alone gets 0"),
    ("accuracy_chosen_longer", "… preferred is the longer", "a judge of length alone gets 100"),
    ("length_accuracy", "… “the longer wins” agrees", "what the rule without a judge would reach"),
)
ORACLE = (
    ("agreement", "oracle: agrees", "where the oracle has a winner"),
    ("kappa", "… Cohen’s κ, −1 to 1", "agreement beyond chance; near 0 where verdicts are alike"),
    ("longer_though_worse", "… picks the longer, worse", "of those whose shorter answer is better"),
    ("shorter_though_worse", "… picks the shorter, worse", "of those whose longer one is better"),
)
DRAWN = (
    "By the policy's distance from the reference: every checkpoint with its 95% interval, large"
    " marks for the chosen one of each β, lines in training order. The liking for length moves with"
    " the policy too: longer and better answers raise it, short and broken ones lower it; and the"
    " order changes fewer winners where the answers differ more."
)
FALLS = " Agreement that falls to the right is a judge that gets worse as training goes on."
ONE_EACH = "every checkpoint has its own: see the table of checkpoints"


def section(audit: Audit) -> dict[str, Any]:
    """The records of the page's section."""
    notes = Footnotes()
    columns = ({**audit.policies, "win_rate": missing(ONE_EACH)}, audit.itself)
    rates = [
        {"name": said, "title": title, "cells": [_cell(c[key], notes) for c in columns]}
        for key, said, title in RATES
    ]
    known = [
        {"name": said, "title": title, "cell": _cell(values[key], notes, 1 + (key == "kappa"))}
        for values, rows in ((audit.held_out, HELD_OUT), (audit.oracle, ORACLE))
        for key, said, title in _worth_showing(values, rows)
    ]
    return {
        "name": audit.name or "The judge is not named in the manifest",
        "kind": judge_words.kind(audit),
        "settings": audit.argument.replace(",", ", "),
        "caveat": judge_words.capital(audit.caveat),
        "lead": LEAD,
        "sources": judge_words.SOURCES,
        "sentences": judge_words.sentences(audit),
        "rates": rates,
        "known": known,
        "footnotes": notes.items,
        "drawn": DRAWN + (FALLS if audit.has_oracle else ""),
    }


def _worth_showing(
    values: Mapping[str, Number], rows: tuple[tuple[str, str, str], ...]
) -> tuple[tuple[str, str, str], ...]:
    """All rows, or the first alone where nothing is known: its dash says why."""
    return rows if any(v.known for v in values.values()) else rows[:1]


def _cell(number: Number, notes: Footnotes, digits: int = 1) -> dict[str, Any]:
    found = shown(number, notes, digits, ci=True)
    return {"value": found, "n": f"n = {number.n:,}" if number.known and number.n else ""}
