"""Where vLLM's greedy answers part from the Hugging Face backend's, and if rounding explains it.

    python scripts/compare_backends.py --vllm PYTHON             # the lab and SmolLM2
    python scripts/compare_backends.py --vllm PYTHON MODEL ...   # folders of your own

PYTHON is the interpreter of an environment that has vLLM. Both sides compute in float32 and go on
from the same tokens, of the lab's prompts or the built-in suite's. A table with a row a model, then
every place where two answers part.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prefeval.harness import models
from prefeval.harness.backends.agreement import NEAR_TIE, Difference, differences
from prefeval.harness.backends.hugging_face import HuggingFaceBackend
from prefeval.harness.backends.vllm import VllmBackend
from prefeval.harness.backends.vllm_process import Options
from prefeval.harness.lab import lab
from prefeval.records import Prompt, Sampling
from prefeval.suites import builtin

FETCH = Path(__file__).with_name("fetch_smollm2.py")
LAB = lab.ReferenceConfig(hidden=128)  # its heads are then as wide as vLLM's CPU build takes them


def smollm2() -> str:
    """Its folder, fetched if need be."""
    command = [sys.executable, str(FETCH)]
    found = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return found.stdout.split()[-1]


def compare(
    name: str, folder: str | Path, prompts: Sequence[Prompt], options: argparse.Namespace
) -> list[Difference]:
    """Print one row of the table; the places where the answers part."""
    room = {"max_length": 128, "batch_size": 64}
    sampling = Sampling("greedy", 0.0, options.new_tokens)
    theirs = HuggingFaceBackend(models.load_model(folder), models.load_tokenizer(folder), **room)
    expected = theirs.generate(prompts, sampling)
    ours = VllmBackend(folder, folder, options=Options(python=options.vllm), **room)
    answers = ours.generate(prompts, sampling)
    ours.close()
    gaps = [gap for answer in ours.gaps.values() for gap in answer]
    found = differences(answers, expected, ours.gaps)
    near = sum(gap < NEAR_TIE for gap in gaps)
    unexplained = sum(not d.near_tie for d in found)
    print(f"| {name} | {len(answers)} | {len(gaps)} | {near} | {len(found)} | {unexplained} |")
    return found


def main() -> None:
    """Compare, and list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--vllm", required=True, metavar="PYTHON", help="which has vLLM")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--every", type=int, default=4, help="of the prompts, one in so many")
    options = parser.parse_args()
    suite = builtin.load_suite("builtin")[:: options.every]
    cases = [(Path(folder).name, folder, suite) for folder in options.models]
    if not cases:
        built = lab.build(LAB, lab.DataConfig(), lambda stage, share: None)
        cases = [
            ("lab", str(built.reference), lab.suite(built.world)[:: options.every]),
            ("SmolLM2-135M-Instruct", smollm2(), suite),
        ]
    print("| model | answers | tokens | near-ties | answers that part | not at a near-tie |")
    print("|---|---:|---:|---:|---:|---:|")
    parted = [(case[0], d) for case in cases for d in compare(*case, options)]
    print()
    for name, d in parted:
        print(f"- {name}, {d.prompt_id}, token {d.position}: {d.tokens}, {d.gap:.1e} nats apart")
    if not parted:
        print("No answer parts.")


if __name__ == "__main__":
    main()
