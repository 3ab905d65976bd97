"""Sampling: the policy's own distribution, repeatable row by row."""

import numpy as np
import pytest
import torch

from prefeval.minitrainers.sampling import generate

END = 2


def prompts_of(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[1, 3, *rng.integers(6, 26, size=n).tolist(), 4] for n in lengths]


@pytest.fixture(scope="module")
def model(make_model):
    """Softer than random weights, so that samples differ and end at many lengths."""
    model = make_model(0)
    with torch.no_grad():
        model.lm_head.weight *= 0.5
    return model


def test_greedy_equals_generate(model):
    prompts = prompts_of(5, 1, 9, 3)
    got = generate(
        model, prompts, max_new_tokens=40, temperature=0, eos_token_id=END, seed=0, batch_size=3
    )
    for prompt, answer in zip(prompts, got, strict=True):
        ids = torch.tensor([prompt])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40
        )
        assert answer == whole[0, len(prompt) :].tolist()


def test_rows_do_not_depend_on_their_batch_mates(model):
    prompts = prompts_of(*range(1, 13))
    sampled = {"max_new_tokens": 40, "temperature": 1.0, "eos_token_id": END, "seed": 3}
    together = generate(model, prompts, **sampled)
    assert len({len(row) for row in together}) > 3  # rows ended and were dropped on the way
    alone = [generate(model, [p], **sampled, row_keys=[i])[0] for i, p in enumerate(prompts)]
    small = generate(model, prompts, **sampled, batch_size=5)
    backwards = generate(model, prompts[::-1], **sampled, row_keys=range(11, -1, -1))[::-1]
    assert together == alone == small == backwards


def test_seed_and_row_key_change_the_draws(model):
    sampled = {"max_new_tokens": 40, "temperature": 1.0, "eos_token_id": END}
    same_prompt = prompts_of(4) * 2
    first, second = generate(model, same_prompt, **sampled, seed=0)
    assert first != second
    assert generate(model, same_prompt, **sampled, seed=1) != [first, second]
    assert generate(model, same_prompt, **sampled, seed=0, row_keys=[0, 0]) == [first, first]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_match_the_softmax(model, temperature):
    """Chi-square of 20,000 first tokens, cells with an expectation under 5 joined."""
    n = 20_000
    prompt = prompts_of(4)[0]
    drawn = generate(
        model,
        [prompt] * n,
        max_new_tokens=1,
        temperature=temperature,
        eos_token_id=END,
        seed=0,
        batch_size=n,
    )
    counts = np.bincount([row[0] for row in drawn], minlength=model.config.vocab_size)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double()
    expected = n * (logits / temperature).softmax(-1).numpy()
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    chi_square = (((counts - expected) ** 2)[keep] / expected[keep]).sum()
    freedom = keep.sum() - 1
    assert freedom >= 5
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_an_answer_ends_with_its_end_token_or_at_the_limit(model):
    rows = generate(
        model, prompts_of(*[3] * 40), max_new_tokens=12, temperature=1.0, eos_token_id=END, seed=0
    )
    for row in rows:
        assert END not in row[:-1]
        assert row[-1] == END or len(row) == 12
    assert 0 < sum(row[-1] == END for row in rows) < 40


def test_no_prompts_give_no_answers(model):
    assert generate(model, [], max_new_tokens=4, temperature=1, eos_token_id=END, seed=0) == []
