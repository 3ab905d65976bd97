"""PPO's parts against saved values and naive loops, and the whole on a reward it can reach."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefeval.minitrainers import lora, make_config, ppo
from prefeval.minitrainers.ppo import (
    PPOLoss,
    adapt_kl_coef,
    gae,
    ppo_loss,
    token_rewards,
    whiten,
)
from prefeval.minitrainers.rollouts import PromptData
from prefeval.minitrainers.value import ValueModel, explained_variance, new_value_model
from prefeval.records import PrefevalError

NAMES = ("k1", "k3_gamma.99_lam.9", "whiten_rewards")


@pytest.fixture(scope="module")
def cases(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "fixtures/trl/fixtures.json").read_text())["ppo"]["cases"]


@pytest.fixture
def case(cases, request) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings, and every array of one saved case in float64. TRL's masks mark the padding; its
    values have one place more than its actions."""
    found = next(v for k, v in cases.items() if k.startswith(request.param))
    arrays = {
        k: torch.tensor(v, dtype=torch.float64)
        for k, v in (found["inputs"] | found["expected"]).items()
        if isinstance(v, list)
    }
    numbers = {k: v for k, v in found["expected"].items() if not isinstance(v, list)}
    arrays["actions"] = 1 - arrays["padding_mask"]
    arrays["states"] = 1 - arrays["padding_mask_p1"]
    return found["settings"] | numbers, arrays


def loss_of(settings: dict[str, Any], x: dict[str, torch.Tensor], mask: str) -> PPOLoss:
    return ppo_loss(
        x["new_logprobs"],
        x["logprobs"],
        x["advantages"],
        x["vpred"],
        x["values_masked"],
        x["returns"],
        x[mask],
        clip_range=settings["cliprange"],
        value_clip_range=settings["cliprange_value"],
        value_coef=settings["vf_coef"],
    )


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_advantages_and_returns_equal_trl(case):
    settings, x = case
    advantages, returns = gae(
        x["rewards"], x["values_masked"], x["states"], gamma=settings["gamma"], lam=settings["lam"]
    )
    assert torch.allclose(returns * x["states"], x["returns"] * x["states"], atol=1e-9)
    whitened = whiten(advantages, x["actions"])
    assert torch.allclose(whitened, x["advantages"] * x["actions"], atol=1e-9)


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_clipped_losses_and_their_gradients_equal_trl(case):
    settings, x = case
    x["new_logprobs"].requires_grad_()
    x["vpred"].requires_grad_()
    policy = loss_of(settings, x, "actions")
    value = loss_of(settings, x, "states")
    assert policy.policy_losses.mean().item() == pytest.approx(settings["pg_loss"], abs=1e-9)
    assert value.value_losses.mean().item() == pytest.approx(settings["vf_loss"], abs=1e-9)
    assert policy.clip_fraction.item() == pytest.approx(settings["pg_clipfrac"], abs=1e-6)
    loss = policy.policy_losses.mean() + settings["vf_coef"] * value.value_losses.mean()
    assert loss.item() == pytest.approx(settings["loss"], abs=1e-9)
    loss.backward()
    assert torch.allclose(x["new_logprobs"].grad, x["grad_new_logprobs"], atol=1e-9)
    assert torch.allclose(x["vpred"].grad, x["grad_vpred"], atol=1e-9)


@pytest.mark.parametrize("case", ["k1"], indirect=True)
def test_the_kl_penalty_equals_trl_and_the_score_falls_on_the_last_action(case):
    """TRL gives the score one place after the last action; the penalties stand where they do."""
    settings, x = case
    penalties = x["non_score_reward"] * x["actions"]
    rewards = token_rewards(
        x["logprobs"], x["ref_logprobs"], x["scores"], x["actions"], kl_coef=settings["kl_coef"]
    )
    last = x["actions"].sum(-1).long() - 1
    expected = penalties.clone()
    expected[torch.arange(len(last)), last] += x["scores"]
    assert torch.allclose(rewards, expected, atol=1e-9)


def naive_gae(rewards, values, mask, gamma, lam):
    """The sum of discounted deltas, action by action, written out."""
    advantages = np.zeros(rewards.shape)
    for row in range(len(rewards)):
        steps = [t for t in range(rewards.shape[1]) if mask[row, t]]
        for i, t in enumerate(steps):
            for k, u in enumerate(steps[i:]):
                following = values[row, steps[i + k + 1]] if i + k + 1 < len(steps) else 0.0
                delta = rewards[row, u] + gamma * following - values[row, u]
                advantages[row, t] += (gamma * lam) ** k * delta
    return advantages


