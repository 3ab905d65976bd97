"""How true is ``prefeval audit`` of label noise and length? Files are spoiled by a known amount and
audited: prints Markdown.

    python scripts/study_audit.py [--data NAME=FILE ...] [--seeds 10] [--lab]

Each file is cut in two by prompt, anew for each seed. A share of the labels of one half is flipped
at random; the other half is what ``--trusted`` would be given. The truth is the share flipped: a
file's own noise is in both halves, is not known, and lies under the bound too. ``--lab`` adds the
lab's pairs at its knob noise=, which flips labels as it makes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prefeval.harness import data
from prefeval.harness.audit import command as audit
from prefeval.harness.lab import lab as labs
from prefeval.harness.threads import no_bars, one_thread
from prefeval.metrics import held_out
from prefeval.metrics.data import advice as data_advice
from prefeval.metrics.data import audit as data_audit
from prefeval.metrics.data import features as data_features
from prefeval.metrics.data.findings import Finding
from prefeval.metrics.data.predicted import predicted
from prefeval.metrics.data.rows import clusters_of, labels_of

FLIPS = (0.0, 0.1, 0.2, 0.4, 0.5)
PADDED = (0.0, 0.25, 0.5, 1.0)
SENTENCE = " I hope that this answers what you wanted to know, and please ask if it does not."


class Spoiled(NamedTuple):
    """One audit of a half with flipped labels."""

    auc: Finding
    most: float
    rate: Finding
    confident: float
    hits: float
    """of the rows that are named first, the share that was flipped"""
    flipped: float


def flipped(frame: pd.DataFrame, which: np.ndarray) -> pd.DataFrame:
    """A copy with the labels of some rows turned."""
    out = frame.copy()
    if "desirable" in frame:
        out["desirable"] = frame["desirable"] ^ which
        return out
    for one, other in (("chosen", "rejected"), ("rejected", "chosen")):
        for end in ("", "_refuses", "_calls"):
            out[one + end] = frame[one + end].where(~which, frame[other + end])
    return out


def halves(frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame in two, no prompt in both."""
    codes = np.unique(clusters_of(frame), return_inverse=True)[1]
    first = np.random.default_rng([seed, 1]).random(codes.max() + 1)[codes] < 0.5
    return (frame[first].reset_index(drop=True), frame[~first].reset_index(drop=True))


def spoil(audited: pd.DataFrame, trusted: pd.DataFrame, which: np.ndarray, seed: int) -> Spoiled:
    """Audit a half of which ``which`` are flipped (already so where the lab flipped them)."""
    found, doubted = predicted(audited, trusted, seed=seed)
    known = {f.name: f for f in found}
    wrong = set(audited["id"][which].astype(str))
    return Spoiled(
        known["labels_predicted"],
        known["noise_at_most"].value,
        known["noise_beside_trusted"],
        confident_count(audited, seed),
        float(np.mean([name in wrong for name in doubted])),
        float(which.mean()),
    )


def confident_count(frame: pd.DataFrame, seed: int) -> float:
    """Confident learning's share of wrong labels (Northcutt, Jiang and Chuang 2021): rows whose
    probability of the other label is at least the mean that rows of that label have of it."""
    pairs, y = "chosen" in frame, labels_of(frame)
    features = (data_features.of_pairs if pairs else data_features.of_thumbs)(frame)
    x = data_features.design(features, ("length", "style", "words"), centred=not pairs)
    p = 1 / (1 + np.exp(-y * held_out.out_of_fold(x, y, clusters_of(frame), seed=seed).scores))
    mean = {label: float(p[y == label].mean()) for label in np.unique(y)}
    if pairs:
        mean[-1.0] = mean[1.0]
    return float(np.mean([1 - q >= mean[-label] for q, label in zip(p, y, strict=True)]))


def noise_rows(name: str, share: float, results: Sequence[Spoiled]) -> str:
    """One line of the table of noise."""
    truth = np.asarray([r.flipped for r in results])
    most = np.asarray([r.most for r in results])
    rates = np.asarray([r.rate.value for r in results])
    known = np.isfinite(rates)
    inside = [r.rate.ci_low <= t <= r.rate.ci_high for r, t in zip(results, truth, strict=True)]
    rate = "–"
    if known.any():
        off = (rates - truth)[known]
        rate = f"{100 * rates[known].mean():.1f} | {100 * off.mean():+.1f} ± {100 * off.std():.1f}"
    cells = (
        name,
        f"{100 * share:.0f}",
        f"{np.mean([r.auc.value for r in results]):.3f}",
        f"{100 * most.mean():.1f}",
        f"{int((most >= share).sum())} of {len(results)}",
        rate if known.any() else "– | –",
        f"{int(np.sum(np.asarray(inside) & known))} of {int(known.sum())}",
        f"{100 * np.mean([r.confident for r in results]):.1f}",
        f"{100 * np.mean([r.hits for r in results]):.0f}",
    )
    return f"| {' | '.join(cells)} |"


