"""A run that was stopped goes on to the very bits that it would have reached undisturbed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prefeval.minitrainers import METHODS, load, make_config
from prefeval.minitrainers.kto import EncodedThumb, ThumbData
from prefeval.minitrainers.pairs import PairData
from prefeval.minitrainers.rollouts import PromptData
from prefeval.minitrainers.rounds import OnPolicy
from prefeval.minitrainers.run import STATE, read_state
from prefeval.records import PrefevalError

COMMON = {"lr": 1e-3, "batch_size": 4, "max_length": 64, "save_at": (0.5, 1.0), "state_every": 1}
OWN = {
    "ppo": {"iterations": 4, "max_new_tokens": 6, "ppo_epochs": 2, "minibatches": 2,
            "target_kl": 0.5},
    "grpo": {"iterations": 4, "max_new_tokens": 6, "ppo_epochs": 2, "minibatches": 2,
             "group_size": 2},
    "rounds": {"rounds": 3, "round_prompts": 8, "samples": 3, "max_new_tokens": 6},
}  # fmt: skip
ALL = [*METHODS, "rounds"]


class Stopped(Exception):
    """The process dies: what is not on disk is gone."""


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def log(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{**row, "seconds": 0, "peak_memory_mb": 0} for row in rows]


def reward(indices, texts) -> list[float]:
    return [float(text.count("a") + 0.01 * len(text)) for text in texts]


@pytest.fixture
def run(make_model, tokenizer, pairs, tmp_path):
    """``run(name, folder, stop_after)``: one run; a policy that has nothing of an earlier one."""

    def start(name: str, folder: str, stop_after: int | None = None, **changes):
        method = "dpo" if name == "rounds" else name
        config = make_config(method, **{**COMMON, **OWN.get(name, {}), "seed": 3, **changes})
        thumbs = [EncodedThumb(f"{p.id}-up", p.chosen, True) for p in pairs[:12]]
        thumbs += [EncodedThumb(f"{p.id}-down", p.rejected, False) for p in pairs[12:]]
        prompts = PromptData(
            [f"prompt-{i}" for i in range(10)],
            [({"role": "user", "content": "abcdefghij"[i]},) for i in range(10)],
            reward,
        )
        data = {"pairs": PairData(pairs), "thumbs": ThumbData(thumbs), "prompts": prompts}[
            METHODS[method].data
        ]
        if name == "rounds":
            data = OnPolicy(prompts, ref=make_model())
        policy = make_model()

        def on_step(row) -> None:
            if row["step"] == stop_after:
                raise Stopped

        out = tmp_path / folder
        extra = {"ref": make_model()} if METHODS[method].data == "prompts" else {}
        try:
            load(method).train(
                policy, tokenizer, data, config, out_dir=out, on_step=on_step, **extra
            )
        except Stopped:
            assert stop_after is not None
        return policy

    return start


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_a_stopped_run_continues_bit_identically(name, stop_after, run, tmp_path):
    """It is stopped within a step, after its row is logged and before its state is saved."""
    whole = run(name, "whole")
    run(name, "parts", stop_after)
    state = read_state(tmp_path / "parts")
    assert (state.step if state else 0) == stop_after - 1  # rounds: within one and at its end
    parts = run(name, "parts")
    assert torch.equal(weights(parts), weights(whole))
    assert log(tmp_path / "parts") == log(tmp_path / "whole")
    for path in (tmp_path / "whole").glob("checkpoint-*"):
        same = tmp_path / "parts" / path.name / "model.safetensors"
        assert same.read_bytes() == (path / "model.safetensors").read_bytes()


def test_a_finished_run_is_not_trained_again(run, tmp_path):
    first = run("dpo", "out")
    before = (tmp_path / "out/train.jsonl").read_text()
    again = run("dpo", "out")
    assert torch.equal(weights(again), weights(first))
    assert (tmp_path / "out/train.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 2e-3}, r"with lr 0.001, and now it is 0.002; set it back"),
        ({"micro_batch": 2}, r"with micro_batch None, and now it is 2"),
        ({"epochs": 2}, r"with epochs 1, and now it is 2"),
    ],
)
def test_a_resume_with_changed_settings_names_them(run, changes, words):
    run("dpo", "out", 3)
    with pytest.raises(PrefevalError, match=words):
        run("dpo", "out", **changes)
    run("dpo", "out")  # nothing was lost


def test_another_method_in_the_same_folder_is_refused_and_nothing_lost(run, tmp_path):
    run("dpo", "out")
    before = (tmp_path / "out/train.jsonl").read_text()
    with pytest.raises(PrefevalError, match="holds a run of dpo; choose another folder"):
        run("ipo", "out")
    assert (tmp_path / "out/train.jsonl").read_text() == before


def test_a_round_half_trained_on_whose_pairs_are_gone_is_not_made_again(run, tmp_path):
    run("rounds", "out", 4)
    (tmp_path / "out/round-02.jsonl").unlink()
    with pytest.raises(PrefevalError, match="half trained on, and is gone"):
        run("rounds", "out")


def test_what_a_killed_process_was_writing_is_removed(run, tmp_path):
    (tmp_path / "out/.checkpoint-000003.77.tmp").mkdir(parents=True)
    (tmp_path / "out/.state.safetensors.77.tmp").write_bytes(b"half")
    run("dpo", "out")
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("name", ["dpo", "rounds"])
def test_how_often_the_state_is_saved_may_change(name, run):
    run(name, "out", 4)
    parts = run(name, "out", state_every=None)
    assert torch.equal(weights(parts), weights(run(name, "whole")))


def test_a_resume_on_other_data_is_refused(make_model, tokenizer, pairs, tmp_path):
    config = make_config("dpo", **COMMON)
    dpo = load("dpo")
    dpo.train(make_model(), tokenizer, PairData(pairs), config, out_dir=tmp_path)
    with pytest.raises(PrefevalError, match="on other data"):
        dpo.train(make_model(), tokenizer, PairData(pairs[::-1]), config, out_dir=tmp_path)


def test_a_damaged_state_is_named_and_nothing_lost(run, tmp_path):
    run("dpo", "out", 3)
    path = tmp_path / "out" / STATE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PrefevalError, match=r"state.safetensors is damaged .*delete it"):
        run("dpo", "out")
    path.unlink()
    assert torch.equal(weights(run("dpo", "out")), weights(run("dpo", "whole")))


def test_a_pickle_posing_as_a_state_is_not_opened(run, tmp_path):
    run("dpo", "out", 3)
    torch.save({"step": 2}, tmp_path / "out" / STATE)
    with pytest.raises(PrefevalError, match="is damaged"):
        run("dpo", "out")


def test_a_second_phase_goes_on_counting_and_resumes_by_itself(
    make_model, tokenizer, pairs, tmp_path
):
    prompts = PromptData(["p", "q"], [({"role": "user", "content": c},) for c in "ab"], reward)
    dpo_config = make_config("dpo", **COMMON, epochs=1)
    ppo_config = make_config("ppo", **{**COMMON, **OWN["ppo"]})

    def both(folder: str, stop_after: int | None) -> torch.Tensor:
        out = tmp_path / folder

        def on_step(row) -> None:
            if row["step"] == stop_after:
                raise Stopped

        policy, state = make_model(), read_state(out)
        if state is None or state.method == "dpo":
            saved = load("dpo").train(
                policy, tokenizer, PairData(pairs), dpo_config, out_dir=out, on_step=on_step
            )
            first = saved[-1].step
        else:
            first = state.first_step
        load("ppo").train(
            policy, tokenizer, prompts, ppo_config, out_dir=out, on_step=on_step,
            ref=make_model(), first_step=first,
        )  # fmt: skip
        return weights(policy)

    whole = both("whole", None)
    with pytest.raises(Stopped):
        both("parts", 8)
    assert read_state(tmp_path / "parts").method == "ppo"
    assert torch.equal(both("parts", None), whole)
    assert [row["step"] for row in log(tmp_path / "whole")] == list(range(1, 11))
    assert log(tmp_path / "parts") == log(tmp_path / "whole")
    names = {p.name for p in (tmp_path / "parts").glob("checkpoint-*")}
    assert names == {f"checkpoint-{n:06d}" for n in (3, 6, 8, 10)}


def test_the_last_good_checkpoint_of_an_earlier_phase_is_named(
    make_model, tokenizer, pairs, tmp_path
):
    prompts = PromptData(
        ["p", "q"],
        [({"role": "user", "content": c},) for c in "ab"],
        lambda indices, texts: [np.nan] * len(texts),
    )
    load("dpo").train(
        make_model(), tokenizer, PairData(pairs), make_config("dpo", **COMMON), out_dir=tmp_path
    )
    config = make_config("ppo", **{**COMMON, **OWN["ppo"]})
    with pytest.raises(PrefevalError, match=r"at step 7 .*last good checkpoint: .*-000006"):
        load("ppo").train(make_model(), tokenizer, prompts, config, out_dir=tmp_path, first_step=6)


def test_the_state_resumes_an_adapter_too(make_model, tokenizer, pairs, tmp_path):
    from prefeval.minitrainers import lora

    config = make_config("dpo", **COMMON, lora_rank=2)
    trained = []
    for folder, stops in (("whole", [None]), ("parts", [2, None])):
        for stop_after in stops:
            policy = lora.attach(make_model(), config)

            def on_step(row, stop_after=stop_after) -> None:
                if row["step"] == stop_after:
                    raise Stopped

            try:
                load("dpo").train(
                    policy, tokenizer, PairData(pairs), replace(config),
                    out_dir=tmp_path / folder, on_step=on_step,
                )  # fmt: skip
            except Stopped:
                continue
        trained.append(weights(policy))
    assert torch.equal(*trained)
    assert not torch.equal(trained[0], weights(lora.attach(make_model(), config)))
