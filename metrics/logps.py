"""What training did to held-out chosen and rejected answers (Rafailov et al. 2023, arXiv
2305.18290, section 4), and how far those answers are from what the policy says itself.

Delta_w and Delta_l are the mean of log pi - log pi_ref on chosen and rejected answers. A falling
Delta_w alone is common and can be benign; with the margin growing it is displacement (Razin et
al. 2024, arXiv 2410.08847), with behaviour lost it is collapse.
"""

from __future__ import annotations

import numpy as np

from prefeval.metrics import stats
from prefeval.metrics.evidence import Evidence
from prefeval.records import MetricResult

UNITS = {
    "delta_chosen": ("nats/sequence", None),
    "delta_rejected": ("nats/sequence", None),
    "delta_chosen_per_token": ("nats/token", None),
    "delta_rejected_per_token": ("nats/token", None),
    "margin": ("nats/sequence", True),
    "implicit_accuracy": ("percent", True),
    "off_policy_gap": ("nats/token", None),
    "ref_off_policy_gap": ("nats/token", None),
    "ches_correlation": ("correlation", None),
}


def logps(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``delta_{chosen,rejected}`` (nats/sequence) and per token, ``margin``, ``implicit_accuracy``,
    ``off_policy_gap`` and ``ref_off_policy_gap`` (nats/token), ``ches_correlation``.

    The margin is Delta_w - Delta_l in nats, not times beta. Per-token numbers are ratios of sums.
    ``implicit_accuracy`` is P(Delta_w > Delta_l) in percent, equal ones counting half, so that
    the reference itself scores 50. n is pairs. The gaps are log pi per token on the pairs' answers
    less that on the policy's own samples, and the same under the reference: the further below 0,
    the staler the pairs, and what training has added is the difference of the two.
    ``ches_correlation`` is the rank correlation over pairs of CHES under the reference with
    log pi - log pi_ref of the chosen answer: below 0 where the pairs whose answers look alike to
    the model are those that are displaced (Razin et al.), so that leaving them out may help.
    """
    frame = evidence.pairs
    if frame.empty:
        none = stats.undefined("no held-out pairs")
        return [none.metric(name, *unit) for name, unit in UNITS.items()]
    cluster = frame["cluster"].to_numpy()
    chosen = frame["chosen_logps"] - frame["ref_chosen_logps"]
    rejected = frame["rejected_logps"] - frame["ref_rejected_logps"]
    right = (np.sign(chosen - rejected) + 1) / 2
    estimates = {
        "delta_chosen": stats.clustered_mean(chosen, cluster),
        "delta_rejected": stats.clustered_mean(rejected, cluster),
        "delta_chosen_per_token": stats.ratio_of_means(chosen, frame["chosen_lengths"], cluster),
        "delta_rejected_per_token": stats.ratio_of_means(
            rejected, frame["rejected_lengths"], cluster
        ),
        "margin": stats.clustered_mean(chosen - rejected, cluster),
        "implicit_accuracy": stats.bounded_mean(right, cluster).scaled(100),
    }
    estimates |= {
        "off_policy_gap": _off_policy_gap(evidence, ""),
        "ref_off_policy_gap": _off_policy_gap(evidence, "ref_"),
        "ches_correlation": stats.rank_correlation(frame["ref_ches"], chosen, cluster)
        if "ref_ches" in frame
        else stats.undefined("CHES is not known", len(frame)),
    }
    return [estimate.metric(name, *UNITS[name]) for name, estimate in estimates.items()]


def _off_policy_gap(evidence: Evidence, model: str) -> stats.Estimate:
    pairs, own = evidence.pairs, evidence.samples
    if own.empty or f"{model}logps" not in own:
        return stats.undefined("the policy's own samples were not scored", len(pairs))
    total = pairs[f"{model}chosen_logps"] + pairs[f"{model}rejected_logps"]
    tokens = pairs["chosen_lengths"] + pairs["rejected_lengths"]
    data = stats.ratio_of_means(total, tokens, pairs["cluster"].to_numpy())
    said = stats.ratio_of_means(own[f"{model}logps"], own["n_tokens"], own["cluster"].to_numpy())
    return stats.independent_difference(
        data, said, min(pairs["cluster"].nunique(), own["cluster"].nunique())
    )
