import gzip
import json
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.harness.data import (
    load_pairs,
    load_thumbs,
    split_pairs,
    thumbs_from_pairs,
    to_trl,
)
from prefeval.harness.transcripts import opening_key
from prefeval.records import PreferencePair, PrefevalError, Thumb

ROWS = [
    {"prompt": "One?", "chosen": "a", "rejected": "b"},
    {"prompt": "Two?", "chosen": "c", "rejected": "d"},
]


def write(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def pair(number, prompt=None, chosen="good", rejected="bad"):
    ask = ({"role": "user", "content": prompt or f"Question {number}?"},)
    return PreferencePair(f"p{number}", ask, chosen, rejected, "fact", f"c{number}")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv", "a.parquet"])
def test_the_same_pairs_load_from_every_kind_of_file(tmp_path, name):
    path, frame = tmp_path / name, pd.DataFrame(ROWS)
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(ROWS))
        case ".csv" | ".tsv":
            frame.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
        case ".parquet":
            frame.to_parquet(path)
        case _:
            write(path, ROWS)
    loaded = load_pairs(path)
    assert [(p.prompt[0]["content"], p.chosen, p.rejected) for p in loaded.items] == [
        ("One?", "a", "b"),
        ("Two?", "c", "d"),
    ]
    assert loaded.describe() == "2 of 2 rows"


def test_pairs_load_from_a_folder_and_from_a_saved_data_set(tmp_path):
    import datasets

    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "train.jsonl", ROWS)
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert load_pairs(tmp_path / "files").items == load_pairs(tmp_path / "saved").items
    assert len(load_pairs(tmp_path / "files").items) == 2


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_pairs_and_thumbs_survive_being_written_in_trls_format(tmp_path, kind):
    pairs = [pair(1), pair(2, chosen="ü 中\n\n- x", rejected="{}")]
    thumbs = [Thumb("t1", pairs[0].prompt, "yes", True), Thumb("t2", pairs[1].prompt, "no", False)]
    for items, load in ((pairs, load_pairs), (thumbs, load_thumbs)):
        path, rows = tmp_path / f"x.{kind}", [to_trl(item) for item in items]
        pd.DataFrame(rows).to_parquet(path) if kind == "parquet" else write(path, rows)
        read = load(path).items
        assert [to_trl(item) for item in read] == [
            {**row, "cluster": row["cluster"] or opening_key(row["prompt"])} for row in rows
        ]


def test_unusable_rows_are_dropped_and_counted_by_reason(tmp_path):
    rows = [*ROWS, {"prompt": "Three?", "chosen": "e ", "rejected": "e"}]
    rows += [{"prompt": "Four?", "chosen": "", "rejected": "f"}] * 2
    rows += [{"prompt": None, "chosen": "g", "rejected": "h"}]
    loaded = load_pairs(write(tmp_path / "a.jsonl", rows))
    assert len(loaded.items) == 2
    assert loaded.dropped == {"identical": 1, "empty answer": 2, "empty prompt": 1}
    assert loaded.describe() == "2 of 6 rows (dropped: 2 empty answer, 1 empty prompt, 1 identical)"


def test_nothing_left_to_use_is_an_error_with_the_counts(tmp_path):
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "a"}] * 3
    with pytest.raises(PrefevalError, match=r"nothing is left to use.*3 identical"):
        load_pairs(write(tmp_path / "a.jsonl", rows))


