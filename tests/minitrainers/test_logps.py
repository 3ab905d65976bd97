"""Log-probabilities and KL against plain formulas, by padding side, chunk, adapter and family."""

import itertools
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig

from prefeval.minitrainers import logps as logps_module
from prefeval.minitrainers.batches import Batch, collate
from prefeval.minitrainers.logps import completion_logps, full_kl, lm_logits


@pytest.fixture
def batch(pairs) -> Batch:
    return collate([p.chosen for p in pairs[:6]])


def naive_token_logps(model, batch: Batch) -> Tensor:
    """From the whole (batch, time, vocabulary) tensor, row by row without padding."""
    rows = torch.zeros(batch.input_ids.shape, dtype=model.dtype)
    for row, (ids, mask) in enumerate(zip(batch.input_ids, batch.attention_mask, strict=True)):
        ids = ids[mask.bool()]
        logps = model(ids.unsqueeze(0)).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if batch.completion_mask[row, t]:
                rows[row, t] = logps[t - 1, ids[t]]
    return rows


def pad_left(batch: Batch) -> Batch:
    lengths = batch.attention_mask.sum(-1).tolist()
    width = batch.input_ids.shape[1]
    return Batch(
        *(
            torch.stack([row.roll(width - n) for row, n in zip(x, lengths, strict=True)])
            for x in batch
        )
    )


def test_completion_logps_equal_the_plain_formula(make_model, batch):
    model = make_model().double()
    expected = naive_token_logps(model, batch)
    got = completion_logps(model, *batch)
    assert torch.allclose(got.tokens, expected, atol=1e-6)
    assert torch.allclose(got.sums, expected.sum(-1), atol=1e-6)
    assert got.lengths.tolist() == batch.completion_mask.sum(-1).tolist()


def test_the_side_of_the_padding_changes_nothing(make_model, batch):
    model = make_model().double()
    right = completion_logps(model, *batch).sums
    left = completion_logps(model, *pad_left(batch)).sums
    assert left.tolist() == pytest.approx(right.tolist(), abs=1e-6)


def test_the_order_of_the_rows_changes_nothing(make_model, batch):
    model, order = make_model().double(), [4, 0, 5, 2, 1, 3]
    got = completion_logps(model, *(x[order] for x in batch)).sums
    assert got.tolist() == pytest.approx(completion_logps(model, *batch).sums[order].tolist())


def test_what_stands_in_the_padding_changes_nothing(make_model, batch):
    model = make_model()
    noisy = torch.where(batch.attention_mask.bool(), batch.input_ids, 7)
    got = completion_logps(model, noisy, batch.attention_mask, batch.completion_mask)
    assert torch.equal(got.sums, completion_logps(model, *batch).sums)


def test_chunks_change_neither_values_nor_gradients(make_model, batch, monkeypatch):
    model = make_model().double()

    def loss_and_gradient() -> tuple[float, Tensor]:
        model.zero_grad()
        loss = (completion_logps(model, *batch).sums ** 2).mean()
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = loss_and_gradient()
    monkeypatch.setattr(logps_module, "CHUNK_ELEMENTS", {"cpu": 5 * model.config.vocab_size})
    chunked = loss_and_gradient()
    assert chunked[0] == pytest.approx(whole[0], rel=1e-12)
    assert torch.allclose(chunked[1], whole[1], rtol=1e-9, atol=1e-9 * whole[1].norm().item())


def test_the_head_never_sees_more_positions_than_a_chunk(make_model, batch, monkeypatch):
    model = make_model()
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    monkeypatch.setattr(logps_module, "CHUNK_ELEMENTS", {"cpu": 5 * model.config.vocab_size})
    completion_logps(model, *batch).sums.sum().backward()
    assert max(seen) == 5
    assert sum(seen) == 2 * batch.completion_mask.sum()  # once forward, once recomputed


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors made inside, until they are freed; ``most`` at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.places: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {x.untyped_storage().data_ptr() for x in tree_leaves(args) if torch.is_tensor(x)}
        made = func(*args, **(kwargs or {}))
        for storage in (x.untyped_storage() for x in tree_leaves(made) if torch.is_tensor(x)):
            place = storage.data_ptr()
            if place not in self.places | given:
                self.places.add(place)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.free, place, storage.nbytes())
        return made

    def free(self, place: int, size: int) -> None:
        self.places.discard(place)
        self.now -= size


