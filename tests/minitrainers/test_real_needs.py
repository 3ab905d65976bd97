"""What real models need: adapters, gradient checkpointing, what a step costs, what a log says."""

import json
import math

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForSequenceClassification
from transformers.modeling_layers import GradientCheckpointingLayer

from prefeval.minitrainers import METHODS, dpo, kto, load, lora, make_config
from prefeval.minitrainers.batches import Encoded, collate
from prefeval.minitrainers.cost import Cost
from prefeval.minitrainers.kto import EncodedThumb, ThumbData, suggest_weights
from prefeval.minitrainers.logps import adapter_off, completion_logps, full_kl
from prefeval.minitrainers.loop import TrainConfig, prepare
from prefeval.minitrainers.pairs import EncodedPair, PairData, sequence_logps
from prefeval.minitrainers.rollouts import PromptData
from prefeval.minitrainers.sampling import generate
from prefeval.records import PrefevalError

COMMON = {"lr": 1e-3, "batch_size": 8, "max_length": 64}


def flat(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.fixture
def train(make_model, tokenizer, pairs, tmp_path):
    """``train(method, folder, **settings)``: the policy after a short run."""

    def run(method: str, folder: str, tied: bool = False, **settings):
        own = {"iterations": 2, "max_new_tokens": 6, "ppo_epochs": 1, "minibatches": 2}
        own = own if METHODS[method].data == "prompts" else {}
        own |= {"group_size": 4} if method == "grpo" else {}
        config = make_config(method, **{**COMMON, **own, **settings})
        policy = lora.attach(make_model(tie_word_embeddings=tied), config)
        thumbs = [EncodedThumb(f"{p.id}-up", p.chosen, True) for p in pairs[:12]]
        thumbs += [EncodedThumb(f"{p.id}-down", p.rejected, False) for p in pairs[12:]]
        prompts = PromptData(
            [f"p{i}" for i in range(8)],
            [({"role": "user", "content": c},) for c in "abcdefgh"],
            lambda indices, texts: [float(len(text)) for text in texts],
        )
        data = {"pairs": PairData(pairs), "thumbs": ThumbData(thumbs), "prompts": prompts}
        load(method).train(
            policy, tokenizer, data[METHODS[method].data], config, out_dir=tmp_path / folder
        )
        return policy

    return run


# -- adapters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_is_all_that_is_trained_and_its_base_is_the_reference(
    method, train, make_model, pairs, tmp_path
):
    policy = train(method, "out", lora_rank=2, base_hash="1234")
    batch = collate([p.chosen for p in pairs])
    with torch.no_grad(), adapter_off(policy):
        off = completion_logps(policy, *batch).sums
    with torch.no_grad():
        base = completion_logps(make_model(), *batch).sums
        on = completion_logps(policy, *batch).sums
    assert torch.equal(off, base)
    assert not torch.allclose(on, base, atol=1e-3)
    saved = max((tmp_path / "out").glob("checkpoint-*"))
    assert (saved / "adapter_model.safetensors").is_file()
    assert not (saved / "model.safetensors").exists()
    assert json.loads((saved / "base.json").read_text()) == {"weights_hash": "1234"}
    with lora.quiet_peft():
        loaded = PeftModel.from_pretrained(make_model(), saved)
    with torch.no_grad():
        again = completion_logps(loaded, *batch).sums
    assert torch.allclose(again, on, atol=1e-5)


def test_the_first_loss_of_an_adapter_is_that_of_its_base(train, tmp_path):
    train("dpo", "out", lora_rank=2, max_steps=1)
    assert rows(tmp_path / "out")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_kl_against_the_base_is_kl_against_a_copy_of_it(train, make_model, pairs):
    policy = train("dpo", "out", lora_rank=2, epochs=3)
    batch = collate([p.chosen for p in pairs])
    own, copied = full_kl(policy, None, *batch), full_kl(policy, make_model(), *batch)
    assert torch.equal(own.kl, copied.kl)
    assert own.kl.sum() > 0.1


