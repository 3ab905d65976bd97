"""vLLM itself behind its backend: the same greedy tokens, draws of the policy, a whole sweep.

``PREFEVAL_VLLM`` is the interpreter of an environment that has vLLM (its CPU build will do).
"""

import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from prefeval import records
from prefeval.harness import models
from prefeval.harness.backends.agreement import NEAR_TIE, differences
from prefeval.harness.backends.hugging_face import HuggingFaceBackend
from prefeval.harness.backends.vllm import VllmBackend
from prefeval.harness.backends.vllm_process import Options
from prefeval.harness.commands import SMOKE_DATA
from prefeval.harness.lab import lab
from prefeval.records import Sampling
from prefeval.suites import builtin

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def vllm_python():
    """Its interpreter."""
    if not (python := os.environ.get("PREFEVAL_VLLM")):
        pytest.skip("set PREFEVAL_VLLM to the interpreter of an environment that has vLLM")
    return python


@pytest.fixture(scope="module")
def small_lab():
    """A lab whose heads are as wide as vLLM's CPU build takes them, trained until it answers."""
    reference = lab.ReferenceConfig(people=16, hidden=128, demonstrations=4096, epochs=2)
    return lab.build(reference, lab.DataConfig(**SMOKE_DATA), lambda stage, share: None)


def both(folder, max_length):
    """vLLM's backend and the Hugging Face one of a model."""
    ours = VllmBackend(folder, folder, options=Options(), max_length=max_length)
    tokenizer = models.load_tokenizer(folder)
    return ours, HuggingFaceBackend(models.load_model(folder), tokenizer, max_length=max_length)


@pytest.mark.parametrize("which", ["lab", "smollm2"])
def test_greedy_tokens_are_the_same_but_for_near_ties(which, small_lab, request):
    if which == "lab":
        folder, prompts = small_lab.reference, lab.suite(small_lab.world)[::2]
        new_tokens, max_length = 64, 192
    else:
        folder, prompts = request.getfixturevalue("smollm2"), builtin.load_suite("builtin")[::12]
        new_tokens, max_length = 48, 512
    ours, theirs = both(folder, max_length)
    sampling = Sampling("greedy", 0.0, new_tokens)
    answers = ours.generate(prompts, sampling)
    found = differences(answers, theirs.generate(prompts, sampling), ours.gaps)
    gaps = [gap for answer in ours.gaps.values() for gap in answer]
    ties = sum(gap < NEAR_TIE for gap in gaps)
    print(f"\n{which}: {len(answers)} answers, {len(gaps)} tokens, {ties} near-ties, the nearest "
          f"{min(gaps):.1e} nats; {len(found)} answers part", *found, sep="\n")  # fmt: skip
    assert len(gaps) > 10 * len(prompts)
    assert all(d.near_tie for d in found)


def test_draws_are_the_policys_and_a_rows_own(small_lab):
    """3,000 first tokens of one prompt against their probabilities; a prompt's draws stay what they
    are without the prompts after it."""
    ours, theirs = both(small_lab.reference, 192)
    prompts = lab.suite(small_lab.world)[:4]
    drawn = ours.generate(prompts[:1], Sampling("sample", 1.0, 1, n=3000, seed=5))
    counts = Counter(c.token_ids[0] for c in drawn)
    ids = torch.tensor([theirs._prompt_ids([prompts[0].messages])[0]])
    with torch.no_grad():
        expected = 3000 * theirs.model(ids).logits[0, -1].double().softmax(-1).numpy()
    seen = np.array([counts[token] for token in range(len(expected))])
    common = expected >= 5
    observed = np.append(seen[common], seen[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    assert common.sum() >= 2
    chi2 = ((observed - wanted) ** 2 / wanted).sum()
    print(f"\nchi-square {chi2:.1f} of {len(wanted) - 1} degrees of freedom")
    assert chi2 < len(wanted) - 1 + 4 * math.sqrt(2 * (len(wanted) - 1)) + 8
    few = Sampling("sample", 1.0, 24, n=2, seed=7)
    assert ours.generate(prompts[:2], few) == ours.generate(prompts, few)[:4]


def test_a_sweep_generates_with_it(small_lab, tmp_path):
    command = [sys.executable, "-m", "prefeval", "sweep", "--smoke", "--backend", "vllm",
               "--model", str(small_lab.reference), "--data", str(small_lab.data / "pairs.jsonl"),
               "--methods", "dpo", "--beta", "0.1", "--lora-rank", "4", "--lr", "0.01",
               "--max-new-tokens", "24",
               "--workers", "1", "--out", str(tmp_path), "--name", "run"]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    manifest = records.read_json(tmp_path / "run" / "manifest.json")
    assert any(name.startswith("vllm") for name in manifest["versions"])
    (row,) = records.read_json(tmp_path / "run" / "summary.json")["table"]
    assert row["kl"] > 0
