"""What a preference file holds and how sound it is, from a frame of its rows: no model, no files.

Frames of pairs have the columns ``id, prompt, chosen, rejected, turns, cluster`` and, for both
answers, ``chosen_refuses, chosen_calls, rejected_refuses, rejected_calls`` (booleans); frames of
thumbs ``completion, desirable, completion_refuses, completion_calls`` in place of the answers.
Findings and their thresholds: ``data_findings``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from prefeval.metrics import label_noise, stats
from prefeval.metrics.data import content as data_content
from prefeval.metrics.data import text as data_text
from prefeval.metrics.data.findings import Finding, finding
from prefeval.metrics.data.predicted import predicted
from prefeval.metrics.data.rows import clusters_of, groups_of, orders_of, texts_of
from prefeval.metrics.stats import Array

MARKS = (
    r"<\|(?:im_start|im_end|endoftext|eot_id|begin_of_text|start_header_id|end_header_id|user|"
    r"assistant|system|end)\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|start_of_turn|end_of_turn)>|"
    r"\n\n(?:Human|Assistant):"
)


@dataclass(frozen=True)
class Audit:
    """The findings of a frame, and the rows whose labels the held-out predictor doubts most."""

    findings: tuple[Finding, ...]
    suspects: tuple[str, ...] = ()


def audit(
    frame: pd.DataFrame,
    some: pd.DataFrame | None = None,
    *,
    trusted: pd.DataFrame | None = None,
    seed: int = 0,
) -> Audit:
    """Everything that needs no model, of pairs or thumbs.

    ``frame`` is counted; ``some`` of its rows (all if None) are what estimates rest on, and need
    the columns of refusals and calls alone. ``trusted`` is a frame like ``some`` whose labels are
    believed: with it the noise of ``frame`` is estimated; without, it is bounded. ``seed`` draws
    the folds.
    """
    some = frame if some is None else some
    pairs = "chosen" in frame
    measured = (
        [*data_content.contrast(some), *data_content.lengths(some)]
        if pairs
        else data_content.classes(frame)
    )
    foretold, doubted = predicted(some, trusted, seed=seed)
    groups, labels = groups_of(frame), orders_of(frame)
    noise = [
        finding(
            "noise", "noise_at_least", label_noise.contradictions(groups, labels),
            "of labels must be wrong: the same answers stand there with the other label too",
        ),
        finding(
            "noise", "noise_retest", label_noise.retest(groups, labels),
            "flip rate from pairs that were labelled twice",
        ),
    ]  # fmt: skip
    found = (*_prompts(frame), *_copies(frame, groups, labels), *_marks(frame), *measured)
    return Audit(
        (*found, *data_content.style(some), *data_content.behaviour(some), *noise, *foretold),
        doubted,
    )


def _prompts(frame: pd.DataFrame) -> list[Finding]:
    """How often prompts come back, and how many are conversations."""
    times = frame["prompt"].map(data_text.normalised).map
    known = frame["prompt"].map(data_text.normalised).value_counts()
    shared = (times(known) > 1).to_numpy()
    clusters = clusters_of(frame)
    return [
        finding(
            "prompts", "prompts_shared", stats.proportion(shared, clusters),
            "of rows share their prompt with another row: intervals go by prompt",
        ),
        finding(
            "prompts", "multi_turn", stats.proportion(frame["turns"] > 1, clusters),
            "of rows have more than one turn of the user",
        ),
    ]  # fmt: skip


def _copies(frame: pd.DataFrame, groups: Any, labels: Array) -> list[Finding]:
    """Rows that are there already, whole or nearly; and those with the opposite label."""
    columns = ["prompt", *texts_of(frame)]
    plain = frame[columns].map(data_text.normalised)
    n, exact = len(frame), plain.assign(label=labels).duplicated().to_numpy()
    opposed = pd.Series(labels).groupby(groups).transform("nunique").to_numpy() > 1
    texts = [tuple(row) for row in frame[columns].itertuples(index=False)]
    near = (data_text.near_duplicates(texts) >= 0) & ~pd.Series(groups).duplicated().to_numpy()
    return [
        finding(
            "copies", "exact_duplicates", float(exact.mean()), n=n,
            says="of rows repeat an earlier row, case and spaces aside: drop them",
        ),
        finding(
            "copies", "near_duplicates", float(near.mean()), n=n,
            says="of rows nearly repeat an earlier one (Jaccard of three words >= 0.8)",
        ),
        finding(
            "copies", "contradicting_labels", float(opposed.mean()), n=n,
            says="of rows have the same answers as another row and the opposite label",
        ),
    ]  # fmt: skip


def overlap(frame: pd.DataFrame, other: pd.DataFrame) -> Finding:
    """Share of the prompts of ``other`` (held out) that ``frame`` trains on."""
    known = set(frame["prompt"].map(data_text.normalised))
    asked = other["prompt"].map(data_text.normalised).drop_duplicates()
    return finding(
        "copies", "prompts_held_out_too", float(asked.isin(known).mean()), n=len(asked),
        says="of held-out prompts stand in the training file: what is measured there was seen",
    )  # fmt: skip


def _marks(frame: pd.DataFrame) -> list[Finding]:
    """Marks of chat templates within answers: a template was applied before, or cut badly."""
    texts = [frame[name].str.contains(MARKS, regex=True) for name in texts_of(frame)]
    share = float(np.logical_or.reduce(texts).mean())
    says = "of rows have a chat template's marks within an answer (<|im_end|>, </s>, [INST], ...)"
    return [finding("template", "template_marks", share, says, n=len(frame))]
