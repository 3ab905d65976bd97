"""bfloat16 on a processor without its instructions: autocast's own numbers, sooner."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prefeval.harness.task import Task
from prefeval.minitrainers import lora, make_config, precision
from prefeval.minitrainers.batches import Encoded, collate
from prefeval.minitrainers.logps import IN_PLACE_HEAD, completion_logps
from prefeval.minitrainers.loop import prepare
from prefeval.minitrainers.precision import COMPOSED, PRODUCTS, autocast

ROWS = [Encoded([1, 5, 9, 4], [7, 8, 6, 2]), Encoded([1, 4], [3, 9, 5, 6, 7, 2])]
SETTINGS = [{}, {"gradient_checkpointing": True}, {"lora_rank": 4}]


class Products(TorchDispatchMode):
    """Notes the type that matrix products are computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        if func in PRODUCTS or func in COMPOSED:
            self.types.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def logps_and_gradient(make_model, monkeypatch, *, native: bool, **settings) -> tuple[Tensor, ...]:
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: native)
    config = make_config("dpo", **{"dtype": "bfloat16", **settings})
    policy = prepare(lora.attach(make_model(attention_bias=True), config), config)
    with autocast(config):
        sums = completion_logps(policy, *collate(ROWS, "cpu")).sums
        sums.sum().backward()
    grads = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return sums.detach(), torch.cat(grads)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("settings", SETTINGS)
def test_products_in_float32_give_what_autocast_gives(settings, make_model, monkeypatch):
    """Apart by the order of summation, which now and then rounds the other way; float32 is not."""
    ours = logps_and_gradient(make_model, monkeypatch, native=False, **settings)
    theirs = logps_and_gradient(make_model, monkeypatch, native=True, **settings)
    exact = logps_and_gradient(make_model, monkeypatch, native=True, dtype="float32", **settings)
    for mine, autocasts, float32 in zip(ours, theirs, exact, strict=True):
        rounding = apart(autocasts, float32)
        assert rounding > 1e-4
        assert apart(mine, autocasts) < 0.2 * rounding


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_product_forward_backward_or_again_is_left_in_bfloat16(
    settings, make_model, monkeypatch
):
    with Products() as seen:
        logps_and_gradient(make_model, monkeypatch, native=False, **settings)
    assert seen.types
    assert set(seen.types) == {torch.float32}
    with Products() as seen:
        logps_and_gradient(make_model, monkeypatch, native=True, **settings)
    assert torch.bfloat16 in seen.types


def test_in_little_memory_the_head_is_never_whole_in_bfloat16(make_model, monkeypatch):
    class Tables(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.types: set[torch.dtype] = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and sorted(made.shape) == sorted(shape):
                self.types.add(made.dtype)
            return made

    monkeypatch.setattr(precision, "AT_ONCE", 500)
    shape = make_model().lm_head.weight.shape
    for little in (True, False):
        with Tables() as seen:
            logps_and_gradient(make_model, monkeypatch, native=False, gradient_checkpointing=little)
        assert torch.float32 in seen.types  # the gradient
        assert (torch.bfloat16 in seen.types) is not little


@pytest.mark.parametrize("shape", [(3, 5, 700), (700, 5, 3), (3, 700, 5), (20, 20, 20)])
def test_a_large_product_in_parts_is_the_product(shape, monkeypatch):
    """Apart at most where a sum lies on the edge of two bfloat16 numbers."""
    m, k, n = shape
    torch.manual_seed(0)
    a, b = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16().T
    whole = precision.product(a, b)
    assert torch.equal(whole, (a.float() @ b.float()).bfloat16())
    monkeypatch.setattr(precision, "AT_ONCE", 500)
    parts = precision.product(a, b)
    assert parts.dtype is torch.bfloat16
    assert (parts != whole).float().mean() < 0.02
    torch.testing.assert_close(parts, whole, rtol=1 / 128, atol=1e-6)


@pytest.mark.parametrize("at_once", [1 << 23, 500])
@pytest.mark.parametrize("shape", [(3, 5, 700), (700, 5, 3), (3, 700, 5)])
def test_factors_in_float32_are_rounded_as_if_beforehand(shape, at_once, monkeypatch):
    """To the bit, in parts and whole, with or without autocast."""
    m, k, n = shape
    monkeypatch.setattr(precision, "AT_ONCE", at_once)
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: False)
    torch.manual_seed(0)
    a, b = torch.randn(m, k), torch.randn(n, k).T
    rounded = precision.product(a.bfloat16(), b.bfloat16())
    assert not torch.equal(rounded, (a @ b).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = precision.rounded_product(a, b)
    for found in (precision.product(a, b), precision.rounded_product(a, b.bfloat16()), cast):
        assert found.dtype is torch.bfloat16
        assert torch.equal(found, rounded)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_that_adds_its_gradient_in_place_has_the_same_gradient(tied, dtype, make_model):
    """As autograd's own sums; two backward passes, so that there is a gradient to add to."""

    def gradients(in_place: bool, **settings) -> dict[str, Tensor]:
        config = make_config("dpo", dtype=dtype, **settings)
        policy = prepare(make_model(tie_word_embeddings=tied), config)
        if not in_place:
            setattr(policy, IN_PLACE_HEAD, False)
            policy.get_input_embeddings().sparse = False
        assert getattr(policy, IN_PLACE_HEAD, False) == in_place
        for row in ROWS:
            with autocast(config):
                completion_logps(policy, *collate([row], "cpu")).sums.sum().backward()
        return {name: p.grad for name, p in policy.named_parameters()}

    whole, little = gradients(False), [gradients(True, gradient_checkpointing=True)]
    if dtype == "bfloat16":
        little.append(gradients(True))
    for found in little:
        assert whole.keys() == found.keys()
        for name, grad in whole.items():
            assert not found[name].is_sparse
            assert apart(found[name], grad) < (1e-6 if dtype == "float32" else 1e-2), name


@pytest.mark.parametrize("quiet", [torch.no_grad, torch.inference_mode])
def test_models_held_in_bfloat16_are_quick_too_and_others_are_left_alone(
    quiet, make_model, monkeypatch
):
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: False)
    model = make_model().bfloat16()
    batch = collate(ROWS, "cpu")
    plain = completion_logps(model, *batch).sums
    for place in (Task("", "", "", dtype="bfloat16"), Task("", "", "", dtype="float32")):
        with Products() as seen, quiet(), precision.products(place):
            got = completion_logps(model, *batch).sums
        assert set(seen.types) == {
            getattr(torch, "float32" if place.dtype == "bfloat16" else "bfloat16")
        }
        torch.testing.assert_close(got, plain, rtol=2e-2, atol=0.1)


def test_float32_is_left_alone(make_model, monkeypatch):
    found = [
        logps_and_gradient(make_model, monkeypatch, native=native, dtype="float32")
        for native in (False, True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
