"""Kahneman-Tversky Optimization (Ethayarajh et al. 2024, arXiv 2402.01306, equation 8).

    r = beta log pi(y|x)/pi_ref(y|x)        z0 = beta KL(pi || pi_ref)
    L = lambda_D (1 - sigmoid(r - z0))      if y is desirable
        lambda_U (1 - sigmoid(z0 - r))      if y is undesirable

The KL is estimated on mismatched completions: the mean of log pi/pi_ref of answers given to other
prompts, without gradient and clamped at 0. Each prompt keeps one such answer throughout, so that
the reference's share of the estimate is computed once for a whole sweep. Every batch holds both
classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from prefeval.minitrainers.batches import (
    Encoded,
    collate,
    epoch_order,
    micro_batches,
)
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
from prefeval.minitrainers.pairs import Logps, sequence_logps
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EncodedThumb(NamedTuple):
    """One completion in tokens, and whether it was liked."""

    id: str
    example: Encoded
    desirable: bool


@dataclass(frozen=True)
class ThumbData:
    """Unpaired thumbs, with the reference's log-probabilities once they are known.

    ``mismatched`` are the same prompts with answers of other prompts; ``ref_logps`` and
    ``ref_mismatched_logps`` are (n,) in nats/sequence.
    """

    thumbs: Sequence[EncodedThumb]
    mismatched: Sequence[Encoded] = ()
    ref_logps: Logps | None = None
    ref_mismatched_logps: Logps | None = None


class KTOLoss(NamedTuple):
    """Each (B,)."""

    losses: Tensor
    rewards: Tensor


def kto_loss(
    logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    kl: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> KTOLoss:
    """KTO's loss of each example.

    Parameters
    ----------
    logps, ref_logps
        (B,) log-probabilities of the completions, nats/sequence.
    desirable
        (B,) true for thumbs up.
    kl
        KL from the reference in nats/sequence, used as given: clamping and detaching it is the
        caller's.
    beta
        Strength of the aversion to leaving the reference.
    desirable_weight, undesirable_weight
        lambda_D and lambda_U.
    """
    logratios = logps - ref_logps
    losses = torch.where(
        desirable.bool(),
        desirable_weight * (1 - torch.sigmoid(beta * (logratios - kl))),
        undesirable_weight * (1 - torch.sigmoid(beta * (kl - logratios))),
    )
    return KTOLoss(losses, beta * logratios.detach())


def mismatch(examples: Sequence[Encoded], *, max_length: int) -> list[Encoded]:
    """Each prompt with the completion of another prompt, cut where it does not fit.

    Around a fixed random circle, each example takes the next completion of a different prompt.
    """
    circle = epoch_order(len(examples), seed=0, epoch=0).tolist()
    mismatched: list[Encoded] = list(examples)
    for place, i in enumerate(circle):
        prompt = examples[i].prompt_ids
        others = (circle[(place + k) % len(circle)] for k in range(1, len(circle)))
        other = next((j for j in others if examples[j].prompt_ids != prompt), None)
        if other is None:
            raise PrefevalError(
                "KTO estimates its KL from answers to other prompts, but all prompts are the same; "
                "give thumbs on at least two prompts"
            )
        completion = examples[other].completion_ids[: max_length - len(prompt)]
        mismatched[i] = Encoded(prompt, completion)
    return mismatched


def with_reference(ref: PreTrainedModel, data: ThumbData, *, max_length: int) -> ThumbData:
    """``data`` with mismatched answers and the log-probabilities of ``ref`` on both."""
    examples = [t.example for t in data.thumbs]
    mismatched = mismatch(examples, max_length=max_length)
    return replace(
        data,
        mismatched=mismatched,
        ref_logps=sequence_logps(ref, examples),
        ref_mismatched_logps=sequence_logps(ref, mismatched),
    )


def thumb_batches(data: ThumbData, config: TrainConfig) -> list[list[int]]:
    """All batches of a run, each with thumbs up and thumbs down.

    Raises
    ------
    PrefevalError
        If the classes are too unequal for the batch size, or one is absent.
    """
    labels = [t.desirable for t in data.thumbs]
    lengths = [t.example.length for t in data.thumbs]
    batches = all_batches(lengths, config, strata=labels)
    if any(len({labels[i] for i in batch}) < 2 for batch in batches):
        raise PrefevalError(
            f"KTO needs both classes in each batch, but {sum(labels)} of {len(labels)} thumbs are "
            f"up and a batch holds {config.batch_size}; enlarge the batch or add the rarer class"
        )
    return batches


def train(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: ThumbData,
    config: TrainConfig,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Train ``policy`` in place by KTO; without given log-probabilities, its start is its
    reference. The log's ``kl`` is the estimate before clamping."""
    batches = thumb_batches(data, config)
    policy.to(config.device)
    if data.ref_logps is None or data.ref_mismatched_logps is None:
        policy.eval()
        with autocast(config):
            data = with_reference(policy, data, max_length=config.max_length)
    ref_logps = torch.as_tensor(data.ref_logps)
    ref_mismatched = torch.as_tensor(data.ref_mismatched_logps)
    desirable = torch.tensor([t.desirable for t in data.thumbs])

    @torch.no_grad()
    def estimate_kl(batch: Sequence[int]) -> Tensor:
        logratios = []
        for micro in micro_batches(batch, config.micro_batch):
            rows = collate([data.mismatched[i] for i in micro], config.device)
            sums = completion_logps(policy, *rows).sums
            logratios.append(sums - ref_mismatched[micro].to(sums))
        return torch.cat(logratios).mean()

    def losses(batch: Sequence[int]) -> Iterator[StepOutput]:
        kl = estimate_kl(batch)
        for micro in micro_batches(batch, config.micro_batch):
            examples = [data.thumbs[i].example for i in micro]
            logps = completion_logps(policy, *collate(examples, config.device)).sums
            up = desirable[micro].to(logps.device)
            reference = ref_logps[micro].to(logps)
            loss = kto_loss(
                logps,
                reference,
                up,
                kl.clamp_min(0),
                beta=config.beta,
                desirable_weight=config.desirable_weight,
                undesirable_weight=config.undesirable_weight,
            )
            logs = _logs(logps.detach(), reference, up, kl)
            tokens = sum(
                e.length + data.mismatched[i].length for i, e in zip(micro, examples, strict=True)
            )
            yield StepOutput(loss.losses, logs, tokens)

    return optimise(
        policy,
        tokenizer,
        config,
        batches=batches,
        losses=losses,
        ids=[t.id for t in data.thumbs],
        out_dir=out_dir,
        on_step=on_step,
    )


def _logs(logps: Tensor, ref_logps: Tensor, up: Tensor, kl: Tensor) -> dict[str, Tensor]:
    """Thumbs up count as chosen and thumbs down as rejected; NaN marks the other class."""
    logratios, nan = logps - ref_logps, torch.nan
    return {
        "chosen_logps": logps.where(up, nan),
        "rejected_logps": logps.where(~up, nan),
        "delta_chosen": logratios.where(up, nan),
        "delta_rejected": logratios.where(~up, nan),
        "accuracy": ((logratios > kl) == up).to(logps),
        "kl": kl.expand_as(logps),
    }
