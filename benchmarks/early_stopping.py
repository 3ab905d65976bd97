"""How often the callback's early stopping stops too early, and what that costs: simulated runs.

    python benchmarks/early_stopping.py

Ten evaluations on the same prompts. A score is a prompt's difficulty (sd 25 points, shared by all
checkpoints: 40% of the variance) and a part of its own (sd 31). Patience 3.
"""

from __future__ import annotations

import math

import numpy as np

from prefeval.metrics.early_stopping import Gain, decide

STEP = np.arange(10)
CURVES = {
    "flat at 55": np.full(10, 55.0),
    "rises 1 point each": 52 + 1.0 * STEP,
    "rises 2 points each": 52 + 2.0 * STEP,
    "levels off (50 to 65)": 65 - 15 * np.exp(-(STEP + 1) / 3),
    "peaks at the fourth, 3 points each way": 61 - 3.0 * np.abs(STEP - 3),
}
RUNS = 1000


def run(
    curve: np.ndarray, prompts: int, confidence: float, rng: np.random.Generator
) -> list[float]:
    """Whether it was stopped, shown worse, after how many evaluations, and the true points by
    which the checkpoint that was kept is under the best of all ten."""
    shared = rng.normal(0, 25, prompts)
    scores = curve[:, None] + shared + rng.normal(0, 31, (len(curve), prompts))

    def gain(a: int, b: int) -> Gain:
        change = scores[b] - scores[a]
        mean, stderr = float(change.mean()), float(change.std(ddof=1)) / math.sqrt(prompts)
        return Gain(mean, stderr, prompts, math.erfc(abs(mean / stderr) / math.sqrt(2)))

    for n in range(2, len(curve) + 1):
        found = decide(n, gain, patience=3, confidence=confidence)
        if found.stop:
            break
    kept = int(scores[:n].mean(axis=1).argmax())
    return [found.stop and n < len(curve), "worse" in found.why, n, curve.max() - curve[kept]]


def main() -> None:
    """Print the table of docs/callback.md."""
    print("| true win rate | prompts | confidence | stopped early | shown worse | after | lost |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, curve in CURVES.items():
        for prompts in (200, 400):
            for confidence in (0.5, 0.6, 0.95):
                rng = np.random.default_rng(20_260_101)
                found = np.mean([run(curve, prompts, confidence, rng) for _ in range(RUNS)], axis=0)
                print(
                    f"| {name} | {prompts} | {confidence} | {100 * found[0]:.1f}% "
                    f"| {100 * found[1]:.1f}% | {found[2]:.1f} | {found[3]:.1f} |"
                )


if __name__ == "__main__":
    main()
