"""The losses at values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from prefeval.minitrainers.dpo import dpo_loss
from prefeval.minitrainers.ipo import ipo_loss
from prefeval.minitrainers.kto import kto_loss
from prefeval.minitrainers.reward import reward_loss
from prefeval.minitrainers.simpo import simpo_loss


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_dpo_loss_is_log_2_when_policy_equals_reference():
    loss = dpo_loss(t(-5, -7), t(-3, -9), t(-5, -7), t(-3, -9), beta=0.1)
    assert loss.losses.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-12)
    assert loss.chosen_rewards.tolist() == [0, 0]


def test_dpo_loss_by_hand():
    """Log-ratios +2 and -1: margin 3, times beta 0.5 is 1.5; rewards 1 and -0.5."""
    loss = dpo_loss(t(-3), t(-6), t(-5), t(-5), beta=0.5)
    assert loss.losses.item() == pytest.approx(-math.log(sigmoid(1.5)), abs=1e-12)
    assert (loss.chosen_rewards.item(), loss.rejected_rewards.item()) == (1.0, -0.5)


def test_label_smoothing_mixes_the_loss_of_the_flipped_pair():
    """cDPO: 0.9 times the loss at margin 1.5 and 0.1 times the loss at -1.5."""
    loss = dpo_loss(t(-3), t(-6), t(-5), t(-5), beta=0.5, label_smoothing=0.1)
    by_hand = -0.9 * math.log(sigmoid(1.5)) - 0.1 * math.log(sigmoid(-1.5))
    assert loss.losses.item() == pytest.approx(by_hand, abs=1e-12)


def test_smoothed_dpo_is_least_where_the_model_believes_the_noise():
    """The gradient vanishes where sigmoid(beta margin) = 1 - epsilon."""
    margin = math.log(0.9 / 0.1) / 0.5
    chosen = t(margin).requires_grad_()
    dpo_loss(chosen, t(0), t(0), t(0), beta=0.5, label_smoothing=0.1).losses.sum().backward()
    assert chosen.grad.item() == pytest.approx(0, abs=1e-12)


def test_ipo_aims_at_a_margin_of_one_over_two_beta():
    """beta 0.1 aims at 5 nats: margins 5 and 3 are 0 and 2 away."""
    loss = ipo_loss(t(1, 0), t(-4, -3), t(0, 0), t(0, 0), t(9, 9), t(9, 9), beta=0.1)
    assert loss.losses.tolist() == pytest.approx([0, 4], abs=1e-12)


def test_averaged_ipo_divides_each_log_ratio_by_its_own_length():
    """4/2 - (-6)/3 = 4 nats/token, 1 from the 5 aimed at."""
    loss = ipo_loss(t(4), t(-6), t(0), t(0), t(2), t(3), beta=0.1, average=True)
    assert loss.losses.item() == pytest.approx(1, abs=1e-12)


def test_kto_loss_by_hand():
    """r = 0.5 * 2 and z0 = 0.5 * 1: up 1.5 * (1 - sigmoid(0.5)), down 1 - sigmoid(-0.5)."""
    loss = kto_loss(
        t(-3, -3), t(-5, -5), torch.tensor([True, False]), 1.0, beta=0.5, desirable_weight=1.5
    )
    assert loss.losses.tolist() == pytest.approx([1.5 * (1 - sigmoid(0.5)), 1 - sigmoid(-0.5)])
    assert loss.rewards.tolist() == [1.0, 1.0]


def test_kto_uses_a_negative_kl_as_given():
    loss = kto_loss(t(0), t(0), torch.tensor([True]), -2.0, beta=0.5)
    assert loss.losses.item() == pytest.approx(1 - sigmoid(1.0))


def test_simpo_loss_by_hand():
    """2 * (-6/3) - 2 * (-10/4) - 0.5 = 0.5."""
    loss = simpo_loss(t(-6), t(-10), t(3), t(4), beta=2.0, gamma=0.5)
    assert loss.losses.item() == pytest.approx(-math.log(sigmoid(0.5)), abs=1e-12)
    assert (loss.chosen_rewards.item(), loss.rejected_rewards.item()) == (-4.0, -5.0)


def test_reward_loss_is_the_bradley_terry_likelihood():
    loss = reward_loss(t(1.0, 0.0), t(0.25, 0.0))
    assert loss.losses.tolist() == pytest.approx([-math.log(sigmoid(0.75)), math.log(2)])


def test_losses_stay_finite_where_the_sigmoid_underflows():
    far = t(-5000.0)
    assert dpo_loss(far, t(0), t(0), t(0), beta=1.0).losses.item() == pytest.approx(5000)
    assert simpo_loss(far, t(0), t(1), t(1), beta=1.0, gamma=0.0).losses.item() == 5000
