"""Losses, log-probabilities and gradients held to saved values of TRL and of plain float64."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from prefeval.minitrainers.dpo import dpo_loss
from prefeval.minitrainers.ipo import ipo_loss
from prefeval.minitrainers.kto import kto_loss
from prefeval.minitrainers.logps import CompletionLogps, completion_logps
from prefeval.minitrainers.simpo import simpo_loss

Case = dict[str, Any]
EXACT = {"rel": 1e-9, "abs": 1e-9}
TRL = {"rel": 1e-5, "abs": 0}


@pytest.fixture(scope="module")
def values(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "fixtures/trl/fixtures.json").read_text())


@pytest.fixture
def models(shared: Path, values: dict[str, Any]) -> dict[str, LlamaForCausalLM]:
    """Policy and reference in float64, with the attention under which the values were saved:
    parts of a Llama compute in float32 whatever its type, so kernels differ by 1e-8."""
    weights = load_file(shared / "fixtures/trl/tiny.safetensors")
    loaded = {}
    for name in ("policy", "ref"):
        config = LlamaConfig(**values["config"], attn_implementation="eager")
        model = LlamaForCausalLM(config).double().eval()
        own = {k.removeprefix(f"{name}."): v.double() for k, v in weights.items() if name in k}
        model.load_state_dict(own)
        loaded[name] = model
    return loaded


def logps(model: LlamaForCausalLM, inputs: dict[str, Any], prefix: str = "") -> CompletionLogps:
    names = ("input_ids", "attention_mask", "completion_mask")
    return completion_logps(model, *(torch.tensor(inputs[prefix + name]) for name in names))


def pair_logps(
    models: dict[str, LlamaForCausalLM], case: Case
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The four log-probabilities (chosen, rejected, ref chosen, ref rejected), and the lengths."""
    policy = logps(models["policy"], case["inputs"])
    with torch.no_grad():
        ref = logps(models["ref"], case["inputs"])
    chosen_lengths, rejected_lengths = policy.lengths.chunk(2)
    chosen, rejected = policy.sums.chunk(2)
    ref_chosen, ref_rejected = ref.sums.chunk(2)
    return (chosen, rejected, ref_chosen, ref_rejected), (chosen_lengths, rejected_lengths)


def assert_loss_and_gradients_equal(loss: Tensor, policy: LlamaForCausalLM, case: Case) -> None:
    """Loss and gradient against both references.

    A projection of the gradient is compared on the scale of the gradient's norm times the other
    vector's: a Llama's norms round to float32 in an order that depends on the threads.
    """
    loss.backward()
    gradients = {name: p.grad for name, p in policy.named_parameters()}
    flat = torch.cat([g.flatten() for g in gradients.values()])
    dot = flat @ torch.cos(0.37 * torch.arange(len(flat), dtype=torch.float64))

    root = len(flat) ** 0.5
    exact = case["fp64"]
    scale = exact["grad"]["norm"]
    assert loss.item() == pytest.approx(exact["loss"], **EXACT)
    assert flat.norm().item() == pytest.approx(scale, **EXACT)
    assert flat.sum().item() == pytest.approx(exact["grad"]["sum"], abs=1e-9 * scale * root)
    assert dot.item() == pytest.approx(exact["grad"]["dot_cos"], abs=1e-9 * scale * root)
    for name, gradient in gradients.items():
        norm = exact["grad"]["per_param_norm"][name]
        assert gradient.norm().item() == pytest.approx(norm, abs=1e-9 * scale)
        for index, value in exact["grad"]["samples"][name].items():
            assert gradient.flatten()[int(index)].item() == pytest.approx(value, abs=1e-9 * scale)

    for trl in case["trl"]:
        assert loss.item() == pytest.approx(trl["loss"], **TRL)
        assert flat.norm().item() == pytest.approx(trl["grad_norm"], **TRL)


def test_completion_logps_and_lengths_equal_the_saved_ones(models, values):
    case = values["cases"]["dpo_sigmoid"]
    (chosen, rejected, ref_chosen, ref_rejected), lengths = pair_logps(models, case)
    saved = case["fp64"]
    assert chosen.tolist() == pytest.approx(saved["policy_chosen_logps"], **EXACT)
    assert rejected.tolist() == pytest.approx(saved["policy_rejected_logps"], **EXACT)
    assert ref_chosen.tolist() == pytest.approx(saved["ref_chosen_logps"], **EXACT)
    assert ref_rejected.tolist() == pytest.approx(saved["ref_rejected_logps"], **EXACT)
    assert torch.cat(lengths).tolist() == saved["completion_lengths"]


def test_dpo_equals_the_sigmoid_loss(models, values):
    case = values["cases"]["dpo_sigmoid"]
    four, _ = pair_logps(models, case)
    loss = dpo_loss(*four, beta=case["settings"]["beta"])
    assert_loss_and_gradients_equal(loss.losses.mean(), models["policy"], case)
    metrics = case["trl"][0]["metrics"]
    assert loss.chosen_rewards.mean().item() == pytest.approx(metrics["rewards/chosen"], **TRL)
    assert loss.rejected_rewards.mean().item() == pytest.approx(metrics["rewards/rejected"], **TRL)


def test_ipo_averaged_over_tokens_equals_trl(models, values):
    case = values["cases"]["dpo_ipo"]
    four, lengths = pair_logps(models, case)
    loss = ipo_loss(*four, *lengths, beta=case["settings"]["beta"], average=True)
    assert_loss_and_gradients_equal(loss.losses.mean(), models["policy"], case)


@pytest.mark.parametrize(
    "name",
    [
        "kto_kl_negative_clamped_to_0",
        "kto_kl_positive_models_swapped",
        "kto_all_undesirable",
    ],
)
def test_kto_equals_trl(models, values, name):
    case = values["cases"][name]
    settings, inputs = case["settings"], case["inputs"]
    policy = models[settings.get("policy", "policy")]
    ref = models[settings.get("ref", "ref")]
    with torch.no_grad():
        kl = (logps(policy, inputs, "KL_").sums - logps(ref, inputs, "KL_").sums).mean()
        ref_sums = logps(ref, inputs).sums
    assert kl.item() == pytest.approx(case["fp64"]["kl_unclamped"], **EXACT)
    loss = kto_loss(
        logps(policy, inputs).sums,
        ref_sums,
        torch.tensor(inputs["label"]),
        kl.clamp_min(0),
        beta=settings["beta"],
        desirable_weight=settings["desirable_weight"],
        undesirable_weight=settings["undesirable_weight"],
    )
    assert_loss_and_gradients_equal(loss.losses.mean(), policy, case)


@pytest.mark.parametrize("name", ["simpo", "simpo_label_smoothing_0.1"])
def test_simpo_equals_trl(models, values, name):
    case = values["cases"][name]
    settings, inputs = case["settings"], case["inputs"]
    sums, lengths = [], []
    for side in ("chosen", "rejected"):
        completion = [[int(x != -100) for x in row] for row in inputs[f"{side}_labels"]]
        got = logps(models["policy"], inputs | {f"{side}_completion_mask": completion}, f"{side}_")
        sums.append(got.sums)
        lengths.append(got.lengths)
    loss = simpo_loss(
        *sums,
        *lengths,
        beta=settings["beta"],
        gamma=settings["simpo_gamma"],
        label_smoothing=settings.get("label_smoothing", 0.0),
    )
    assert_loss_and_gradients_equal(loss.losses.mean(), models["policy"], case)
