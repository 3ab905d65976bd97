"""What cheap features predict of a file's labels, and what follows for length, style and noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from prefeval.metrics import held_out, label_noise, stats
from prefeval.metrics.data import features as data_features
from prefeval.metrics.data.findings import Finding, finding
from prefeval.metrics.data.rows import clusters_of, labels_of
from prefeval.metrics.stats import Array, Estimate

FEW_PROMPTS = 20  # below which nothing is predicted out of sample
SUSPECTS = 20


def predicted(
    frame: pd.DataFrame, trusted: pd.DataFrame | None, *, seed: int
) -> tuple[list[Finding], tuple[str, ...]]:
    """What length, style and words predict of the labels out of sample, and what follows of noise.

    Trusted rows join the folds, so both parts are scored by models that saw neither's label.
    """
    pairs = "chosen" in frame
    both = frame if trusted is None else pd.concat([frame, trusted], ignore_index=True)
    known = np.arange(len(both)) >= len(frame)
    labels, clusters = labels_of(both), clusters_of(both)
    why = ""
    if np.ptp(labels[~known]) == 0 and not pairs:
        why = "labels of one kind only"
    elif len(np.unique(clusters[~known])) < FEW_PROMPTS:
        why = f"fewer than {FEW_PROMPTS} prompts: too few to predict labels out of sample"
    if why:
        return [finding("noise", "labels_predicted", stats.undefined(why, len(frame)), why)], ()
    features = (data_features.of_pairs if pairs else data_features.of_thumbs)(both)

    def scored(*blocks: str) -> held_out.Scored:
        x = data_features.design(features, blocks, centred=not pairs)
        return held_out.out_of_fold(x, labels, clusters, seed=seed)

    own, y = clusters[~known], labels[~known]
    everywhere = scored("length", "style", "words")
    by_length, by_style = (scored(*b).rows(~known) for b in (["length"], ["length", "style"]))
    by_all = everywhere.rows(~known)
    length, style, all_ = (held_out.ranked(s, y, own) for s in (by_length, by_style, by_all))
    found = [
        finding(
            "length", "length_predicts", length.estimate,
            "AUC of length alone on labels it was not fitted to; 0.5 is chance", unit="AUC",
        ),
        finding(
            "length", "length_accuracy", held_out.accuracy(by_length.scores, y, own),
            "of labels are told from length alone, out of sample",
        ),
        finding(
            "style", "style_adds", held_out.gain(style, length, own),
            "AUC that headings, lists, bold, code, hedges and refusals add to length", unit="AUC",
        ),
        finding(
            "noise", "labels_predicted", all_.estimate,
            "AUC of length, style and words together, out of sample", unit="AUC",
        ),
    ]  # fmt: skip
    found.append(_at_most(by_all.scores, y, own))
    if trusted is not None:
        rate = label_noise.beside_trusted(everywhere.scores, labels, clusters, known)
        says = "flip rate over that of the trusted labels"
        found.append(finding("noise", "noise_beside_trusted", rate, says))
    places = label_noise.suspects(by_all.scores, y, SUSPECTS)
    return found, tuple(frame["id"].iloc[places].astype(str))


def _at_most(scores: Array, labels: Array, clusters: Any) -> Finding:
    bound = label_noise.at_most(scores, labels, clusters)
    says = (
        f"is the flip rate at most, if flips ignore the pair: {bound.disagreement:.0%} of the "
        f"surest {bound.n} labels are not as predicted"
    )
    value = Estimate(bound.high, math.nan, math.nan, math.nan, bound.n, bound.reason)
    return finding("noise", "noise_at_most", value, says)
