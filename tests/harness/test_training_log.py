"""Logs of many trainers, whole and damaged, as one and the same frame."""

import contextlib
import csv
import gzip
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefeval.harness.logs import keys as log_keys
from prefeval.harness.logs import training_log
from prefeval.records import PrefevalError

Rows = Sequence[Mapping[str, Any]]


def write_jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_csv(rows: Rows, separator: str = ",") -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def a_run(steps: Sequence[int], **more: float) -> list[dict[str, Any]]:
    return [{"step": s, "loss": 0.7 - 0.001 * s, "rewards/chosen": 0.01 * s, **more} for s in steps]


# -- names -------------------------------------------------------------------------------------

# One step of each trainer, as it names things, and where each number belongs.
TRAINERS: dict[str, tuple[dict[str, Any], dict[str, float], dict[str, float]]] = {
    "TRL's DPO": (
        {
            "loss": 0.5, "grad_norm": 2.0, "learning_rate": 1e-6, "rewards/chosen": 0.3,
            "rewards/rejected": -0.2, "rewards/accuracies": 0.75, "rewards/margins": 0.5,
            "logps/chosen": -50.0, "logps/rejected": -60.0, "logits/chosen": 1.5,
            "logits/rejected": 1.25, "mean_token_accuracy": 0.6, "entropy": 2.5,
            "num_tokens": 900.0, "epoch": 0.5, "step": 7,
        },
        {
            "step": 7, "epoch": 0.5, "loss": 0.5, "chosen_logps": -50, "rejected_logps": -60,
            "reward_chosen": 0.3, "reward_rejected": -0.2, "reward_margin": 0.5, "accuracy": 0.75,
            "entropy": 2.5, "grad_norm": 2, "lr": 1e-6, "chosen_logits": 1.5,
            "rejected_logits": 1.25, "tokens": 900,
        },
        {},
    ),
    "TRL's KTO": (
        {"loss": 0.5, "kl": 3.0, "count/chosen": 12, "count/rejected": 20, "step": 1},
        {"step": 1, "loss": 0.5, "kl": 3, "count_chosen": 12, "count_rejected": 20},
        {},
    ),
    "TRL's PPO": (
        {
            "eps": 3, "objective/kl": 4.0, "objective/entropy": 90.0, "objective/scores": 1.5,
            "objective/rlhf_reward": 1.1, "objective/non_score_reward": -0.4,
            "policy/approxkl_avg": 0.01, "policy/clipfrac_avg": 0.2, "policy/entropy_avg": 1.2,
            "loss/policy_avg": -0.01, "loss/value_avg": 0.3, "val/clipfrac_avg": 0.9,
            "val/ratio": 1.0, "val/num_eos_tokens": 5, "lr": 3e-6, "episode": 64, "step": 2,
        },
        {
            "step": 2, "kl": 4, "entropy": 1.2, "lr": 3e-6, "reward": 1.5, "value_loss": 0.3,
            "policy_loss": -0.01, "clip_fraction": 0.2,
        },
        {},
    ),
    "TRL's GRPO": (
        {
            "loss": 0.01, "kl": 0.002, "reward": 0.7, "reward_std": 0.1, "entropy": 1.0,
            "completions/mean_length": 40.0, "completions/min_length": 3.0,
            "completions/clipped_ratio": 0.25, "frac_reward_zero_std": 0.5,
            "rewards/accuracy/mean": 0.9, "rewards/accuracy/std": 0.3,
            "clip_ratio/region_mean": 0.05, "clip_ratio/high_max": 0.4, "step": 3,
        },
        {
            "step": 3, "loss": 0.01, "kl_per_token": 0.002, "entropy": 1, "length": 40,
            "reward": 0.7, "reward_std": 0.1, "clip_fraction": 0.05, "truncation_rate": 0.25,
        },
        {},
    ),
    "TRL's online DPO": (
        {
            "objective/kl": 2.0, "objective/scores": 0.4, "rewards/chosen": 0.1,
            "rewards/margins": 0.2, "logps/chosen": -30.0, "val/contain_eos_token": 0.9,
            "beta": 0.1, "step": 5,
        },
        {
            "step": 5, "chosen_logps": -30, "reward_chosen": 0.1, "reward_margin": 0.2, "kl": 2,
            "reward": 0.4, "eos_rate": 0.9,
        },
        {},
    ),
    "LLaMA-Factory": (
        {
            "current_steps": 10, "total_steps": 90, "loss": 0.6, "accuracy": 0.8, "lr": 5e-6,
            "epoch": 0.2, "percentage": 11.1, "elapsed_time": "0:01:02", "remaining_time": "0:09",
            "eval_loss": None,
        },
        {"step": 10, "epoch": 0.2, "loss": 0.6, "accuracy": 0.8, "lr": 5e-6},
        {},
    ),
    "the authors' DPO": (
        {
            "rewards_train/chosen": 0.2, "rewards_train/rejected": 0.1,
            "rewards_train/accuracies": 0.6, "rewards_train/margins": 0.1,
            "logps_train/chosen": -20.0, "logps_train/rejected": -25.0, "loss/train": 0.65,
            "rewards_eval/chosen": 0.3, "logps_eval/rejected": -26.0, "loss/eval": 0.66,
            "counters/examples": 640, "counters/updates": 10, "examples_per_second": 3.0,
            "grad_norm": 9.0,
        },
        {
            "step": 10, "loss": 0.65, "chosen_logps": -20, "rejected_logps": -25,
            "reward_chosen": 0.2, "reward_rejected": 0.1, "reward_margin": 0.1, "accuracy": 0.6,
            "grad_norm": 9,
        },
        {"step": 10, "loss": 0.66, "rejected_logps": -26, "reward_chosen": 0.3},
    ),
    "OpenRLHF's DPO": (
        {
            "train/loss": 0.4, "train/acc": 0.7, "train/chosen_reward": 0.5,
            "train/reject_reward": -0.1, "train/loss_mean": 0.9, "train/lr": 1e-6,
            "train/global_step": 20, "_step": 3,
        },
        {
            "step": 20, "loss": 0.4, "reward_chosen": 0.5, "reward_rejected": -0.1,
            "accuracy": 0.7, "lr": 1e-6,
        },
        {},
    ),
    "OpenRLHF's PPO": (
        {
            "train/policy_loss": 0.1, "train/critic_loss": 0.2, "train/kl": 0.03,
            "train/response_length": 55.0, "train/reward": 0.9, "train/return": 0.8,
            "train/actor_lr": 1e-6, "train/critic_lr": 9e-6, "train/global_step": 4,
        },
        {
            "step": 4, "kl_per_token": 0.03, "lr": 1e-6, "length": 55, "reward": 0.9,
            "value_loss": 0.2, "policy_loss": 0.1,
        },
        {},
    ),
    "verl": (
        {
            "step": 8, "actor/kl_loss": 0.004, "actor/pg_loss": 0.02, "actor/ppo_kl": 0.5,
            "actor/pg_clipfrac": 0.1, "actor/entropy": 0.7, "actor/grad_norm": 0.3,
            "critic/grad_norm": 5.0, "actor/lr": 1e-6, "critic/score/mean": 0.6,
            "critic/score/max": 1.0, "critic/rewards/mean": 0.4, "critic/vf_loss": 0.25,
            "critic/vf_explained_var": 0.9, "response_length/mean": 70.0,
            "response_length/clip_ratio": 0.125, "prompt_length/mean": 9.0, "timing_s/step": 30.0,
        },
        {
            "step": 8, "kl_per_token": 0.004, "policy_loss": 0.02, "clip_fraction": 0.1,
            "entropy": 0.7, "grad_norm": 0.3, "lr": 1e-6, "reward": 0.6, "value_loss": 0.25,
            "value_explained": 0.9, "length": 70, "truncation_rate": 0.125,
        },
        {},
    ),
    "open-instruct": (
        {
            "training_step": 6, "train_loss": 0.6, "train/rewards/chosen": 0.1,
            "rewards/rejected": 0.0, "rewards/accuracy": 0.5, "rewards/margin": 0.1,
            "logps/chosen": -3.0, "rewards/average": 0.05, "learning_rate": 1e-6,
        },
        {
            "step": 6, "loss": 0.6, "chosen_logps": -3, "reward_chosen": 0.1,
            "reward_rejected": 0, "reward_margin": 0.1, "accuracy": 0.5, "lr": 1e-6,
        },
        {},
    ),
    "NeMo-Aligner": (
        {
            "train_loss": 0.6, "train_acc": 0.7, "train_rewards_chosen_mean": 0.2,
            "train_rewards_rejected_mean": 0.1, "train_rewards_all_mean": 0.15,
            "train_grad_norm": 1.0, "val_loss": 0.7, "val_rewards_chosen_mean": 0.1, "step": 9,
        },
        {
            "step": 9, "loss": 0.6, "reward_chosen": 0.2, "reward_rejected": 0.1,
            "accuracy": 0.7, "grad_norm": 1,
        },
        {"step": 9, "loss": 0.7, "reward_chosen": 0.1},
    ),
    "prefeval's own": (
        {
            "step": 2, "loss": 0.6, "chosen_logps": -12.0, "rejected_logps": -13.0,
            "delta_chosen": 0.3, "delta_rejected": -0.1, "accuracy": 0.7, "kl": -0.1,
            "entropy": 0.9, "margin": 0.4, "grad_norm": 1.6, "lr": 3e-4, "tokens": 1600,
            "flops": 2e9, "sft_flops": 1e9, "seconds": 0.06, "peak_memory_mb": 800.0,
        },
        {
            "step": 2, "loss": 0.6, "chosen_logps": -12, "rejected_logps": -13,
            "delta_chosen": 0.3, "delta_rejected": -0.1, "accuracy": 0.7, "kl": -0.1,
            "entropy": 0.9, "margin": 0.4, "grad_norm": 1.6, "lr": 3e-4, "tokens": 1600,
        },
        {},
    ),
    "prefeval's PPO": (
        {
            "step": 1, "policy_loss": 0.04, "value_loss": 0.01, "clip_fraction": 0.004,
            "approx_kl": 5e-4, "value_grad_norm": 0.03, "reward": -0.1, "kl": 0.2,
            "explained_variance": 0.3, "length": 20.0, "ended": 0.9, "kl_coef": 0.3,
        },
        {
            "step": 1, "kl": 0.2, "length": 20, "reward": -0.1, "value_loss": 0.01,
            "policy_loss": 0.04, "value_explained": 0.3, "clip_fraction": 0.004, "kl_coef": 0.3,
            "eos_rate": 0.9,
        },
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainers_names_are_known_and_none_is_mistaken(trainer: str, tmp_path: Path) -> None:
    row, train, evals = TRAINERS[trainer]
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", [row]))
    assert log.train.to_dict("records") == [train]
    assert log.evals.to_dict("records") == ([evals] if evals else [])
    assert log.unrecognised == ()
    assert set(log.names) == train.keys() | evals.keys()
    assert set(log.names.values()) <= set(row)


def test_a_name_stands_in_the_table_once() -> None:
    every = ["".join(log_keys.words(n)) for names in log_keys.COLUMNS.values() for n in names]
    assert len(every) == len(set(every))
    known = {"".join(log_keys.words(n)) for n in log_keys.NOT_READ if not n.endswith("*")}
    assert not known & set(every)


@pytest.mark.parametrize(
    ("name", "column", "is_eval"),
    [
        ("TRAIN.Rewards-Chosen", "reward_chosen", False),
        ("rewardsChosen", "reward_chosen", False),
        ("Train Loss", "loss", False),
        ("eval/helpful/rewards/chosen", "reward_chosen", True),
        ("eval_helpful_rewards/chosen", "reward_chosen", True),
        ("my_team/logps/rejected", "rejected_logps", False),
        ("run 7 - eval/loss", "loss", True),
        ("validation-rewards-margins", "reward_margin", True),
        ("dpo_rewards/accuracies", "accuracy", False),
    ],
)
def test_prefixes_and_separators_do_not_hide_a_name(name: str, column: str, is_eval: bool) -> None:
    found = log_keys.look_up(name)
    assert isinstance(found, log_keys.Match)
    assert (found.column, found.is_eval) == (column, is_eval)


@pytest.mark.parametrize("name", ["pref_gap", "wins", "train/my_score_7", "chosen", "kl_target"])
def test_a_renamed_metric_is_unrecognised_and_not_guessed(name: str, tmp_path: Path) -> None:
    log = training_log.read(write_jsonl(tmp_path / "x.jsonl", [{"step": 1, "loss": 1, name: 5.0}]))
    assert log.unrecognised == (name,)
    assert list(log.train) == ["step", "loss"]


def test_the_surer_of_two_names_is_read_and_the_other_reported(tmp_path: Path) -> None:
    rows = [{"step": 1, "side/loss": 9.0, "loss": 1.0}]
    log = training_log.read(write_jsonl(tmp_path / "x.jsonl", rows))
    assert (log.names["loss"], log.train["loss"][0], log.unrecognised) == (
        "loss",
        1,
        ("side/loss",),
    )


# -- formats -----------------------------------------------------------------------------------

RUN = a_run(range(1, 6))
EXPECTED = pd.DataFrame(
    {
        "step": np.arange(1, 6),
        "loss": [0.7 - 0.001 * s for s in range(1, 6)],
        "reward_chosen": [0.01 * s for s in range(1, 6)],
    }
)


def a_state(rows: Rows, **more: Any) -> str:
    state = {"best_metric": None, "global_step": rows[-1]["step"], "log_history": list(rows)}
    return json.dumps({**state, **more}, indent=2)


def console(rows: Rows) -> str:
    """As transformers prints, between other lines, without steps and with quoted numbers."""
    shown = [{k: str(v) for k, v in row.items() if k != "step"} for row in rows]
    return "".join(
        f"  1%|# | {i}/99 [00:01<00:09]\r{r!r}\nSaving...\n" for i, r in enumerate(shown)
    )


def parquet(rows: Rows) -> bytes:
    out = io.BytesIO()
    pd.DataFrame(list(rows)).to_parquet(out)
    return out.getvalue()


def nested(rows: Rows) -> str:
    lines = ({"step": r["step"], "loss": r["loss"], "rewards": {"chosen": r["rewards/chosen"]}}
             for r in rows)  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


FORMATS: dict[str, Callable[[Rows], str | bytes]] = {
    "log.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "nested.jsonl": nested,
    "trainer_state.json": a_state,
    "compact.json": lambda rows: json.dumps({"log_history": list(rows), "z": 1}),
    "list.json": lambda rows: json.dumps(list(rows)),
    "log.csv": as_csv,
    "log.tsv": lambda rows: as_csv(rows, "\t"),
    "table.txt": as_csv,
    "wandb.csv": lambda rows: as_csv([{f"a run - {k}": v for k, v in r.items()} for r in rows]),
    "log.parquet": parquet,
    "console.log": console,
    "log.jsonl.gz": lambda rows: gzip.compress(FORMATS["log.jsonl"](rows).encode()),  # type: ignore[union-attr]
    "utf16.log": lambda rows: console(rows).encode("utf-16"),
    "verl.log": lambda rows: "".join(
        f"(TaskRunner pid=1) step:{r['step']} - actor/loss:np.float64({r['loss']}) - "
        f"rewards/chosen:{r['rewards/chosen']}\n"
        for r in rows
    ).replace("actor/loss", "loss"),
}


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_frame(name: str, tmp_path: Path) -> None:
    log = training_log.read(put(tmp_path / name, FORMATS[name](RUN)))
    pd.testing.assert_frame_equal(log.train, EXPECTED)
    assert log.unrecognised == ()
    numbered = "the log has no steps: rows are numbered in their order, from 1"
    assert log.notes == ((numbered,) if "console" in name or "utf16" in name else ())


def test_training_and_evaluation_rows_of_a_trainer_state_are_told_apart(tmp_path: Path) -> None:
    rows = [
        {"loss": 0.69, "epoch": 0.1, "step": 1},
        {
            "eval_loss": 0.7,
            "eval_rewards/chosen": 0.2,
            "eval_runtime": 3.0,
            "epoch": 0.1,
            "step": 1,
        },
        {"loss": 0.6, "epoch": 0.2, "step": 2},
        {"train_runtime": 9.0, "train_loss": 0.64, "total_flos": 1.0, "epoch": 0.2, "step": 2},
    ]
    log = training_log.read(put(tmp_path / "trainer_state.json", a_state(rows)))
    assert log.train["loss"].tolist() == [0.69, 0.6]  # not the mean of the run, logged last
    assert log.evals.to_dict("records") == [
        {"step": 1, "epoch": 0.1, "loss": 0.7, "reward_chosen": 0.2}
    ]


def test_a_folder_gives_the_state_that_went_furthest(tmp_path: Path) -> None:
    for step in (5, 15, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        put(folder / "trainer_state.json", a_state(a_run([1, step])))
    assert training_log.read(tmp_path).path.parent.name == "checkpoint-100"
    put(tmp_path / "trainer_state.json", a_state(a_run([1, 120])))
    assert training_log.read(tmp_path).path == tmp_path / "trainer_state.json"
    put(tmp_path / "trainer_state.json", a_state(a_run([1, 50])))
    assert training_log.read(tmp_path).path.parent.name == "checkpoint-100"


def test_a_trial_of_prefeval_brings_its_settings(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"step": 1, "loss": 1.0, "delta_chosen": 0.0}])
    trial = {"method": "ipo", "beta": 0.3, "seed": 4, "settings": {"lr": 3e-4, "epochs": 2}}
    put(tmp_path / "trial.json", json.dumps(trial))
    log = training_log.read(tmp_path)
    assert (log.method, log.settings) == ("ipo", {"beta": 0.3, "lr": 3e-4, "epochs": 2, "seed": 4})


@pytest.mark.parametrize(
    ("name", "content", "method", "found"),
    [
        ("README.md", "---\ntags:\n- trl\n- dpo\n---\n# Card", "dpo", {}),
        ("args.json", '{"loss_type": ["ipo"], "beta": 0.2}', "ipo", {"beta": 0.2}),
        (
            "llama_args.yaml",
            "stage: dpo\npref_loss: simpo\npref_beta: 2.0\nsimpo_gamma: 0.5\n"
            "learning_rate: 1e-5\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 4",
            "simpo",
            {"beta": 2.0, "gamma": 0.5, "lr": 1e-5, "batch_size": 8},
        ),
        ("args.json", '{"stage": "dpo", "pref_loss": "orpo", "pref_beta": 0.1}', "", {"beta": 0.1}),
        ("config.yaml", "rl: kto\nrl_beta: 0.1\nnum_epochs: 3", "kto", {"beta": 0.1, "epochs": 3}),
        ("config.yaml", "beta:\n  value: 0.4\n  desc: null", "", {"beta": 0.4}),
        ("config.yaml", "model: {name: m}\nloss: {name: dpo, beta: 0.1}", "dpo", {"beta": 0.1}),
        (
            "config.yaml",
            "algorithm: {adv_estimator: grpo, use_kl_in_reward: false, kl_ctrl: {kl_coef: 0.9}}\n"
            "actor: {use_kl_loss: true, kl_loss_coef: 0.001}",
            "grpo",
            {"beta": 0.001},
        ),
        ("config.json", '{"model_type": "llama", "beta": 7, "max_length": 20}', "", {}),
        ("config.yaml", ": not yaml: [", "", {}),
    ],
)
def test_settings_are_read_from_what_lies_beside_the_log(
    name: str, content: str, method: str, found: dict[str, Any], tmp_path: Path
) -> None:
    put(tmp_path / name, content)
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", RUN))
    assert (log.method, log.settings) == (method, found)


def test_a_pickle_of_settings_is_named_and_never_opened(tmp_path: Path) -> None:
    bomb = b"cbuiltins\nexec\n(S'raise SystemExit'\ntR."
    put(tmp_path / "training_args.bin", bomb)
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", RUN))
    assert "beta" not in log.settings
    assert any("training_args.bin" in note for note in log.notes)


def test_a_beta_that_is_logged_is_a_setting(tmp_path: Path) -> None:
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", a_run([1, 2], beta=0.1)))
    assert log.settings == {"beta": 0.1}


def test_tensorboard_events_are_read_or_what_reads_them_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "events.out.tfevents.1", b"\x18\0\0\0\0\0\0\0")
    with pytest.raises(PrefevalError, match=r"pip install tensorboard|holds no scalars"):
        training_log.read(path)