def test_gae_equals_a_naive_loop_also_across_turns():
    """Random masks: a user's turn inside, padding on both sides, one row without actions."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 6, 15))
    mask = (rng.random((6, 15)) < 0.6).astype(int)
    mask[0] = 0
    got = gae(*map(torch.tensor, (rewards, values, mask)), gamma=0.97, lam=0.8)
    expected = naive_gae(rewards, values, mask, 0.97, 0.8)
    assert np.allclose(got.advantages, expected, atol=1e-12)
    assert np.allclose(got.returns, (expected + values) * mask, atol=1e-12)


def test_with_lambda_and_gamma_1_returns_are_the_rewards_to_go():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    got = gae(rewards, torch.tensor([[9.0, -3.0, 5.0]]), torch.ones(1, 3), gamma=1.0, lam=1.0)
    assert got.returns.tolist() == [[7.0, 6.0, 4.0]]


def test_whitened_values_have_mean_0_and_variance_1_over_the_mask():
    values, mask = torch.randn(4, 9, dtype=torch.float64), torch.ones(4, 9)
    mask[:, 6:] = 0
    got = whiten(values, mask)
    assert got[:, :6].mean().item() == pytest.approx(0, abs=1e-12)
    assert got[:, :6].var().item() == pytest.approx(1, abs=1e-6)
    assert (got[:, 6:] == 0).all()


def test_the_controller_moves_kl_coef_as_ziegler_et_al_do():
    """Errors 0.1 and far beyond 0.2 either way, gain 0.5."""
    assert adapt_kl_coef(0.2, 6.6, 6.0, 0.5) == pytest.approx(0.2 * 1.05)
    assert adapt_kl_coef(0.2, 60.0, 6.0, 0.5) == pytest.approx(0.2 * 1.1)
    assert adapt_kl_coef(0.2, 0.0, 6.0, 0.5) == pytest.approx(0.2 * 0.9)


@pytest.mark.parametrize(
    ("kl", "integral", "kl_coef"),
    [
        (1.0, 0.2, 0.2),  # at the target nothing moves
        (1.1, 0.2 * 1.05, 0.2 * 1.05 * 1.21),
        (2.0, 0.2 * 1.1, 0.2 * 1.1 * 4),
        (5.0, 0.2, 0.2 * 10),  # beyond the proportional part's range the integral one waits
        (0.1, 0.2, 0.2 * 0.1),
    ],
)
def test_the_penalty_answers_to_where_the_policy_is_and_to_where_it_was(kl, integral, kl_coef):
    """Gain 0.5, power 2, by hand."""
    settings = config(target_kl=1.0, kl_gain=0.5, kl_power=2.0)
    got = ppo.control({"integral": 0.2, "kl_coef": 9.0}, kl, settings)
    assert got == pytest.approx({"integral": integral, "kl_coef": kl_coef})


def test_without_the_proportional_part_the_controller_is_ziegler_et_als():
    settings = config(target_kl=6.0, kl_gain=0.5, kl_power=0.0)
    for kl in (0.0, 6.6, 60.0):
        got = ppo.control({"integral": 0.2, "kl_coef": 0.2}, kl, settings)
        assert got["kl_coef"] == pytest.approx(adapt_kl_coef(0.2, kl, 6.0, 0.5))
    assert ppo.control({"integral": 0.2, "kl_coef": 0.2}, 5.0, config()) == {}


def test_explained_variance_is_1_for_the_truth_0_for_a_constant_and_nan_without_variance():
    returns, mask = torch.tensor([[1.0, 2.0, 5.0]]), torch.ones(1, 3)
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.full((1, 3), 9.0), returns, mask) == pytest.approx(0)
    assert np.isnan(explained_variance(returns, torch.ones(1, 3), mask))


def test_the_value_of_a_state_does_not_see_the_token_chosen_in_it(make_model):
    model = ValueModel(make_model().base_model)
    torch.nn.init.ones_(model.head.weight)
    ids = torch.tensor([[1, 3, 8, 9, 2]])
    changed = torch.tensor([[1, 3, 8, 7, 2]])
    a, b = (model(x, torch.ones_like(ids))[0].tolist() for x in (ids, changed))
    assert a[:4] == pytest.approx(b[:4], abs=1e-6)
    assert a[4] != pytest.approx(b[4], abs=1e-3)


def test_a_value_model_gets_an_adapter_where_the_policy_has_one(make_model):
    config = make_config("ppo", lora_rank=4)
    policy, body = lora.attach(make_model(), config), make_model(seed=1).base_model
    weights = sum(p.numel() for p in body.parameters())
    ids = torch.tensor([[1, 3, 8, 9, 2]])
    for given in (body, None):
        model = new_value_model(policy, given, config)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert 0 < trained < 0.5 * weights
        assert any("lora" in name for name, p in model.named_parameters() if p.requires_grad)
        assert all(
            "lora" in n or "head" in n for n, p in model.named_parameters() if p.requires_grad
        )
        hidden = (body if given is not None else policy.get_base_model().base_model)(ids)
        torch.testing.assert_close(model.body(ids).last_hidden_state, hidden.last_hidden_state)
        assert model(ids, torch.ones_like(ids)).abs().sum() == 0  # the head starts at 0


@pytest.fixture
def prompts() -> PromptData:
    """The reward is the share of the letter "a" in the answer."""
    return PromptData(
        [f"prompt-{i}" for i in range(16)],
        [({"role": "user", "content": "abcdefgh"[i % 8]},) for i in range(16)],
        reward=lambda indices, texts: [text.count("a") / max(1, len(text)) for text in texts],
    )


def config(**changes: Any) -> ppo.PPOConfig:
    settings = {
        "lr": 3e-3,
        "value_lr": 3e-3,
        "batch_size": 32,
        "max_length": 64,
        "iterations": 25,
        "max_new_tokens": 8,
        "ppo_epochs": 2,
        "minibatches": 2,
        "warmup": 0.0,
        "schedule": "constant",
        "save_at": (1.0,),
    }
    return make_config("ppo", **{**settings, **changes})


def test_ppo_raises_a_reward_that_it_can_reach(make_model, tokenizer, prompts, tmp_path):
    rows = []
    ppo.train(
        make_model(),
        tokenizer,
        prompts,
        config(beta=0.0),
        out_dir=tmp_path,
        on_step=rows.append,
    )
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["explained_variance"] == pytest.approx(0, abs=1e-6)  # the head starts at 0
    first, last = (np.mean([r["reward"] for r in part]) for part in (rows[:3], rows[-3:]))
    assert last > first + 0.3
    assert rows[-1]["kl"] > 1
    assert {"kl_coef", "entropy", "clip_fraction"} <= rows[0].keys()


def test_a_strong_penalty_keeps_the_policy_at_its_reference(
    make_model, tokenizer, prompts, tmp_path
):
    kls = []
    for beta in (0.0, 2.0):
        rows = []
        ppo.train(
            make_model(),
            tokenizer,
            prompts,
            config(beta=beta, iterations=12),
            out_dir=tmp_path / str(beta),
            on_step=rows.append,
        )
        kls.append(np.mean([r["kl"] for r in rows[-3:]]))
    assert kls[1] < 0.5 * kls[0]


def test_the_controller_brings_the_kl_to_its_target(make_model, tokenizer, prompts, tmp_path):
    rows = []
    ppo.train(
        make_model(),
        tokenizer,
        prompts,
        config(beta=0.02, target_kl=1.0, kl_gain=1.0, iterations=60, lr=1e-3),
        out_dir=tmp_path,
        on_step=rows.append,
    )
    assert np.mean([r["kl"] for r in rows[-30:]]) == pytest.approx(1.0, rel=0.2)
    assert len({r["kl_coef"] for r in rows}) > 30


def test_ppo_refuses_no_prompts_and_more_mini_batches_than_rollouts(
    make_model, tokenizer, prompts, tmp_path
):
    nothing = PromptData([], [], reward=lambda indices, texts: [])
    with pytest.raises(PrefevalError, match="no prompts"):
        ppo.train(make_model(), tokenizer, nothing, config(), out_dir=tmp_path)
    few = config(batch_size=3, minibatches=4)
    with pytest.raises(PrefevalError, match="3 rollouts cannot be cut into 4"):
        ppo.train(make_model(), tokenizer, prompts, few, out_dir=tmp_path)


def test_a_reward_that_is_not_finite_names_the_prompts(make_model, tokenizer, prompts, tmp_path):
    bad = PromptData(prompts.ids, prompts.prompts, reward=lambda i, t: [float("nan")] * len(t))
    with pytest.raises(PrefevalError, match=r"is nan at step 1 \(examples prompt-"):
        ppo.train(make_model(), tokenizer, bad, config(), out_dir=tmp_path)