def test_the_seed_decides_the_adapter_and_nothing_else_is_drawn(make_model):
    models = [make_model() for _ in range(3)]
    before = torch.get_rng_state()
    first, second, other = (
        flat(lora.attach(model, TrainConfig("dpo", lora_rank=2, seed=seed)))
        for model, seed in zip(models, (0, 0, 1), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# -- gradient checkpointing --------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("lora_rank", "tied"), [(0, False), (0, True), (2, True)])
def test_gradient_checkpointing_changes_no_number(method, lora_rank, tied, train):
    plain = train(method, "plain", tied, lora_rank=lora_rank)
    less = train(method, "less", tied, lora_rank=lora_rank, gradient_checkpointing=True)
    layers = [m for m in less.modules() if isinstance(m, GradientCheckpointingLayer)]
    assert layers
    assert all(layer.gradient_checkpointing for layer in layers)
    start = train(method, "start", tied, lora_rank=lora_rank, lr=0.0)
    moved = (flat(plain) - flat(start)).norm()
    assert moved > 0
    assert (flat(plain) - flat(less)).norm() < 1e-3 * moved


def test_a_scorer_without_a_head_is_prepared_too(make_model):
    scorer = LlamaForSequenceClassification(make_model(tie_word_embeddings=True).config)
    prepare(scorer, TrainConfig("reward", gradient_checkpointing=True))
    assert not scorer.get_input_embeddings().sparse


def test_each_layer_is_run_again_in_the_backward_pass(make_model, pairs):
    calls = []
    model = prepare(make_model(), TrainConfig("dpo", gradient_checkpointing=True))
    attention = model.model.layers[0].self_attn
    attention.register_forward_hook(lambda *_: calls.append(1))
    completion_logps(model, *collate([pairs[0].chosen])).sums.sum().backward()
    assert len(calls) == 2
    assert not attention.training  # dropout stays off


def test_sampling_uses_its_cache_whatever_mode_layers_are_in(make_model):
    model = prepare(make_model(), TrainConfig("dpo", gradient_checkpointing=True))
    asked = {"max_new_tokens": 12, "temperature": 1.0, "eos_token_id": 2, "seed": 0}
    got = generate(model, [[1, 3, 8, 4]], **asked)
    assert got == generate(make_model(), [[1, 3, 8, 4]], **asked)
    assert model.model.layers[0].training  # and leaves them so


# -- what a step costs -------------------------------------------------------------------------


def test_operations_are_two_a_weight_and_token_forward_and_four_backward(make_model):
    """Weights of the body by hand, far more than the attention of two tokens."""
    model = make_model()
    body = sum(
        p.numel() for n, p in model.named_parameters() if "embed" not in n and "head" not in n
    )
    head = model.lm_head.weight.numel()
    cost = Cost(model, TrainConfig("dpo"))
    attention = 4 * 32 * 2 * (1 + 2)  # width 32, 2 layers; token 1 looks at one, token 2 at two
    assert cost.forward([2], 1) == 2 * body * 2 + attention + 2 * head
    assert cost.step([2], 1) == 3 * cost.forward([2], 1)
    assert Cost(model, TrainConfig("dpo", lora_rank=2)).step([2], 1) == 2 * cost.forward([2], 1)
    more = Cost(model, TrainConfig("dpo", gradient_checkpointing=True))
    assert more.step([2], 1) == 4 * cost.forward([2], 1)


def test_dpo_costs_more_than_sft_and_ppo_more_than_dpo(train, tmp_path):
    ratios = {}
    for method in ("dpo", "kto", "ppo"):
        train(method, method)
        log = rows(tmp_path / method)
        ratios[method] = sum(r["flops"] for r in log) / sum(r["sft_flops"] for r in log)
    assert 1 < ratios["dpo"] < 2.1  # two answers, one prompt
    assert 1 < ratios["kto"] < 2
    assert ratios["ppo"] > 3


@pytest.mark.parametrize("method", METHODS)
def test_every_row_of_the_log_says_what_it_must(method, train, tmp_path):
    train(method, "out")
    names = {"step", "loss", "kl", "entropy", "grad_norm", "tokens", "seconds", "peak_memory_mb",
             "flops", "sft_flops"}  # fmt: skip
    if METHODS[method].data != "prompts":
        names |= {"chosen_logps", "rejected_logps", "delta_chosen", "margin", "accuracy", "lr"}
    for row in rows(tmp_path / "out"):
        assert names <= row.keys()
        assert all(math.isfinite(row[name]) for name in names)
        assert 0 < row["entropy"] < math.log(26)


def test_the_logged_kl_of_pairs_is_the_mean_log_ratio_of_reference_to_policy(
    make_model, tokenizer, pairs, tmp_path
):
    ref, policy = make_model(1), make_model(2)
    from prefeval.minitrainers.pairs import with_reference

    data = with_reference(ref, PairData(pairs))
    dpo.train(policy, tokenizer, data, make_config("dpo", batch_size=24, max_steps=1),
              out_dir=tmp_path)  # fmt: skip
    answers = [e for p in pairs for e in (p.chosen, p.rejected)]
    expected = (sequence_logps(ref, answers) - sequence_logps(make_model(2), answers)).mean()
    assert rows(tmp_path)[0]["kl"] == pytest.approx(expected, rel=1e-4)


# -- bad input ---------------------------------------------------------------------------------


def test_an_empty_answer_is_named(make_model, tokenizer, pairs, tmp_path):
    bad = EncodedPair("the-bad-one", pairs[0].chosen, Encoded(pairs[0].chosen.prompt_ids, []))
    with pytest.raises(PrefevalError, match="the-bad-one has an answer without tokens"):
        dpo.train(make_model(), tokenizer, PairData([*pairs, bad]), make_config("dpo", **COMMON),
                  out_dir=tmp_path)  # fmt: skip
    thumbs = [EncodedThumb("up", pairs[0].chosen, True), EncodedThumb("down", bad.rejected, False)]
    with pytest.raises(PrefevalError, match="thumb down has a completion without tokens"):
        kto.train(make_model(), tokenizer, ThumbData(thumbs), make_config("kto", **COMMON),
                  out_dir=tmp_path)  # fmt: skip


@pytest.mark.parametrize(
    ("up", "down", "expected"),
    [(100, 100, (1, 1)), (130, 100, (1, 1)), (50, 100, (2, 1)), (300, 100, (1, 3))],
)
def test_suggested_weights_bring_both_classes_to_pull_alike(up, down, expected):
    got = suggest_weights(up, down)
    assert got == pytest.approx(expected)
    assert 1 <= got.desirable * up / (got.undesirable * down) <= 4 / 3


def test_one_class_alone_has_no_weights():
    with pytest.raises(PrefevalError, match="all 7 thumbs are up"):
        suggest_weights(7, 0)