def test_tensorboard_events_are_rows_by_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]

    with SummaryWriter(str(tmp_path)) as writer:
        for row in RUN:
            writer.add_scalar("train/loss", row["loss"], row["step"])
            writer.add_scalar("train/rewards/chosen", row["rewards/chosen"], row["step"])
    log = training_log.read(tmp_path)
    pd.testing.assert_frame_equal(log.train, EXPECTED, rtol=1e-6)


# -- damage ------------------------------------------------------------------------------------


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in RUN)
    log = training_log.read(put(tmp_path / "log.jsonl", text[:-9]))
    pd.testing.assert_frame_equal(log.train, EXPECTED[:4])
    assert log.notes == ("the last line is cut short and was left out",)


def test_damaged_lines_amid_a_log_are_counted(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in RUN]
    lines[2] = lines[2][:20]
    log = training_log.read(put(tmp_path / "log.jsonl", "\n".join(lines) + "\n"))
    assert log.train["step"].tolist() == [1, 2, 4, 5]
    assert log.notes == ("left out: 1 line that could not be read",)


@pytest.mark.parametrize("shown", ["NaN", "Infinity", "'nan'", "nan", "-inf", '"inf"'])
def test_nan_and_infinity_are_kept_and_counted(shown: str, tmp_path: Path) -> None:
    text = f"{{'step': 1, 'loss': 0.5}}\n{{'step': 2, 'loss': {shown}}}\n"
    log = training_log.read(put(tmp_path / "log.txt", text))
    assert log.train["loss"][0] == 0.5
    assert not math.isfinite(log.train["loss"][1])
    assert math.isnan(log.train["loss"][1]) == ("nan" in shown.lower())
    assert log.notes == ("kept: 1 value that is NaN or infinite (loss 1)",)


