"""A real model on real data through the ordinary sweep: SmolLM2-135M-Instruct, tuned by DPO at
three β on Anthropic's harmless-base pairs (human preferences; offensive text), on a laptop's CPU.

    python scripts/real_run.py --data harmless-base.test.jsonl.gz           # about 40 minutes
    python scripts/real_run.py --data harmless-base.test.jsonl.gz --steps 2 # what CI runs

The judge is trained on a part of the pairs that no policy sees: a proxy with their biases.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent
FEW_STEPS = 8  # below this the run only shows that everything works: fewer prompts and pairs too


def arguments() -> argparse.Namespace:
    """Options of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the pairs, as published")
    parser.add_argument("--model", type=Path, help="the model's folder; fetched if not given")
    parser.add_argument("--steps", type=int, default=32, help="training steps a method")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="parent of the run's folder")
    return parser.parse_args()


def fetch() -> Path:
    """The model's folder, fetched into the user's cache where it is not there yet."""
    run = subprocess.run(
        [sys.executable, str(SCRIPTS / "fetch_smollm2.py")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(run.stdout.split()[-1])


def command(model: Path, data: Path, steps: int, out: Path) -> list[str]:
    """The sweep that is run."""
    few = steps < FEW_STEPS
    return [
        sys.executable, "-m", "prefeval", "sweep",
        "--model", str(model), "--data", str(data),
        "--methods", "dpo", "--beta", "0.1,1" if few else "0.01,0.1,1",
        "--lr", "2e-5", "--batch-size", "8", "--micro-batch", "4", "--max-steps", str(steps),
        "--max-length", "224", "--max-new-tokens", "40",
        "--held-out", "0.5",
        "--prompts", "16" if few else "400", "--judge-pairs", "16" if few else "160",
        "--checkpoints", "1", "--name", f"smollm2-harmless-{steps}", "--out", str(out),
    ]  # fmt: skip


def main() -> int:
    """Fetch, run, and leave the report where the sweep says."""
    options = arguments()
    if not options.data.is_file():
        print(f"real_run: no such file: {options.data}; give Anthropic's harmless-base pairs")
        return 2
    model = options.model or fetch()
    line = command(model, options.data, options.steps, options.out)
    return subprocess.run(line, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
