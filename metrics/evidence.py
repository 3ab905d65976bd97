"""What one checkpoint's metrics are computed from: five frames, checked once, sorted by id.

A metric never sees a duplicate id, a missing column, a preference outside [0, 1] or a NaN where
none can be: ``Evidence`` refuses them by name when it is made. NaN has a meaning in two places
only: a preference that the judge's answer did not yield, and a true preference without an oracle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from prefeval.metrics import style
from prefeval.metrics.calibration import Calibration
from prefeval.records import PrefevalError


@dataclass(frozen=True)
class Schema:
    """The columns of one frame: what identifies a row, and what each number may be."""

    ids: tuple[str, ...]
    text: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()  # in [0, 1]
    binary: tuple[str, ...] = ()  # 0 or 1
    counts: tuple[str, ...] = ()  # >= 0
    positive: tuple[str, ...] = ()  # >= 1
    real: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()  # those of the above that may be NaN
    extra: tuple[str, ...] = ()  # further numbers, that a frame may do without

    @property
    def numbers(self) -> tuple[str, ...]:
        """Every numeric column."""
        return self.shares + self.binary + self.counts + self.positive + self.real

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column."""
        return self.ids + self.text + self.numbers

    def present(self, frame: pd.DataFrame) -> tuple[str, ...]:
        """Every column that a frame has, the needed ones first."""
        return (*self.columns, *(c for c in self.extra if c in frame.columns))


PREFERENCES = ("preference", "preference_first", "preference_second")
PASSED = ("passed", "ref_passed")
LOOSE = ("passed_loose", "ref_passed_loose")
SCHEMAS: Mapping[str, Schema] = {
    "judgments": Schema(
        ids=("prompt_id",),
        text=("cluster", "behaviour"),
        shares=(*PREFERENCES, "true_preference"),
        counts=("len_output", "len_baseline"),
        real=("difficulty",),
        unread=(*PREFERENCES, "true_preference"),
        extra=style.COLUMNS,
    ),
    "samples": Schema(
        ids=("prompt_id",),
        text=("cluster", "behaviour"),
        binary=("ended", "ref_ended"),
        counts=("n_tokens", "ref_n_tokens"),
        real=("kl", "k1", "entropy"),
        extra=("k2", "k3", "forward_kl", "logps", "ref_logps"),
    ),
    "pairs": Schema(
        ids=("pair_id",),
        text=("cluster",),
        positive=("chosen_lengths", "rejected_lengths"),
        real=("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"),
        extra=("ref_ches",),
    ),
    "checks": Schema(
        ids=("prompt_id",),
        text=("cluster", "behaviour"),
        binary=PASSED,
        extra=LOOSE,
        unread=(*PASSED, *LOOSE),
    ),
    "sampled": Schema(
        ids=("prompt_id", "index"),
        text=("cluster", "behaviour"),
        binary=PASSED,
        extra=LOOSE,
        unread=(*PASSED, *LOOSE),
    ),
    "diverse": Schema(ids=("prompt_id", "index"), text=("text", "ref_text")),
}


CLUSTERED = tuple(name for name, schema in SCHEMAS.items() if "cluster" in schema.text)


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class Evidence:
    """The measurements of one checkpoint against the reference, one row a prompt or pair.

    judgments: prompt_id, cluster, behaviour, preference (probability that the policy beats the
        reference, mean of both orders), preference_first (policy shown first), preference_second
        (policy shown second; also that the policy wins), true_preference (the lab's oracle),
        len_output, len_baseline (in the calibration's unit), difficulty (logit, frozen
        before the run; 0 if unknown), and the counts of ``style.COLUMNS`` if known. NaN
        preferences are verdicts that could not be read.
    samples: prompt_id, cluster, behaviour, kl and k1 (nats/sequence, on the policy's own sample
        at temperature 1), if known k2 and k3 (sums of each token's), forward_kl (nats/sequence, on
        the reference's sample), logps and ref_logps (nats/sequence); n_tokens, ref_n_tokens,
        ended, ref_ended, entropy (nats/token).
    pairs: pair_id, cluster, {,ref_}{chosen,rejected}_logps (nats/sequence),
        {chosen,rejected}_lengths (tokens), if known ref_ches (length-normalised, of the
        reference).
    checks: prompt_id, cluster, behaviour, passed, ref_passed (0 or 1; greedy answers; NaN where
        the check raised, which `checked` leaves out), and the
        same with ``_loose`` behind it if known (`suites.checks.loosened`; NaN without one).
    sampled: as checks, with index: K samples a prompt at temperature 1.
    diverse: prompt_id, index, text, ref_text (K samples a prompt).

    An empty cluster means that the row is its own. A frame left out is empty. ``calibration``
    holds what length control freezes before a run. Raises ``PrefevalError`` naming the column
    and the ids of what is wrong.
    """

    judgments: pd.DataFrame = field(default_factory=_empty)
    samples: pd.DataFrame = field(default_factory=_empty)
    pairs: pd.DataFrame = field(default_factory=_empty)
    checks: pd.DataFrame = field(default_factory=_empty)
    sampled: pd.DataFrame = field(default_factory=_empty)
    diverse: pd.DataFrame = field(default_factory=_empty)
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        for name, schema in SCHEMAS.items():
            object.__setattr__(self, name, _checked(getattr(self, name), name, schema))
        _check_mean_of_orders(self.judgments)

    @property
    def clusters(self) -> set[str]:
        """All clusters of all frames."""
        return {str(c) for name in CLUSTERED for c in getattr(self, name)["cluster"]}

    def restrict(self, clusters: Collection[str]) -> Evidence:
        """Only the rows of these clusters (``diverse`` has none and goes)."""
        keep = set(clusters)
        frames = {
            name: frame[frame["cluster"].isin(keep)]
            for name in CLUSTERED
            if len(frame := getattr(self, name))
        }
        return replace(self, diverse=_empty(), **frames)


