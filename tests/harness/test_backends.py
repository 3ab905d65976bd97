"""The Hugging Face backend against a loop over whole tensors."""

import copy
import math

import numpy as np
import pytest
import torch

from prefeval.harness import models
from prefeval.harness.backends.hugging_face import HuggingFaceBackend
from prefeval.records import PrefevalError, Prompt, Sampling

PROMPTS = [
    Prompt(f"p{i}", ({"role": "user", "content": text},), "", "win_rate")
    for i, text in enumerate(("hi", "what is up", "x"))
]


@pytest.fixture(scope="module")
def backends(tiny_folder):
    """A reference, and a policy somewhat off it."""
    tokenizer = models.load_tokenizer(tiny_folder)
    ref = models.load_model(tiny_folder)
    policy = copy.deepcopy(ref)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return [HuggingFaceBackend(m, tokenizer, max_length=128) for m in (policy, ref)]


def answers(backend, n=1, seed=0):
    return backend.generate(PROMPTS, Sampling("sample", 1.0, 12, n=n, seed=seed))


def distributions(backend, prompt, tokens):
    """log pi(. | all before), a row for each token of the answer; the whole tensor at once."""
    ids = backend._prompt_ids([prompt.messages])[0]
    with torch.no_grad():
        logits = backend.model(torch.tensor([[*ids, *tokens]])).logits[0].double()
    return logits[len(ids) - 1 : -1].log_softmax(-1)


def test_two_models_are_compared_as_whole_tensors_say(backends):
    policy, ref = backends
    drawn = answers(policy)
    items = [(p.messages, c.token_ids) for p, c in zip(PROMPTS, drawn, strict=True)]
    for prompt, completion, got in zip(PROMPTS, drawn, policy.compare(ref, items), strict=True):
        tokens = list(completion.token_ids)
        ours, theirs = (distributions(b, prompt, tokens) for b in backends)
        places = torch.arange(len(tokens)), torch.tensor(tokens)
        p, q = ours[places], theirs[places]
        kl = (ours.exp() * (ours - theirs)).sum(-1)
        want = {
            "logps": p.sum(), "ref_logps": q.sum(), "kl": kl.sum(),
            "entropy": -(ours.exp() * ours).sum(), "k2": ((p - q) ** 2 / 2).sum(),
            "k3": ((q - p).exp() - 1 - (q - p)).sum(),
        }  # fmt: skip
        for name, value in want.items():
            assert getattr(got, name) == pytest.approx(float(value), rel=1e-4), name
        assert got.kl_by_position == pytest.approx(kl.tolist(), rel=1e-4, abs=1e-6)
        assert got.n_tokens == len(tokens)


def test_all_unbiased_estimates_of_the_kl_agree_over_many_samples(backends):
    """900 samples; KL each way by every estimate, apart by at most 4 standard errors."""
    policy, ref = backends
    drawn = answers(policy, n=300, seed=3)
    by_id = {p.id: p.messages for p in PROMPTS}
    scored = policy.compare(ref, [(by_id[c.prompt_id], c.token_ids) for c in drawn])
    kl = np.array([s.kl for s in scored])
    k1 = np.array([s.logps - s.ref_logps for s in scored])
    k3 = np.array([s.k3 for s in scored])
    assert kl.mean() > 0.1
    for other in (k1, k3):
        gap = other - kl
        assert abs(gap.mean()) < 4 * gap.std(ddof=1) / math.sqrt(len(gap))
    assert kl.std() < k1.std()
    assert k3.min() >= 0


def test_a_model_has_no_distance_from_itself(backends):
    _, ref = backends
    drawn = answers(ref)
    items = [(p.messages, c.token_ids) for p, c in zip(PROMPTS, drawn, strict=True)]
    for got in ref.compare(ref, items):
        assert (got.kl, got.k2, got.k3) == (0, 0, 0)
        assert got.logps == got.ref_logps


def test_another_vocabulary_is_refused(backends):
    policy, ref = backends
    larger = copy.deepcopy(ref.model)
    larger.resize_token_embeddings(ref.model.config.vocab_size + 8)
    other = HuggingFaceBackend(larger, ref.tokenizer, max_length=128)
    with pytest.raises(PrefevalError, match="name the reference that this policy was tuned from"):
        policy.compare(other, [(PROMPTS[0].messages, [5, 1])])


def test_pairs_are_read_as_whole_tensors_say(backends):
    _, ref = backends
    pairs = [
        (PROMPTS[0].messages, "yes, of course", "no"),
        (PROMPTS[1].messages, "a", "the sky, and what is above it"),
        (PROMPTS[2].messages, "same", "same"),
    ]
    for (messages, chosen, rejected), got in zip(pairs, ref.pair_logps(pairs), strict=True):
        states, sums, lengths = [], [], []
        for answer in (chosen, rejected):
            text = ref.tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": answer}], tokenize=False
            )
            ids = ref.tokenizer(text, add_special_tokens=False).input_ids
            n = len(ids) - len(ref._prompt_ids([messages])[0])
            with torch.no_grad():
                out = ref.model(torch.tensor([ids]), output_hidden_states=True)
            logps = out.logits[0].double().log_softmax(-1)[range(len(ids) - 1), ids[1:]]
            states.append(out.hidden_states[-1][0, -n - 1 : -1].double().mean(0))
            sums.append(float(logps[-n:].sum()))
            lengths.append(n)
        want = torch.dot(states[0], states[1]) - torch.dot(states[0], states[0])
        assert (got.chosen_lengths, got.rejected_lengths) == tuple(lengths)
        assert (got.chosen_logps, got.rejected_logps) == pytest.approx(tuple(sums), abs=1e-4)
        assert got.ches == pytest.approx(float(want), abs=1e-4)
    assert got.ches == pytest.approx(0, abs=1e-5)  # the two answers are one


def test_pairs_have_the_same_numbers_in_any_company(backends):
    _, ref = backends
    pairs = [(p.messages, "word " * k, "other " * (9 - k)) for k, p in enumerate(PROMPTS * 3, 1)]
    pairs = pairs[:8]
    alone = [ref.pair_logps([pair])[0] for pair in pairs]
    for together, single in zip(ref.pair_logps(pairs), alone, strict=True):
        assert vars(together) == pytest.approx(vars(single), abs=1e-4)
    ref._score._may_share = False
    for apart, single in zip(ref.pair_logps(pairs), alone, strict=True):
        assert vars(apart) == pytest.approx(vars(single), abs=1e-4)
    del ref._score


def test_a_sharded_checkpoint_is_the_whole_one(backends, tmp_path):
    policy, ref = backends
    policy.model.save_pretrained(tmp_path, max_shard_size="5KB")
    ref.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    sharded = HuggingFaceBackend(
        models.load_model(tmp_path), models.load_tokenizer(tmp_path), max_length=128
    )
    drawn = answers(policy)
    assert answers(sharded) == drawn
    items = [(p.messages, c.token_ids) for p, c in zip(PROMPTS, drawn, strict=True)]
    assert sharded.compare(ref, items) == policy.compare(ref, items)
