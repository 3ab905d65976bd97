"""Small trainings by other trainers, on the lab's smallest reference: for the callback's tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)

from prefeval import records
from prefeval.harness.commands import SMOKE_DATA, SMOKE_LAB
from prefeval.harness.lab import lab
from prefeval.harness.lab.lab import DataConfig, ReferenceConfig

STEPS, EVERY = 4, 2


def smallest_lab() -> lab.Lab:
    """The lab that ``smoke=True`` evaluates on; built once and kept in the user's cache."""
    reference = replace(ReferenceConfig(), **SMOKE_LAB)
    return lab.build(reference, replace(DataConfig(), **SMOKE_DATA), lambda *_: None)


def rows(built: lab.Lab, kind: str) -> Dataset:
    """What a trainer of this kind trains on."""
    saved = records.read_jsonl(built.data / "pairs.jsonl")
    if kind == "dpo":
        return Dataset.from_list(
            [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in saved]
        )
    thumbs = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in saved
        for side in ("chosen", "rejected")
    ]
    if kind == "kto":
        return Dataset.from_list(thumbs)
    tokenizer = AutoTokenizer.from_pretrained(built.reference)
    texts = [
        tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
        for row in thumbs
    ]
    return Dataset.from_list([dict(tokenizer(text, max_length=96)) for text in texts])


def trainer(
    built: lab.Lab, out: Path, kind: str = "dpo", callbacks: Sequence[Any] = (), **settings: Any
) -> Trainer:
    """A trainer with dropout on and its data shuffled; ``lora=True`` trains an adapter."""
    set_seed(3)  # an adapter begins with random weights
    adapter = None
    if settings.pop("lora", False):
        adapter = LoraConfig(
            r=4, lora_dropout=0.1, task_type="CAUSAL_LM", target_modules="all-linear"
        )
    model = AutoModelForCausalLM.from_pretrained(built.reference)
    model.config.attention_dropout = 0.1
    tokenizer = AutoTokenizer.from_pretrained(built.reference)
    given = {
        "output_dir": str(out), "max_steps": STEPS, "save_steps": EVERY, "logging_steps": 1,
        "per_device_train_batch_size": 4, "learning_rate": 1e-3, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "steps", "seed": 3, **settings,
    }  # fmt: skip
    shared = {"model": model, "train_dataset": rows(built, kind), "callbacks": list(callbacks)}
    if kind == "plain":
        if adapter is not None:
            from peft import get_peft_model

            shared["model"] = get_peft_model(model, adapter)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return Trainer(
            eval_dataset=shared["train_dataset"].select(range(8)),
            args=TrainingArguments(**given),
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            **shared,
        )
    import trl

    config, cls = {"dpo": (trl.DPOConfig, trl.DPOTrainer), "kto": (trl.KTOConfig, trl.KTOTrainer)}[
        kind
    ]
    args = config(
        max_length=128, bf16=False, gradient_checkpointing=False, disable_dropout=False, **given
    )
    return cls(args=args, processing_class=tokenizer, peft_config=adapter, **shared)


def state_of(trained: Trainer) -> dict[str, Any]:
    """All that training leaves behind which an evaluation must not touch."""
    weights = {k: v.clone() for k, v in trained.model.state_dict().items()}
    log = [
        {k: v for k, v in row.items() if k not in CLOCK}
        for row in trained.state.log_history
        if not any(k.startswith("eval_prefeval/") for k in row)
    ]
    return {
        "weights": weights, "log": log, "training": trained.model.training,
        "python": random.getstate(), "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(), "threads": torch.get_num_threads(),
        "strict": torch.are_deterministic_algorithms_enabled(), "grad": torch.is_grad_enabled(),
        "optimizer": trained.optimizer.state_dict()["state"],
    }  # fmt: skip


CLOCK = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


def same(a: Any, b: Any) -> bool:
    """Equality bit for bit, through whatever holds tensors and arrays."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool((a == b).all())
    return bool(a == b)