def test_the_head_holds_two_tensors_of_the_logits_size_and_three_backward(make_model):
    """The logits and one more: their softmax, then what the loss keeps. Backward: what it kept and
    the gradients of both."""
    model = make_model(vocab_size=20_000)
    ids = torch.arange(202).view(2, 101)
    completions = torch.ones_like(ids)
    logits = 2 * 100 * 20_000 * 4  # bytes
    with Held() as held:
        sums = completion_logps(model, ids, torch.ones_like(ids), completions).sums.sum()
    assert 2 <= held.most / logits < 2.2
    with held:
        sums.backward()
    assert 3 <= held.most / logits < 3.5


def test_an_empty_completion_has_log_probability_0(make_model, batch):
    got = completion_logps(make_model(), *batch[:2], torch.zeros_like(batch.completion_mask))
    assert got.sums.tolist() == [0.0] * 6
    assert got.lengths.tolist() == [0] * 6


def test_bfloat16_models_get_float32_log_probabilities(make_model, batch):
    model = make_model()
    expected = completion_logps(model, *batch).sums
    got = completion_logps(model.bfloat16(), *batch).sums
    assert got.dtype == torch.float32
    assert got.tolist() == pytest.approx(expected.tolist(), rel=0.05)


def test_full_kl_summed_over_own_samples_is_the_sequence_kl(make_model):
    """By enumeration of all 4^3 sequences: sum_y pi(y) sum_t KL_t = sum_y pi(y) log pi/ref (y)."""
    small = {"vocab_size": 4, "bos_token_id": 0, "eos_token_id": 3}
    policy, ref = make_model(1, **small).double(), make_model(2, **small).double()
    ids = torch.tensor([[0, 1, *y] for y in itertools.product(range(4), repeat=3)])
    attention = torch.ones_like(ids)
    completion = attention.clone()
    completion[:, :2] = 0
    got = full_kl(policy, ref, ids, attention, completion)
    p = got.policy_logps.sum(-1).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    exact = (p * (got.policy_logps - got.ref_logps).sum(-1)).sum().item()
    assert exact > 0.1
    assert (p * got.kl.sum(-1)).sum().item() == pytest.approx(exact, abs=1e-6)
    exact_entropy = -(p * got.policy_logps.sum(-1)).sum().item()
    assert (p * got.entropy.sum(-1)).sum().item() == pytest.approx(exact_entropy, abs=1e-6)


def test_full_kl_agrees_with_completion_logps_and_is_0_outside(make_model, batch, monkeypatch):
    policy, ref = make_model(1), make_model(2)
    monkeypatch.setattr(logps_module, "CHUNK_ELEMENTS", {"cpu": 5 * policy.config.vocab_size})
    got = full_kl(policy, ref, *batch)
    assert torch.allclose(got.policy_logps, completion_logps(policy, *batch).tokens, atol=1e-5)
    assert torch.allclose(got.ref_logps, completion_logps(ref, *batch).tokens, atol=1e-5)
    outside = batch.completion_mask == 0
    assert all((x[outside] == 0).all() for x in got)
    assert (got.kl[~outside] > 0).all()


def test_full_kl_in_smaller_parts_is_the_same(make_model, batch):
    policy, ref = make_model(1), make_model(2)
    whole, parts = full_kl(policy, ref, *batch), full_kl(policy, ref, *batch, elements=300)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


def test_full_kl_of_a_model_with_itself_is_0(make_model, batch):
    model = make_model()
    assert full_kl(model, model, *batch).kl.abs().max().item() == 0


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(final_logit_softcapping=2.0, head_dim=16, attn_implementation="eager"),
        CohereConfig(logit_scale=0.25),
        GraniteConfig(logits_scaling=4.0),
    ],
    ids=lambda config: config.model_type,
)
def test_heads_that_scale_or_cap_give_the_familys_own_logits(config, batch):
    config.update(
        {
            "vocab_size": 30,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "initializer_range": 0.5,
            "pad_token_id": 0,
        }
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    hidden = model.base_model(batch.input_ids).last_hidden_state
    expected = model(batch.input_ids).logits
    assert torch.allclose(lm_logits(model, hidden), expected, atol=1e-5)
    assert not torch.allclose(model.get_output_embeddings()(hidden), expected, atol=1e-2)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # inside peft
def test_an_adapter_is_scored_with_its_layers_and_receives_the_gradient(make_model, batch):
    base = completion_logps(make_model(), *batch).sums
    adapted = get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"], r=2))
    assert torch.equal(completion_logps(adapted, *batch).sums, base)  # LoRA begins as nothing
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    got = completion_logps(adapted, *batch).sums
    assert not torch.allclose(got, base, atol=1e-2)
    assert torch.allclose(got, naive_token_logps(adapted, batch).sum(-1), atol=1e-3)
    got.sum().backward()
    with_gradient = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert with_gradient
    assert all("lora" in name for name in with_gradient)
