"""IFEval's instructions, by hand and over its whole file."""

import json

import pytest

from prefeval.records import PrefevalError
from prefeval.suites import builtin, checks, ifeval

pytest.importorskip("if_verifiable", reason="needs the extra 'ifeval'")

NO_COMMA = {"kind": "ifeval", "instructions": ["punctuation:no_comma"], "kwargs": [{}]}


def follows(instruction, text, **kwargs):
    return ifeval.follows(instruction, kwargs, "", text)


@pytest.mark.parametrize(
    ("instruction", "kwargs", "good", "bad"),
    [
        ("punctuation:no_comma", {}, "Red and blue.", "Red, blue."),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a"),
        ("length_constraints:number_words", {"num_words": 2, "relation": "at least"}, "a b", "a"),
        ("detectable_format:json_format", {}, '{"a": 1}', "a: 1"),
        ("change_case:english_lowercase", {}, "this is all small letters here", "This is not"),
        ("language:response_language", {"language": "de"}, "Das ist ein deutscher Satz.",
         "This is an English sentence."),
        ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"},
         "Dr. Smith came at 5.30 p.m. on foot. He left.", "One. Two. Three."),
        ("change_case:capital_word_frequency",
         {"capital_frequency": 2, "capital_relation": "at least"}, "NASA, ESA met.", "NASA met."),
        ("keywords:letter_frequency",
         {"letter": "#", "let_frequency": 2, "let_relation": "at least"}, "## a", "# aaaaaaaaaaa"),
        ("keywords:letter_frequency",
         {"letter": "Q", "let_frequency": 2, "let_relation": "less than"}, "Quiet", "Qatar, q"),
    ],
)  # fmt: skip
def test_an_instruction_is_followed_or_not(instruction, kwargs, good, bad):
    assert follows(instruction, good, **kwargs)
    assert not follows(instruction, bad, **kwargs)
    assert not follows(instruction, "  \n", **kwargs)


def test_loose_reads_the_answer_without_its_frame():
    answer = "Sure, here it is:\nred and blue\nBye, now"
    assert not checks.run_check(NO_COMMA, answer)
    assert checks.run_check({**NO_COMMA, "loose": True}, answer)
    assert not checks.run_check({**NO_COMMA, "loose": True}, "a, b\nc, d\ne, f")
    assert len(ifeval.variants(answer)) == 8
    assert ifeval.variants(" a\nb ")[0] == " a\nb "  # what passes strictly passes loosely
    assert ifeval.variants("*a*\nb\n*c*")[-1] == "b"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ('He said "Stop." Then he left.', 2),
        ("Mr. J. Doe has 3.5 apples.", 1),
        ("A title\n\nA sentence without an end", 2),
        ("It costs 5 dollars e.g. today. Buy it", 2),
        ("", 0),
    ],
)
def test_sentences_by_hand(text, count):
    assert len(ifeval.sentences(text)) == count


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"instructions": ["punctuation:no_such"]}, "unknown instruction 'punctuation:no_such'"),
        ({"kwargs": []}, "1 instructions and 0 kwargs"),
        ({"kwargs": [3]}, "must be objects"),
        ({"loose": "yes"}, "loose must be a bool"),
    ],
)
def test_a_faulty_check_is_named(change, word):
    with pytest.raises(PrefevalError, match=word):
        checks.validate_check({**NO_COMMA, **change})


def test_a_suite_may_be_ifevals_own_file(tmp_path):
    row = {
        "key": 7, "prompt": "Name two colours without a comma.",
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{}, {"keywords": ["red"], "relation": None}],
    }  # fmt: skip
    (tmp_path / "input_data.jsonl").write_text(json.dumps(row))
    (prompt,) = builtin.load_suite(tmp_path)
    assert (prompt.id, prompt.behaviour) == ("ifeval-7", "ifeval")
    assert checks.check_prompt(prompt, "red and blue")
    assert not checks.check_prompt(prompt, "green and blue")


def test_every_prompt_of_ifeval_loads_and_is_checked_offline(shared):
    prompts = builtin.load_suite(shared / "data/ifeval/input_data.jsonl")
    assert len(prompts) == 541
    passed = checks.check_all(prompts, {p.id: "A short answer. It has no commas" for p in prompts})
    assert 0 < sum(passed.values()) < 541
