"""Bradley-Terry reward model (Stiennon et al. 2020, arXiv 2009.01325, equation 1).

    P(y_w beats y_l | x) = sigmoid( r(x, y_w) - r(x, y_l) )
    L = - log sigmoid( r(x, y_w) - r(x, y_l) )

The score is read at the last token, found by length: a padding token that equals the end token
does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prefeval.minitrainers.batches import (
    Encoded,
    collate,
    encode_all,
    micro_batches,
)
from prefeval.minitrainers.logps import causal_lm, hidden_states
from prefeval.minitrainers.loop import StepOutput, TrainConfig, all_batches, optimise, prepare
from prefeval.minitrainers.pairs import EncodedPair, require_pairs
from prefeval.minitrainers.run import CheckpointInfo, OnStep, data_hash
from prefeval.records import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardLoss(NamedTuple):
    """Each (B,)."""

    losses: Tensor
    margins: Tensor


def reward_loss(chosen_scores: Tensor, rejected_scores: Tensor) -> RewardLoss:
    """The Bradley-Terry loss of each pair, from the (B,) scores of its completions."""
    margins = chosen_scores - rejected_scores
    return RewardLoss(-F.logsigmoid(margins), margins.detach())


def from_causal_lm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A reward model with the causal LM's body and a head of zeros: every score starts at 0."""
    from transformers import AutoModelForSequenceClassification

    lm = causal_lm(model)
    config = type(lm.config).from_dict(lm.config.to_dict())
    config.num_labels = 1
    config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.eos_token_id
    reward_model = AutoModelForSequenceClassification.from_config(config, dtype=lm.dtype)
    reward_model.base_model.load_state_dict(lm.base_model.state_dict())
    torch.nn.init.zeros_(reward_model.score.weight)
    return reward_model.to(lm.device)


def scores(model: PreTrainedModel, examples: Sequence[Encoded]) -> Tensor:
    """(B,) scores, with gradients if they are enabled."""
    batch = collate(examples, model.device)
    hidden = hidden_states(model.base_model, batch.input_ids, batch.attention_mask)
    last = batch.attention_mask.sum(-1) - 1
    final = hidden[torch.arange(len(last), device=last.device), last]
    score: Tensor = model.score(final).squeeze(-1)
    return score.to(torch.promote_types(score.dtype, torch.float32))


@torch.no_grad()
def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[tuple[Messages, str]],
    *,
    max_length: int = 1024,
    batch_size: int = 64,
) -> list[float]:
    """The reward of each (messages, completion); one too long is scored as far as it fits."""
    model.eval()
    examples = encode_all(tokenizer, conversations, max_length=max_length)
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)
    result = [0.0] * len(examples)
    for part in micro_batches(order, batch_size):
        for i, value in zip(part, scores(model, [examples[i] for i in part]).tolist(), strict=True):
            result[i] = value
    return result


def train_reward_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[EncodedPair],
    config: TrainConfig,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> list[CheckpointInfo]:
    """Train a reward model (see `from_causal_lm`) in place on pairs and save its checkpoints."""
    require_pairs(pairs)
    prepare(model, config)

    def losses(batch: Sequence[int]) -> Iterator[StepOutput]:
        for micro in micro_batches(batch, config.micro_batch):
            rows = [pairs[i].chosen for i in micro] + [pairs[i].rejected for i in micro]
            loss = reward_loss(*scores(model, rows).chunk(2))
            logs = {"margin": loss.margins, "accuracy": (loss.margins > 0).to(loss.margins)}
            yield StepOutput(loss.losses, logs, sum(e.length for e in rows))

    batches = all_batches([max(p.chosen.length, p.rejected.length) for p in pairs], config)
    answers = (e for p in pairs for e in (p.chosen, p.rejected))
    return optimise(
        model,
        tokenizer,
        config,
        n_steps=len(batches),
        batches=lambda done: batches[done:],
        losses=losses,
        ids=lambda i: pairs[i].id,
        data=data_hash([p.id for p in pairs], (row for e in answers for row in e[:2])),
        out_dir=out_dir,
        on_step=on_step,
    )