def test_a_null_is_no_value(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 1.0, "kl": None}, {"step": 2, "loss": None, "kl": 3.0}]
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", rows))
    assert log.notes == ()
    np.testing.assert_array_equal(log.train["loss"], [1, np.nan])
    np.testing.assert_array_equal(log.train["kl"], [np.nan, 3])


def test_rows_without_steps_are_numbered(tmp_path: Path) -> None:
    rows = [{"loss": 3.0}, {"loss": 2.0}, {"eval_loss": 5.0}, {"loss": 1.0}]
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", rows))
    assert log.train["step"].tolist() == [1, 2, 3]
    assert log.evals["step"].tolist() == [2]
    assert "numbered in their order" in log.notes[0]


def test_a_row_without_a_step_among_others_is_left_out(tmp_path: Path) -> None:
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", [*RUN, {"loss": 99.0}]))
    pd.testing.assert_frame_equal(log.train, EXPECTED)
    assert log.notes == ("left out: 1 row without a step",)


def test_unordered_steps_are_sorted(tmp_path: Path) -> None:
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", [RUN[i] for i in (3, 0, 4, 2, 1)]))
    pd.testing.assert_frame_equal(log.train, EXPECTED)
    assert log.notes == ("the steps were out of order: rows were sorted by step",)


def test_of_two_runs_in_one_file_the_last_is_read(tmp_path: Path) -> None:
    first = [{"step": s, "loss": 9.0} for s in range(1, 9)]
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", [*first, *RUN]))
    pd.testing.assert_frame_equal(log.train, EXPECTED)
    assert "2 runs in one file" in log.notes[0]
    assert "8 rows" in log.notes[0]


