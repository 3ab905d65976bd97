"""Evidence with planted truths, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prefeval.metrics.evidence import Evidence

Make = Callable[..., Evidence]


def make_evidence(
    rng: np.random.Generator,
    *,
    quality: float = 0.0,
    n: int = 400,
    clusters: int | None = None,
    length_shift: float = 0.5,
    length_effect: float = 0.6,
    losses: dict[str, float] | None = None,
    checked: int = 64,
    kl: float = 1.0,
    prompts: int = 7,
) -> Evidence:
    """A checkpoint whose chance at equal length is sigmoid(quality + difficulty of the prompt).

    The judge adds ``length_effect`` per standard deviation of extra length, and the policy is
    ``length_shift`` standard deviations longer. ``losses`` is each behaviour's true loss rate
    (the reference passes all). ``prompts`` seeds what all checkpoints share.
    """
    shared = np.random.default_rng(prompts)
    difficulty, len_baseline = shared.normal(0, 0.7, n), shared.normal(300, 30, n).round()
    ids = [f"w{i:04d}" for i in range(n)]
    cluster = [f"c{i % (clusters or n):04d}" for i in range(n)]
    z = rng.normal(length_shift, 1, n)
    p = 1 / (1 + np.exp(-(quality + difficulty + length_effect * z)))
    won = (rng.random(n) < p).astype(float)
    judgments = pd.DataFrame(
        {
            "prompt_id": ids,
            "cluster": cluster,
            "behaviour": "about",
            "preference": won,
            "preference_first": won,
            "preference_second": won,
            "true_preference": np.nan,
            "len_output": (len_baseline + 60 * z).round(),
            "len_baseline": len_baseline,
            "difficulty": difficulty,
        }
    )
    samples = pd.DataFrame(
        {
            "prompt_id": ids,
            "cluster": cluster,
            "behaviour": "about",
            "kl": kl,
            "k1": kl,
            "n_tokens": 20,
            "ref_n_tokens": 10,
            "ended": 1,
            "ref_ended": 1,
            "entropy": 0.5,
        }
    )
    checks = [
        pd.DataFrame(
            {
                "prompt_id": [f"{name}{i:03d}" for i in range(checked)],
                "cluster": "",
                "behaviour": name,
                "passed": (rng.random(checked) >= rate).astype(int),
                "ref_passed": 1,
            }
        )
        for name, rate in (losses or {}).items()
    ]
    return Evidence(
        judgments=judgments, samples=samples, checks=pd.concat(checks) if checks else pd.DataFrame()
    )


@pytest.fixture
def make() -> Any:
    """The maker of evidence with a planted truth."""
    return make_evidence
