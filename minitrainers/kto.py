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

from prefeval.minitrainers.batches import Encoded, collate, epoch_order, micro_batches
from prefeval.minitrainers.cost import Cost
from prefeval.minitrainers.logps import adapter_off, completion_logps, continued_logps
from prefeval.minitrainers.loop import (
    StepOutput,
    TrainConfig,
    all_batches,
    optimise,
    prepare,
)
from prefeval.minitrainers.pairs import Logps, can_share, sequence_logps
from prefeval.minitrainers.precision import autocast
from prefeval.minitrainers.run import CheckpointInfo, OnStep, data_hash
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


class ClassWeights(NamedTuple):
    """lambda_D and lambda_U."""

    desirable: float
    undesirable: float


def suggest_weights(n_desirable: int, n_undesirable: int) -> ClassWeights:
    """Weights under which both classes pull alike, the smaller of them 1.

    The paper (section 4.2) keeps lambda_D n_D / (lambda_U n_U) between 1 and 4/3; weights of 1 are
    left alone where they already do.

    Raises
    ------
    PrefevalError
        If there are thumbs of one kind only.
    """
    if not (n_desirable and n_undesirable):
        kind = "up" if n_desirable else "down"
        raise PrefevalError(
            f"all {n_desirable + n_undesirable} thumbs are {kind}; KTO learns from both kinds: "
            "add the other"
        )
    ratio = n_desirable / n_undesirable
    if 1 <= ratio <= 4 / 3:
        return ClassWeights(1.0, 1.0)
    return ClassWeights(1 / ratio, 1.0) if ratio < 1 else ClassWeights(1.0, ratio)


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
    if not data.thumbs:
        raise PrefevalError("there are no thumbs to train on; give at least two")
    labels = [t.desirable for t in data.thumbs]
    suggest_weights(sum(labels), len(labels) - sum(labels))  # raises where a kind is absent
    for thumb in data.thumbs:
        if not thumb.example.completion_ids:
            raise PrefevalError(f"thumb {thumb.id} has a completion without tokens; drop it")
    if config.batch_size < 2:
        raise PrefevalError("KTO needs both kinds in a batch; set batch_size to 2 or more")
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
    prepare(policy, config)
    if data.ref_logps is None or data.ref_mismatched_logps is None:
        with autocast(config), adapter_off(policy):
            data = with_reference(policy, data, max_length=config.max_length)
    ref_logps = torch.as_tensor(data.ref_logps)
    ref_mismatched = torch.as_tensor(data.ref_mismatched_logps)
    desirable = torch.tensor([t.desirable for t in data.thumbs])
    cost = Cost(policy, config)

    continues = not config.gradient_checkpointing and can_share(policy, config.max_length)

    @torch.no_grad()
    def estimate_kl(batch: Sequence[int]) -> Tensor:
        logratios = []
        for micro in micro_batches(batch, config.micro_batch):
            rows = collate([data.mismatched[i] for i in micro], config.device)
            sums = completion_logps(policy, *rows).sums
            logratios.append(sums - ref_mismatched[micro].to(sums))
        torch.clear_autocast_cache()  # older torch would train on casts without gradient
        return torch.cat(logratios).mean()

    def losses(batch: Sequence[int]) -> Iterator[StepOutput]:
        # the KL of the whole batch comes first: in a pass of its own, unless one pass gives both
        at_once = continues and (config.micro_batch or len(batch)) >= len(batch)
        kl = None if at_once else estimate_kl(batch)
        for micro in micro_batches(batch, config.micro_batch):
            examples = [data.thumbs[i].example for i in micro]
            others = [data.mismatched[i] for i in micro]
            if kl is None:
                found, sums = continued_logps(policy, examples, others)
                kl = (sums - ref_mismatched[micro].to(sums)).mean()
            else:
                found = completion_logps(policy, *collate(examples, config.device))
            logps = found.sums
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
            scored = sum(len(e.completion_ids) for e in others)
            kl_flops = cost.forward((e.length for e in others), scored)
            if at_once:
                kl_flops -= cost.forward((len(e.prompt_ids) for e in others), 0)
            sft_flops = cost.step_on(examples)
            yield StepOutput(
                loss.losses,
                {
                    **_logs(logps.detach(), reference, up, kl),
                    "entropy": found.entropies.sum(-1) / found.lengths,
                },
                tokens=sum(e.length for e in (*examples, *others)),
                flops=sft_flops + kl_flops,
                sft_flops=sft_flops,
            )

    rows = (row for t in data.thumbs for row in (*t.example[:2], [t.desirable]))
    return optimise(
        policy,
        tokenizer,
        config,
        n_steps=len(batches),
        batches=lambda done: batches[done:],
        losses=losses,
        ids=lambda i: data.thumbs[i].id,
        data=data_hash([t.id for t in data.thumbs], rows, ref_logps, ref_mismatched),
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