def test_ids_are_taken_made_from_rows_and_never_doubled(tmp_path):
    assert [p.id for p in load_pairs(write(tmp_path / "a.jsonl", ROWS)).items] == [
        "row-000000",
        "row-000001",
    ]
    rows = [{**row, "id": 7} for row in ROWS]
    with pytest.raises(PrefevalError, match=r"id '7' is given twice \(row 1\)"):
        load_pairs(write(tmp_path / "b.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no such file: .*none.jsonl"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n \n", "is empty"),
        ("a.jsonl.gz", gzip.compress(b""), "is empty"),
        ("a.csv", b"prompt,chosen,rejected\n", "is empty"),
        ("a.txt", b"x", "unknown kind of file; known: .jsonl"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n', r"a\.jsonl:2 is not valid JSON"),
        ("a.jsonl", b"[1]\n3\n", r"a\.jsonl:1 is not a JSON object"),
        (
            "a.jsonl",
            b'{"question": "a", "answer": "b"}',
            "'chosen' and 'rejected'; found question, answer",
        ),
        ("a.jsonl", b'{"prompt": "a", "label": true}', "look like thumbs"),
        ("a.jsonl", b'{"prompt": "\xff", "chosen": "a", "rejected": "b"}', "is not UTF-8"),
        ("a.jsonl.gz", gzip.compress(json.dumps(ROWS[0]).encode() * 99)[:40], "truncated gzip"),
        ("a.jsonl.gz", b"not gzip at all", "truncated gzip"),
        ("a.parquet", b"PAR1 not parquet", "a.parquet"),
        (
            "a.jsonl",
            b'{"prompt": "a", "chosen": 4, "rejected": 5}',
            "row 0: neither text nor messages",
        ),
    ],
)
def test_a_file_at_fault_is_one_line_that_names_it(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PrefevalError, match=message) as caught:
        load_pairs(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_hub_name_without_a_hub_is_one_line(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        PrefevalError, match=r"could not be loaded from the hub.*check the name"
    ) as e:
        load_pairs("nobody/no-such-data")
    assert "\n" not in str(e.value)
    assert constants.HF_HUB_OFFLINE is True


def test_thumbs_load_plain_conversational_and_from_messages(tmp_path):
    rows = [{"prompt": "Q", "completion": "A", "label": 1}]
    plain = load_thumbs(write(tmp_path / "a.jsonl", rows)).items
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rows = [{"messages": turns, "label": True}]
    assert load_thumbs(write(tmp_path / "b.jsonl", rows)).items == plain
    assert plain[0].desirable is True


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Q", "completion": "A", "label": "yes"}, "row 0: label must be true or false"),
        ({"prompt": "Q", "completion": "A", "label": 0.5}, "row 0: label must be true or false"),
        ({"prompt": "Q", "completion": "A"}, "no column 'label'; found prompt, completion"),
        ({"prompt": "Q", "label": 1}, "no column 'completion'"),
        (ROWS[0], "look like pairs"),
    ],
)
def test_thumbs_at_fault_are_named(tmp_path, row, message):
    with pytest.raises(PrefevalError, match=message):
        load_thumbs(write(tmp_path / "a.jsonl", [row]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_split_is_a_partition_by_opening_whatever_the_order(seed, random):
    pairs = [pair(i, f"Question {i // 3}?") for i in range(300)]
    split = split_pairs(pairs, seed=seed)
    parts = [split.train, split.held_out, split.reward_model]
    assert Counter(p.id for part in parts for p in part) == Counter(p.id for p in pairs)
    keys = [{opening_key(p.prompt) for p in part} for part in parts]
    assert len(set.union(*keys)) == sum(map(len, keys))
    shuffled = random.sample(pairs, len(pairs))
    again = split_pairs(shuffled, seed=seed)
    assert {p.id for p in again.held_out} == {p.id for p in split.held_out}


def test_a_rows_part_does_not_depend_on_the_other_rows():
    pairs = [pair(i) for i in range(400)]
    whole, half = split_pairs(pairs), split_pairs(pairs[:200])
    assert [p.id for p in whole.held_out if int(p.id[1:]) < 200] == [p.id for p in half.held_out]


def test_a_split_meets_its_shares_and_changes_with_the_seed():
    pairs = [pair(i) for i in range(4000)]
    split = split_pairs(pairs, held_out=0.3, reward_model=0.1)
    # four standard errors of a binomial share at n = 4000
    assert abs(len(split.held_out) / 4000 - 0.3) < 0.03
    assert abs(len(split.reward_model) / 4000 - 0.1) < 0.02
    assert split_pairs(pairs, held_out=0.3, reward_model=0.1, seed=1).held_out != split.held_out
    assert split_pairs(pairs, held_out=0.3, reward_model=0).reward_model == []


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"held_out": 0.5, "reward_model": 0.5}, "leave something to train on"),
        ({"held_out": -0.1}, "must be >= 0"),
        ({"held_out": float("nan")}, "must be >= 0"),
    ],
)
def test_impossible_shares_are_refused(shares, message):
    with pytest.raises(PrefevalError, match=message):
        split_pairs([pair(i) for i in range(50)], **shares)


def test_one_opening_for_all_rows_cannot_be_split():
    with pytest.raises(PrefevalError, match="no rows fall into"):
        split_pairs([pair(i, "Hi") for i in range(50)])


def test_thumbs_from_pairs_hold_one_side_of_each_pair_about_half_of_them_liked():
    pairs = [pair(i) for i in range(1000)]
    thumbs = thumbs_from_pairs(pairs)
    assert [t.id for t in thumbs] == [p.id for p in pairs]
    assert {(t.completion, t.desirable) for t in thumbs} == {("good", True), ("bad", False)}
    assert abs(sum(t.desirable for t in thumbs) - 500) < 64  # four standard errors
    assert thumbs_from_pairs(pairs, seed=1) != thumbs


def test_anthropics_transcripts_load_with_their_prompt_as_the_shared_beginning(shared):
    loaded = load_pairs(shared / "data/hh_harmless/harmless-base.test.jsonl.gz")
    assert loaded.rows == 2312
    assert len(loaded.items) + sum(loaded.dropped.values()) == loaded.rows
    assert len(loaded.items) > 2300
    assert all(p.prompt[-1]["role"] == "user" for p in loaded.items)
    # in one row the assistant itself writes "Human:"
    assert sum("\n\nHuman:" in p.chosen + p.rejected for p in loaded.items) == 1
    split = split_pairs(loaded.items)
    held = {p.prompt[0]["content"] for p in split.held_out}
    assert len(held) > 400
    assert not held & {p.prompt[0]["content"] for p in [*split.train, *split.reward_model]}


@pytest.mark.parametrize(
    ("name", "load", "rows"),
    [("dpo_en_demo.json", load_pairs, 299), ("kto_en_demo.json", load_thumbs, 300)],
)
def test_demo_sets_of_another_trainer_load_whole(shared, name, load, rows):
    loaded = load(shared / "data/preference_pairs" / name)
    assert loaded.rows == len(loaded.items) == rows
