"""What a run's saved verdicts say about its judge: records that the page and the text show.

Rates over all checkpoints are clustered by prompt, because the checkpoints answer the same prompts.
Each file of verdicts is read once; one that breaks a rule is left out and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from prefeval.metrics import judge_audit as estimators
from prefeval.metrics import stats
from prefeval.metrics.evidence import PREFERENCES, Evidence
from prefeval.metrics.judge import flips, judge, longer_wins
from prefeval.records import MetricResult, PrefevalError
from prefeval.reports.charts.frontier import sqrt_kl
from prefeval.reports.files import as_float, read_object, read_rows
from prefeval.reports.labels import name
from prefeval.reports.quantities import Number, missing
from prefeval.reports.run import CheckpointRow, Key, Run

NEEDED = ("cluster", *PREFERENCES, "true_preference", "len_output", "len_baseline")
NOT_CHECKED = "not checked on held-out pairs: only a judge that the sweep trains itself is"
NOT_JUDGED = "no verdict was saved"
NO_SELF_PLAY = "the reference was not judged against fresh samples of itself"
HELD_OUT = ("accuracy", "accuracy_chosen_shorter", "accuracy_chosen_longer", "length_accuracy")
LEAST = 4
"""Checkpoints of which two halves say something about distance."""


@dataclass(frozen=True)
class Trend:
    """A rate in the half of the checkpoints nearer to the reference (by KL), in the farther one,
    and the farther less the nearer in points."""

    near: Number
    far: Number
    change: Number


@dataclass(frozen=True)
class Audit:
    """A judge's name and what its verdicts show; rates in percent, kappa from -1 to 1.

    ``policies`` are over all checkpoints against the reference, ``itself`` over the reference's
    fresh samples against its own answers (A/A), ``checkpoints`` those that a chart draws.
    """

    name: str
    argument: str
    caveat: str
    held_out: Mapping[str, Number]
    policies: Mapping[str, Number]
    itself: Mapping[str, Number]
    oracle: Mapping[str, Number]
    checkpoints: Mapping[Key, Mapping[str, Number]]
    trend: Trend | None
    detectable: Number
    problems: tuple[str, ...] = field(default=())

    @property
    def has_oracle(self) -> bool:
        """Whether the truth is known."""
        return self.oracle["agreement"].known


def read(run: Run) -> Audit:
    """The audit of a run's judge, from its manifest and its files of verdicts."""
    saved = run.manifest.get("judge")
    saved = saved if isinstance(saved, Mapping) else {}
    problems: list[str] = []
    evidence = _policies(run, problems)
    judged = _placed(evidence.judgments)
    oracle = estimators.against_oracle(judged, rng=np.random.default_rng(0))
    outcome = "agreement" if oracle[0].n else "prefers_longer"
    return Audit(
        name=str(saved.get("name") or ""),
        argument=str(saved.get("settings") or "").partition(":")[2],
        caveat=str(saved.get("caveat") or ""),
        held_out=_held_out(run, saved, problems),
        policies=_rates(evidence, NOT_JUDGED),
        itself=_self_play(run, problems),
        oracle={m.name: _number(m) for m in oracle},
        checkpoints=_each(judged, run.checkpoints),
        trend=_trend(judged, run.checkpoints, outcome),
        detectable=_detectable(run.checkpoints),
        problems=tuple(problems),
    )


def distance(row: CheckpointRow) -> float:
    """√KL from the reference in √nats per sequence, as on the frontier; NaN when unknown."""
    found = sqrt_kl(row)[0]
    return found if found >= 0 else math.nan


def _number(found: MetricResult | stats.Estimate) -> Number:
    return Number(found.value, found.ci_low, found.ci_high, found.n, found.reason)


def _rates(judged: Evidence, none: str) -> dict[str, Number]:
    """The audit that every checkpoint gets, over many of them."""
    found = judge(judged, rng=np.random.default_rng(0))
    if judged.judgments.empty:
        return {m.name: missing(none) for m in found}
    return {m.name: _number(m) for m in found}


def _policies(run: Run, problems: list[str]) -> Evidence:
    """All verdicts on checkpoints; ids begin with the checkpoint's place in the run."""
    paths = {i: c.folder / "judgments.jsonl" for i, c in enumerate(run.checkpoints) if c.folder}
    rows = ((place, row) for place, path in paths.items() for row in read_rows(path, problems))
    return _pooled(rows, lambda place: name(run.checkpoints[place].key, seeds=True), problems)


def _self_play(run: Run, problems: list[str]) -> dict[str, Number]:
    """The reference against itself: the same rates, and the win rate, which should be 50."""
    saved = read_rows(run.folder / "reference" / "self_play.jsonl", problems)
    rows = ((row.get("replicate", 1), row) for row in saved)
    judged = _pooled(rows, lambda place: f"self-play, sample {place}", problems)
    rates = _rates(judged, NO_SELF_PLAY)
    read = judged.judgments[judged.judgments["preference"].notna()]
    if read.empty:  # the verdict keeps the rate where the verdicts themselves are gone
        kept = run.selection.get("self_play")
        found = _saved(kept) if isinstance(kept, Mapping) else missing(NO_SELF_PLAY)
        return rates | {"win_rate": found}
    mean = stats.bounded_mean(read["preference"], read["cluster"].to_numpy())
    return rates | {"win_rate": _number(mean.scaled(100))}


