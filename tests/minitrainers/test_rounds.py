"""Rounds: pairs of the policy's own answers, the best against the worst, with a kept reference."""

import json

import numpy as np
import pytest
import torch

from prefeval.minitrainers import dpo, make_config, simpo
from prefeval.minitrainers.pairs import sequence_logps
from prefeval.minitrainers.rollouts import PromptData
from prefeval.minitrainers.rounds import OnPolicy, best_and_worst, read_pairs
from prefeval.records import PrefevalError

SETTINGS = {
    "lr": 3e-3, "batch_size": 4, "max_length": 64, "rounds": 3, "round_prompts": 16, "samples": 4,
    "max_new_tokens": 6, "schedule": "constant", "warmup": 0.0, "beta": 0.1,
}  # fmt: skip


def prompts(reward=None, n: int = 12) -> PromptData:
    return PromptData(
        [f"prompt-{i}" for i in range(n)],
        [({"role": "user", "content": "abcdefghij"[i % 10]},) for i in range(n)],
        reward or (lambda indices, texts: [float(text.count("a")) for text in texts]),
    )


def read_round(folder, number: int) -> list:
    lines = (folder / f"round-{number:02d}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def spoken(tokenizer, example) -> int:
    """How often an answer says "a"."""
    return tokenizer.decode(example[1], skip_special_tokens=True).count("a")


def test_the_best_is_chosen_and_the_worst_rejected():
    answers = [[1], [2], [3], [4]]
    assert best_and_worst([0.5, 2.0, -1.0, 2.0], answers) == (1, 2)
    assert best_and_worst([1.0, 1.0, 1.0, 1.0], answers) is None
    assert best_and_worst([1.0, 2.0], [[5], [5]]) is None


def test_every_round_answers_anew_and_is_scored_by_the_kept_reference(
    make_model, tokenizer, tmp_path
):
    ref = make_model()
    config = make_config("dpo", **SETTINGS)
    policy = make_model()
    dpo.train(policy, tokenizer, OnPolicy(prompts(), ref=ref), config, out_dir=tmp_path)
    rounds = [read_round(tmp_path, number) for number in (1, 2, 3)]
    chosen = [[spoken(tokenizer, row[1]) for row in r] for r in rounds]
    rejected = [[spoken(tokenizer, row[2]) for row in r] for r in rounds]
    for best, worst in zip(chosen, rejected, strict=True):
        assert all(b > w for b, w in zip(best, worst, strict=True))
    assert np.mean(chosen[2]) > np.mean(chosen[0])  # the answers are the learning policy's own
    from prefeval.minitrainers.batches import Encoded

    for rows in rounds:
        expected = sequence_logps(ref, [Encoded(*row[1]) for row in rows])
        assert [row[3][0] for row in rows] == pytest.approx(expected.tolist(), abs=1e-3)
    log = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, 13))  # 3 rounds of 16 / 4 steps


def test_a_refreshed_reference_is_the_policy_as_the_round_began(make_model, tokenizer, tmp_path):
    config = make_config("dpo", **SETTINGS, refresh_reference=True)
    dpo.train(make_model(), tokenizer, OnPolicy(prompts()), config, out_dir=tmp_path)
    log = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    firsts = [log[i]["loss"] for i in (0, 4, 8)]
    assert firsts == pytest.approx([np.log(2)] * 3, abs=1e-4)
    assert log[3]["loss"] < 0.69


def test_another_writer_is_the_same_budget_on_stale_answers(make_model, tokenizer, tmp_path):
    config = make_config("dpo", **SETTINGS)
    source = OnPolicy(prompts(), ref=make_model(), writer=make_model())
    dpo.train(make_model(), tokenizer, source, config, out_dir=tmp_path)
    counts = [
        np.mean([spoken(tokenizer, row[1]) for row in read_round(tmp_path, n)]) for n in (1, 3)
    ]
    assert counts[1] < counts[0] + 0.5


def test_rounds_raise_the_reward(make_model, tokenizer, tmp_path):
    config = make_config("simpo", **{**SETTINGS, "rounds": 6, "beta": 2.0})
    simpo.train(make_model(), tokenizer, OnPolicy(prompts(), ref=make_model()), config,
                out_dir=tmp_path)  # fmt: skip
    first, last = (
        np.mean([spoken(tokenizer, row[side]) for row in read_round(tmp_path, n)
                 for side in (1, 2)]) for n in (1, 6)
    )  # fmt: skip
    assert last > first + 0.5


