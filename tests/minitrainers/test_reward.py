"""The reward model: where it reads its score, and that it learns a preference."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prefeval.minitrainers.batches import Encoded
from prefeval.minitrainers.loop import TrainConfig
from prefeval.minitrainers.pairs import EncodedPair
from prefeval.minitrainers.reward import from_causal_lm, score, scores, train_reward_model


@pytest.fixture
def reward_model(make_model, tokenizer):
    return from_causal_lm(make_model(), tokenizer)


@pytest.fixture
def opinionated(reward_model):
    torch.manual_seed(0)
    torch.nn.init.normal_(reward_model.score.weight)
    return reward_model.eval()


def test_it_starts_with_the_causal_lms_body_and_scores_of_0(reward_model, make_model, pairs):
    own, start = reward_model.base_model.state_dict(), make_model().base_model.state_dict()
    assert all(torch.equal(own[name], start[name]) for name in start)
    assert scores(reward_model, [p.chosen for p in pairs]).tolist() == [0.0] * len(pairs)


def test_the_score_is_read_at_the_last_token_whatever_pads(opinionated, pairs):
    """Even where the end token is also the padding token, and whoever shares the batch."""
    opinionated.config.pad_token_id = 2
    examples = [p.chosen for p in pairs]
    together = scores(opinionated, examples).tolist()
    assert together == pytest.approx([scores(opinionated, [e]).item() for e in examples], abs=1e-4)
    e = examples[0]
    hidden = opinionated.base_model(torch.tensor([e.prompt_ids + e.completion_ids]))
    by_hand = opinionated.score(hidden.last_hidden_state[0, -1]).item()
    assert together[0] == pytest.approx(by_hand, abs=1e-4)


def test_conversations_are_scored_in_the_order_given(opinionated, tokenizer):
    ask = ({"role": "user", "content": "a b"},)
    conversations = [(ask, "c d e f"), (ask, "c"), (ask, "d d")]
    got = score(opinionated, tokenizer, conversations, batch_size=2)
    assert len(set(got)) == 3
    alone = [score(opinionated, tokenizer, [c])[0] for c in conversations]
    assert got == pytest.approx(alone, abs=1e-4)


def test_it_learns_a_preference_that_holds_on_unseen_pairs(reward_model, tokenizer, tmp_path):
    """Answers with token 7 are preferred to answers with token 8."""
    rng = np.random.default_rng(0)

    def answer(prompt: list[int], word: int) -> Encoded:
        others = rng.integers(9, 26, size=rng.integers(1, 6)).tolist()
        return Encoded(prompt, [*others, word, 2])

    pairs = [
        EncodedPair(str(i), answer(prompt := [1, 3, 9 + i % 17, 4], 7), answer(prompt, 8))
        for i in range(120)
    ]
    config = TrainConfig("reward", lr=3e-3, epochs=5, batch_size=20, max_length=64)
    rows = []
    saved = train_reward_model(
        reward_model, tokenizer, pairs[:80], config, out_dir=tmp_path, on_step=rows.append
    )
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    held_out = pairs[80:]
    chosen = scores(reward_model, [p.chosen for p in held_out])
    rejected = scores(reward_model, [p.rejected for p in held_out])
    assert (chosen > rejected).float().mean().item() > 0.9
    loaded = AutoModelForSequenceClassification.from_pretrained(saved[-1].path).eval()
    assert torch.allclose(scores(loaded, [p.chosen for p in held_out]), chosen)
