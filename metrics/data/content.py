"""What the answers of a preference file are like: how far apart, how long, how many of a kind."""

from __future__ import annotations

import numpy as np
import pandas as pd

from prefeval.metrics import stats
from prefeval.metrics.data import features as data_features
from prefeval.metrics.data import text as data_text
from prefeval.metrics.data.findings import Finding, finding
from prefeval.metrics.data.rows import clusters_of, labels_of
from prefeval.metrics.stats import Estimate

NEAR_IDENTICAL, LOW_CONTRAST = 0.9, 0.7  # similarity in words
FEW_MARKED = 20  # answers, below which nothing is said of a mark of style
MOST_RATIO = 4 / 3
"""KTO's ratio of liked to disliked answers, weighted, lies between 1 and this (Ethayarajh et al.
2024, section 4.2); the weights are those of ``minitrainers.kto.suggest_weights``."""


def contrast(frame: pd.DataFrame) -> list[Finding]:
    """How far apart the two answers of a pair are."""
    alike = np.asarray(
        [data_text.similarity(a, b) for a, b in zip(frame.chosen, frame.rejected, strict=True)]
    )
    clusters = clusters_of(frame)
    says = "of pairs differ in at most {:.0%} of their words: DPO may lower both answers there"
    return [
        finding(
            "contrast", name, stats.proportion(alike >= least, clusters),
            says.format(1 - least),
        )
        for name, least in (
            ("near_identical_pairs", NEAR_IDENTICAL), ("low_contrast_pairs", LOW_CONTRAST)
        )
    ]  # fmt: skip


def lengths(frame: pd.DataFrame) -> list[Finding]:
    """Which answer is the longer one, in characters; equal ones count half."""
    chosen, rejected = (frame[side].str.len().to_numpy(float) for side in ("chosen", "rejected"))
    clusters = clusters_of(frame)
    longer = (1 + np.sign(chosen - rejected)) / 2
    ratio = stats.ratio_of_means(chosen, rejected, clusters, log_scale=True)
    return [
        finding(
            "length", "longer_chosen", stats.bounded_mean(longer, clusters),
            "of pairs prefer the longer answer",
        ),
        finding(
            "length", "length_ratio", ratio,
            "characters of chosen answers over those of rejected ones", unit="times",
        ),
    ]  # fmt: skip


def classes(frame: pd.DataFrame) -> list[Finding]:
    """Thumbs: how many of each kind, the weights that even them out, and how long each is."""
    liked = frame["desirable"].to_numpy(bool)
    share = stats.proportion(liked, clusters_of(frame))
    found = [finding("classes", "liked", share, "of answers are liked")]
    up, down = int(liked.sum()), int((~liked).sum())
    if not (up and down):
        says = f"all thumbs are {'up' if up else 'down'}: nothing to learn from; add the other kind"
        return [*found, Finding("classes", "one_class", 1.0, len(frame), says, level="error")]
    ratio, length = up / down, frame["completion"].str.len().to_numpy(float)
    off = max(0.0, 1 / ratio - 1, ratio / MOST_RATIO - 1)
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.0}
    if off:
        weights = {"desirable_weight": max(1, 1 / ratio), "undesirable_weight": max(1, ratio)}
    says = f"liked over disliked is {ratio:.3g}, and KTO wants [1, 4/3]: how far it is off"
    found.append(finding("classes", "class_ratio_off", off, says, n=len(frame)))
    for name, value in weights.items():
        says = f"--{name.replace('_', '-')} that makes both kinds pull alike"
        found.append(finding("classes", name, value, says, n=len(frame), unit="times"))
    times = float(length[liked].mean() / length[~liked].mean())
    says = "characters of liked answers over those of disliked ones"
    return [*found, finding("length", "length_ratio", times, says, n=len(frame), unit="times")]


def style(frame: pd.DataFrame) -> list[Finding]:
    """Which marks of style the preferred answers have more of, where enough answers have any."""
    pairs, labels, clusters = "chosen" in frame, labels_of(frame), clusters_of(frame)
    counts = (data_features.of_pairs if pairs else data_features.of_thumbs)(frame, words=False)
    found = []
    for mark, more in zip(data_features.MARKS, counts.style.T, strict=True):
        differ = more != 0
        if differ.sum() < FEW_MARKED:
            continue
        if pairs:
            share = stats.proportion(more[differ] > 0, clusters[differ])
            says = f"of pairs whose answers differ in {mark} prefer the one with more"
        else:
            share = stats.proportion(labels[differ] > 0, clusters[differ])
            says = f"of answers with {mark} are liked, and {(labels > 0).mean():.0%} of all"
        found.append(finding("style", f"more_{mark}", share, says))
    return found


def behaviour(frame: pd.DataFrame) -> list[Finding]:
    """Refusals and tool calls: how many there are, and what the labels say about them."""
    found = []
    clusters = clusters_of(frame)
    for what, does, doing in (
        ("refuses", "refuses", "refusing"), ("calls", "calls tools", "calling tools")
    ):  # fmt: skip
        if "chosen" in frame:
            yes, no = (frame[f"{s}_{what}"].to_numpy(bool) for s in ("chosen", "rejected"))
            sides = {"chosen": (yes, clusters), "rejected": (no, clusters)}
            differ, preferred, even = yes != no, yes, 0.5
            told = f"of pairs of which one answer {does} prefer that one"
        else:
            flags, liked = (frame[c].to_numpy(bool) for c in (f"completion_{what}", "desirable"))
            sides = {
                "liked": (flags[liked], clusters[liked]),
                "disliked": (flags[~liked], clusters[~liked]),
            }
            differ, preferred, even = flags, liked, float(liked.mean())
            told = f"of the answers {doing} are liked, and {100 * even:.0f}% of all"
        for side, (flags, group) in sides.items():
            share = stats.proportion(flags, group)
            says = f"of {side} answers: {doing}"
            found.append(finding("behaviour", f"{side}_{what}", share, says))
        if differ.any():
            learned = stats.proportion(preferred[differ], clusters[differ])
            says = f"{told}: {_lesson(learned, even)} {doing}"
            found.append(finding("behaviour", f"teaches_{what}", learned, says))
    return found


def _lesson(learned: Estimate, even: float) -> str:
    if learned.ci_low > even:
        return "the file teaches"
    return "the file unteaches" if learned.ci_high < even else "the file does not tell about"
