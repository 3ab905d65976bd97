"""The trainers on a real model and real data: SmolLM2, demonstration pairs and thumbs."""

import json
import math
from pathlib import Path

import pytest
import torch

from prefeval.harness import data, models
from prefeval.harness.judges.reward_model import encode
from prefeval.minitrainers import dpo, kto, load, lora, make_config
from prefeval.minitrainers.batches import collate, encode_all
from prefeval.minitrainers.kto import EncodedThumb, ThumbData, suggest_weights, thumb_batches
from prefeval.minitrainers.logps import completion_logps
from prefeval.minitrainers.pairs import PairData, PairScorer, can_share
from prefeval.minitrainers.rollouts import PromptData
from prefeval.minitrainers.rounds import OnPolicy

pytestmark = [pytest.mark.real, pytest.mark.slow]
COMMON = {"lr": 1e-5, "batch_size": 4, "max_length": 256, "micro_batch": 2}


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return models.load_tokenizer(smollm2)


@pytest.fixture(scope="module")
def pairs(shared, tokenizer):
    source = shared / "data/preference_pairs/dpo_en_demo.json"
    found = encode(tokenizer, data.load_pairs(source).items, max_length=256)
    return [p for p in found if not (p.chosen.truncated or p.rejected.truncated)][:16]


@pytest.fixture(scope="module")
def thumbs(shared, tokenizer):
    items = data.load_thumbs(shared / "data/preference_pairs/kto_en_demo.json").items
    encoded = encode_all(tokenizer, [(t.prompt, t.completion) for t in items], max_length=256)
    return [
        EncodedThumb(t.id, e, t.desirable)
        for t, e in zip(items, encoded, strict=True)
        if e.completion_ids and not e.truncated
    ]


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


def test_real_answers_end_with_the_templates_end_token_after_one_prompt(pairs, tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(pairs) == 16
    for pair in pairs:
        assert pair.chosen.prompt_ids == pair.rejected.prompt_ids
        for answer in pair[1:]:
            assert answer.completion_ids[-1] == end
            assert end not in answer.completion_ids[:-1]


def test_a_real_pair_run_with_its_prompt_once_has_the_numbers_of_two_rows(smollm2, pairs):
    model = models.load_model(smollm2)
    assert can_share(model, 256)
    score = PairScorer(model, make_config("dpo", **COMMON))
    long = [p for p in pairs if score.shares([p])][:4]
    assert long
    with torch.no_grad():
        shared = score(long).sums
        apart = completion_logps(model, *collate([e for p in long for e in p[1:]])).sums
    assert torch.allclose(shared.flatten(), apart, rtol=1e-4, atol=1e-3)


def test_dpo_in_bfloat16_with_an_adapter_and_checkpointing_learns_and_resumes(
    smollm2, tokenizer, pairs, tmp_path
):
    config = make_config(
        "dpo", **{**COMMON, "lr": 2e-4}, dtype="bfloat16", lora_rank=8, epochs=2,
        gradient_checkpointing=True, state_every=1, schedule="constant", warmup=0.0,
    )  # fmt: skip
    few, trained = PairData(pairs[:8]), []
    for name, stops in (("whole", [None]), ("parts", [2, None])):
        for stop_after in stops:
            policy = lora.attach(models.load_model(smollm2), config)

            def on_step(row, stop_after=stop_after) -> None:
                if row["step"] == stop_after:
                    raise KeyboardInterrupt

            try:
                dpo.train(policy, tokenizer, few, config, out_dir=tmp_path / name, on_step=on_step)
            except KeyboardInterrupt:
                assert stop_after is not None
        trained.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert torch.equal(*trained)
    log = rows(tmp_path / "whole")
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=0.05)
    assert log[-1]["margin"] > log[0]["margin"] + 0.1


def test_kto_learns_from_real_thumbs(smollm2, tokenizer, thumbs, tmp_path):
    up = sum(t.desirable for t in thumbs)
    weights = suggest_weights(up, len(thumbs) - up)
    assert 1 <= weights.desirable * up / (weights.undesirable * (len(thumbs) - up)) <= 4 / 3
    config = make_config(
        "kto", **{**COMMON, "batch_size": 8}, max_steps=4, schedule="constant", warmup=0.0,
        desirable_weight=weights.desirable, undesirable_weight=weights.undesirable,
    )  # fmt: skip
    few = ThumbData(thumbs[:48])
    order = [i for batch in thumb_batches(few, config) for i in batch]
    assert order != sorted(order)  # shuffled
    policy = models.load_model(smollm2)
    kto.train(policy, tokenizer, few, config, out_dir=tmp_path)
    log = rows(tmp_path)
    assert abs(log[0]["kl"]) < 0.05
    assert log[0]["loss"] == pytest.approx(0.5, abs=0.2)
    assert log[-1]["kl"] != 0
    assert log[-1]["margin"] > 0.05


@pytest.mark.parametrize("method", ["ppo", "grpo", "rounds"])
def test_a_real_policy_learns_from_its_own_answers(method, smollm2, tokenizer, tmp_path):
    """The reward is the share of lower-case letters: nothing to reach in two steps, all to run."""
    questions = ("Name a colour.", "Name a city.", "Say hello.", "Count to three.")
    prompts = PromptData(
        [f"q{i}" for i in range(4)],
        [({"role": "user", "content": q},) for q in questions],
        lambda indices, texts: [sum(c.islower() for c in t) / max(1, len(t)) for t in texts],
    )
    settings = {**COMMON, "lr": 1e-6, "max_new_tokens": 12, "batch_size": 4}
    if method == "rounds":
        config = make_config("dpo", **settings, rounds=2, round_prompts=4, samples=3)
        dpo.train(models.load_model(smollm2), tokenizer,
                  OnPolicy(prompts, ref=models.load_model(smollm2)), config,
                  out_dir=tmp_path)  # fmt: skip
    else:
        own = {"group_size": 2} if method == "grpo" else {}
        config = make_config(method, **settings, **own, iterations=2, ppo_epochs=1, minibatches=2)
        load(method).train(models.load_model(smollm2), tokenizer, prompts, config, out_dir=tmp_path)
    log = rows(tmp_path)
    assert len(log) == 2
    assert log[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert all(math.isfinite(row["loss"]) for row in log)
