"""A pair's prompt run once gives the numbers of two rows of their own, where a model allows it."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)

from prefeval.minitrainers import dpo, kto, make_config
from prefeval.minitrainers import pairs as pairs_module
from prefeval.minitrainers.batches import Encoded, collate, collate_shared
from prefeval.minitrainers.kto import EncodedThumb, ThumbData
from prefeval.minitrainers.logps import completion_logps, continued_logps, shared_logps
from prefeval.minitrainers.loop import TrainConfig
from prefeval.minitrainers.pairs import EncodedPair, PairData, PairScorer, can_share

SMALL = {
    "vocab_size": 26, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def test_a_row_holds_the_prompt_once_and_answers_that_do_not_see_each_other():
    """Prompt 5 6, answers 7 8 and 9, by hand."""
    row = [Encoded([5, 6], [7, 8]), Encoded([5, 6], [9])]
    batch = collate_shared([row, [Encoded([5], [7]), Encoded([5], [8])]])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [5, 7, 8, 0, 0]]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 2]
    assert batch.answer.tolist() == [[-1, -1, 0, 0, 1], [-1, 0, 1, -1, -1]]
    assert batch.predictor[0].tolist() == [0, 0, 1, 2, 1]
    assert batch.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert batch.attention_mask[1, 0].any(-1).all()  # padding too sees something: no NaN


def test_three_answers_in_one_row_equal_three_rows(make_model, pairs):
    model = make_model().double()
    groups = [[p.chosen, p.rejected, p.chosen] for p in pairs]
    shared = shared_logps(model, collate_shared(groups), 3)
    apart = completion_logps(model, *collate([e for group in groups for e in group]))
    assert torch.allclose(shared.sums.flatten(), apart.sums, atol=1e-6)
    assert shared.lengths.flatten().tolist() == apart.lengths.tolist()
    assert torch.allclose(shared.entropies.flatten(), apart.entropies.sum(-1), atol=1e-6)


def test_answers_read_on_from_what_their_prompts_left_have_their_own_numbers(make_model, pairs):
    """Unequal prompts and answers, one of a single token; and the gradient is the first's alone."""
    model = make_model().double()
    own = [p.chosen for p in pairs]
    others = [p.rejected for p in pairs[:-1]] + [Encoded(pairs[-1].chosen.prompt_ids, [2])]
    got = continued_logps(model, own, others)
    assert torch.allclose(got.own.tokens, completion_logps(model, *collate(own)).tokens, atol=1e-6)
    expected = completion_logps(model, *collate(others)).sums
    assert torch.allclose(got.other_sums, expected, atol=1e-6)
    assert not got.other_sums.requires_grad
    grads = []
    for sums in (got.own.sums, completion_logps(model, *collate(own)).sums):
        model.zero_grad()
        sums.mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*grads, atol=1e-7)


def test_kto_is_the_same_with_prompts_run_once_or_twice(
    make_model, tokenizer, pairs, tmp_path, monkeypatch
):
    thumbs = [EncodedThumb(f"{p.id}-up", p.chosen, True) for p in pairs[:12]]
    thumbs += [EncodedThumb(f"{p.id}-down", p.rejected, False) for p in pairs[12:]]
    policies = []
    for once in (True, False):
        if not once:
            monkeypatch.setattr(kto, "can_share", lambda model, max_length: False)
        policy = make_model().double()
        config = make_config("kto", lr=1e-3, batch_size=8, max_length=64, epochs=2)
        kto.train(policy, tokenizer, ThumbData(thumbs), config, out_dir=tmp_path / str(once))
        policies.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    start = torch.cat([p.detach().flatten() for p in make_model().double().parameters()])
    assert (policies[0] - policies[1]).norm() < 1e-3 * (policies[0] - start).norm()


def test_gradients_are_those_of_two_rows(make_model, pairs):
    found = []
    for share in (True, False):
        model = make_model().double()
        if share:
            sums = shared_logps(model, collate_shared([[p.chosen, p.rejected] for p in pairs]), 2)
            margins = sums.sums[:, 0] - sums.sums[:, 1]
        else:
            chosen = completion_logps(model, *collate([p.chosen for p in pairs])).sums
            margins = chosen - completion_logps(model, *collate([p.rejected for p in pairs])).sums
        torch.nn.functional.softplus(-0.1 * margins).mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*found, atol=1e-7)
    assert found[0].norm() > 0.1


def test_the_entropy_is_that_of_the_whole_distribution(make_model, pairs):
    model, example = make_model().double(), pairs[0].chosen
    got = completion_logps(model, *collate([example])).entropies[0]
    logits = model(torch.tensor([example.prompt_ids + example.completion_ids])).logits[0]
    logps = logits.log_softmax(-1)
    expected = -(logps.exp() * logps).sum(-1)
    start = len(example.prompt_ids)
    assert torch.allclose(got[start:], expected[start - 1 : -1], atol=1e-6)
    assert (got[:start] == 0).all()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Qwen2Config(**SMALL), True),
        (GPT2Config(vocab_size=26, n_embd=32, n_layer=2, n_head=2), True),
        (MistralConfig(**SMALL, sliding_window=16), False),
        (MistralConfig(**SMALL, sliding_window=4096), True),
        (MambaConfig(vocab_size=26, hidden_size=32, num_hidden_layers=2, state_size=4), False),
    ],
    ids=["qwen2", "gpt2", "short window", "long window", "state space"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_model_allows_is_seen_on_it(config, expected):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert can_share(model, 128) is expected


def test_an_attention_that_adds_a_boolean_mask_is_found_out(make_model):
    model = make_model()
    model.config._attn_implementation = "eager"
    score = PairScorer(model, TrainConfig("dpo", max_length=64))
    pair = EncodedPair("p", Encoded([1] * 30, [7, 2]), Encoded([1] * 30, [8, 2]))
    shared = shared_logps(model, collate_shared([pair[1:]]), 2).sums
    apart = completion_logps(model, *collate(pair[1:])).sums
    agree = torch.allclose(shared[0], apart, atol=1e-3)
    assert score.shares([pair]) is agree  # whatever this version of transformers does


def test_prompts_are_shared_where_it_saves_work(make_model):
    score = PairScorer(make_model(), TrainConfig("dpo", max_length=64))
    long = EncodedPair("long", Encoded([1] * 40, [7, 2]), Encoded([1] * 40, [8, 2]))
    short = EncodedPair("short", Encoded([1], [7] * 60), Encoded([1], [8] * 60))
    assert score.shares([long])
    assert not score.shares([short])
    apart = EncodedPair("two prompts", Encoded([1] * 40, [7]), Encoded([3] * 40, [8]))
    assert not score.shares([long, apart])
    assert score.flops([long]) < 0.7 * score.cost.step_on(long[1:])


def test_training_is_the_same_with_prompts_shared_or_not(
    make_model, tokenizer, pairs, tmp_path, monkeypatch
):
    policies = []
    for share in (True, False):
        if not share:
            monkeypatch.setattr(pairs_module, "can_share", lambda model, max_length: False)
        policy = make_model().double()
        config = make_config("dpo", lr=1e-3, batch_size=8, max_length=64)
        dpo.train(policy, tokenizer, PairData(pairs), config, out_dir=tmp_path / str(share))
        policies.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    start = torch.cat([p.detach().flatten() for p in make_model().double().parameters()])
    assert (policies[0] - policies[1]).norm() < 1e-3 * (policies[0] - start).norm()