def noise_table(frames: dict[str, pd.DataFrame], seeds: int, *, lab: bool) -> None:
    """Flip shares of labels and print what the audit says of it."""
    print(
        f"{seeds} seeds; halves of "
        + ", ".join(f"{name} ({len(frame)} rows)" for name, frame in frames.items())
        + "; all in percent but AUC\n\n"
        "| data | flipped | AUC | at most | bound holds | beside trusted | error, mean ± sd | "
        "interval holds | confident learning | flipped among the 20 named |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    for name, frame in frames.items():
        for share in FLIPS:
            results = []
            for seed in range(seeds):
                audited, trusted = halves(frame, seed)
                which = np.random.default_rng([seed, 2]).random(len(audited)) < share
                results.append(spoil(flipped(audited, which), trusted, which, seed))
            print(noise_rows(name, share, results), flush=True)
    if lab:
        clean = lab_frame(0.0)
        order = {row.id: row.chosen for row in clean.itertuples()}
        for share in FLIPS[1:4]:
            noisy, results = lab_frame(share), []
            for seed in range(seeds):
                audited, trusted = halves(noisy, seed)[0], halves(clean, seed)[1]
                pairs = zip(audited["id"], audited["chosen"], strict=True)
                which = np.asarray([order.get(i) != chosen for i, chosen in pairs])
                results.append(spoil(audited, trusted, which, seed))
            print(noise_rows("lab, knob noise=", share, results), flush=True)


def lab_frame(noise: float) -> pd.DataFrame:
    """The lab's training pairs at a noise, sorted by id: halves by prompt are the same at all."""
    reference, knobs = labs.parse_knobs(f"noise={noise:g}" if noise else "")
    built = labs.build(reference, knobs, lambda stage, share: None)
    items = data.load_pairs(built.data / "pairs.jsonl").items
    return audit.marked(audit.frame_of(sorted(items, key=lambda item: item.id)))


def length_table(frames: dict[str, pd.DataFrame]) -> None:
    """Lengthen chosen answers by one neutral sentence and print what the audit says of length."""
    print(
        "\n| data | lengthened | longer chosen, truth | reported [95%] | AUC of length [95%] | "
        "style adds | method |\n|---|---:|---:|---:|---:|---:|---|"
    )
    for name, frame in frames.items():
        if "chosen" not in frame:
            continue
        for share in PADDED:
            padded = frame.copy()
            some = np.random.default_rng(3).random(len(frame)) < share
            padded["chosen"] = frame["chosen"].where(~some, frame["chosen"] + SENTENCE)
            longer = [
                (len(a) > len(b)) + (len(a) == len(b)) / 2
                for a, b in zip(padded["chosen"], padded["rejected"], strict=True)
            ]
            found = data_audit.audit(padded).findings
            known = {f.name: f for f in found}
            cells = (
                name,
                f"{100 * share:.0f}",
                f"{100 * np.mean(longer):.1f}",
                _shown(known["longer_chosen"], 100, 1),
                _shown(known["length_predicts"], 1, 3),
                _shown(known["style_adds"], 1, 3),
                data_advice.advise(found).method,
            )
            print(f"| {' | '.join(cells)} |", flush=True)


def _shown(f: Finding, factor: float, digits: int) -> str:
    value, low, high = (f"{factor * x:.{digits}f}" for x in (f.value, f.ci_low, f.ci_high))
    return f"{value} [{low}, {high}]"


def main(arguments: Any = None) -> None:
    """Read the files, spoil them, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="*", default=[], help="NAME=FILE of pairs or thumbs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--lab", action="store_true", help="the lab's pairs too")
    chosen = parser.parse_args(arguments)
    no_bars()
    with one_thread():
        frames = {}
        for given in chosen.data:
            name, _, file = given.partition("=")
            frames[name] = audit.marked(audit.frame_of(audit.read(file).loaded.items))
        if chosen.lab or not frames:
            frames["lab"] = lab_frame(0.0)
        noise_table(frames, chosen.seeds, lab=chosen.lab or not chosen.data)
        length_table(frames)


if __name__ == "__main__":
    main()
