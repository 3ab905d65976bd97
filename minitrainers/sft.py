"""Supervised fine-tuning: maximum likelihood of the completions.

L = - sum_t log pi(y_t | x, y_<t) / (number of completion tokens in the batch)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefeval.minitrainers.batches import Encoded, collate, micro_batches
from prefeval.minitrainers.cost import Cost
from prefeval.minitrainers.logps import completion_logps
from prefeval.minitrainers.loop import StepOutput, TrainConfig, all_batches, optimise, prepare
from prefeval.minitrainers.run import CheckpointInfo, OnStep, data_hash
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Encoded],
    config: TrainConfig,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Fine-tune ``model`` in place on ``examples`` and save its checkpoints."""
    if not examples:
        raise PrefevalError("there is nothing to train on; give at least one example")
    prepare(model, config)
    cost = Cost(model, config)

    def losses(batch: Sequence[int]) -> Iterator[StepOutput]:
        per_example = sum(len(examples[i].completion_ids) for i in batch) / len(batch)
        for micro in micro_batches(batch, config.micro_batch):
            rows = [examples[i] for i in micro]
            logps = completion_logps(model, *collate(rows, config.device))
            flops = cost.step_on(rows)
            yield StepOutput(
                -logps.sums / per_example,
                {"entropy": logps.entropies.sum(-1) / logps.lengths},
                tokens=sum(e.length for e in rows),
                flops=flops,
                sft_flops=flops,
            )

    batches = all_batches([e.length for e in examples], config)
    return optimise(
        model,
        tokenizer,
        config,
        n_steps=len(batches),
        batches=lambda done: batches[done:],
        losses=losses,
        ids=str,
        data=data_hash([], (row for e in examples for row in e[:2])),
        out_dir=out_dir,
        on_step=on_step,
    )
