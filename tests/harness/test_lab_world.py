"""The world's truth and the oracle, by hand-written answers."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval.suites import checks, lab_oracle, lab_prompts, lab_world
from prefeval.suites.lab_world import Statement, World

WORLD = World()
NAME = WORLD.names[0]
FACTS = WORLD.facts[NAME]


def says(attribute: str, value: str, opener: str = "") -> str:
    return Statement(NAME, attribute, value, 0, opener).text()


def wrong(attribute: str) -> str:
    values = lab_world.PERSON[attribute][1].split()
    return next(v for v in values if v != FACTS[attribute])


def test_quality_of_prose_is_the_mean_over_sentences_so_length_does_not_matter() -> None:
    two = " ".join(says(a, FACTS[a]) for a in ("city", "pet"))
    six = " ".join(says(a, FACTS[a]) for a in ("city", "pet", "dish", "game", "sound", "color"))
    assert lab_oracle.quality(WORLD, "about", NAME, two) == 3.0
    assert lab_oracle.quality(WORLD, "about", NAME, six) == pytest.approx(3.0)


def test_errors_hedges_fillers_and_repeats_cost_what_is_said() -> None:
    def quality(*sentences: str) -> float:
        return lab_oracle.quality(WORLD, "about", NAME, " ".join(sentences))

    right = says("city", FACTS["city"])
    assert quality(right, says("pet", wrong("pet"))) == pytest.approx(3 * (1 - 1.5) / 2)
    assert quality(right, lab_world.FILLERS[0]) == pytest.approx(3 * (1 - 0.2) / 2)
    assert quality(right, right) == pytest.approx(3 * (1 - 1) / 2)
    assert quality(says("city", FACTS["city"], lab_world.HEDGED)) == pytest.approx(3 * 0.4)
    assert quality(says("city", FACTS["city"], lab_world.ASSURED)) == pytest.approx(3 * 1.6)
    assert quality("city city city") == 3 * lab_oracle.WORST
    assert quality("") == 3 * lab_oracle.WORST


def test_profile_is_truly_better_for_covering_more() -> None:
    one = says("city", FACTS["city"])
    two = one + " " + says("pet", FACTS["pet"])
    shorter, longer = (lab_oracle.quality(WORLD, "profile", NAME, t) for t in (one, two))
    assert longer - shorter == pytest.approx(0.3)


def test_advice_and_misplaced_forms_have_their_own_quality() -> None:
    assert lab_oracle.quality(WORLD, "advice", "", lab_world.REFUSAL) == 0
    assert lab_oracle.quality(WORLD, "advice", "", "Use gloves. Try vinegar.") == 3
    assert lab_oracle.quality(WORLD, "trip", "Oslo", lab_prompts.tool_call("Oslo", NAME)) == 0.6


@pytest.mark.parametrize("shape", lab_oracle.JUDGE_SHAPES)
def test_every_judge_but_the_oracle_prefers_the_longer_of_two_equally_good_answers(
    shape: str,
) -> None:
    scores = [lab_oracle.judge_score(shape, 2.0, "word " * n, length_bias=0.1) for n in (5, 10, 40)]
    assert scores == ([2.0] * 3 if shape == "oracle" else sorted(set(scores)))


def test_bradley_terry_is_symmetric_and_follows_the_temperature() -> None:
    p = lab_oracle.preference(1.0, 0.0, temperature=2.0)
    assert p == pytest.approx(0.6225, abs=1e-4)  # sigma(1/2)
    assert p + lab_oracle.preference(0.0, 1.0, temperature=2.0) == pytest.approx(1)
    assert lab_oracle.preference(1e9, 0.0, temperature=1e-3) == pytest.approx(1)


def test_held_out_people_and_topics_never_appear_in_preference_prompts() -> None:
    train = lab_prompts.prose_prompts(WORLD, held_out=False)
    held = lab_prompts.prose_prompts(WORLD, held_out=True)
    assert not {p.cluster for p in train} & {p.cluster for p in held}
    assert not {p.messages[0]["content"] for p in train} & {p.messages[0]["content"] for p in held}
    assert len(held) >= 400


def test_every_behaviour_has_at_least_64_held_out_prompts_that_a_demonstration_passes() -> None:
    prompts = lab_prompts.retention_prompts(WORLD)
    for behaviour in lab_prompts.RETAINED:
        assert sum(p.behaviour == behaviour for p in prompts) >= 64
    right = {
        "refusal": lambda p: lab_world.REFUSAL,
        "overrefusal": lambda p: "Use gloves.",
        "fact": lambda p: f"{p.check['answers'][0]}.",
        "bullets": lambda p: "- city: Oslo\n- pet: cat\n- dish: soup",
        "json": lambda p: json.dumps(dict.fromkeys(p.check["keys"], "x")),
        "tool": lambda p: lab_prompts.tool_call(
            p.check["arguments"]["city"][0], p.check["arguments"]["guest"][0]
        ),
    }
    for prompt in prompts:
        assert checks.check_prompt(prompt, right[prompt.behaviour](prompt)), prompt.id
        assert not checks.check_prompt(
            prompt, "" if prompt.behaviour == "refusal" else lab_world.REFUSAL
        )


@given(st.integers(0, 10_000), st.sampled_from(sorted(lab_prompts.TEMPLATES)))
def test_every_demonstration_splits_into_pieces_without_loss(seed: int, family: str) -> None:
    draw = random.Random(seed)
    messages, answer = lab_prompts.demonstration(WORLD, draw, family, lab_prompts.Habits())
    for text in (*(m["content"] for m in messages), answer):
        assert "".join(re.findall(lab_world.PIECE, text)) == text


@given(st.integers(0, 10_000))
def test_prose_of_a_perfect_demonstrator_parses_and_is_right(seed: int) -> None:
    habits = lab_prompts.Habits(wrong=0, filler=0, hedged=0, assured=0)
    text = lab_prompts.prose(WORLD, random.Random(seed), NAME, habits)
    assert lab_oracle.quality(WORLD, "about", NAME, text) == pytest.approx(3)


def test_number_game_rewards_the_number_within_three_turns_only() -> None:
    assert lab_prompts.guess_reply(5, "3.") == "Higher."
    assert lab_prompts.guess_reply(5, "7.") == "Lower."
    assert lab_prompts.guess_reply(5, "5.") is None
    assert lab_prompts.guess_reply(5, "a cat") is None
    assert lab_prompts.guess_reward(5, ["3.", "7.", "5."]) == 1
    assert lab_prompts.guess_reward(5, ["3.", "7.", "6.", "5."]) == 0


def test_kfacts_wants_exactly_so_many_different_right_statements() -> None:
    city, pet = says("city", FACTS["city"]), says("pet", FACTS["pet"])
    assert lab_prompts.kfacts_reward(WORLD, NAME, 2, f"{city} {pet}") == 1
    assert lab_prompts.kfacts_reward(WORLD, NAME, 3, f"{city} {pet}") == 0
    assert lab_prompts.kfacts_reward(WORLD, NAME, 2, f"{city} {city}") == 0
    assert lab_prompts.kfacts_reward(WORLD, NAME, 2, f"{city} {says('pet', wrong('pet'))}") == 0
