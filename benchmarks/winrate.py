"""Length-controlled win rates beside the alpaca_eval package: seconds a model, and how far apart.

    python benchmarks/winrate.py --data DIR --alpaca-eval PYTHON

DIR holds ``alpaca_lc.parquet``, ``df_gamed_reconstructed.csv`` (38 models' judgments) and
``published.csv``;
PYTHON is the interpreter of an environment that has alpaca_eval (benchmarks/README.md). Both sides
fit the same rows on one thread, C chosen by 5-fold cross-validation on each, and are timed without
reading files. Then a thousand bootstrap refits of one model. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sweep import machine

from prefeval.metrics import length_control
from prefeval.metrics.length_control import GamedRows

HERE = Path(__file__).parent
REFITS = 1000
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def peer(python: str, rows: pd.DataFrame, gamed: Path) -> dict[str, tuple[float, float]]:
    """Rate and seconds of every model, by alpaca_eval."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rows.csv"
        rows.to_csv(table, index=False)
        command = [python, str(HERE / "winrate_peer.py"), str(table), str(gamed)]
        environment = {**os.environ, **ONE_THREAD, "HF_HUB_OFFLINE": "1", "HF_HOME": folder}
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise SystemExit("\n".join(run.stderr.splitlines()[-10:]))
    return {model: (rate, s) for model, (rate, s) in json.loads(run.stdout).items()}


def ours(
    rows: pd.DataFrame, difficulty: pd.Series[float], gamed: GamedRows, n_boot: int = 0
) -> dict[str, tuple[float, float]]:
    """The same by prefeval."""
    found = {}
    for model, own in rows.groupby("model", sort=False):
        hard = difficulty.reindex(own["row_in_file"]).to_numpy()
        start = time.perf_counter()
        fit = length_control.length_controlled(
            own["preference_01"],
            own["len_output"],
            own["len_baseline"],
            hard,
            gamed=gamed,
            n_boot=n_boot,
            rng=np.random.default_rng(0),
        )
        found[str(model)] = (fit.lc_win_rate, time.perf_counter() - start)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--alpaca-eval", metavar="PYTHON", help="without it, prefeval alone")
    options = parser.parse_args()
    rows = pd.read_parquet(options.data / "alpaca_lc.parquet")
    file = options.data / "df_gamed_reconstructed.csv"
    frame = pd.read_csv(file)
    difficulty = frame.drop_duplicates("index").set_index("index")["instruction_difficulty"]
    gamed = GamedRows(
        frame["preference"].to_numpy(),
        np.tanh(frame["std_delta_len"].to_numpy()),
        frame["instruction_difficulty"].to_numpy(),
    )
    print(f"{machine()}; one thread\n\n| | seconds a model | |\n|---|---:|---|")
    ours(rows[rows["model"] == rows["model"].iloc[0]], difficulty, gamed)  # imports, first use
    mine = ours(rows, difficulty, gamed)
    seconds = statistics.median(s for _, s in mine.values())
    print(f"| prefeval | {seconds:.4f} | median of {len(mine)} models |")
    if options.alpaca_eval:
        theirs = peer(options.alpaca_eval, rows, file)
        slow = statistics.median(s for _, s in theirs.values())
        gaps = [abs(mine[m][0] - theirs[m][0]) for m in theirs]
        print(
            f"| alpaca_eval | {slow:.4f} | {slow / seconds:.1f} times as long; rates apart by "
            f"{statistics.median(gaps):.4f} points (median), {max(gaps):.3f} at most |"
        )
    board = pd.read_csv(options.data / "published.csv").set_index("model")
    apart = [abs(mine[m][0] - board.loc[m, "length_controlled_winrate"]) for m in mine]
    print(
        f"| beside the leaderboard | | {len(apart)} models apart by {statistics.median(apart):.4f} "
        f"points (median), {max(apart):.3f} at most |"
    )
    one = rows[rows["model"] == "NullModel"]
    ((_, whole),) = ours(one, difficulty, gamed, n_boot=REFITS).values()
    print(f"| {REFITS} bootstrap refits | {whole:.2f} | one model, n = {len(one)} |")


if __name__ == "__main__":
    if any(os.environ.get(name) != "1" for name in ONE_THREAD):  # before numpy starts its threads
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    main()