def _pooled(
    rows: Iterable[tuple[Any, Mapping[str, Any]]],
    called: Callable[[Any], str],
    problems: list[str],
) -> Evidence:
    """Checked verdicts of several files, each row with its file's place; a broken one is named."""
    frame = _frame(rows)
    try:
        return _checked(frame)
    except PrefevalError:
        sound = []
        for place, part in frame.groupby("place", sort=False):
            try:
                Evidence(judgments=part)
                sound.append(part)
            except PrefevalError as error:
                problems.append(f"{called(place)} is left out of the judge's audit: {error}")
        return _checked(pd.concat(sound) if sound else frame[:0])


def _frame(rows: Iterable[tuple[Any, Mapping[str, Any]]]) -> pd.DataFrame:
    """With the columns that ``Evidence`` asks for; a prompt without a cluster is its own."""
    frame = pd.DataFrame(
        [[place, str(row.get("prompt_id")), *map(row.get, NEEDED)] for place, row in rows],
        columns=["place", "prompt_id", *NEEDED],
    )
    alone = frame["cluster"].isna() | (frame["cluster"] == "")
    frame["cluster"] = frame["cluster"].where(~alone, frame["prompt_id"])
    return frame.assign(behaviour="", difficulty=0.0)


def _checked(frame: pd.DataFrame) -> Evidence:
    """As evidence; ids get the place before them, because checkpoints answer the same prompts."""
    pairs = zip(frame["place"], frame["prompt_id"], strict=True)
    return Evidence(judgments=frame.assign(prompt_id=[f"{p}/{i}" for p, i in pairs]))


def _placed(judgments: pd.DataFrame) -> pd.DataFrame:
    """With ``place`` in the run's checkpoints, and the clusters as numbers, which sort faster."""
    codes = stats.cluster_codes(judgments["cluster"].to_numpy(), len(judgments))
    place = [int(i.partition("/")[0]) for i in judgments["prompt_id"]]
    return judgments.assign(place=np.array(place, dtype=int), cluster=codes)


def _each(judged: pd.DataFrame, rows: Sequence[CheckpointRow]) -> dict[Key, dict[str, Number]]:
    """What a chart draws of every checkpoint."""
    outcomes = {
        "agreement": estimators.agrees(judged),
        "prefers_longer": longer_wins(judged),
        "flip_rate": flips(judged),
    }
    codes, place = judged["cluster"].to_numpy(), judged["place"].to_numpy()
    found: dict[Key, dict[str, Number]] = {}
    for at in np.unique(place):
        mine = place == at
        found[rows[at].key] = {
            what: _number(estimators.share(outcome[mine], codes[mine], NOT_JUDGED))
            for what, outcome in outcomes.items()
        }
    return found


def _trend(judged: pd.DataFrame, rows: Sequence[CheckpointRow], what: str) -> Trend | None:
    """A rate in both halves of the checkpoints; None for too few to halve."""
    away = {at: distance(rows[at]) for at in np.unique(judged["place"])}
    order = sorted((at for at in away if math.isfinite(away[at])), key=lambda at: (away[at], at))
    if len(order) < LEAST:
        return None
    outcome = estimators.agrees(judged) if what == "agreement" else longer_wins(judged)
    codes = judged["cluster"].to_numpy()
    far = judged["place"].isin(order[len(order) // 2 :]).to_numpy()
    near = judged["place"].isin(order[: len(order) // 2]).to_numpy()
    both = near | far
    return Trend(
        _number(estimators.share(outcome[near], codes[near], NOT_JUDGED)),
        _number(estimators.share(outcome[far], codes[far], NOT_JUDGED)),
        _number(estimators.change(outcome[both], far[both], codes[both])),
    )


def _held_out(run: Run, saved: Mapping[str, Any], problems: list[str]) -> dict[str, Number]:
    """How often a trained judge agrees with pairs that it never saw: its own audit, else what the
    manifest keeps of it."""
    path = run.folder / "judge" / "audit.json"
    audit = read_object(path, problems).get("audit") if path.exists() else None
    if isinstance(audit, Mapping):
        rows = {key: audit.get(key) for key in HELD_OUT}
        return {k: _saved(r) if isinstance(r, Mapping) else missing("") for k, r in rows.items()}
    found = dict.fromkeys(HELD_OUT, missing(NOT_CHECKED))
    accuracy = as_float(saved.get("held_out_accuracy"))
    if math.isfinite(accuracy):
        gone = "judge/audit.json is not in this folder"
        found = dict.fromkeys(HELD_OUT, missing(gone)) | {"accuracy": Number(100 * accuracy)}
    return found


def _saved(row: Mapping[str, Any]) -> Number:
    low, high, n = (as_float(row.get(k)) for k in ("ci_low", "ci_high", "n"))
    n_known = int(n) if math.isfinite(n) else None
    return Number(as_float(row.get("value")), low, high, n_known, str(row.get("reason") or ""))


def _detectable(rows: Sequence[CheckpointRow]) -> Number:
    """The median over checkpoints of the distance from 50 that their verdicts show."""
    known = [n for c in rows if (n := c.get("win_rate_detectable")).known]
    if not known:
        return missing("not measured in this run")
    return Number(float(np.median([n.value for n in known])), n=known[0].n)
