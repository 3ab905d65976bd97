"""One measurement of prefeval's trainers; ``trainers.py`` runs this in a process of its own.

The trainer is called as the sweep calls it. It is stopped at the end of its last step, before that
step's checkpoint: writing weights is no part of what is compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from trainers_worker import Options, peak_megabytes, read_options, read_rows, report, use_threads
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefeval.minitrainers import kto, load, make_config, reward
from prefeval.minitrainers.batches import Encoded
from prefeval.minitrainers.loop import TrainConfig, all_batches
from prefeval.minitrainers.pairs import EncodedPair, PairData, sequence_logps
from prefeval.minitrainers.precision import autocast
from prefeval.minitrainers.rollouts import PromptData

Rows = Sequence[dict[str, Any]]


class Enough(Exception):
    """Raised at the end of the last step."""


class Recorder:
    """The steps as they end."""

    def __init__(self, steps: int) -> None:
        self.rows: list[dict[str, Any]] = []
        self.megabytes = 0.0
        self._steps = steps

    def __call__(self, row: dict[str, Any]) -> None:
        """Keep one row of the trainer's log."""
        self.rows.append(row)
        self.megabytes = peak_megabytes()
        if len(self.rows) == self._steps:
            raise Enough


def config_of(options: Options) -> TrainConfig:
    """The trainer's settings; those that this version does not know yet are left out."""
    settings = dict(options["settings"])
    if "gradient_checkpointing" not in {f.name for f in fields(TrainConfig)}:
        settings.pop("gradient_checkpointing", None)
    shared = ("lr", "beta", "batch_size", "max_length", "dtype")
    settings |= {name: options[name] for name in shared}
    if options["method"] == "ppo":
        names = ("iterations", "max_new_tokens", "ppo_epochs", "minibatches")
        settings |= {name: options[name] for name in names} | {"value_lr": options["lr"]}
    settings |= {"schedule": "constant", "warmup": 0.0, "save_at": (1.0,)}
    return make_config(options["method"], **settings)


def pairs_of(rows: Rows) -> list[EncodedPair]:
    """The pairs in tokens."""
    return [
        EncodedPair(
            str(i),
            Encoded(row["prompt_ids"], row["chosen_ids"]),
            Encoded(row["prompt_ids"], row["rejected_ids"]),
        )
        for i, row in enumerate(rows)
    ]


def thumbs_of(rows: Rows) -> list[kto.EncodedThumb]:
    """One answer of every pair, the chosen one of those that are labelled so."""
    return [
        kto.EncodedThumb(pair.id, pair.chosen if row["label"] else pair.rejected, row["label"])
        for pair, row in zip(pairs_of(rows), rows, strict=True)
    ]


def batches_of(rows: Rows, config: TrainConfig) -> list[list[int]]:
    """The batches that the trainer will make of these rows."""
    if config.method == "kto":
        return kto.thumb_batches(kto.ThumbData(thumbs_of(rows)), config)
    return all_batches([max(p.chosen.length, p.rejected.length) for p in pairs_of(rows)], config)


def thumb_data(policy: PreTrainedModel, rows: Rows, config: TrainConfig) -> kto.ThumbData:
    """Thumbs whose mismatched answers come from the neighbour in the batch, as TRL's do."""
    thumbs = thumbs_of(rows)
    mismatched = [t.example for t in thumbs]
    for batch in batches_of(rows, config):
        for i, before in zip(batch, [batch[-1], *batch[:-1]], strict=True):
            prompt = thumbs[i].example.prompt_ids
            answer = thumbs[before].example.completion_ids
            mismatched[i] = Encoded(prompt, answer[: config.max_length - len(prompt)])
    policy.eval()
    with autocast(config):
        matched_logps = sequence_logps(policy, [t.example for t in thumbs])
        return kto.ThumbData(thumbs, mismatched, matched_logps, sequence_logps(policy, mismatched))


def prompt_data(tokenizer: PreTrainedTokenizerBase, rows: Rows, options: Options) -> PromptData:
    """Prompts whose answers a reward model of the policy's size scores."""
    scorer = AutoModelForSequenceClassification.from_pretrained(
        options["reward_folder"], dtype=torch.float32
    )
    prompts = [row["messages"] for row in rows]

    def rewards(indices: Sequence[int], answers: Sequence[str]) -> list[float]:
        asked = [prompts[i] for i in indices]
        return reward.score(scorer, tokenizer, list(zip(asked, answers, strict=True)))

    return PromptData([str(i) for i in range(len(rows))], prompts, rewards)


def tokens_a_step(data: Any, rows: Rows, config: TrainConfig) -> list[int]:
    """The tokens without padding that each step reads."""
    if isinstance(data, kto.ThumbData):
        sizes = [
            t.example.length + m.length for t, m in zip(data.thumbs, data.mismatched, strict=True)
        ]
    else:
        sizes = [p.chosen.length + p.rejected.length for p in data.pairs]
    return [sum(sizes[i] for i in batch) for batch in batches_of(rows, config)]


def main() -> None:
    """Train as many steps as asked for and print what they took."""
    options = read_options()
    use_threads(options)
    rows = read_rows(options)
    config = config_of(options)
    tokenizer = AutoTokenizer.from_pretrained(options["folder"])
    policy = AutoModelForCausalLM.from_pretrained(options["folder"], dtype=torch.float32)
    data: Any
    match config.method:
        case "kto":
            data = thumb_data(policy, rows, config)
        case "ppo":
            data = prompt_data(tokenizer, rows, options)
        case _:
            data = PairData(pairs_of(rows))
    recorder, before = Recorder(options["steps"]), peak_megabytes()
    with tempfile.TemporaryDirectory() as folder:
        train, out_dir = load(config.method).train, Path(folder)
        with suppress(Enough):
            train(policy, tokenizer, data, config, out_dir=out_dir, on_step=recorder)
    steps = recorder.rows
    ppo = config.method == "ppo"
    report(
        options,
        seconds=[r["seconds"] for r in steps],
        losses=[r["loss"] for r in steps],
        grad_norms=[r["grad_norm"] for r in steps],
        tokens=[r["tokens"] for r in steps] if ppo else tokens_a_step(data, rows, config),
        megabytes=recorder.megabytes,
        megabytes_before=before,
        settings=describe(config),
    )


def describe(config: TrainConfig) -> str:
    """The settings that differ from measurement to measurement, in words."""
    words = [f"micro-batch {config.micro_batch}"] if config.micro_batch else []
    if getattr(config, "gradient_checkpointing", False):
        words.append("gradient checkpointing")
    return ", ".join(words) or "whole batches"


if __name__ == "__main__":
    main()
