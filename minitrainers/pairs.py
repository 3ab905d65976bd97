"""What the pair methods share: their data, the reference's log-probabilities, and the step.

The two answers of a pair share their prompt, so it is run once (see `batches.SharedBatch`), where
the model allows it and it saves work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefeval.minitrainers.batches import Encoded, collate, collate_shared, micro_batches
from prefeval.minitrainers.cost import Cost
from prefeval.minitrainers.logps import (
    SharedLogps,
    adapter_off,
    causal_lm,
    completion_logps,
    shared_logps,
)
from prefeval.minitrainers.loop import (
    StepOutput,
    TrainConfig,
    all_batches,
    optimise,
    prepare,
)
from prefeval.minitrainers.precision import autocast
from prefeval.minitrainers.run import CheckpointInfo, OnStep, data_hash
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Logps = NDArray[np.float64]


class EncodedPair(NamedTuple):
    """Two completions of one prompt, in tokens."""

    id: str
    chosen: Encoded
    rejected: Encoded


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


class PairStream(Protocol):
    """Batches of pairs as training meets them."""

    data: PairData
    """the pairs that the indices of the newest batch are of, with the reference's numbers"""
    n_steps: int
    key: str
    """names what is trained on"""

    def batches(self, done: int) -> Iterator[list[int]]:
        """The batches that follow the first ``done``."""
        ...


class PairSource(Protocol):
    """What a pair method trains on: given pairs (`PairData`), or pairs that it makes as it goes
    (`rounds.OnPolicy`)."""

    def stream(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainConfig,
        out_dir: Path,
    ) -> PairStream:
        """The batches of a run."""
        ...


@dataclass(frozen=True)
class PairData:
    """Pairs, with the reference's log-probabilities (n,) in nats/sequence once they are known."""

    pairs: Sequence[EncodedPair]
    ref_chosen_logps: Logps | None = None
    ref_rejected_logps: Logps | None = None

    def stream(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainConfig,
        out_dir: Path,
    ) -> GivenPairs:
        """The same pairs every epoch; without given log-probabilities, the policy as it starts is
        the reference."""
        return GivenPairs(self, policy, config)


class GivenPairs:
    """A `PairStream` over pairs that are known beforehand."""

    def __init__(self, data: PairData, policy: PreTrainedModel, config: TrainConfig) -> None:
        require_pairs(data.pairs)
        if data.ref_chosen_logps is None or data.ref_rejected_logps is None:
            with autocast(config), adapter_off(policy):
                data = with_reference(policy, data)
        self.data = data
        self._batches = all_batches(
            [max(p.chosen.length, p.rejected.length) for p in data.pairs], config
        )
        self.n_steps = len(self._batches)
        self.key = pairs_hash(data)

    def batches(self, done: int) -> Iterator[list[int]]:
        """Those that follow the first ``done``."""
        return iter(self._batches[done:])


def pairs_hash(data: PairData) -> str:
    """Names the pairs and what the reference makes of them."""
    answers = (e for p in data.pairs for e in (p.chosen, p.rejected))
    return data_hash(
        [p.id for p in data.pairs],
        (part for e in answers for part in (e.prompt_ids, e.completion_ids)),
        data.ref_chosen_logps,
        data.ref_rejected_logps,
    )


def require_pairs(pairs: Sequence[EncodedPair]) -> None:
    """Raise ``PrefevalError`` where there is no pair, or one has an answer without tokens."""
    if not pairs:
        raise PrefevalError("there are no pairs to train on; give at least one")
    for pair in pairs:
        if not (pair.chosen.completion_ids and pair.rejected.completion_ids):
            raise PrefevalError(f"pair {pair.id} has an answer without tokens; drop it")


# -- log-probabilities of pairs ----------------------------------------------------------------


def can_share(model: PreTrainedModel, max_length: int) -> bool:
    """Whether two answers may follow one prompt in one row: seen on this model, not assumed.

    Attention that looks back a limited way, state-space layers, kernels without masks and the like
    would mix the answers up, and show it on random tokens; a window longer than ``max_length``
    does no harm.
    """
    config = causal_lm(model).config.get_text_config()
    windows = (getattr(config, n, None) for n in ("sliding_window", "attention_chunk_size"))
    if any(window is not None and window < 2 * max_length for window in windows):
        return False
    draw = np.random.default_rng(0).integers(0, config.vocab_size, size=(2, 20)).tolist()
    rows = [[Encoded(ids[:8], ids[8:13]), Encoded(ids[:8], ids[13:])] for ids in draw]
    try:
        with torch.no_grad():
            shared = shared_logps(model, collate_shared(rows, model.device), 2).sums
            apart = completion_logps(model, *collate([*rows[0], *rows[1]], model.device)).sums
    except Exception:  # a model that cannot take such a mask says so in its own way
        return False
    return bool(torch.allclose(shared.flatten(), apart, rtol=1e-3, atol=1e-3))


