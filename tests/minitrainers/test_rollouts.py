"""Rollouts: whose tokens are whose, in one turn and in several."""

import copy

import pytest

from prefeval.minitrainers.rollouts import PromptData, roll_out
from prefeval.records import PrefevalError

PROMPTS = [({"role": "user", "content": "a b"},), ({"role": "user", "content": "c"},)]
SETTINGS = {"max_new_tokens": 10, "max_length": 100, "seed": 0}


def count_words(indices, texts):
    return [float(len(text.split())) for text in texts]


@pytest.fixture
def model(make_model):
    return make_model()


def spans(row_ids, row_mask, tokenizer) -> list[tuple[int, str]]:
    """The row as runs of (whose, text)."""
    runs: list[tuple[int, list[int]]] = []
    for token, mine in zip(row_ids.tolist(), row_mask.tolist(), strict=True):
        if not runs or runs[-1][0] != mine:
            runs.append((mine, []))
        runs[-1][1].append(token)
    return [(mine, tokenizer.decode(ids)) for mine, ids in runs]


def test_one_turn_is_the_prompt_then_the_policys_own_tokens(model, tokenizer):
    seen = {}

    def reward(indices, texts):
        seen.update(zip(indices, texts, strict=True))
        return [1.5, -2.0]

    data = PromptData(["x", "y"], PROMPTS, reward)
    got = roll_out(model, tokenizer, data, [1, 0], **SETTINGS)
    assert got.rewards == [1.5, -2.0]
    for row, prompt in enumerate((1, 0)):
        length = int(got.batch.attention_mask[row].sum())
        (theirs, asked), (mine, answer) = spans(
            got.batch.input_ids[row, :length], got.batch.completion_mask[row, :length], tokenizer
        )
        content = PROMPTS[prompt][0]["content"]
        assert (theirs, asked) == (0, f"<begin><user>{content}<end><assistant>")
        assert mine == 1
        assert got.ended[row] == answer.endswith("<end>")
        ids = got.batch.input_ids[row][got.batch.completion_mask[row].bool()].tolist()
        ids = ids[:-1] if got.ended[row] else ids
        assert seen[prompt] == tokenizer.decode(ids, skip_special_tokens=True)


def test_several_turns_alternate_until_the_user_falls_silent(model, tokenizer):
    def respond(prompt_index, turns):
        return "d e" if len(turns) < 3 else None

    data = PromptData(["x", "y"], PROMPTS, count_words, respond)
    indices = [0, 1] * 20
    got = roll_out(model, tokenizer, data, indices, **SETTINGS)
    complete = 0
    for row in range(len(indices)):
        length = int(got.batch.attention_mask[row].sum())
        runs = spans(
            got.batch.input_ids[row, :length], got.batch.completion_mask[row, :length], tokenizer
        )
        assert [mine for mine, _ in runs] == [0, 1] * (len(runs) // 2)
        assert all(text == "<user>d e<end><assistant>" for mine, text in runs[2:] if not mine)
        assert all(text.endswith("<end>") for mine, text in runs[:-1] if mine)
        complete += len(runs) == 6
    assert complete > 0  # and a turn without an end token ends its episode early
    assert complete < len(indices)


def test_an_episode_ends_before_a_turn_that_might_not_fit(model, tokenizer):
    data = PromptData(["x", "y"], PROMPTS, count_words, lambda i, turns: "d e")
    got = roll_out(model, tokenizer, data, [0, 1] * 20, **{**SETTINGS, "max_length": 45})
    lengths = got.batch.attention_mask.sum(-1)
    assert lengths.max() <= 45
    assert lengths.max() > 25


def test_the_seed_and_the_row_decide_the_draw(model, tokenizer):
    data = PromptData(["x", "y"], PROMPTS, count_words)
    first = roll_out(model, tokenizer, data, [0, 0, 1], **SETTINGS)
    again = roll_out(model, tokenizer, data, [0, 0, 1], **SETTINGS)
    other = roll_out(model, tokenizer, data, [0, 0, 1], **{**SETTINGS, "seed": 1})
    assert first.batch.input_ids.tolist() == again.batch.input_ids.tolist()
    assert first.batch.input_ids.tolist() != other.batch.input_ids.tolist()
    assert first.batch.input_ids[0].tolist() != first.batch.input_ids[1].tolist()


def test_a_prompt_without_room_is_named(model, tokenizer):
    data = PromptData(["x", "y"], PROMPTS, count_words)
    with pytest.raises(PrefevalError, match="prompt x has 6 tokens"):
        roll_out(model, tokenizer, data, [1, 0], **{**SETTINGS, "max_length": 15})


def test_a_template_that_rewrites_earlier_turns_is_refused(model, tokenizer):
    forgetful = copy.deepcopy(tokenizer)
    forgetful.chat_template = tokenizer.chat_template.replace("in messages", "in messages[-2:]")
    data = PromptData(["x", "y"], PROMPTS, count_words, lambda i, turns: "d e")
    with pytest.raises(PrefevalError, match="rewrites earlier turns"):
        roll_out(model, forgetful, data, [0] * 20, **SETTINGS)
