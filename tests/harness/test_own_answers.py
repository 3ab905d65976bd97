"""Rewards by name, rounds, a phase that follows, adapters and weights, through the harness."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from prefeval import records
from prefeval.harness import checkpoints, costs, materialise, models, rewards, sweep, train
from prefeval.harness.commands import resolve
from prefeval.harness.data import to_trl
from prefeval.harness.lab import rewards as lab_rewards
from prefeval.harness.settings import SweepConfig
from prefeval.harness.task import Sizes, Task
from prefeval.records import PreferencePair, PrefevalError, Thumb, Trial
from prefeval.suites import lab_oracle, lab_prompts

WORLD = "lab:seed=0,people=16"
OPTIONS = {"model": "lab", "data": "lab", "dtype": "float32", "lab": "", "device": "cpu"}


def config(methods: str = "dpo", **options: object) -> SweepConfig:
    return resolve({**OPTIONS, **options}, methods=methods, beta="0.1", seeds="1")


# -- settings ----------------------------------------------------------------------------------


def test_rounds_are_labelled_as_the_labs_pairs_are():
    settings = config(rounds=4, lab="temperature=2,noise=0.1").settings("dpo")
    assert settings["reward"] == "labels:shape=linear,length_bias=0.09,temperature=2.0,noise=0.1"
    assert settings["rounds"] == 4
    assert not config(rounds=4).needs_reward_model


def test_a_phase_that_follows_has_its_own_settings_and_the_same_reward():
    found = config(then="ppo", then_iterations=5, lr=1e-4).settings("dpo")
    assert found["then"]["method"] == "ppo"
    assert found["then"]["iterations"] == 5
    assert "value_lr" in found["then"]
    assert "iterations" not in found
    assert found["reward"] == "model"
    assert config(then="ppo").needs_reward_model
    # the method that learns so already has no such phase
    assert "then" not in config("dpo,ppo", then="grpo").settings("ppo")


def test_settings_reach_only_the_methods_that_know_them():
    found = config(
        "dpo,kto,ppo,grpo", desirable_weight=2.0, group_size=4, target_kl=3.0, iterations=7
    )
    assert {m for m in found.methods if "desirable_weight" in found.settings(m)} == {"kto"}
    assert {m for m in found.methods if "group_size" in found.settings(m)} == {"grpo"}
    assert {m for m in found.methods if "target_kl" in found.settings(m)} == {"ppo"}
    assert {m for m in found.methods if "iterations" in found.settings(m)} == {"ppo", "grpo"}
    assert {m for m in found.methods if "reward" in found.settings(m)} == {"ppo", "grpo"}


def test_an_adapter_learns_at_ten_times_the_rate_unless_one_is_given():
    full, low = config().settings("dpo"), config(lora_rank=8).settings("dpo")
    assert low["lr"] == pytest.approx(10 * full["lr"])
    assert config(lora_rank=8, lr=1e-4).settings("dpo")["lr"] == 1e-4


@pytest.mark.parametrize(
    ("methods", "options", "words"),
    [
        ("kto", {"rounds": 2}, "--rounds is for methods that learn from pairs"),
        ("dpo", {"then": "ipo"}, "use --then ppo or grpo"),
        ("dpo", {"then_iterations": 3}, "give --then ppo"),
        ("ppo", {"reward": "judge"}, "needs a judge"),
        ("ppo", {"reward": "judge:nope"}, "unknown judge 'nope'"),
        ("ppo", {"reward": "judge:reward_model"}, "needs a folder"),
        ("ppo", {"reward": "model:/my/rm"}, "takes no argument"),
        ("ppo", {"reward": "labels:noise=0.3"}, "takes no argument"),
        ("dpo", {"reward": "kfacts"}, "--reward changes nothing with dpo"),
        ("dpo,kto", {"samples": 3}, "--samples changes nothing without --rounds"),
        ("dpo", {"refresh_reference": True}, "--refresh-reference changes nothing without"),
        ("dpo,simpo", {"target_kl": 3.0}, "--target-kl changes nothing with dpo, simpo"),
        ("dpo", {"then": "ppo", "iterations": 5}, "--iterations changes nothing with dpo"),
        ("ppo", {"then": "grpo"}, "--then changes nothing with ppo"),
        ("ppo,grpo", {"epochs": 2}, "--epochs changes nothing"),
        ("grpo", {"batch_size": 12}, "--batch-size a multiple of --group-size"),
    ],
)
def test_what_cannot_be_is_refused(methods, options, words):
    with pytest.raises(PrefevalError, match=words):
        config(methods, **options)


@pytest.mark.parametrize(
    ("methods", "options", "held"),
    [
        ("dpo", {}, 1),
        ("dpo", {"rounds": 2}, 2),  # the lab's oracle labels: the policy and its reference
        ("dpo", {"rounds": 2, "lora_rank": 4}, 1),
        ("dpo", {"rounds": 2, "refresh_reference": True}, 1),
        ("dpo", {"rounds": 2, "reward": "model"}, 3),
        ("ppo", {}, 4),
        ("ppo", {"lora_rank": 4}, 3),
        ("ppo", {"reward": "kfacts"}, 3),
        ("grpo", {"reward": "kfacts", "lora_rank": 4}, 1),
        ("dpo", {"then": "ppo"}, 4),
    ],
)
def test_models_in_memory_are_those_that_a_trial_holds(methods, options, held):
    (trial,) = config(methods, **options).trials()
    assert costs.models_held(trial) == held


# -- rewards -----------------------------------------------------------------------------------


def test_labels_prefer_the_better_answer_with_the_bradley_terry_probability():
    """20,000 draws of one comparison; the interval is 4 standard errors wide."""
    texts = ["Perhaps there is.", "Sorry, I cannot help with that."]
    n = 20_000
    world = lab_rewards.world_of(WORLD)
    prompt = lab_prompts.prose_prompts(world, held_out=False)[0]
    scores = [
        lab_oracle.judge_score(
            "linear",
            lab_oracle.quality(world, prompt.check["family"], prompt.check["subject"], text),
            text,
            length_bias=0.5,
        )
        for text in texts
    ]
    probability = 1 / (1 + math.exp((scores[1] - scores[0]) / 3))
    assert 0.1 < probability < 0.9
    wins = 0
    for seed in range(n // 1000):
        data = lab_rewards.labels(WORLD, "shape=linear,length_bias=0.5,temperature=3,noise=0", seed)
        first = data.reward([0] * 1000, [texts[0]] * 1000)
        second = data.reward([0] * 1000, [texts[1]] * 1000)
        wins += sum(a > b for a, b in zip(first, second, strict=True))
    assert wins / n == pytest.approx(probability, abs=4 * math.sqrt(0.25 / n))


def test_labels_are_functions_of_seed_prompt_and_texts_and_noise_turns_them_round():
    spec = "shape=linear,length_bias=0.5,temperature=3"
    asked = ([0, 0, 1, 1], ["One.", "Two words.", "One.", "Two words."])
    first = lab_rewards.labels(WORLD, f"{spec},noise=0", 0).reward(*asked)
    assert lab_rewards.labels(WORLD, f"{spec},noise=0", 0).reward(*asked) == first
    assert lab_rewards.labels(WORLD, f"{spec},noise=0", 1).reward(*asked) != first
    turned = lab_rewards.labels(WORLD, f"{spec},noise=1", 0).reward(*asked)
    assert turned == pytest.approx([-value for value in first])


def pair(i: int) -> PreferencePair:
    prompt = ({"role": "user", "content": f"Question {i}?"},)
    return PreferencePair(f"p{i}", prompt, "A longer answer.", "No.", "prose", f"c{i}")


@pytest.fixture
def task(tiny_folder: Path, tmp_path: Path) -> Task:
    folder = tmp_path / "run" / "data"
    folder.mkdir(parents=True)
    records.write_jsonl(folder / "pairs.jsonl", [to_trl(pair(i)) for i in range(8)])
    thumbs = [Thumb(f"t{i}", pair(i).prompt, "Yes." * (1 + 40 * (i == 3)), i % 2 == 0)
              for i in range(8)]  # fmt: skip
    records.write_jsonl(folder / "thumbs.jsonl", [to_trl(t) for t in thumbs])
    sizes = Sizes(max_length=96, max_new_tokens=8)
    return Task(str(tmp_path / "run"), str(tiny_folder), "lab:seed=0", sizes)


class Longer:
    """A judge that prefers the longer answer, and the first one a little."""

    name, settings = "longer", {}

    def compare(self, items):
        return [
            records.Verdict(min(1.0, 0.1 + 0.8 * (len(i.first) > len(i.second)))) for i in items
        ]


def test_a_judge_rewards_by_how_surely_it_prefers_an_answer_to_the_chosen_one(task, monkeypatch):
    """Both orders averaged: longer (0.9 + 1 - 0.1) / 2, shorter (0.1 + 1 - 0.9) / 2."""
    from prefeval.harness import judges

    monkeypatch.setattr(judges, "open_judge", lambda spec, **_: Longer() if spec == "longer" else
                        type("Other", (), {"name": "other", "settings": {}})())  # fmt: skip
    found = rewards.open_reward(task, "judge:longer", room=64)
    assert found.prompts.ids == [f"p{i}" for i in range(8)]
    got = found.prompts.reward([0, 1], ["x" * 50, "x"])
    assert got == pytest.approx([0.9, 0.1])


def test_the_judge_that_evaluates_is_refused_as_the_reward(task):
    with pytest.raises(PrefevalError, match="the judge that evaluates"):
        rewards.open_reward(task, "judge:lab:", room=64)


def test_the_judge_that_evaluates_is_refused_as_the_labeller():
    spec = "shape=linear,length_bias=0.5,temperature=3.0"
    with pytest.raises(PrefevalError, match="the judge that evaluates"):
        lab_rewards.labels(f"{WORLD},{spec}", f"{spec},noise=0", 0)


def test_prompts_without_room_for_an_answer_are_left_out(task, monkeypatch):
    with pytest.raises(PrefevalError, match="at most 3 tokens"):
        rewards.open_reward(task, "judge:lab:shape=linear", room=3)


# -- trials ------------------------------------------------------------------------------------

SETTINGS = {"lr": 1e-3, "batch_size": 4, "save_at": [0.5, 1.0], "state_every": 1}


class Stopped(Exception):
    """The worker dies."""


def run_trial(task: Task, trial: Trial, stop_after: int | None = None) -> Path:
    def on_row(row) -> None:
        if row.get("step") == stop_after:
            raise Stopped

    return train.train_trial(task, trial, on_row)


def test_a_trial_that_was_stopped_goes_on_and_one_on_other_data_begins_anew(task):
    trial = Trial("dpo", 0.1, 0, {**SETTINGS, "epochs": 3})
    with pytest.raises(Stopped):
        run_trial(task, trial, 4)
    seen = []
    train.train_trial(task, trial, lambda row: seen.append(row["step"]))
    assert seen == [4, 5, 6]
    folder = Path(task.run) / "trials" / trial.name
    assert not (folder / "state.safetensors").exists()  # it is done, and the state is large
    seen.clear()
    train.train_trial(task, trial, lambda row: seen.append(row["step"]))
    assert seen == []
    records.write_jsonl(task.data / "pairs.jsonl", [to_trl(pair(i)) for i in range(4, 12)])
    train.train_trial(task, trial, lambda row: seen.append(row["step"]))
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("stop_after", [None, 2, 5])
def test_a_phase_that_follows_is_run_held_to_the_first_reference_and_resumed(
    task, stop_after, monkeypatch
):
    """Two steps of DPO over 8 pairs, then three of PPO: its first KL is that of what DPO did."""
    reward = rewards.Rewarded(_prompts(), None)
    monkeypatch.setattr(rewards, "open_reward", lambda *args, **options: reward)
    monkeypatch.setattr(rewards, "reward_model", lambda task: Path(task.reference))
    then = {"method": "ppo", "beta": 0.1, "iterations": 3, "max_new_tokens": 4, "batch_size": 4,
            "minibatches": 2, "ppo_epochs": 1, "save_at": [1.0], "state_every": 1}  # fmt: skip
    trial = Trial("dpo", 0.1, 0, {**SETTINGS, "lr": 1e-2, "then": then, "reward": "model"})
    if stop_after:
        with pytest.raises(Stopped):
            run_trial(task, trial, stop_after)
    folder = run_trial(task, trial)
    log = records.read_jsonl(folder / "train.jsonl")
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5]
    assert log[2]["kl"] > 0.01
    assert "reward" in log[2]
    assert "reward" not in log[1]
    assert {p.name for p in folder.glob("checkpoint-*")} == {
        f"checkpoint-{n:06d}" for n in (1, 2, 5)
    }


def _prompts():
    from prefeval.minitrainers.rollouts import PromptData

    asked = [pair(i).prompt for i in range(8)]
    return PromptData(
        [f"p{i}" for i in range(8)], asked, lambda i, texts: [float(len(t)) for t in texts]
    )


def test_a_trial_counts_what_rewards_it(task, monkeypatch, tmp_path):
    monkeypatch.setattr(rewards, "reward_model", lambda task: Path(task.reference))
    trial = Trial("ppo", 0.1, 0, {"reward": "model"})
    keys = [train._trial_key(task, trial)]
    keys.append(train._trial_key(task, replace(trial, settings={"reward": "kfacts"})))
    keys.append(train._trial_key(replace(task, judge="lab:seed=1"), trial))
    own = replace(trial, settings={"reward": f"judge:reward_model:{task.reference}"})
    keys.append(train._trial_key(task, own))
    assert len(set(keys)) == 4


def test_rounds_need_no_pairs_beforehand(task):
    materials = materialise.Materials(task, {})
    kinds = {j.kind for s in sweep.shared_stages(config(rounds=2), materials) for j in s}
    assert kinds == {"reference"}
    kinds = {j.kind for s in sweep.shared_stages(config(), materials) for j in s}
    assert kinds == {"reference", "pairs"}


def test_an_adapter_is_measured_on_its_base_and_on_no_other(task, tiny_copy):
    trial = Trial("dpo", 0.1, 0, {**SETTINGS, "lora_rank": 2})
    folder = run_trial(task, trial)
    saved = sorted(folder.glob("checkpoint-*"))[-1]
    written = json.loads((saved / "base.json").read_text())
    assert written == {"weights_hash": models.weights_hash(task.reference)}
    model = checkpoints.load(saved, task.reference)
    plain = models.load_model(task.reference)
    moved = [
        (a - b).abs().max().item()
        for a, b in zip(model.parameters(), plain.parameters(), strict=True)
    ]
    assert max(moved) > 1e-5
    assert checkpoints.tokenizer_dir(saved, task.reference) == saved
    other = tiny_copy("other")
    config_file = other / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"rope_theta": 5.0}))
    with pytest.raises(PrefevalError, match="an adapter for another base"):
        checkpoints.load(saved, other)
    first = checkpoints.weights_hash(saved, task.reference)
    assert checkpoints.weights_hash(folder / saved.name, task.reference) == first
    assert checkpoints.weights_hash(task.reference, task.reference) != first


def test_an_adapter_that_does_not_say_its_base_and_does_not_fit_is_refused(task, tmp_path):
    trial = Trial("dpo", 0.1, 0, {**SETTINGS, "lora_rank": 2})
    saved = sorted(run_trial(task, trial).glob("checkpoint-*"))[-1]
    (saved / "base.json").unlink()
    path = saved / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "gone"}))
    checkpoints.check(saved, task.reference)
    from transformers import AutoModelForCausalLM, LlamaConfig

    config_ = LlamaConfig.from_pretrained(task.reference)
    config_.hidden_size, config_.num_hidden_layers = 16, 1
    AutoModelForCausalLM.from_config(config_).save_pretrained(tmp_path / "small")
    models.load_tokenizer(task.reference).save_pretrained(tmp_path / "small")
    with pytest.raises(PrefevalError, match="does not fit"):
        checkpoints.load(saved, tmp_path / "small")


def test_a_pickled_or_damaged_adapter_is_refused(task):
    trial = Trial("dpo", 0.1, 0, {**SETTINGS, "lora_rank": 2})
    saved = sorted(run_trial(task, trial).glob("checkpoint-*"))[-1]
    weights = saved / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(PrefevalError, match="truncated or damaged"):
        checkpoints.check(saved, task.reference)
    weights.rename(saved / "adapter_model.bin")
    with pytest.raises(PrefevalError, match="runs code when it is opened"):
        checkpoints.check(saved, task.reference)


def test_answers_that_were_cut_are_counted_and_said(task):
    train.prepare_thumbs(task)
    train.prepare_pairs(task)
    (note,) = train.truncation_notes(task)
    assert note.startswith("1 of 8 answers in the thumbs were cut at 96 tokens")


# -- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("up", "given", "words"),
    [
        (50, {}, None),
        (20, {}, "20 thumbs up and 80 down, weighted 1 and 1: one class pulls 4.0 times as hard; "
                 "KTO's paper would have --desirable-weight 4 --undesirable-weight 1"),
        (80, {}, "--desirable-weight 1 --undesirable-weight 4"),
        (20, {"desirable_weight": 4.0}, None),
    ],
)  # fmt: skip
def test_class_weights_are_suggested_from_the_counts(task, up, given, words):
    materials = materialise.Materials(task, {"thumbs": 100, "thumbs_up": up})
    notes = sweep.weight_notes(config("kto", **given), materials)
    assert (words is None and notes == []) or words in notes[0]


def test_thumbs_of_one_kind_stop_the_sweep_before_it_begins(task):
    materials = materialise.Materials(task, {"thumbs": 100, "thumbs_up": 100})
    with pytest.raises(PrefevalError, match="all 100 thumbs are up"):
        sweep.weight_notes(config("kto"), materials)
    assert sweep.weight_notes(replace(config("dpo")), materials) == []
