"""What a step's key covers: content that changes a number changes the key, under any name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from prefeval import records
from prefeval.harness import materialise, rewards, train
from prefeval.harness.commands import OWN_SIZES
from prefeval.harness.data import thumbs_from_pairs, to_trl
from prefeval.harness.evaluate import Evaluator, load_held_out
from prefeval.harness.settings import SweepConfig
from prefeval.harness.task import Sizes, Task
from prefeval.records import PreferencePair, PrefevalError, Prompt, Trial


def pair(index: int, chosen: str = "Seven.", words: int = 3) -> PreferencePair:
    asked = ({"role": "user", "content": " ".join([f"Number {index}?", *["please"] * words])},)
    return PreferencePair(f"p{index}", asked, chosen, "Nine.")


@pytest.fixture
def task(tiny_copy: Callable[..., Path], tmp_path: Path) -> Task:
    """A task whose every file is there, on a model of its own."""
    found = Task(
        str(tmp_path / "run"), str(tiny_copy()), "lab:seed=0,people=16", Sizes(), device="cpu"
    )
    found.data.mkdir(parents=True)
    pairs = [pair(i) for i in range(4)]
    write(found, "pairs.jsonl", [to_trl(p) for p in pairs])
    write(found, "thumbs.jsonl", [to_trl(t) for t in thumbs_from_pairs(pairs)])
    write(found, "pairs_held_out.jsonl", [to_trl(pair(9))])
    prompts = [Prompt("q", pair(7).prompt, "prose", "win_rate", "q")]
    write(found, "prompts.jsonl", prompts)
    return found


def write(task: Task, name: str, rows: list[object]) -> None:
    records.write_jsonl(task.data / name, rows)


def edit_template(task: Task) -> None:
    """Another chat template: other tokens from the same weights."""
    (path,) = Path(task.reference).glob("chat_template.jinja")
    path.write_text(path.read_text(encoding="utf-8") + "{# #}", encoding="utf-8")


DPO, KTO = Trial("dpo", 0.1, 0), Trial("kto", 0.1, 0)


def test_trial_is_trained_again_when_its_data_change_and_only_then(task: Task) -> None:
    before = [train._trial_key(task, t) for t in (DPO, KTO)]
    write(task, "pairs.jsonl", [to_trl(pair(i, chosen="Eleven.")) for i in range(4)])
    after = [train._trial_key(task, t) for t in (DPO, KTO)]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_reference_log_probabilities_are_computed_again_when_the_pairs_change(task: Task) -> None:
    first = train.prepare_pairs(task)
    write(task, "pairs.jsonl", [to_trl(pair(i, chosen="Eleven.")) for i in range(4)])
    second = train.prepare_pairs(task)
    assert [r["id"] for r in first] == [r["id"] for r in second]
    assert all(a["ref"][0] != b["ref"][0] for a, b in zip(first, second, strict=True))
    assert all(a["ref"][1] == b["ref"][1] for a, b in zip(first, second, strict=True))


def test_template_counts_in_training_and_in_measuring(task: Task) -> None:
    before = train._trial_key(task, DPO), Evaluator(task).key
    edit_template(task)
    after = train._trial_key(task, DPO), Evaluator(task).key
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_ppo_counts_its_reward_model_or_the_world_that_rewards_it(
    task: Task, tiny_folder: Path
) -> None:
    import shutil

    trial = Trial("ppo", 0.1, 0)
    shutil.copytree(tiny_folder, rewards.reward_model(task))
    before = train._trial_key(task, trial)
    config = rewards.reward_model(task) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_labels": 1}))
    assert train._trial_key(task, trial) != before
    game = Trial("ppo", 0.1, 0, {"reward": "guess"})
    other = replace(task, judge="lab:seed=1,people=16")
    assert train._trial_key(task, game) != train._trial_key(other, game)


def test_evaluation_counts_what_the_held_out_pairs_say_not_only_their_names(task: Task) -> None:
    before = Evaluator(task).key
    write(task, "pairs_held_out.jsonl", [to_trl(pair(9, chosen="Eleven."))])
    assert Evaluator(task).key != before


def test_evaluation_counts_the_judges_settings(task: Task) -> None:
    first = Evaluator(task)
    assert Evaluator(replace(task, judge=task.judge + ",length_bias=0.1")).key != first.key
    assert Evaluator(task).key == first.key


def test_thumbs_alone_leave_no_held_out_pairs(task: Task) -> None:
    write(task, "pairs_held_out.jsonl", [])
    assert load_held_out(task) == []
    assert Evaluator(task).held_out == []


def own(task: Task, data: Path, **options: object) -> SweepConfig:
    sizes = replace(OWN_SIZES, max_length=160, max_new_tokens=16)
    base = SweepConfig(
        ("dpo",), {"dpo": (0.1,)}, model=task.reference, data=str(data), sizes=sizes,
        judge="lab:seed=0", training={"max_steps": 3, "batch_size": 4},
    )  # fmt: skip
    return replace(base, **options)  # type: ignore[arg-type]


def test_prompts_too_long_to_train_on_are_counted_and_take_no_place_of_a_step(
    task: Task, tmp_path: Path
) -> None:
    """Every second prompt is longer than the context; 3 steps of 4 still find their 12 pairs."""
    data = tmp_path / "pairs.jsonl"
    rows = [to_trl(pair(i, words=60 if i % 2 else 3)) for i in range(80)]
    records.write_jsonl(data, rows)
    config = own(task, data)
    found = materialise.materialise(config, tmp_path / "new", lambda stage, share: None)
    kept = records.read_jsonl(found.task.data / "pairs.jsonl")
    assert len(kept) == 12
    assert all(int(row["id"][1:]) % 2 == 0 for row in kept)
    assert found.counts["dropped"] == {"prompt too long": 40}
    assert any("40 prompt too long" in warning for warning in found.warnings)


def test_data_of_long_prompts_alone_are_refused_in_one_line(task: Task, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    records.write_jsonl(data, [to_trl(pair(i, words=60)) for i in range(40)])
    with pytest.raises(PrefevalError, match="raise --max-length"):
        materialise.materialise(own(task, data), tmp_path / "new", lambda stage, share: None)


def test_labs_knobs_do_not_name_a_run_on_other_data(task: Task, tmp_path: Path) -> None:
    config = own(task, tmp_path / "pairs.jsonl")
    turned = replace(config, lab_data=replace(config.lab_data, noise=0.3))
    assert turned.hash == config.hash
    lab = SweepConfig(("dpo",), {"dpo": (0.1,)})
    assert replace(lab, lab_data=replace(lab.lab_data, noise=0.3)).hash != lab.hash


def test_a_judges_pace_does_not_name_the_run(task: Task, tmp_path: Path) -> None:
    config = own(task, tmp_path / "pairs.jsonl")
    named = [
        replace(config, judge=f"endpoint:model={m},concurrency={n}").hash
        for m, n in (("a", 1), ("a", 8), ("b", 1))
    ]
    assert named[0] == named[1] != named[2]
