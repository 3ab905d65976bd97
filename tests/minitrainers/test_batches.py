"""Encoding and batching: prefixes, bos, end tokens, truncation, order."""

import copy

import numpy as np
import pytest
import torch

from prefeval.minitrainers.batches import (
    Encoded,
    bucketed_batches,
    collate,
    encode,
    encode_all,
    end_of_turn,
    micro_batches,
)
from prefeval.records import PrefevalError

ASK = ({"role": "user", "content": "a b"},)


def test_the_prompt_is_a_prefix_and_the_end_token_closes_the_completion(tokenizer):
    got = encode(tokenizer, ASK, "c d", max_length=50)
    assert tokenizer.decode(got.prompt_ids) == "<begin><user>a b<end><assistant>"
    assert tokenizer.decode(got.completion_ids) == "c d<end>"
    assert not got.truncated
    rendered = tokenizer.apply_chat_template(
        [*ASK, {"role": "assistant", "content": "c d"}], tokenize=False
    )
    whole = tokenizer(rendered, add_special_tokens=False).input_ids
    assert got.prompt_ids + got.completion_ids == whole


def test_there_is_one_bos_whether_or_not_the_template_writes_it(tokenizer):
    silent = copy.deepcopy(tokenizer)
    silent.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    assert encode(silent, ASK, "c", max_length=50).prompt_ids.count(1) == 0  # adds none itself
    from tokenizers.processors import TemplateProcessing

    silent.backend_tokenizer.post_processor = TemplateProcessing(
        single="<begin> $A", special_tokens=[("<begin>", 1)]
    )
    assert encode(silent, ASK, "c", max_length=50) == encode(tokenizer, ASK, "c", max_length=50)


def test_two_bos_tokens_are_refused(tokenizer):
    double = copy.deepcopy(tokenizer)
    double.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    with pytest.raises(PrefevalError, match="two bos"):
        encode(double, ASK, "c", max_length=50)


def test_a_completion_that_merges_with_the_prompt_is_refused(tokenizer):
    """A prompt that ends in an open word: " " and "c" become the one token " c"."""
    merging = copy.deepcopy(tokenizer)
    merging.chat_template = tokenizer.chat_template.replace("<assistant>", "<assistant> ").replace(
        "<{{ m['role'] }}>", "<{{ m['role'] }}>{{ ' ' if m['role'] == 'assistant' else '' }}"
    )
    with pytest.raises(PrefevalError, match="prefix"):
        encode(merging, ASK, "c", max_length=50)


def test_the_end_of_turn_is_the_templates_own(tokenizer):
    assert end_of_turn(tokenizer) == ("<end>", 2)
    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace("<end>", "<pad>\n")
    assert end_of_turn(other) == ("<pad>", 0)


def test_without_one_the_end_of_turn_is_the_tokenizers_eos(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = tokenizer.chat_template.replace("<end>", "")
    assert end_of_turn(bare) == ("<end>", 2)
    bare.eos_token = None
    with pytest.raises(PrefevalError, match="end token"):
        end_of_turn(bare)


def test_a_missing_chat_template_is_named(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(PrefevalError, match="no chat template"):
        encode(bare, ASK, "c", max_length=50)


def test_a_generation_prompt_unlike_the_assistants_turns_is_refused(tokenizer):
    odd = copy.deepcopy(tokenizer)
    odd.chat_template = tokenizer.chat_template.replace("%}<assistant>", "%}<user>")
    with pytest.raises(PrefevalError, match="generation prompt"):
        encode(odd, ASK, "c", max_length=50)


@pytest.mark.parametrize(
    ("max_length", "kept", "truncated"),
    [(11, "c d e f<end>", False), (10, "c d e", True), (9, "c d e", True), (7, "c", True)],
)
def test_truncation_never_takes_the_end_token_alone(tokenizer, max_length, kept, truncated):
    """Prompt 6 tokens and completion 5: room for one less cuts two."""
    got = encode(tokenizer, ASK, "c d e f", max_length=max_length)
    assert tokenizer.decode(got.completion_ids) == kept
    assert got.truncated is truncated


@pytest.mark.parametrize("max_length", [6, 3])
def test_a_prompt_without_room_gives_an_empty_truncated_completion(tokenizer, max_length):
    got = encode(tokenizer, ASK, "c d", max_length=max_length)
    assert (got.completion_ids, got.truncated) == ([], True)


def test_a_prompt_alone_has_no_completion(tokenizer):
    got = encode(tokenizer, ASK, None, max_length=50)
    assert (got.completion_ids, got.truncated) == ([], False)


def test_many_are_encoded_as_one_by_one(tokenizer):
    examples = [(ASK, "c"), (ASK, None), (ASK, "d e f")]
    assert encode_all(tokenizer, examples, max_length=9) == [
        encode(tokenizer, m, c, max_length=9) for m, c in examples
    ]
    assert encode_all(tokenizer, [], max_length=9) == []


def test_collate_pads_on_the_right_and_marks_the_completion():
    batch = collate([Encoded([5, 6], [7]), Encoded([8], [9, 10, 2])])
    assert batch.input_ids.tolist() == [[5, 6, 7, 0], [8, 9, 10, 2]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.completion_mask.tolist() == [[0, 0, 1, 0], [0, 1, 1, 1]]
    assert all(x.dtype == torch.int64 for x in batch)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (8, 4), (103, 4), (1000, 7)])
def test_an_epoch_holds_every_example_once_in_even_batches(n, batch_size):
    lengths = np.random.default_rng(0).integers(5, 100, size=n).tolist()
    batches = bucketed_batches(lengths, batch_size, seed=0, epoch=0)
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    sizes = {len(batch) for batch in batches}
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == -(-n // batch_size)


@pytest.mark.parametrize("n_batches", [1, 16, 33])
def test_as_many_batches_as_asked_for(n_batches):
    batches = bucketed_batches(list(range(33)), 4, seed=0, epoch=0, n_batches=n_batches)
    assert len(batches) == n_batches
    assert sorted(i for batch in batches for i in batch) == list(range(33))
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_buckets_leave_little_padding_and_orders_differ_by_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(5, 100, size=1024).tolist()
    batches = bucketed_batches(lengths, 8, seed=0, epoch=0)
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches == bucketed_batches(lengths, 8, seed=0, epoch=0)
    assert batches != bucketed_batches(lengths, 8, seed=1, epoch=0)
    assert batches != bucketed_batches(lengths, 8, seed=0, epoch=1)
    longest = [max(lengths[i] for i in b) for b in batches]
    assert abs(np.corrcoef(longest, range(len(batches)))[0, 1]) < 0.3  # lengths come mixed


def test_micro_batches_cut_a_batch_in_order():
    assert list(micro_batches([4, 5, 6, 7, 8], 2)) == [[4, 5], [6, 7], [8]]
    assert list(micro_batches([4, 5, 6], None)) == [[4, 5, 6]]
