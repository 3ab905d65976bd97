"""What the pair methods share: their data, the reference's log-probabilities, and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefeval.minitrainers.batches import Encoded, collate, micro_batches
from prefeval.minitrainers.logps import completion_logps
from prefeval.minitrainers.loop import (
    CheckpointInfo,
    OnStep,
    StepOutput,
    TrainConfig,
    all_batches,
    autocast,
    optimise,
)
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Logps = NDArray[np.float64]


class EncodedPair(NamedTuple):
    """Two completions of one prompt, in tokens."""

    id: str
    chosen: Encoded
    rejected: Encoded


@dataclass(frozen=True)
class PairData:
    """Pairs, with the reference's log-probabilities (n,) in nats/sequence once they are known."""

    pairs: Sequence[EncodedPair]
    ref_chosen_logps: Logps | None = None
    ref_rejected_logps: Logps | None = None


class PairLogps(NamedTuple):
    """One micro-batch as a pair loss sees it; each (B,)."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor


PairLosses = Callable[[PairLogps], Tensor]
"""(B,) losses of the pairs of a micro-batch."""


@torch.no_grad()
def sequence_logps(
    model: PreTrainedModel, examples: Sequence[Encoded], *, batch_size: int = 64
) -> Logps:
    """(n,) log-probabilities of the completions in nats/sequence, in the order given."""
    sums = np.empty(len(examples))
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)
    for part in micro_batches(order, batch_size):
        batch = collate([examples[i] for i in part], model.device)
        sums[list(part)] = completion_logps(model, *batch).sums.double().cpu().numpy()
    return sums


def with_reference(ref: PreTrainedModel, data: PairData, *, batch_size: int = 64) -> PairData:
    """``data`` with the log-probabilities of ``ref``: one pass that a whole sweep can share."""
    n = len(data.pairs)
    examples = [p.chosen for p in data.pairs] + [p.rejected for p in data.pairs]
    logps = sequence_logps(ref, examples, batch_size=batch_size)
    return replace(data, ref_chosen_logps=logps[:n], ref_rejected_logps=logps[n:])


def train_pairs(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PairData,
    config: TrainConfig,
    pair_losses: PairLosses,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Train ``policy`` in place; without given log-probabilities, its start is its reference."""
    if not data.pairs:
        raise PrefevalError("there are no pairs to train on; give at least one")
    policy.to(config.device)
    if data.ref_chosen_logps is None or data.ref_rejected_logps is None:
        policy.eval()
        with autocast(config):
            data = with_reference(policy, data)
    ref_chosen = torch.as_tensor(data.ref_chosen_logps)
    ref_rejected = torch.as_tensor(data.ref_rejected_logps)

    def losses(batch: Sequence[int]) -> Iterator[StepOutput]:
        for micro in micro_batches(batch, config.micro_batch):
            pairs = [data.pairs[i] for i in micro]
            rows = [p.chosen for p in pairs] + [p.rejected for p in pairs]
            logps = completion_logps(policy, *collate(rows, config.device))
            chosen, rejected = logps.sums.chunk(2)
            chosen_lengths, rejected_lengths = logps.lengths.chunk(2)
            step = PairLogps(
                chosen,
                rejected,
                ref_chosen[micro].to(chosen),
                ref_rejected[micro].to(rejected),
                chosen_lengths,
                rejected_lengths,
            )
            yield StepOutput(pair_losses(step), _logs(step), sum(e.length for e in rows))

    lengths = [max(p.chosen.length, p.rejected.length) for p in data.pairs]
    return optimise(
        policy,
        tokenizer,
        config,
        batches=all_batches(lengths, config),
        losses=losses,
        ids=[p.id for p in data.pairs],
        out_dir=out_dir,
        on_step=on_step,
    )


@torch.no_grad()
def _logs(step: PairLogps) -> dict[str, Tensor]:
    delta_chosen = step.chosen - step.ref_chosen
    delta_rejected = step.rejected - step.ref_rejected
    return {
        "chosen_logps": step.chosen.detach(),
        "rejected_logps": step.rejected.detach(),
        "delta_chosen": delta_chosen,
        "delta_rejected": delta_rejected,
        "accuracy": (delta_chosen > delta_rejected).to(delta_chosen),
    }
