"""Iterative preference tuning: pairs of the policy's own answers, made anew every round (Xu et al.
2023, arXiv 2312.16682; Guo et al. 2024, arXiv 2402.04792).

    each round:  answer prompts, ``samples`` times each, at temperature 1
                 score the answers; the best is chosen, the worst rejected, ties make no pair
                 train on these pairs, once

Pairs that another policy wrote teach less as the policy moves away from it; these are never more
than a round old. A round's pairs are saved before they are trained on (``round-01.jsonl``), so a
run that was stopped goes on with the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from prefeval.minitrainers.batches import Encoded, bucketed_batches, end_of_turn
from prefeval.minitrainers.logps import adapter_off
from prefeval.minitrainers.loop import TrainConfig
from prefeval.minitrainers.pairs import EncodedPair, PairData, with_reference
from prefeval.minitrainers.precision import autocast
from prefeval.minitrainers.rollouts import PromptData, prompt_stream, prompts_hash, roll_out
from prefeval.minitrainers.run import STATE
from prefeval.records import PrefevalError, content_hash, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Ranked(NamedTuple):
    """The places of the best and the worst of a prompt's answers."""

    best: int
    worst: int


def best_and_worst(scores: Sequence[float], answers: Sequence[Sequence[int]]) -> Ranked | None:
    """The first best and the first worst; None where scores or answers are the same."""
    best = max(range(len(scores)), key=lambda i: scores[i])
    worst = min(range(len(scores)), key=lambda i: scores[i])
    if scores[best] == scores[worst] or answers[best] == answers[worst]:
        return None
    return Ranked(best, worst)


@dataclass(frozen=True)
class OnPolicy:
    """A `PairSource` that makes its pairs as it goes.

    ``writer`` writes the answers instead of the policy: with the reference as the writer, rounds
    are the same budget of pairs, prompts and steps on pairs that grow stale.
    """

    prompts: PromptData
    ref: PreTrainedModel | None = None
    """the reference where the policy has no adapter; with one, its base is"""
    writer: PreTrainedModel | None = None

    def stream(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainConfig,
        out_dir: Path,
    ) -> RoundStream:
        """Rounds of pairs as configured."""
        return RoundStream(self, policy, tokenizer, config, out_dir)


