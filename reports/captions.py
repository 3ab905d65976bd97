"""One line under each heading of the page: what is drawn, its units, n, and how to read it."""

from __future__ import annotations

import math

from prefeval.reports.charts.dynamics import COLLAPSE, bends, chosen_length
from prefeval.reports.costs import ESTIMATE
from prefeval.reports.methods import LEAD
from prefeval.reports.quantities import fixed
from prefeval.reports.run import Run
from prefeval.reports.samples import MAX_CHARACTERS, Pack
from prefeval.reports.turning import turning_points
from prefeval.reports.verdict import Verdict


def captions(run: Run, verdict: Verdict, packed: Pack) -> dict[str, str]:
    """The captions by section."""
    sizes = [size for c in run.checkpoints if (size := c.get("lc_win_rate").n)]
    n = f"n = {max(sizes)} prompts" if sizes else "n unknown"
    cut = f" {packed.cut} texts are cut at {MAX_CHARACTERS} characters." if packed.cut else ""
    return {
        "frontier": (
            f"Every checkpoint, 95% intervals, {n}. Large marks: the chosen checkpoint of each β"
            " (labelled); small: the others, joined in training order. Dotted: Pareto line of the"
            " point estimates. Up and to the left is better."
            + "".join(f" {sentence}." for sentence in turning_points(run))
        ),
        "window": (
            "Chosen checkpoint of each β in full with 95% intervals, the others faint;"
            f" {n}. Shaded: usable β. KL on a log axis; retention is the behaviour that lost"
            " most, in points."
        ),
        "dynamics": (
            "Change of log-probability from the reference on chosen and rejected answers. Lines:"
            " training batches, averaged over neighbouring steps; marks: held-out pairs. A falling"
            " Δchosen alone is common; shaded is severe displacement,"
            f" below {fixed(COLLAPSE, 1)} nats/token{_limit(run)}.{bends(run)}"
        ),
        "positions": (
            "Where in an answer the policy leaves its reference: full-vocabulary KL by token of the"
            f" policy's own samples, means over stretches that double, 95% intervals; {n}. A peak"
            " at the first token is a new way to begin."
        ),
        "length": (
            "Under the diagonal, a checkpoint wins more than its quality at equal length explains."
            " Ratios are mean tokens, policy over reference; 95% intervals on chosen checkpoints;"
            f" {n}.{estimator(run)}"
        ),
        "retention": (
            "Change against the reference in points, same prompts, greedy answers; below it its"
            " 95% interval and the share that passes. ▼ shown worse by more than"
            f" {verdict.margin:g} points, * shown different from 0 (both Holm-corrected over"
            " behaviours, 5%)."
        ),
        "diagnosis": _diagnosis(run),
        "methods": LEAD,
        "costs": f"{ESTIMATE} Seconds and memory are of the machine that ran the sweep.",
        "checkpoints": (
            "Click a heading to sort. Intervals are 95%, over all prompts; they cover prompts, not"
            " training seeds."
        ),
        "samples": (
            f"{_embedded(packed)} Samples at temperature 1 are judged, greedy answers checked.{cut}"
        ),
        "manifest": "What was run, on what, with which versions: enough to run it again.",
    }


def _embedded(packed: Pack) -> str:
    """How many of a run's completions the page holds."""
    if packed.shown == packed.total:
        return f"All {packed.total:,} judged or checked completions are in this file."
    return (
        f"{packed.shown:,} of {packed.total:,} judged or checked completions are in this file: from"
        " every checkpoint some of each kind below, the rest picked by hash; of the recommended"
        " checkpoint most."
    )


def estimator(run: Run) -> str:
    """Which length-controlled rate this is, as the run saved it."""
    saved = run.selection.get("estimator")
    return f" LC WR is {saved}." if saved else ""


def _limit(run: Run) -> str:
    """The edge of the collapse zone in nats/sequence, at the pairs' mean length."""
    length = chosen_length(run)
    if not math.isfinite(length):
        return ""
    return f" ({fixed(COLLAPSE * length, 1)} nats/sequence at a mean of {fixed(length, 0)} tokens)"


def _diagnosis(run: Run) -> str:
    found = run.summary.get("diagnosis")
    if not isinstance(found, dict):
        return "This run was concluded before there were diagnoses; `prefeval score` makes one."
    if not found.get("findings"):
        return (
            "Nothing was found among what could be checked, at the last checkpoint of each trial."
        )
    return (
        "Of each trial's last checkpoint, the most likely cause first. A condition holds when the"
        " value and its 95% interval are beyond the threshold. Confidence is a judgment of how"
        " directly the signals show the cause, not a measured probability."
    )