class PairScorer:
    """Log-probabilities of pairs under one model, the prompt run once where that saves work."""

    def __init__(self, model: PreTrainedModel, config: TrainConfig) -> None:
        self.model, self.cost = model, Cost(model, config)
        self._may_share = can_share(model, config.max_length)

    def shares(self, pairs: Sequence[EncodedPair]) -> bool:
        """Whether these pairs are run with their prompts shared."""
        if not self._may_share or any(p.chosen.prompt_ids != p.rejected.prompt_ids for p in pairs):
            return False
        width = max(p.chosen.length + len(p.rejected.completion_ids) for p in pairs)
        longest = max(max(p.chosen.length, p.rejected.length) for p in pairs)
        apart = self.cost.padded(2 * len(pairs), longest, causal=True)
        return self.cost.padded(len(pairs), width, causal=False) < apart

    def __call__(self, pairs: Sequence[EncodedPair]) -> SharedLogps:
        """(B, 2): chosen and rejected, with gradients if they are enabled."""
        rows = [[p.chosen, p.rejected] for p in pairs]
        device = self.model.device
        if self.shares(pairs):
            return shared_logps(self.model, collate_shared(rows, device), 2)
        found = completion_logps(self.model, *collate([e for row in rows for e in row], device))
        shape = (len(pairs), 2)
        return SharedLogps(
            found.sums.view(shape),
            found.lengths.view(shape),
            found.entropies.sum(-1).view(shape),
            found.states.view(*shape, -1),
        )

    def flops(self, pairs: Sequence[EncodedPair]) -> float:
        """Of a step on these pairs."""
        both = [e for p in pairs for e in (p.chosen, p.rejected)]
        if not self.shares(pairs):
            return self.cost.step_on(both)
        lengths = (p.chosen.length + len(p.rejected.completion_ids) for p in pairs)
        return self.cost.step(lengths, sum(len(e.completion_ids) for e in both))


@torch.no_grad()
def sequence_logps(
    model: PreTrainedModel, examples: Sequence[Encoded], *, batch_size: int = 16
) -> Logps:
    """(n,) log-probabilities of the completions in nats/sequence, in the order given."""
    sums = np.empty(len(examples))
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)
    for part in micro_batches(order, batch_size):
        batch = collate([examples[i] for i in part], model.device)
        sums[list(part)] = completion_logps(model, *batch).sums.double().cpu().numpy()
    return sums


@torch.no_grad()
def with_reference(ref: PreTrainedModel, data: PairData, *, batch_size: int = 32) -> PairData:
    """``data`` with the log-probabilities of ``ref``: one pass that a whole sweep can share."""
    longest = max((max(p.chosen.length, p.rejected.length) for p in data.pairs), default=0)
    score = PairScorer(ref, TrainConfig("reference", max_length=longest))
    logps = np.empty((len(data.pairs), 2))
    order = sorted(range(len(data.pairs)), key=lambda i: data.pairs[i].chosen.length)
    for part in micro_batches(order, batch_size):
        found = score([data.pairs[i] for i in part]).sums
        logps[list(part)] = found.double().cpu().numpy()
    return replace(data, ref_chosen_logps=logps[:, 0], ref_rejected_logps=logps[:, 1])


# -- training ----------------------------------------------------------------------------------


def train_pairs(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PairSource,
    config: TrainConfig,
    pair_losses: PairLosses,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Train ``policy`` in place on pairs, and save its checkpoints."""
    prepare(policy, config)
    stream = data.stream(policy, tokenizer, config, out_dir)
    score = PairScorer(policy, config)

    def losses(batch: Sequence[int]) -> Iterator[StepOutput]:
        known = stream.data
        for micro in micro_batches(batch, config.micro_batch):
            pairs = [known.pairs[i] for i in micro]
            found = score(pairs)
            (chosen, rejected), lengths = found.sums.unbind(-1), found.lengths.unbind(-1)
            references = (known.ref_chosen_logps, known.ref_rejected_logps)
            ref = (torch.as_tensor(r)[micro].to(chosen) for r in references)
            step = PairLogps(chosen, rejected, *ref, *lengths)
            yield StepOutput(
                pair_losses(step),
                _logs(step, found.entropies),
                tokens=sum(p.chosen.length + p.rejected.length for p in pairs),
                flops=score.flops(pairs),
                sft_flops=score.cost.step_on([p.chosen for p in pairs]),
            )

    return optimise(
        policy,
        tokenizer,
        config,
        n_steps=stream.n_steps,
        batches=stream.batches,
        losses=losses,
        ids=lambda i: stream.data.pairs[i].id,
        data=stream.key,
        out_dir=out_dir,
        on_step=on_step,
    )


@torch.no_grad()
def _logs(step: PairLogps, entropies: Tensor) -> dict[str, Tensor]:
    """``kl`` is the mean log pi_ref/pi over both answers: KL(pi_ref || pi) in nats/sequence where
    the reference wrote them, elsewhere the drift on them. ``entropy`` is in nats/token."""
    delta_chosen = step.chosen - step.ref_chosen
    delta_rejected = step.rejected - step.ref_rejected
    tokens = step.chosen_lengths + step.rejected_lengths
    return {
        "chosen_logps": step.chosen.detach(),
        "rejected_logps": step.rejected.detach(),
        "delta_chosen": delta_chosen,
        "delta_rejected": delta_rejected,
        "accuracy": (delta_chosen > delta_rejected).to(delta_chosen),
        "kl": -(delta_chosen + delta_rejected) / 2,
        "entropy": entropies.sum(-1) / tokens,
    }