def test_two_runs_on_a_console_are_told_apart_by_the_epoch(tmp_path: Path) -> None:
    epochs = [0.1, 0.2, 0.3]
    lines = [f"{{'loss': {loss}, 'epoch': {e}}}" for loss in (9.0, 1.0) for e in epochs]
    log = training_log.read(put(tmp_path / "log.txt", "\n".join(lines)))
    assert log.train["loss"].tolist() == [1, 1, 1]
    assert log.train["step"].tolist() == [1, 2, 3]


def test_a_resumed_run_whose_steps_overlap_is_one(tmp_path: Path) -> None:
    stopped = [{"step": s, "loss": 9.0 if s > 3 else 0.7 - 0.001 * s} for s in range(1, 6)]
    rows = [
        *stopped,
        {"eval_loss": 2.0, "step": 5},
        *a_run([4, 5, 6]),
        {"eval_loss": 1.0, "step": 5},
    ]
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", rows[:-1]))
    assert log.train["step"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(log.train["loss"], [0.7 - 0.001 * s for s in range(1, 7)])
    assert log.evals.empty  # it was measured on weights that were trained anew
    assert log.notes == ("the run was resumed: left out are 3 rows of steps that were taken again",)


def test_of_a_step_that_comes_twice_the_last_is_read(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 5.0}, {"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}]
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", rows))
    assert log.train["loss"].tolist() == [4, 3]
    assert log.notes == ("logged twice: 1 step; the last of each is read",)


def test_parts_of_one_step_are_one_row_without_a_note(tmp_path: Path) -> None:
    rows = [{"_step": 1, "loss": 5.0}, {"_step": 1, "kl": 4.0}]
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", rows))
    assert log.train.to_dict("records") == [{"step": 1, "loss": 5, "kl": 4}]
    assert log.notes == ()


def test_accuracy_in_percent_is_made_a_share(tmp_path: Path) -> None:
    rows = [{"step": 1, "acc": "50%"}, {"step": 2, "acc": 75.0}]
    log = training_log.read(write_jsonl(tmp_path / "log.jsonl", rows))
    assert log.train["accuracy"].tolist() == [0.5, 0.75]
    assert "percent" in log.notes[0]


def test_steps_may_be_fractions(tmp_path: Path) -> None:
    log = training_log.read(
        write_jsonl(tmp_path / "log.jsonl", [*RUN[:2], {"step": 2.5, "loss": 1}])
    )
    assert log.train["step"].tolist() == [1, 2, 2.5]


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty": ("log.jsonl", b"", "is empty"),
    "blank": ("log.jsonl", b" \n\n", "is empty"),
    "a pickle": ("training_args.bin", b"\x80\x04\x95\0\0\0", "binary|not UTF-8"),
    "an archive": ("log.jsonl", b"PK\x03\x04\0\0", "binary"),
    "Latin-1": ("log.jsonl", b'{"caf\xe9": 1, "loss": 2}\n', "not UTF-8 .* at byte 5"),
    "prose": ("log.txt", b"It went well.\n", "no row of numbers"),
    "no known name": ("log.jsonl", b'{"step": 1, "wins": 3, "gap": 2}\n', "step, wins, gap"),
    "counters alone": ("log.jsonl", b'{"step": 1, "epoch": 0.5}\n', "none of its names is known"),
    "no numbers": ("log.jsonl", b'{"step": 1, "loss": "low"}\n', "no numbers under them"),
    "no steps logged": ("trainer_state.json", b'{"log_history": []}', "empty log_history"),
    "a header alone": ("log.csv", b"step,loss\n", "no whole row"),
    "cut Parquet": ("log.parquet", b"PAR1\x15\x04", "no whole Parquet"),
    "two runs of W&B": ("w.csv", b"Step,a - loss,b - loss\n1,2,3\n", "holds 2 runs"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_says_nothing_is_refused_with_the_mend(case: str, tmp_path: Path) -> None:
    name, content, message = REFUSED[case]
    with pytest.raises(PrefevalError, match=message) as caught:
        training_log.read(put(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_folders_without_one_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrefevalError, match="no such file"):
        training_log.read(tmp_path / "gone")
    with pytest.raises(PrefevalError, match="holds no training log"):
        training_log.read(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", RUN)
    assert training_log.read(tmp_path).path.name == "a.jsonl"
    write_jsonl(tmp_path / "b.jsonl", RUN)
    with pytest.raises(PrefevalError, match="holds 2 logs"):
        training_log.read(tmp_path)
    trial = tmp_path / "run/trials/dpo-b0.1"
    trial.mkdir(parents=True)
    write_jsonl(trial / "train.jsonl", RUN)
    with pytest.raises(PrefevalError, match=r"1 trial;.*dpo-b0\.1"):
        training_log.read(tmp_path / "run")


# -- properties --------------------------------------------------------------------------------

DIALECTS = {
    "TRL": {
        "loss": "loss", "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected",
        "accuracy": "rewards/accuracies", "chosen_logps": "logps/chosen", "lr": "learning_rate",
        "grad_norm": "grad_norm",
    },
    "W&B": {
        "loss": "train/loss", "reward_chosen": "train/rewards/chosen",
        "reward_rejected": "train/rewards/rejected", "accuracy": "train/rewards/accuracies",
        "chosen_logps": "train/logps/chosen", "lr": "train/learning_rate",
        "grad_norm": "train/grad_norm",
    },
    "the authors'": {
        "loss": "loss/train", "reward_chosen": "rewards_train/chosen",
        "reward_rejected": "rewards_train/rejected", "accuracy": "rewards_train/accuracies",
        "chosen_logps": "logps_train/chosen", "lr": "lr", "grad_norm": "grad_norm",
    },
    "shouted": {
        "loss": "TRAIN LOSS", "reward_chosen": "Rewards-Chosen",
        "reward_rejected": "RewardsRejected", "accuracy": "REWARDS.ACCURACIES",
        "chosen_logps": "Logps_Chosen", "lr": "Learning-Rate", "grad_norm": "gradNorm",
    },
}  # fmt: skip
finite = st.floats(-1e6, 1e6, allow_nan=False)
WHOLE_FILES = ("log.jsonl", "list.json", "trainer_state.json", "log.csv")
no_reset = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Some of the columns at some steps."""
    steps = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True))
    columns = draw(st.sets(st.sampled_from(list(DIALECTS["TRL"])), min_size=1))
    frame = {"step": np.array(sorted(steps), dtype=np.int64)}
    for column in (c for c in log_keys.COLUMNS if c in columns):
        share = st.floats(0, 1) if column == "accuracy" else finite
        frame[column] = np.array(draw(st.lists(share, min_size=len(steps), max_size=len(steps))))
    return pd.DataFrame(frame)


@no_reset
@given(frame=frames(), data=st.data())
def test_dialect_format_and_order_do_not_change_the_frame(
    frame: pd.DataFrame, data: st.DataObject, tmp_path: Path
) -> None:
    names = DIALECTS[data.draw(st.sampled_from(list(DIALECTS)))]
    name = data.draw(st.sampled_from(WHOLE_FILES))
    rows = data.draw(st.permutations(frame.rename(columns=names).to_dict("records")))
    keys = data.draw(st.permutations(list(rows[0])))
    log = training_log.read(
        put(tmp_path / name, FORMATS[name]([{k: r[k] for k in keys} for r in rows]))
    )
    pd.testing.assert_frame_equal(log.train, frame, check_exact=True)
    assert log.evals.empty
    assert {column: log.names[column] for column in frame if column != "step"} == {
        column: names[column] for column in frame if column != "step"
    }


CUT = [name for name in FORMATS if name != "nested.jsonl"]


@no_reset
@given(frame=frames(), name=st.sampled_from(CUT), where=st.floats(0, 1))
def test_a_cut_anywhere_is_refused_or_leaves_rows_that_were_there(
    frame: pd.DataFrame, name: str, where: float, tmp_path: Path
) -> None:
    frame = frame.assign(loss=0.5, reward_chosen=0.25)
    rows = frame.rename(columns=DIALECTS["TRL"]).to_dict("records")
    content = FORMATS[name](rows)
    content = content.encode() if isinstance(content, str) else content
    whole = training_log.read(put(tmp_path / f"whole-{name}", content)).train
    try:
        cut = training_log.read(put(tmp_path / name, content[: int(where * len(content))])).train
    except PrefevalError:
        return
    assert len(cut) <= len(whole)
    pd.testing.assert_frame_equal(cut, whole.loc[: len(cut) - 1, list(cut)], check_exact=True)


@pytest.mark.parametrize("name", ["log.csv", "verl.log", "trainer_state.json", "log.jsonl.gz"])
def test_a_cut_at_every_byte_invents_nothing(name: str, tmp_path: Path) -> None:
    content = put(tmp_path / name, FORMATS[name](a_run([9, 10, 111]))).read_bytes()
    whole = training_log.read(tmp_path / name).train
    lengths = set()
    for end in range(len(content)):
        try:
            cut = training_log.read(put(tmp_path / name, content[:end])).train
        except PrefevalError:
            continue
        pd.testing.assert_frame_equal(cut, whole.loc[: len(cut) - 1, list(cut)], check_exact=True)
        lengths.add(len(cut))
    assert lengths >= ({2} if name.endswith("gz") else {1, 2})


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_raise_anything_but_the_one_error(content: bytes, tmp_path: Path) -> None:
    for name, before in (
        ("log.jsonl", b""),
        ("log.csv", b"step,loss\n1,"),
        ("x", b"PAR1"),
        ("x", b"{"),
    ):
        path = put(tmp_path / name, before + content)
        with contextlib.suppress(PrefevalError):
            log = training_log.read(path)
            assert len(log.train) + len(log.evals) > 0


def test_reading_loads_no_model_library(tmp_path: Path) -> None:
    import subprocess

    path = write_jsonl(tmp_path / "log.jsonl", RUN)
    script = (
        "import sys; from pathlib import Path; from prefeval.harness.logs import training_log; "
        f"training_log.read(Path({str(path)!r})); print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets", "pickle5"} & set(run.stdout.split())
