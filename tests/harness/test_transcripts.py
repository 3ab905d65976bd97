import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval.harness.transcripts import (
    Unusable,
    join_speakers,
    opening_key,
    parse_transcript,
    read_pair,
    read_thumb,
    read_turns,
)

# words that cannot be taken for a speaker's mark, and keep their shape when stripped
WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
TALKS = st.lists(TEXTS, min_size=1, max_size=5)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def talk(texts):
    return [(user, assistant)[i % 2](text) for i, text in enumerate(texts)]


def transcript(turns):
    speaker = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{speaker[turn['role']]}: {turn['content']}" for turn in turns)


@given(TALKS)
def test_a_transcript_reads_back_as_the_turns_it_was_written_from(texts):
    turns = talk(texts)
    assert parse_transcript(transcript(turns)) == turns
    assert parse_transcript(transcript(turns).lstrip()) == turns


@pytest.mark.parametrize("text", ["", "Hello", "Human nature", "x\n\nHuman: y", "Human:"])
def test_what_is_no_transcript_is_none_or_empty(text):
    assert not parse_transcript(text) or parse_transcript(text) == [user("")]


def test_an_open_assistant_turn_at_the_end_is_where_the_answer_goes():
    assert parse_transcript("\n\nHuman: Hi\n\nAssistant:") == [user("Hi")]
    assert parse_transcript("\n\nHuman: Hi\n\nAssistant: \n") == [user("Hi")]


@given(TALKS, TEXTS, TEXTS)
def test_the_prompt_is_the_turns_that_both_transcripts_share(texts, chosen, rejected):
    prompt = talk([*texts[: len(texts) // 2 * 2], "so?"])
    row = [transcript([*prompt, assistant(text)]) for text in (chosen, rejected)]
    if chosen == rejected:
        with pytest.raises(Unusable, match="identical"):
            read_pair(None, *row)
    else:
        assert read_pair(None, *row) == (tuple(prompt), chosen, rejected)


def test_answers_that_begin_alike_are_kept_whole():
    row = [transcript([user("Hi"), assistant(text)]) for text in ("Well, yes.", "Well, no.")]
    assert read_pair(None, *row) == ((user("Hi"),), "Well, yes.", "Well, no.")


@given(TEXTS, TEXTS, TEXTS)
def test_one_pair_reads_the_same_in_all_of_trls_formats(prompt, chosen, rejected):
    if chosen == rejected:
        return
    wanted = ((user(prompt),), chosen, rejected)
    won, lost = [assistant(chosen)], [assistant(rejected)]
    assert read_pair(prompt, chosen, rejected) == wanted
    assert read_pair([user(prompt)], won, lost) == wanted
    assert read_pair(None, [user(prompt), *won], [user(prompt), *lost]) == wanted
    assert read_pair(prompt, [user(prompt), *won], [user(prompt), *lost]) == wanted
    assert read_pair(f"\n\nHuman: {prompt}\n\nAssistant:", f" {chosen}", f" {rejected}") == wanted
    sharegpt = [{"from": "human", "value": prompt}]
    assert read_pair(sharegpt, {"from": "gpt", "value": chosen}, lost) == wanted


def test_plain_texts_without_prompt_are_cut_before_the_word_in_which_they_part():
    sides = read_pair(None, "Two and two? four", "Two and two? five")
    assert sides == ((user("Two and two?"),), "four", "five")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("Q", "same ", " same"), "identical"),
        (("Q", "", "b"), "empty answer"),
        (("Q", "a", " \n"), "empty answer"),
        (("Q", None, "b"), "empty answer"),
        (("", "a", "b"), "empty prompt"),
        (([], "a", "b"), "empty prompt"),
        ((None, "alpha", "beta"), "empty prompt"),
        ((None, "same", "same"), "identical"),
        ((None, "Q ", "Q a"), "empty answer"),
        (([user("Q"), assistant("A")], "a", "b"), "prompt does not end with the user"),
        (("Q", [assistant("a"), user("x"), assistant("c")], [assistant("b")]), "not one answer"),
        (("Q", [user("a")], [assistant("b")]), "not one answer"),
        (([{"role": "system", "content": "Be kind."}], "a", "b"), "empty prompt"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row, reason):
    with pytest.raises(Unusable, match=f"^{reason}$"):
        read_pair(*row)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "neither text nor messages"),
        ([7], "a message must have role and content"),
        ([{"role": "boss", "content": "x"}], "unknown role 'boss'"),
        ([{"content": "x"}], "unknown role None"),
        ([{"role": "user", "content": [1]}], "must be text, got list"),
    ],
)
def test_a_malformed_cell_is_an_error_and_no_drop(value, message):
    with pytest.raises(ValueError, match=message):
        read_turns(value, role="user")


def test_messages_as_columns_are_messages():
    columns = {"role": ["user", "assistant"], "content": ["Hi", "Ho"], "weight": None}
    assert read_turns(columns, role="user") == [user("Hi"), assistant("Ho")]


def test_consecutive_turns_of_one_speaker_become_one_but_tool_results_stay_apart():
    tool = {"role": "tool", "content": "5"}
    turns = [user("a"), user("b"), assistant("c"), tool, tool, user("")]
    assert join_speakers(turns) == [user("a\n\nb"), assistant("c"), tool, tool, user("")]


def test_a_thumb_takes_its_answer_from_the_completion_or_from_the_last_message():
    wanted = ((user("Q"),), "A")
    assert read_thumb("Q", "A") == wanted
    assert read_thumb([user("Q")], [assistant("A")]) == wanted
    assert read_thumb(None, [user("Q"), assistant("A")]) == wanted
    assert read_thumb(None, transcript([user("Q"), assistant("A")])) == wanted
    with pytest.raises(Unusable, match="not one answer"):
        read_thumb(None, [user("Q")])


@given(TALKS, TALKS, TEXTS)
def test_conversations_with_the_same_opening_share_their_key(one, other, opening):
    first, second = talk([opening, *one]), talk([f" {opening.upper()} ".casefold(), *other])
    if opening.upper().casefold() == opening.casefold():
        assert opening_key(first) == opening_key(second)
    assert opening_key([{"role": "system", "content": "x"}, *first]) == opening_key(first)
    assert opening_key(first) != opening_key(talk([f"{opening} more", *one]))