def checked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``checks`` or ``sampled`` without the prompts on which a check raised: such a
    prompt says nothing of either model, and is left out of both."""
    raised = rows.loc[rows[list(PASSED)].isna().any(axis=1), "prompt_id"]
    return rows[~rows["prompt_id"].isin(raised)]


def _names(values: Sequence[object]) -> str:
    shown = ", ".join(str(v) for v in values[:3])
    return shown + (f" and {len(values) - 3} more" if len(values) > 3 else "")


def _checked(frame: pd.DataFrame, name: str, schema: Schema) -> pd.DataFrame:
    """The frame with its schema's columns and types, sorted by id; or a named error."""
    if frame.empty:
        return pd.DataFrame({c: pd.Series(dtype="float64") for c in schema.columns})
    missing = [c for c in schema.columns if c not in frame.columns]
    if missing:
        raise PrefevalError(f"{name} lack the column(s) {_names(missing)}; add them")
    frame = frame[list(schema.present(frame))].copy()
    for column in (*(c for c in schema.ids if c != "index"), *schema.text):
        frame[column] = frame[column].astype(str)
    doubled = frame.loc[frame.duplicated(list(schema.ids)), schema.ids[0]].tolist()
    if doubled:
        raise PrefevalError(
            f"{name} hold {schema.ids[0]} {_names(doubled)} more than once; keep one row each"
        )
    for column in (*schema.numbers, *(c for c in schema.extra if c in frame.columns)):
        frame[column] = _numbers(frame, column, name, schema)
    if "cluster" in schema.text:
        frame["cluster"] = frame["cluster"].where(frame["cluster"] != "", frame[schema.ids[0]])
    return frame.sort_values(list(schema.ids), kind="stable", ignore_index=True)


def _numbers(frame: pd.DataFrame, column: str, name: str, schema: Schema) -> pd.Series[float]:
    """One numeric column as float64, every value allowed where it stands."""
    values = pd.to_numeric(frame[column], errors="coerce").astype("float64")
    x = values.to_numpy()
    ids = frame[schema.ids[0]].to_numpy()
    if column in schema.unread:
        wrong = np.isinf(x) | (np.isnan(x) & frame[column].notna().to_numpy())
    else:
        wrong = ~np.isfinite(x)
    if wrong.any():
        raise PrefevalError(
            f"{name}.{column} is not a finite number at {_names(ids[wrong].tolist())};"
            " measure these again or leave them out"
        )
    limits = {
        "between 0 and 1": (schema.shares, (x < 0) | (x > 1)),
        "0 or 1": (schema.binary, (x != 0) & (x != 1) & ~np.isnan(x)),
        "0 or more": ((*schema.counts, *style.COLUMNS), x < 0),
        "1 or more": (schema.positive, x < 1),
    }
    for rule, (columns, broken) in limits.items():
        if column in columns and broken.any():
            at = int(np.flatnonzero(broken)[0])
            raise PrefevalError(
                f"{name}.{column} must be {rule}, got {x[at]:g} at {_names(ids[broken].tolist())}"
            )
    return values


def _check_mean_of_orders(judgments: pd.DataFrame) -> None:
    """Where both orders were read, the preference is their mean."""
    gap = judgments["preference"] - (
        judgments["preference_first"] + judgments["preference_second"]
    ).mul(0.5)
    wrong = judgments.loc[gap.abs() > 1e-6, "prompt_id"].tolist()
    if wrong:
        raise PrefevalError(
            f"judgments.preference is not the mean of both orders at {_names(wrong)}; both columns"
            " are the probability that the policy wins, whichever answer was shown first"
        )


def require_aligned(evidences: Mapping[str, Evidence]) -> None:
    """Raise ``PrefevalError`` unless all checkpoints were judged and checked on the same prompts.

    Comparing them is paired by prompt; a join that loses rows would move every number.
    """
    names = list(evidences)
    for frame in ("judgments", "checks"):
        frames: list[pd.DataFrame] = [getattr(evidences[name], frame) for name in names]
        for name, other in zip(names[1:], frames[1:], strict=True):
            odd = _odd_rows(frames[0], other)
            if odd:
                raise PrefevalError(
                    f"{frame} of {names[0]} and {name} are not of the same prompts and clusters:"
                    f" {_names(odd)}; evaluate both on the same prompts"
                )


def _odd_rows(left: pd.DataFrame, right: pd.DataFrame) -> list[str]:
    """Prompts that only one frame has, or else those whose clusters differ."""
    ids, others = left["prompt_id"].to_numpy(), right["prompt_id"].to_numpy()
    if len(ids) != len(others) or not bool((ids == others).all()):
        return sorted(str(i) for i in set(ids) ^ set(others))
    moved = left["cluster"].to_numpy() != right["cluster"].to_numpy()
    return [str(i) for i in ids[moved]]