class RoundStream:
    """A `PairStream` of ``config.rounds`` rounds, each of as many steps."""

    def __init__(
        self,
        source: OnPolicy,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainConfig,
        out_dir: Path,
    ) -> None:
        if not source.prompts.prompts:
            raise PrefevalError("there are no prompts to answer; give at least one")
        if source.prompts.respond is not None:
            raise PrefevalError(
                "rounds compare single answers, not games of several turns; use ppo"
            )
        if config.samples < 2:
            raise PrefevalError(f"a pair needs two answers; got samples {config.samples}")
        if source.ref is None and not config.lora_rank and not config.refresh_reference:
            raise PrefevalError("rounds need the reference that they are held to; give ref")
        self.data = PairData([])
        self._source, self._policy, self._tokenizer = source, policy, tokenizer
        self._config, self._out_dir = config, out_dir
        self._steps = max(1, config.round_prompts // config.batch_size)
        self.n_steps = config.rounds * self._steps
        self.key = prompts_hash(source.prompts)
        settings = {k: v for k, v in asdict(config).items() if k != "state_every"}
        self._stamp = content_hash([settings, self.key, source.writer is None])

    def batches(self, done: int) -> Iterator[list[int]]:
        """Those that follow the first ``done``; a round's pairs are made when it begins."""
        first, skipped = divmod(done, self._steps)
        if not done:  # what another run may have left here is not this one's
            for path in self._out_dir.glob("round-*.jsonl"):
                path.unlink()
        for number in range(first, self._config.rounds):
            self.data = self._round(number, half_done=skipped > 0)
            yield from self._cut(number)[skipped:]
            skipped = 0

    def _cut(self, number: int) -> list[list[int]]:
        """The batches of a round: one a step, even where there are fewer pairs than steps."""
        config, lengths = self._config, [max(e.length for e in p[1:]) for p in self.data.pairs]
        n_batches = min(self._steps, len(lengths))
        found = bucketed_batches(
            lengths, config.batch_size, config.seed, number, n_batches=n_batches
        )
        return list(islice(cycle(found), self._steps))

    def _round(self, number: int, *, half_done: bool) -> PairData:
        path = self._out_dir / f"round-{number + 1:02d}.jsonl"
        known = read_pairs(path, self._stamp)
        if known is not None:
            return known
        if half_done:
            raise PrefevalError(
                f"{path} has the pairs of a round that is half trained on, and is gone; delete "
                f"{self._out_dir / STATE} to train from the beginning"
            )
        pairs = self._compare(number)
        if not pairs:
            raise PrefevalError(
                f"round {number + 1} gave no pairs: every prompt's answers were the same or scored "
                "alike; raise samples or round_prompts, or give a judge that tells answers apart"
            )
        data = PairData(pairs)
        with autocast(self._config):
            if self._config.refresh_reference:
                data = with_reference(self._policy, data)
            elif self._source.ref is not None:
                data = with_reference(self._source.ref, data)
            else:
                with adapter_off(self._policy):
                    data = with_reference(self._policy, data)
        write_pairs(path, data, self._stamp)
        return data

    @torch.no_grad()
    def _compare(self, number: int) -> list[EncodedPair]:
        """Answer this round's prompts, and pair the best of each with the worst."""
        config, prompts = self._config, self._source.prompts
        start = number * config.round_prompts
        stream = prompt_stream(len(prompts.prompts), config.seed)
        asked = list(islice(stream, start, start + config.round_prompts))
        with autocast(config):
            played = roll_out(
                self._source.writer or self._policy,
                self._tokenizer,
                prompts,
                [i for i in asked for _ in range(config.samples)],
                max_new_tokens=config.max_new_tokens,
                max_length=config.max_length,
                seed=(config.seed << 32) + (1 << 31) + number,
            )
        end = end_of_turn(self._tokenizer).token_id
        rows = _rows(played.batch.input_ids.tolist(), played.batch.completion_mask.tolist())
        pairs = []
        for at, index in enumerate(asked):
            group = slice(at * config.samples, (at + 1) * config.samples)
            answers = [row.completion_ids for row in rows[group]]
            ranked = best_and_worst(played.rewards[group], answers)
            if ranked is None or any(answers[i] == [end] for i in ranked):
                continue
            chosen, rejected = (rows[group][i] for i in ranked)
            pairs.append(
                EncodedPair(f"round-{number + 1}/{prompts.ids[index]}/{at}", chosen, rejected)
            )
        return pairs


def _rows(ids: list[list[int]], masks: list[list[int]]) -> list[Encoded]:
    """Prompt and answer of every rollout of one turn."""
    rows = []
    for tokens, mask in zip(ids, masks, strict=True):
        start = mask.index(1)
        rows.append(Encoded(tokens[:start], tokens[start : start + sum(mask)]))
    return rows


def write_pairs(path: Path, data: PairData, stamp: str) -> None:
    """The stamp of the run, then a line a pair: its tokens, and the reference's numbers."""
    assert data.ref_chosen_logps is not None
    assert data.ref_rejected_logps is not None
    references = zip(data.ref_chosen_logps.tolist(), data.ref_rejected_logps.tolist(), strict=True)
    rows = [[*pair, ref] for pair, ref in zip(data.pairs, references, strict=True)]
    write_jsonl(path, [{"run": stamp, "pairs": len(rows)}, *rows])


def read_pairs(path: Path, stamp: str) -> PairData | None:
    """What `write_pairs` wrote; None where there is nothing, or another run's.

    Raises
    ------
    PrefevalError
        If the file cannot be read.
    """
    if not path.exists():
        return None
    head, *rows = read_jsonl(path) or [{}]
    if head.get("run") != stamp:
        return None
    if len(rows) != head["pairs"]:
        raise PrefevalError(f"{path} is cut short; delete it, run again")
    pairs = [EncodedPair(id_, Encoded(*c), Encoded(*r)) for id_, c, r, _ in rows]
    ref = np.array([row[3] for row in rows])
    return PairData(pairs, ref[:, 0], ref[:, 1])