def test_an_adapters_rounds_are_held_to_its_base(make_model, tokenizer, tmp_path):
    from prefeval.minitrainers import lora
    from prefeval.minitrainers.batches import Encoded

    config = make_config("dpo", **SETTINGS, lora_rank=2)
    policy = lora.attach(make_model(), config)
    dpo.train(policy, tokenizer, OnPolicy(prompts()), config, out_dir=tmp_path)
    rows = read_round(tmp_path, 3)
    expected = sequence_logps(make_model(), [Encoded(*row[1]) for row in rows])
    assert [row[3][0] for row in rows] == pytest.approx(expected.tolist(), abs=1e-3)


def test_saved_pairs_of_other_settings_are_not_read(make_model, tokenizer, tmp_path):
    for seed in (0, 1):
        config = make_config("dpo", **SETTINGS, seed=seed, max_steps=1)
        dpo.train(make_model(), tokenizer, OnPolicy(prompts(), ref=make_model()), config,
                  out_dir=tmp_path)  # fmt: skip
        rows = read_round(tmp_path, 1)
        (tmp_path / "state.safetensors").unlink()
        if seed == 0:
            first = rows
    assert rows != first


def test_a_round_cut_short_is_named(make_model, tokenizer, tmp_path):
    config = make_config("dpo", **SETTINGS)
    dpo.train(make_model(), tokenizer, OnPolicy(prompts(), ref=make_model()), config,
              out_dir=tmp_path)  # fmt: skip
    path = tmp_path / "round-01.jsonl"
    lines = path.read_text().splitlines()
    stamp = json.loads(lines[0])["run"]
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(PrefevalError, match="cut short"):
        read_pairs(path, stamp)


@pytest.mark.parametrize(
    ("source", "changes", "words"),
    [
        (OnPolicy(prompts(lambda indices, texts: [0.0] * len(texts))), {}, "gave no pairs"),
        (OnPolicy(prompts()), {"samples": 1}, "two answers"),
        (OnPolicy(prompts(n=0)), {}, "no prompts"),
    ],
    ids=["all tied", "one sample", "no prompts"],
)
def test_rounds_that_cannot_be_made_say_why(
    make_model, tokenizer, tmp_path, source, changes, words
):
    config = make_config("dpo", **{**SETTINGS, "refresh_reference": True, **changes})
    with pytest.raises(PrefevalError, match=words):
        dpo.train(make_model(), tokenizer, source, config, out_dir=tmp_path)


def test_a_round_of_fewer_pairs_than_steps_goes_over_them_again(make_model, tokenizer, tmp_path):
    """One prompt in eight tells its answers apart: 2 pairs for 4 steps."""

    def reward(indices, texts) -> list[float]:
        return [float(len(text)) * (i == 3) for i, text in zip(indices, texts, strict=True)]

    config = make_config("dpo", **{**SETTINGS, "rounds": 1})
    source = OnPolicy(prompts(reward, n=8), ref=make_model())
    dpo.train(make_model(), tokenizer, source, config, out_dir=tmp_path)
    log = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len(read_round(tmp_path, 1)) == 2
    assert len(log) == 4
    assert log[3]["loss"] < log[0]["loss"]


def test_rounds_without_a_reference_are_refused(make_model, tokenizer, tmp_path):
    config = make_config("dpo", **SETTINGS)
    with pytest.raises(PrefevalError, match="give ref"):
        dpo.train(make_model(), tokenizer, OnPolicy(prompts()), config, out_dir=tmp_path)


def test_games_of_several_turns_are_refused(make_model, tokenizer, tmp_path):
    game = PromptData(["p"], [({"role": "user", "content": "a"},)], lambda i, t: [0.0] * len(t),
                      respond=lambda i, turns: None)  # fmt: skip
    config = make_config("dpo", **SETTINGS)
    with pytest.raises(PrefevalError, match="several turns"):
        dpo.train(make_model(), tokenizer, OnPolicy(game, ref=make_model()), config,
                  out_dir=tmp_path)  # fmt: skip


def test_the_seed_decides_the_answers(make_model, tokenizer, tmp_path):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = make_config("dpo", **SETTINGS, seed=seed)
        policy = make_model()
        dpo.train(policy, tokenizer, OnPolicy(prompts(), ref=make_model()), config,
                  out_dir=tmp_path / name)  # fmt: skip
        found.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
