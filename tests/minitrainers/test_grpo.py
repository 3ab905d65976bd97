"""GRPO's loss against a naive loop, its advantages by hand, and the whole on a reachable reward."""

import json
import math

import numpy as np
import pytest
import torch

from prefeval.minitrainers import grpo, make_config
from prefeval.minitrainers.grpo import group_advantages, grpo_loss
from prefeval.minitrainers.rollouts import PromptData
from prefeval.records import PrefevalError


def test_advantages_are_rewards_centred_and_scaled_by_their_group():
    """Groups (1, 3) and (5, 5): standard deviation sqrt(2), and none."""
    got = group_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0], dtype=torch.float64), 2)
    assert got.tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2), 0, 0], abs=1e-3)


def naive(logps, old, ref, advantages, mask, beta, clip):
    losses = []
    for row in range(len(logps)):
        total, length = 0.0, 0
        for t in range(logps.shape[1]):
            if mask[row, t]:
                ratio = math.exp(logps[row, t] - old[row, t])
                clipped = min(max(ratio, 1 - clip), 1 + clip)
                gain = min(ratio * advantages[row], clipped * advantages[row])
                q = math.exp(ref[row, t] - logps[row, t])
                total += -gain + beta * (q - math.log(q) - 1)
                length += 1
        losses.append(total / length)
    return losses


def test_the_loss_equals_a_naive_loop():
    rng = np.random.default_rng(0)
    logps, old, ref = -rng.random((3, 5, 9)) * 2
    advantages, mask = rng.normal(size=5), (rng.random((5, 9)) < 0.7).astype(int)
    mask[:, 0] = 1
    got = grpo_loss(
        *map(torch.tensor, (logps, old, ref, advantages, mask)), beta=0.3, clip_range=0.2
    )
    expected = naive(logps, old, ref, advantages, mask, 0.3, 0.2)
    assert got.losses.tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(got.losses, got.policy_losses + 0.3 * got.kl)
    assert (got.kl > 0).all()


def test_at_the_start_the_gradient_is_the_advantage_over_the_length():
    """With rho = q = 1 only -A_i / |o_i| is left."""
    logps = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    advantages = torch.tensor([2.0, -3.0], dtype=torch.float64)
    loss = grpo_loss(logps, zeros, zeros, advantages, mask, beta=0.5, clip_range=0.2)
    loss.losses.sum().backward()
    assert logps.grad.tolist() == [[-1.0, -1.0, 0.0], [3.0, 0.0, 0.0]]


@pytest.fixture
def prompts() -> PromptData:
    """The reward is the share of the letter "a" in the answer."""
    return PromptData(
        [f"prompt-{i}" for i in range(8)],
        [({"role": "user", "content": "abcdefgh"[i]},) for i in range(8)],
        reward=lambda indices, texts: [text.count("a") / max(1, len(text)) for text in texts],
    )


SETTINGS = {
    "lr": 3e-3, "batch_size": 32, "group_size": 4, "max_length": 64, "max_new_tokens": 8,
    "ppo_epochs": 2, "minibatches": 2, "warmup": 0.0, "schedule": "constant", "beta": 0.01,
}  # fmt: skip


def test_grpo_raises_a_reward_that_it_can_reach(make_model, tokenizer, prompts, tmp_path):
    config = make_config("grpo", **SETTINGS, iterations=25)
    grpo.train(make_model(), tokenizer, prompts, config, out_dir=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["reward"] > rows[0]["reward"] + 0.3
    assert rows[-1]["kl"] > 0.5
    # drawing, two looks, and two updates of three passes each, where SFT is one update
    assert rows[0]["flops"] == pytest.approx(3 * rows[0]["sft_flops"])


def test_a_reward_that_is_always_the_same_teaches_nothing(make_model, tokenizer, tmp_path):
    """Every group is flat, so only the penalty is left, and it is 0 at the reference."""
    flat = PromptData(
        ["p", "q"], [({"role": "user", "content": c},) for c in "ab"],
        lambda indices, texts: [1.0] * len(texts),
    )  # fmt: skip
    policy, start = make_model(), make_model()
    config = make_config("grpo", **SETTINGS, iterations=2)
    grpo.train(policy, tokenizer, flat, config, out_dir=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [row["flat_groups"] for row in rows] == [1.0, 1.0]
    assert rows[0]["policy_loss"] == pytest.approx(0, abs=1e-6)
    moved = max(
        (a - b).abs().max().item()
        for a, b in zip(policy.parameters(), start.parameters(), strict=True)
    )
    assert moved < 0.1  # Adam makes steps of rounding noise, each at most lr


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"group_size": 5}, "no whole groups of 5"), ({"group_size": 1}, "at least 2")],
)
def test_rollouts_that_are_no_groups_are_refused(
    make_model, tokenizer, prompts, tmp_path, changes, words
):
    config = make_config("grpo", **{**SETTINGS, **changes})
    with pytest.raises(PrefevalError, match=words):
        grpo.train(make_model(), tokenizer, prompts, config, out_dir=tmp_path)
