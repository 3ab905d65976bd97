"""Models before and after tuning: lengths and styles of their answers beside published rates.

    python scripts/tuned_pairs.py --data DIR

DIR holds ``alpaca_eval/outputs/*.json`` (AlpacaEval's ``model_outputs``) and
``alpaca_lc/preference_tuned.csv`` (published win rates). Prints Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from prefeval.harness.judge_files import read_outputs
from prefeval.metrics.style import style_of

PAIRS = (
    ("phi-2-sft", "phi-2-dpo"),
    ("oasst-sft-llama-33b", "oasst-rlhf-llama-33b"),
    ("Meta-Llama-3-8B-Instruct", "Llama-3-Instruct-8B-SimPO"),
    ("gemma-2-9b-it-DPO", "gemma-2-9b-it-SimPO"),
)


def rates(table: pd.DataFrame, model: str) -> tuple[float, float]:
    """Published raw and length-controlled win rate; NaN where there is none."""
    own = table[table["model"] == model]
    if len(own):
        return float(own["win_rate"].iloc[0]), float(own["lc"].iloc[0])
    base = table[table["reference"] == model]
    if len(base):
        return float(base["ref_win_rate"].iloc[0]), float(base["ref_lc"].iloc[0])
    return float("nan"), float("nan")


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    table = pd.read_csv(data / "alpaca_lc" / "preference_tuned.csv")
    print(
        "| model | WR | LC | characters | longer than the model above | headings | list items "
        "| bold |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    for pair in PAIRS:
        before: dict[tuple[str, int], str] = {}
        for model in pair:
            _, answers = read_outputs(data / "alpaca_eval" / "outputs" / f"{model}.json")
            styles = np.mean([style_of(text) for text in answers.values()], axis=0)
            longer = [len(answers[k]) > len(text) for k, text in before.items() if k in answers]
            cells = [
                *(f"{rate:.1f}" if rate == rate else "–" for rate in rates(table, model)),
                f"{np.mean([len(text) for text in answers.values()]):.0f}",
                f"{np.mean(longer):.0%}" if longer else "",
                *(f"{count:.1f}" for count in styles),
            ]
            print(f"| {model} | {' | '.join(cells)} |")
            before = dict(answers)


if __name__ == "__main__":
    main()
