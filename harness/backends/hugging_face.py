"""The default backend: a transformers model in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from prefeval.harness import checkpoints, models
from prefeval.harness.backends import Backend, Scored, ScoredPair
from prefeval.minitrainers import batches, logps, sampling
from prefeval.minitrainers.loop import TrainConfig
from prefeval.minitrainers.pairs import EncodedPair, PairScorer
from prefeval.records import Completion, Messages, PrefevalError, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefeval.harness.task import Task

COMPARED_AT_ONCE = 9 << 20  # logits of a model: 36 MiB, above what glibc keeps when it is freed
TOKENS_A_BATCH = 8192  # padded tokens scored at once; bounds memory whatever the lengths


class HuggingFaceBackend:
    """Generates and scores with a causal LM and its tokenizer's chat template.

    ``max_length`` is in tokens of prompt and answer, ``batch_size`` in rows generated at once.
    Raises ``PrefevalError`` when the tokenizer has tokens that the model does not know.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        batch_size: int = 256,
    ) -> None:
        models.check_vocabulary(model, tokenizer)
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_length, self.batch_size = max_length, batch_size

    def generate(self, prompts: Sequence[Prompt], sampling_: Sampling) -> list[Completion]:
        """``n`` completions of every prompt. A row's draws depend on its prompt's place in
        ``prompts``, its index and the seed, never on its batch."""
        ids = self._prompt_ids([p.messages for p in prompts])
        rows = [(p, i) for p in range(len(prompts)) for i in range(sampling_.n)]
        eos = batches.end_of_turn(self.tokenizer).token_id
        answers = sampling.generate(
            self.model,
            [ids[p] for p, _ in rows],
            max_new_tokens=sampling_.max_new_tokens,
            temperature=sampling_.temperature,
            eos_token_id=eos,
            seed=sampling_.seed,
            batch_size=self.batch_size,
        )
        out = []
        for (p, index), tokens in zip(rows, answers, strict=True):
            ended = bool(tokens) and tokens[-1] == eos
            text = self.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
            out.append(Completion(prompts[p].id, sampling_.mode, index, text, tuple(tokens), ended))
        return out

    def _prompt_ids(self, conversations: Sequence[Messages]) -> list[list[int]]:
        prompts = [(messages, None) for messages in conversations]
        encoded = batches.encode_all(self.tokenizer, prompts, max_length=self.max_length)
        return [e.prompt_ids for e in encoded]

    @cached_property
    def _score(self) -> PairScorer:
        return PairScorer(self.model, TrainConfig("eval", max_length=self.max_length))

    def pair_logps(self, pairs: Sequence[tuple[Messages, str, str]]) -> list[ScoredPair]:
        """See `Backend.pair_logps`; a prompt is run once for both answers where that saves work."""
        sides = ([(p, c) for p, c, _ in pairs], [(p, r) for p, _, r in pairs])
        chosen, rejected = (
            batches.encode_all(self.tokenizer, side, max_length=self.max_length) for side in sides
        )
        encoded = [EncodedPair("", *both) for both in zip(chosen, rejected, strict=True)]
        out: list[ScoredPair | None] = [None] * len(pairs)
        with torch.inference_mode():
            for places in _groups([p.chosen.length + p.rejected.length for p in encoded]):
                got = self._score([encoded[i] for i in places])
                means = got.states.double() / got.lengths[..., None].clamp_min(1)
                sums, lengths = got.sums.tolist(), got.lengths.tolist()
                for row, place in enumerate(places):
                    (chosen_logps, rejected_logps), (n, m) = sums[row], lengths[row]
                    out[place] = ScoredPair(chosen_logps, rejected_logps, n, m, ches(*means[row]))
        return [pair for pair in out if pair is not None]

    def compare(
        self, reference: Backend, items: Sequence[tuple[Messages, Sequence[int]]]
    ) -> list[Scored]:
        """See `Backend.compare`; the reference runs in this process and shares the vocabulary."""
        if not isinstance(reference, HuggingFaceBackend):
            raise PrefevalError("the full-vocabulary KL needs the reference in the same process")
        ours, theirs = self.model.config.vocab_size, reference.model.config.vocab_size
        if ours != theirs:
            raise PrefevalError(
                f"the policy has a vocabulary of {ours} tokens and the reference of {theirs}: "
                "name the reference that this policy was tuned from"
            )
        prompts = self._prompt_ids([messages for messages, _ in items])
        rows = [(ids, list(tokens)) for ids, (_, tokens) in zip(prompts, items, strict=True)]
        out: list[Scored] = [Scored(0.0, 0.0, 0.0, 0.0, 0)] * len(rows)
        for places, batch in _batches(rows, self.tokenizer.pad_token_id, self.model.device):
            got = logps.full_kl(self.model, reference.model, *batch, elements=COMPARED_AT_ONCE)
            for row, place in enumerate(places):
                along = batch[2][row].bool()
                kl, policy, ref, entropy = (t[row][along].double() for t in got)
                log_ratio = policy - ref
                out[place] = Scored(
                    logps=float(policy.sum()),
                    ref_logps=float(ref.sum()),
                    kl=float(kl.sum()),
                    entropy=float(entropy.sum()),
                    n_tokens=len(rows[place][1]),
                    k2=float((log_ratio**2 / 2).sum()),
                    k3=float((torch.expm1(-log_ratio) + log_ratio).sum()),
                    kl_by_position=tuple(kl.tolist()),
                )
        return out


def ches(chosen: torch.Tensor, rejected: torch.Tensor) -> float:
    """Length-normalised CHES, <h+, h-> - |h+|^2, of the mean last hidden states (D,) that predict
    the two answers: the higher, the more training on the pair takes the chosen answer down with
    the rejected one (Razin et al. 2024, arXiv 2410.08847)."""
    return float(chosen @ (rejected - chosen))


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of like length together, at most `TOKENS_A_BATCH` padded tokens at once."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and lengths[i] * (len(group) + 1) > TOKENS_A_BATCH:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _batches(
    rows: Sequence[tuple[list[int], list[int]]], pad: int | None, device: Any
) -> Iterator[tuple[list[int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """Rows of like length together, right-padded."""
    for places in _groups([len(prompt) + len(answer) for prompt, answer in rows]):
        width = max(len(rows[i][0]) + len(rows[i][1]) for i in places)
        ids = torch.full((len(places), width), pad or 0)
        attention, completion = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, i in enumerate(places):
            prompt, answer = rows[i]
            whole = len(prompt) + len(answer)
            ids[row, :whole] = torch.tensor(prompt + answer)
            attention[row, :whole] = 1
            completion[row, len(prompt) : whole] = 1
        yield places, (ids.to(device), attention.to(device), completion.to(device))


def open_backend(task: Task, path: str, argument: str = "") -> HuggingFaceBackend:
    """See `backends.open_backend`; there is nothing to set."""
    base = task.reference
    return HuggingFaceBackend(
        checkpoints.load(path, base, dtype=task.dtype, device=task.device),
        models.load_tokenizer(checkpoints.tokenizer_dir(models.model_dir(path), base)),
        max_length=task.sizes.max_length,
        batch_size=task.sizes.generation_batch,
    )
