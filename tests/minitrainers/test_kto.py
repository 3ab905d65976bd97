"""KTO's batches and its KL from mismatched answers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from prefeval.minitrainers import kto
from prefeval.minitrainers.batches import Encoded
from prefeval.minitrainers.kto import EncodedThumb, ThumbData, mismatch, thumb_batches
from prefeval.minitrainers.loop import TrainConfig
from prefeval.minitrainers.pairs import sequence_logps
from prefeval.records import PrefevalError


def thumbs(n: int, up: float) -> ThumbData:
    rng = np.random.default_rng(0)
    return ThumbData(
        [
            EncodedThumb(
                f"thumb-{i}",
                Encoded([1, 3, 6 + i % 20, 4], [7] * int(rng.integers(1, 30))),
                bool(rng.random() < up),
            )
            for i in range(n)
        ]
    )


@pytest.mark.parametrize("up", [0.5, 0.2, 0.9])
def test_every_batch_holds_both_classes_in_the_proportion_of_the_whole(up):
    data = thumbs(500, up)
    batches = thumb_batches(data, TrainConfig("kto", batch_size=20, epochs=2))
    assert sorted(i for b in batches for i in b) == sorted([*range(500), *range(500)])
    share = np.mean([t.desirable for t in data.thumbs])
    for batch in batches:
        assert abs(sum(data.thumbs[i].desirable for i in batch) - share * len(batch)) <= 2


@pytest.mark.parametrize(
    ("up", "batch_size", "words"),
    [
        (0.0, 20, "all 100 thumbs are down"),
        (1.0, 20, "all 100 thumbs are up"),
        (0.5, 1, "set batch_size to 2 or more"),
        (0.02, 4, "both classes in each batch"),
    ],
)
def test_a_batch_that_would_hold_one_class_is_an_error(up, batch_size, words):
    with pytest.raises(PrefevalError, match=words):
        thumb_batches(thumbs(100, up), TrainConfig("kto", batch_size=batch_size))


def test_mismatched_answers_belong_to_other_prompts():
    """Each prompt comes three times; answer 100 + i is example i's alone."""
    examples = [Encoded([1, 6 + i % 20], [100 + i]) for i in range(60)]
    got = mismatch(examples, max_length=100)
    assert [g.prompt_ids for g in got] == [e.prompt_ids for e in examples]
    for i, (answer,) in enumerate(g.completion_ids for g in got):
        assert (answer - 100) % 20 != i % 20
    assert len({g.completion_ids[0] for g in got}) > 50
    assert mismatch(examples, max_length=100) == got


def test_mismatched_answers_are_cut_to_fit():
    examples = [Encoded([1] * 8, [7]), Encoded([2], [8] * 9)]
    assert mismatch(examples, max_length=10) == [Encoded([1] * 8, [8, 8]), Encoded([2], [7])]


def test_one_prompt_alone_has_no_mismatch():
    with pytest.raises(PrefevalError, match="at least two prompts"):
        mismatch([Encoded([1], [7]), Encoded([1], [8])], max_length=10)


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_the_first_loss_has_the_weights_and_the_kl_of_the_whole_batch(
    micro_batch, make_model, tokenizer, tmp_path
):
    """Against the loss of each thumb written out, with a policy far from its reference."""
    data = thumbs(24, 0.4)
    ref, policy = make_model(1), make_model(2)
    data = kto.with_reference(ref, data, max_length=64)
    examples = [t.example for t in data.thumbs]
    shifted = data.ref_mismatched_logps - 5 + sequence_logps(policy, data.mismatched)
    data = replace(data, ref_mismatched_logps=shifted - data.ref_mismatched_logps)
    kl = (sequence_logps(policy, data.mismatched) - data.ref_mismatched_logps).mean()
    assert kl > 1
    ratios = sequence_logps(policy, examples) - data.ref_logps
    expected = [
        4 * (1 - sigmoid(0.1 * (r - kl))) if t.desirable else 0.5 * (1 - sigmoid(0.1 * (kl - r)))
        for r, t in zip(ratios, data.thumbs, strict=True)
    ]
    config = TrainConfig(
        "kto", batch_size=24, max_steps=1, max_length=64, micro_batch=micro_batch,
        desirable_weight=4.0, undesirable_weight=0.5,
    )  # fmt: skip
    kto.train(policy, tokenizer, data, config, out_dir=tmp_path)
    row = json.loads((tmp_path / "train.jsonl").read_text())
    assert row["loss"] == pytest.approx(np.mean(expected), rel=1e-4)


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_the_logged_kl_is_the_mean_log_ratio_of_mismatched_answers_unclamped(
    make_model, tokenizer, tmp_path
):
    data = thumbs(24, 0.5)
    ref, policy = make_model(1), make_model(2)
    data = kto.with_reference(ref, data, max_length=64)
    expected = (sequence_logps(policy, data.mismatched) - data.ref_mismatched_logps).mean()
    config = TrainConfig("kto", batch_size=24, max_steps=1, max_length=64)
    kto.train(policy, tokenizer, data, config, out_dir=tmp_path)
    row = json.loads((tmp_path / "train.jsonl").read_text())
    assert row["kl"] == pytest.approx(expected, rel=1e-4)
    assert abs(expected) > 1
    assert torch.isfinite(torch.tensor(row["loss"]))
