"""One measurement of TRL's trainers; ``trainers.py`` runs this with the interpreter that has TRL.

A step runs from the callback's ``on_step_begin`` to its ``on_step_end``, which leaves out the
making of the batch and TRL's logging, both of which prefeval's own steps include. (PPO has no
``on_step_begin``: there a step begins where the one before it ended.)
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from trainers_worker import Options, peak_megabytes, read_options, read_rows, report, use_threads
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

Rows = Sequence[dict[str, Any]]


class Recorder(TrainerCallback):
    """The time and memory of the steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.megabytes = self.megabytes_before = 0.0
        self._start = 0.0

    def on_train_begin(self, *arguments: Any, **named: Any) -> None:
        """Start the clock of the first step of PPO."""
        self.megabytes_before = peak_megabytes()
        self._start = time.perf_counter()

    def on_step_begin(self, *arguments: Any, **named: Any) -> None:
        """Start a step's clock."""
        self._start = time.perf_counter()

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        """Stop it, and start that of PPO's next step."""
        now = time.perf_counter()
        self.seconds.append(now - self._start)
        self.megabytes = peak_megabytes()
        self._start = time.perf_counter()


def arguments_of(options: Options, folder: str) -> dict[str, Any]:
    """The training arguments that all trainers share: AdamW at a constant learning rate."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": options["batch_size"],
        "learning_rate": options["lr"],
        "lr_scheduler_type": "constant",
        "bf16": options["dtype"] == "bfloat16",
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **options["settings"],
    }


def preference_trainer(options: Options, rows: Rows, folder: str) -> Any:
    """The trainer of a method, on the batches that prefeval's trainer makes."""
    shared = {
        **arguments_of(options, folder),
        "max_steps": options["steps"],
        "max_length": options["max_length"],
        "beta": options["beta"],
        "train_sampling_strategy": "sequential",
    }
    rows = sorted(rows, key=lambda row: (row["step"], row["place"]))
    texts = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    match options["method"]:
        case "dpo":
            from trl import DPOConfig, DPOTrainer

            trainer, config = DPOTrainer, DPOConfig(precompute_ref_log_probs=True, **shared)
        case "kto":
            from trl import KTOConfig, KTOTrainer

            trainer, config = KTOTrainer, KTOConfig(precompute_ref_log_probs=True, **shared)
            texts = [
                {
                    "prompt": row["prompt"],
                    "completion": row["chosen" if row["label"] else "rejected"],
                    "label": row["label"],
                }
                for row in rows
            ]
        case "simpo":
            from trl.experimental.cpo import CPOConfig, CPOTrainer

            simpo = {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": options["gamma"]}
            trainer, config = CPOTrainer, CPOConfig(**simpo, **shared)
    return trainer(
        model=AutoModelForCausalLM.from_pretrained(options["folder"], dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(texts),
        processing_class=AutoTokenizer.from_pretrained(options["folder"]),
    )


def ppo_trainer(options: Options, rows: Rows, folder: str) -> Any:
    """PPO on the prompts, with a value model and a reward model of the policy's size."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    config = PPOConfig(
        **arguments_of(options, folder),
        total_episodes=options["batch_size"] * options["steps"],
        num_ppo_epochs=options["ppo_epochs"],
        num_mini_batches=options["minibatches"],
        response_length=options["max_new_tokens"],
        kl_coef=options["beta"],
        temperature=1.0,
        stop_token="eos",
        num_sample_generations=0,
    )
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(options["folder"], dtype=torch.float32)
        for _ in range(2)
    )
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(
            options["reward_folder"], dtype=torch.float32
        )
        for _ in range(2)
    )
    return PPOTrainer(
        args=config,
        processing_class=AutoTokenizer.from_pretrained(options["folder"], padding_side="left"),
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": row["prompt_ids"]} for row in rows]),
    )


def tokens_a_step(trainer: Any, rows: Rows, options: Options) -> list[int]:
    """The tokens without padding that each step reads, as TRL's own tokenisation has them."""
    if options["method"] == "ppo":  # the same prompts every time, and answers of full length
        asked = sum(len(row["prompt_ids"]) for row in rows)
        return [asked + len(rows) * options["max_new_tokens"]] * options["steps"]
    sizes = []
    for row in trainer.train_dataset:
        match options["method"]:
            case "dpo":
                sides = (row["prompt_ids"] + row[f"{s}_ids"] for s in ("chosen", "rejected"))
            case "kto":
                sides = (row["prompt_ids"] + row[f"{s}completion_ids"] for s in ("", "KL_"))
            case _:
                sides = (row[f"{s}_input_ids"] for s in ("chosen", "rejected"))
        sizes.append(sum(min(len(ids), options["max_length"]) for ids in sides))
    size = options["batch_size"]
    return [sum(sizes[start : start + size]) for start in range(0, len(sizes), size)]


def main() -> None:
    """Train as many steps as asked for and print what they took."""
    options = read_options()
    use_threads(options)
    disable_progress_bars()
    rows = read_rows(options)
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        make = ppo_trainer if options["method"] == "ppo" else preference_trainer
        trainer = make(options, rows, folder)
        tokens = tokens_a_step(trainer, rows, options)
        trainer.add_callback(recorder)
        trainer.train()
    loss = "loss/policy_avg" if options["method"] == "ppo" else "loss"
    steps = [row for row in trainer.state.log_history if loss in row]
    checkpointing = options["settings"]["gradient_checkpointing"]
    report(
        options,
        seconds=recorder.seconds,
        losses=[row[loss] for row in steps],
        grad_norms=[row.get("grad_norm", 0.0) for row in steps],
        tokens=tokens,
        megabytes=recorder.megabytes,
        megabytes_before=recorder.megabytes_before,
        settings="gradient checkpointing" if checkpointing else "no gradient checkpointing",
    )


if __name__ == "__main__":
    main()
