"""Which checkpoints lie in a trainer's folder, which are whole, and what is held of them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefeval.harness import models
from prefeval.harness.watch import files as watch_files
from prefeval.harness.watch import holds as watch_holds
from prefeval.harness.watch.files import Found, Settled
from prefeval.harness.watch.holds import Holds
from prefeval.records import PrefevalError

KNOWN = watch_files.step_pattern("")


def only(folder: Path, pattern: str = "") -> Found:
    (found,) = watch_files.find(folder, watch_files.step_pattern(pattern))
    return found


def whole(found: Found) -> str:
    return watch_files.why_not_whole(found, [found])


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-200", 200),  # Transformers, TRL, Axolotl, LLaMA-Factory
        ("checkpoint-000200", 200),  # prefeval's own
        ("step_200", 200),  # open-instruct
        ("epoch_1", 1),
        ("global_step_40", 40),  # verl
        ("global_step40", 40),  # DeepSpeed
        ("global_step40_hf", 40),  # OpenRLHF
        ("iter_7", 7),
    ],
)
def test_names_of_known_trainers_give_their_step(tmp_path: Path, name: str, step: int):
    (tmp_path / name).mkdir()
    assert only(tmp_path).step == step


@pytest.mark.parametrize(
    "name", ["tmp-checkpoint-200", "checkpoint-best", "runs", "logs", "checkpoint-5.old", ".git"]
)
def test_other_folders_are_no_checkpoints(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-9").write_text("a file", encoding="utf-8")
    assert watch_files.find(tmp_path, KNOWN) == []


@given(steps=st.lists(st.integers(0, 10**7), unique=True, max_size=12))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_steps_come_as_numbers_are_ordered(tmp_path: Path, steps: list[int]):
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    for step in steps:
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert [f.step for f in watch_files.find(tmp_path, KNOWN)] == sorted(steps)


def test_a_pattern_of_ones_own_names_the_step(tmp_path: Path):
    (tmp_path / "run7-at-30-ema").mkdir()
    assert only(tmp_path, r"run7-at-(\d+)-ema").step == 30


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("(", "no regular expression"), ("step", "0 groups"), (r"(a)-(\d+)", "2 groups")],
)
def test_a_pattern_that_finds_no_step_is_refused(pattern: str, words: str):
    with pytest.raises(PrefevalError, match=words):
        watch_files.step_pattern(pattern)


def test_a_pattern_that_takes_a_word_for_a_step_is_refused(tmp_path: Path):
    (tmp_path / "step-best").mkdir()
    with pytest.raises(PrefevalError, match="takes 'best' of step-best"):
        only(tmp_path, "step-(.*)")


def test_a_pattern_whose_step_may_be_absent_is_refused_where_it_is(tmp_path: Path):
    (tmp_path / "run-").mkdir()
    with pytest.raises(PrefevalError, match="takes '' of run- for a step"):
        watch_files.find(tmp_path, watch_files.step_pattern(r"run-(\d+)?"))


def test_a_link_to_nothing_is_not_whole(tiny_copy: Callable[..., Path], tmp_path: Path):
    copy = tiny_copy(tmp_path / "checkpoint-1")
    (copy / "added_tokens.json").symlink_to(tmp_path / "gone.json")
    assert "added_tokens.json is a link to what is not there" in whole(only(tmp_path))


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path):
    assert watch_files.find(tmp_path / "later", KNOWN) == []


# -- wholeness --------------------------------------------------------------------------------


def test_a_whole_checkpoint_lacks_nothing(tiny_copy: Callable[..., Path], tmp_path: Path):
    tiny_copy("checkpoint-1")
    assert whole(only(tmp_path)) == ""


@given(share=st.floats(0, 1, exclude_max=True))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_weights_cut_anywhere_are_not_whole(tiny_folder: Path, tmp_path: Path, share: float):
    folder = tmp_path / "checkpoint-1"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_folder, folder)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    assert whole(only(tmp_path))


def test_a_checkpoint_without_weights_is_not_whole(tiny_copy: Callable[..., Path], tmp_path: Path):
    (tiny_copy("checkpoint-1") / "model.safetensors").unlink()
    assert "has no weights" in whole(only(tmp_path))
    (tmp_path / "checkpoint-1" / "config.json").unlink()
    assert "has no config.json" in whole(only(tmp_path))


def test_weights_alone_are_whole_as_accelerate_saves_them(
    tiny_copy: Callable[..., Path], tmp_path: Path
):
    (tiny_copy("step_1") / "config.json").unlink()
    assert whole(only(tmp_path)) == ""


def test_a_trainers_own_state_beside_a_model_of_the_same_step_is_none(
    tiny_copy: Callable[..., Path], tmp_path: Path
):
    (tmp_path / "global_step40").mkdir()
    (tmp_path / "global_step40" / "mp_rank_00_model_states.pt").write_bytes(b"state")
    assert "no config.json" in whole(only(tmp_path))
    tiny_copy("global_step40_hf")
    assert only(tmp_path).path.name == "global_step40_hf"


def test_every_shard_of_the_index_must_be_there(tiny_copy: Callable[..., Path], tmp_path: Path):
    from transformers import AutoModelForCausalLM

    folder = tiny_copy("checkpoint-1")
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert whole(only(tmp_path)) == ""
    shards[-1].rename(tmp_path / "away")
    assert f"lacks {shards[-1].name}" in whole(only(tmp_path))


def test_an_adapter_is_whole_with_its_weights(tmp_path: Path, tiny_folder: Path):
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "no adapter_model.safetensors" in whole(only(tmp_path))
    shutil.copy(tiny_folder / "model.safetensors", folder / "adapter_model.safetensors")
    assert whole(only(tmp_path)) == ""


def test_a_trainers_state_is_waited_for_where_another_checkpoint_has_one(
    tiny_copy: Callable[..., Path], tmp_path: Path
):
    for step in (1, 2):
        tiny_copy(f"checkpoint-{step}")
    one, two = watch_files.find(tmp_path, KNOWN)
    assert watch_files.why_not_whole(two, [one, two]) == ""
    (one.path / "trainer_state.json").write_text("{}", encoding="utf-8")
    one, two = watch_files.find(tmp_path, KNOWN)
    assert "no trainer_state.json yet" in watch_files.why_not_whole(two, [one, two])


def test_a_model_may_lie_deeper_as_verl_has_it(tiny_copy: Callable[..., Path], tmp_path: Path):
    (tmp_path / "global_step_20" / "actor").mkdir(parents=True)
    shutil.move(tiny_copy("huggingface"), tmp_path / "global_step_20" / "actor")
    critic = tmp_path / "global_step_20" / "a_critic"
    critic.mkdir()
    (critic / "config.json").write_text("{}", encoding="utf-8")
    found = only(tmp_path)
    assert found.model == tmp_path / "global_step_20" / "actor" / "huggingface"
    assert whole(found) == ""


def test_a_checkpoint_has_settled_when_nothing_changed_for_the_time(
    tiny_copy: Callable[..., Path], tmp_path: Path
):
    folder = tiny_copy("checkpoint-1")
    settled = Settled(10, now=100)
    assert not settled.see(only(tmp_path), 100)
    assert not settled.see(only(tmp_path), 109.9)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert not settled.see(only(tmp_path), 111)
    assert settled.changed == 111
    assert not settled.see(only(tmp_path), 120.9)
    assert settled.see(only(tmp_path), 121)


def test_an_optimizer_that_is_still_written_is_not_waited_for(
    tiny_copy: Callable[..., Path], tmp_path: Path
):
    folder = tiny_copy("checkpoint-1")
    before = only(tmp_path)
    (folder / "optimizer.pt").write_bytes(b"state")
    assert only(tmp_path) == before


# -- holds ------------------------------------------------------------------------------------


@pytest.fixture
def holds(tmp_path: Path, tiny_folder: Path) -> Holds:
    return Holds(tmp_path / "run" / "held", tiny_folder, keep=False)


def trained(tiny_copy: Callable[..., Path], tmp_path: Path) -> Found:
    (tmp_path / "out").mkdir()
    tiny_copy("out/checkpoint-1")
    return only(tmp_path / "out")


def test_a_held_checkpoint_outlives_its_folder(
    holds: Holds, tiny_copy: Callable[..., Path], tmp_path: Path
):
    found = trained(tiny_copy, tmp_path)
    before = models.weights_hash(found.path)
    place, notes = holds.take(found)
    assert notes == ()
    weights = "model.safetensors"
    assert (place / weights).stat().st_ino == (found.path / weights).stat().st_ino
    shutil.rmtree(found.path)
    assert models.weights_hash(models.check_model_dir(place)) == before
    (left,) = holds.left_behind()
    assert left == Found(found.path, place, 1, found.files)
    assert holds.take(left) == (place, ())
    holds.give_back(left)
    assert list(holds.left_behind()) == []


def test_nothing_is_left_behind_while_the_trainer_still_has_it(
    holds: Holds, tiny_copy: Callable[..., Path], tmp_path: Path
):
    holds.take(trained(tiny_copy, tmp_path))
    assert list(holds.left_behind()) == []


def test_half_a_hold_is_none(holds: Holds, tiny_copy: Callable[..., Path], tmp_path: Path):
    found = trained(tiny_copy, tmp_path)
    place, _ = holds.take(found)
    (place / watch_holds.SOURCE).unlink()
    (place / "model.safetensors").unlink()
    assert holds.take(found)[0] == place
    models.check_model_dir(place)


def test_a_step_that_was_written_again_is_held_anew(
    holds: Holds, tiny_copy: Callable[..., Path], tmp_path: Path
):
    found = trained(tiny_copy, tmp_path)
    holds.take(found)
    config = found.path / "config.json"
    changed = {**json.loads(config.read_text(encoding="utf-8")), "note": "again"}
    config.write_text(json.dumps(changed), encoding="utf-8")
    place, _ = holds.take(only(tmp_path / "out"))
    assert json.loads((place / "config.json").read_text(encoding="utf-8"))["note"] == "again"


@pytest.mark.parametrize(
    ("names", "what"),
    [(watch_holds.TOKENIZER, "tokenizer with a template"), (watch_holds.CONFIG, "config")],
)
def test_what_is_missing_is_the_references_and_said(
    holds: Holds,
    tiny_copy: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
    names: tuple[str, ...],
    what: str,
):
    found = trained(tiny_copy, tmp_path)
    for name in names:
        (found.path / name).unlink(missing_ok=True)
    place, notes = holds.take(only(tmp_path / "out"))
    assert notes == (f"it has no {what}: measured with the reference's",)
    models.check_model_dir(place)
    assert models.tokenizer_hash(place) == models.tokenizer_hash(tiny_folder)
    assert models.weights_hash(place) == models.weights_hash(tiny_folder)


def test_a_checkpoint_that_is_gone_is_not_held(
    holds: Holds, tiny_copy: Callable[..., Path], tmp_path: Path
):
    found = trained(tiny_copy, tmp_path)
    shutil.rmtree(found.path)
    with pytest.raises(FileNotFoundError):
        holds.take(found)
    assert list(holds.left_behind()) == []


def test_on_another_file_system_weights_are_named_or_copied(
    holds: Holds,
    tiny_copy: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    found = trained(tiny_copy, tmp_path)
    place, notes = holds.take(found)
    assert notes == (watch_holds.NOT_HELD,)
    models.check_model_dir(place)
    keeps = Holds(tmp_path / "kept", tiny_folder, keep=True)
    place, notes = keeps.take(found)
    shutil.rmtree(found.path)
    assert notes == ()
    models.check_model_dir(place)
