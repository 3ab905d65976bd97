"""Log-probabilities of completions, and the exact KL between two models along them.

Label ``t`` is predicted from position ``t - 1``. The language-model head runs on completion
positions only and in chunks, so a (batch, time, vocabulary) tensor never exists, neither in the
forward pass nor, through recomputation, in the backward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import DynamicCache

from prefeval.minitrainers.batches import Encoded, SharedBatch, collate, pad
from prefeval.minitrainers.precision import rounded_product

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_ELEMENTS = {"cpu": 1 << 25, "gpu": 1 << 26, "little memory": 1 << 21}
"""Logits held at once: 128, 256 and 8 MiB in float32. A batch of more is run again, chunk by chunk,
in the backward pass."""


LITTLE_MEMORY = "runs_in_little_memory"
"""Attribute of a causal LM that `loop.prepare` sets where little memory was asked for."""

IN_PLACE_HEAD = "adds_its_heads_gradient_in_place"
"""Attribute of a causal LM that `loop.prepare` sets; see `in_place_linear`."""


class CompletionLogps(NamedTuple):
    """Log-probabilities of the completion tokens of each row."""

    sums: Tensor
    """(B,) nats/sequence"""
    lengths: Tensor
    """(B,) completion tokens, the end token included"""
    tokens: Tensor
    """(B, T) nats/token, 0 outside the completion"""
    entropies: Tensor
    """(B, T) entropy of the distribution from which the token comes, nats/token; no gradient"""
    states: Tensor
    """(B, D) sum of the last hidden states that predict the completion; no gradient"""


class SharedLogps(NamedTuple):
    """What `CompletionLogps` has, for the K answers to each of B prompts."""

    sums: Tensor
    """(B, K) nats/sequence"""
    lengths: Tensor
    """(B, K) tokens"""
    entropies: Tensor
    """(B, K) summed over the answer, nats/sequence; no gradient"""
    states: Tensor
    """(B, K, D) sum of the last hidden states that predict the answer; no gradient"""


class FullKL(NamedTuple):
    """Two models compared at every completion position; each (B, T), 0 outside the completion."""

    kl: Tensor
    """KL(policy || ref) over the whole vocabulary, nats/token"""
    policy_logps: Tensor
    """log pi of the token that stands there"""
    ref_logps: Tensor
    """log pi_ref of the token that stands there"""
    entropy: Tensor
    """entropy of the policy, nats/token"""


def causal_lm(model: PreTrainedModel) -> PreTrainedModel:
    """The plain causal LM inside an adapter's wrapper (LoRA layers stay in place), or the model."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def cache_argument(lm: PreTrainedModel) -> str:
    """What this version of transformers calls the cache (``cache`` from 5.24 on)."""
    known = inspect.signature(lm.base_model.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def adapter_off(policy: PreTrainedModel) -> AbstractContextManager[None]:
    """Inside the block a policy with an adapter is its own base, the reference; else it stays."""
    off: AbstractContextManager[None] = (
        policy.disable_adapter() if hasattr(policy, "peft_config") else nullcontext()
    )
    return off


def hidden_states(body: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states (B, T, D) of a decoder without its head, for any side of padding.

    Right padding needs no mask: under causal attention no token sees what comes after it, and
    without a mask the fastest attention kernels apply.
    """
    if bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all()):
        output = body(input_ids=input_ids, use_cache=False)
    else:
        output = body(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(-1) - 1).clamp_min(0),
            use_cache=False,
        )
    hidden: Tensor = output.last_hidden_state
    return hidden


class _InPlaceLinear(torch.autograd.Function):
    """``x W^T``, its weight's gradient added where the gradient is kept: a vocabulary's weight is
    large, and autograd would make a second tensor of its size to add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """(N, in) to (N, out)."""
        ctx.save_for_backward(x, weight)
        if torch.is_autocast_enabled(x.device.type) and not torch.is_autocast_cache_enabled():
            return rounded_product(x, weight.T)  # else autocast keeps the weight in bfloat16
        return F.linear(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The weight gets its gradient here, so autograd is given none."""
        x, weight = ctx.saved_tensors
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        with torch.autocast(grad.device.type, enabled=False):
            weight.grad.addmm_(grad.T.to(weight.dtype), x.to(weight.dtype))
        if grad.dtype is torch.bfloat16:
            return rounded_product(grad, weight).to(x.dtype), None
        return torch.mm(grad, weight.to(grad.dtype)).to(x.dtype), None


def in_place_linear(hidden: Tensor, head: torch.nn.Linear) -> Tensor:
    """``head(hidden)``; its weight is one that is trained."""
    if head.bias is not None or not head.weight.requires_grad:
        found: Tensor = head(hidden)
        return found
    found = _InPlaceLinear.apply(hidden, head.weight)  # type: ignore[no-untyped-call]
    return found


def lm_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The head of a causal LM, with the scaling that some families apply after it.

    Returned in float32, or in the model's own type where that is wider.
    """
    config, head = model.config, model.get_output_embeddings()
    in_place = getattr(model, IN_PLACE_HEAD, False) and type(head) is torch.nn.Linear
    logits: Tensor = in_place_linear(hidden, head) if in_place else head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits / config.logits_scaling
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits * config.logit_scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = cap * torch.tanh(logits / cap)
    return logits


def _predicting_states(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, mask: Tensor
) -> Tensor:
    """The hidden states (N, D) from which the N completion tokens of a batch are predicted."""
    body = causal_lm(model).base_model
    return hidden_states(body, input_ids[:, :-1], attention_mask[:, :-1])[mask[:, 1:]]


def _chunks(
    model: PreTrainedModel, n: int, device: torch.device, elements: int | None = None
) -> Iterator[slice]:
    kind = "cpu" if device.type == "cpu" else "gpu"
    if elements is None:
        elements = CHUNK_ELEMENTS["little memory" if getattr(model, LITTLE_MEMORY, False) else kind]
    size = max(1, elements // model.config.get_text_config().vocab_size)
    return (slice(start, start + size) for start in range(0, n, size))


class _Labelled(NamedTuple):
    """Each (N,), nats/token."""

    logps: Tensor
    entropies: Tensor


def _label_logps(lm: PreTrainedModel, hidden: Tensor, labels: Tensor) -> _Labelled:
    """Log-probability of each label under the head's distribution, and that one's entropy."""

    def chunk(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = lm_logits(lm, hidden)
        with torch.no_grad():  # first, while nothing else of the logits' size is held
            # not vecdot, which autocast would round to its lower precision
            mean_logit = logits.softmax(-1).mul_(logits).sum(-1)
        logps = -F.cross_entropy(logits, labels, reduction="none")
        with torch.no_grad():
            log_z = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - logps
        return logps, log_z - mean_logit

    slices = list(_chunks(lm, len(labels), hidden.device))
    if len(slices) <= 1 or not torch.is_grad_enabled():
        parts = [chunk(hidden[s], labels[s]) for s in slices]
    else:
        parts = [checkpoint(chunk, hidden[s], labels[s], use_reentrant=True) for s in slices]
    if not parts:
        return _Labelled(hidden.new_zeros(0), hidden.new_zeros(0))
    return _Labelled(*map(torch.cat, zip(*parts, strict=True)))


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Put N values back at the N set places of a (B, T) mask."""
    return torch.zeros_like(mask, dtype=values.dtype).masked_scatter(mask, values)


def _added(values: Tensor, places: Tensor, n: int) -> Tensor:
    """(n, ...) sums of the (N, ...) values that have the same place."""
    return values.new_zeros(n, *values.shape[1:]).index_add(0, places, values)


def _read(lm: PreTrainedModel, hidden: Tensor, input_ids: Tensor, mask: Tensor) -> CompletionLogps:
    """The completions (B, T) of ``mask``, predicted from the states (N, D)."""
    mask = mask[:, 1:]
    found = _label_logps(lm, hidden, input_ids[:, 1:][mask])
    tokens, entropies = (F.pad(_scatter(x, mask), (1, 0)) for x in found)
    states = _added(hidden.detach().float(), mask.nonzero()[:, 0], len(mask))
    return CompletionLogps(tokens.sum(-1), mask.sum(-1), tokens, entropies, states)


def completion_logps(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor
) -> CompletionLogps:
    """Sum of log p(token | all before it) over each row's completion.

    Parameters
    ----------
    model
        A causal LM, or an adapter on one; gradients flow if they are enabled.
    input_ids, attention_mask, completion_mask
        (B, T). ``completion_mask`` is 1 where the token's log-probability counts; padding may be
        on either side. A token in the first column is never predicted, so it cannot count.
    """
    mask = completion_mask.bool()
    hidden = _predicting_states(model, input_ids, attention_mask, mask)
    return _read(causal_lm(model), hidden, input_ids, mask)


def shared_logps(model: PreTrainedModel, batch: SharedBatch, n_answers: int) -> SharedLogps:
    """`completion_logps` of ``n_answers`` answers a prompt, the prompt being run only once.

    The same numbers up to rounding, for models whose every layer attends to whatever its mask
    allows; see `pairs.can_share`.
    """
    lm = causal_lm(model)
    output = lm.base_model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
    )
    rows, columns = (batch.answer >= 0).nonzero(as_tuple=True)
    hidden = output.last_hidden_state[rows, batch.predictor[rows, columns]]
    found = _label_logps(lm, hidden, batch.input_ids[rows, columns])
    place = rows * n_answers + batch.answer[rows, columns]
    shape = (len(batch.input_ids), n_answers)

    def per_answer(values: Tensor) -> Tensor:
        return _added(values, place, shape[0] * shape[1]).view(*shape, *values.shape[1:])

    lengths = torch.bincount(place, minlength=shape[0] * shape[1]).view(shape)
    return SharedLogps(
        per_answer(found.logps),
        lengths,
        per_answer(found.entropies),
        per_answer(hidden.detach().float()),
    )


class ContinuedLogps(NamedTuple):
    """Completions, and other completions of the same prompts."""

    own: CompletionLogps
    other_sums: Tensor
    """(B,) nats/sequence of the others; no gradient"""


def continued_logps(
    model: PreTrainedModel, examples: Sequence[Encoded], others: Sequence[Encoded]
) -> ContinuedLogps:
    """`completion_logps` of ``examples``, and of ``others`` without gradient.

    Prompts are the same, row by row: the others are read on from the keys and values that the
    prompts have left, so that a prompt is run only once. For models that `pairs.can_share` allows.
    """
    lm = causal_lm(model)
    name, cache = cache_argument(lm), DynamicCache(config=lm.config)
    ids, _, completion_mask = collate(examples, lm.device)
    mask = completion_mask.bool()
    output = lm.base_model(input_ids=ids[:, :-1], use_cache=True, **{name: cache})
    own = _read(lm, output.last_hidden_state[mask[:, 1:]], ids, mask)

    with torch.no_grad():
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        answers = [e.completion_ids for e in others]
        labels, real, _ = (x.to(ids.device) for x in pad(answers, [[1] * len(a) for a in answers]))
        prompts = torch.tensor([len(e.prompt_ids) for e in examples], device=ids.device)
        rows, width = torch.arange(len(ids), device=ids.device), labels.shape[1] - 1
        hidden = output.last_hidden_state[rows, prompts - 1].detach().unsqueeze(1)
        if width:
            past = torch.arange(ids.shape[1] - 1, device=ids.device) < prompts[:, None]
            causal = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
            visible = torch.cat(
                [past[:, None].expand(-1, width, -1), causal.expand(len(ids), -1, -1)], dim=-1
            )
            read = lm.base_model(
                input_ids=labels[:, :-1],
                position_ids=prompts[:, None] + torch.arange(width, device=ids.device),
                attention_mask=visible[:, None],
                use_cache=True,
                **{name: cache},
            )
            hidden = torch.cat([hidden, read.last_hidden_state], dim=1)
        logps = _label_logps(lm, hidden[real.bool()], labels[real.bool()]).logps
        return ContinuedLogps(own, _scatter(logps, real.bool()).sum(-1))


@torch.no_grad()
def full_kl(
    policy: PreTrainedModel,
    ref: PreTrainedModel | None,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_mask: Tensor,
    *,
    elements: int | None = None,
) -> FullKL:
    """KL(policy || ref) over the whole vocabulary at every completion position.

    On the policy's own samples the sum over a row is the Rao-Blackwellised estimate of the
    sequence KL: unbiased, with no more variance than the log-ratio of the sampled tokens (Amini
    et al. 2025, arXiv 2504.10637). Shapes as for `completion_logps`; no gradient. Without ``ref``
    the reference is the policy's base, its adapter switched off. ``elements`` logits are compared
    at once (default: `CHUNK_ELEMENTS`); six tensors of that size are held.
    """
    ref = policy if ref is None else ref
    mask = completion_mask.bool()
    hidden = _predicting_states(policy, input_ids, attention_mask, mask)
    with adapter_off(ref) if ref is policy else nullcontext():
        ref_hidden = _predicting_states(ref, input_ids, attention_mask, mask)
    labels = input_ids[:, 1:][mask[:, 1:]].unsqueeze(-1)
    policy_lm, ref_lm = causal_lm(policy), causal_lm(ref)
    parts = []
    for s in _chunks(policy_lm, len(labels), hidden.device, elements):
        logps = lm_logits(policy_lm, hidden[s]).log_softmax(-1)
        with adapter_off(ref) if ref is policy else nullcontext():
            ref_logps = lm_logits(ref_lm, ref_hidden[s]).log_softmax(-1)
        p = logps.exp()
        parts.append(
            (
                (p * (logps - ref_logps)).sum(-1),
                logps.gather(-1, labels[s]).squeeze(-1),
                ref_logps.gather(-1, labels[s]).squeeze(-1),
                -(p * logps).sum(-1),
            )
        )
    columns = [torch.cat(c) for c in zip(*parts, strict=True)] or [hidden.new_zeros(0)] * 4
    return FullKL(*(F.pad(_scatter(c, mask[:, 1:]), (1, 0)) for c in columns))
