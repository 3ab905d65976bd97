"""The judge where none is named: a reward model trained on preference pairs.

    P(first beats second | x) = sigmoid( r(x, first) - r(x, second) )       (Bradley-Terry)

It is a proxy with the biases of its data. What it is worth is measured on pairs that it never saw:
its accuracy, and how far length alone explains it (``audit``).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from prefeval.harness import hub, models, transcripts
from prefeval.metrics import resample, stats
from prefeval.records import (
    Comparison,
    Messages,
    MetricResult,
    PreferencePair,
    PrefevalError,
    Verdict,
    content_hash,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefeval.minitrainers.loop import TrainConfig
    from prefeval.minitrainers.pairs import EncodedPair
    from prefeval.minitrainers.run import OnStep

CAVEAT = (
    "The judge is a reward model trained on preference pairs: a proxy that carries their biases, "
    "so a win rate says what it rewards, not what people would prefer."
)
RESAMPLES = 1000


@dataclass(frozen=True)
class Audit:
    """What a scoring judge is worth, on pairs that it never saw. Rates in percent."""

    accuracy: MetricResult
    """share of pairs whose chosen answer it scores higher; an equal score counts one half"""
    accuracy_chosen_shorter: MetricResult
    """the same where the chosen answer is the shorter one: a judge of length alone gets 0"""
    accuracy_chosen_longer: MetricResult
    length_accuracy: MetricResult
    """what "the longer answer wins" would reach"""
    length_correlation: MetricResult
    """of score difference and length difference (characters), in [-1, 1]; see ``audit``"""

    def describe(self) -> str:
        """One line for the terminal."""
        shorter = self.accuracy_chosen_shorter
        where_shorter = f"{shorter.value:.1f}% of {shorter.n}" if shorter.n else "there is none"
        return (
            f"agrees with {self.accuracy.value:.1f}% of {self.accuracy.n} held-out pairs "
            f"[{self.accuracy.ci_low:.1f}, {self.accuracy.ci_high:.1f}]; preferring the longer "
            f"answer alone: {self.length_accuracy.value:.1f}%; where the chosen answer is shorter: "
            f"{where_shorter}; correlation of score and length: "
            f"{self.length_correlation.value:+.2f}"
        )


def audit(
    chosen_scores: ArrayLike,
    rejected_scores: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    rng: np.random.Generator,
) -> Audit:
    """Accuracy of scores on preference pairs, and their reliance on length; arrays of shape (n,).

    The correlation is taken about 0, sum(ds dl) / sqrt(sum(ds^2) sum(dl^2)): the Pearson
    correlation over both orders of every pair, which does not depend on which answer is named
    first. Its interval is a percentile bootstrap over clusters.
    """
    score = np.asarray(chosen_scores, float) - np.asarray(rejected_scores, float)
    length = np.asarray(chosen_lengths, float) - np.asarray(rejected_lengths, float)
    codes = stats.cluster_codes(clusters, len(score))
    right = (np.sign(score) + 1) / 2

    def share(name: str, values: stats.Array, mask: stats.Array | None = None) -> MetricResult:
        keep = slice(None) if mask is None else mask.astype(bool)
        estimate = stats.bounded_mean(values[keep], codes[keep]).scaled(100)
        return estimate.metric(name, "percent", True)

    return Audit(
        accuracy=share("judge_accuracy", right),
        accuracy_chosen_shorter=share("judge_accuracy_chosen_shorter", right, length < 0),
        accuracy_chosen_longer=share("judge_accuracy_chosen_longer", right, length > 0),
        length_accuracy=share("judge_length_accuracy", (np.sign(length) + 1) / 2),
        length_correlation=_correlation(score, length, codes, rng),
    )


def _correlation(
    score: stats.Array, length: stats.Array, codes: Any, rng: np.random.Generator
) -> MetricResult:
    """The correlation about 0 with its cluster bootstrap."""
    name, n = "judge_length_correlation", len(score)
    if not np.any(score) or not np.any(length):
        what = "scores" if not np.any(score) else "lengths"
        return stats.undefined(f"the {what} of all pairs are equal", n).metric(name, "")
    products = np.stack([score * length, score**2, length**2])
    weights = resample.cluster_weights(codes, n, RESAMPLES, rng)
    cross, score_2, length_2 = products @ np.vstack([np.ones(n), weights]).T  # the data come first
    with np.errstate(invalid="ignore"):  # a resample in which nothing varies has none
        values = cross / np.sqrt(score_2 * length_2)
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    spread = resample.bootstrap_stderr(values[1:], int(codes.max()) + 1)
    return stats.Estimate(float(values[0]), spread, float(low), float(high), n).metric(name, "")


class RewardModelJudge:
    """Compares answers by the scores of a reward model.

    A score does not depend on what it is compared with, so the two orders of a comparison agree
    exactly and each answer is scored once.
    """

    name = "reward_model"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: Mapping[str, Any],
        *,
        max_length: int = 1024,
        batch_size: int = 32,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_length, self.batch_size = max_length, batch_size
        self.settings: Mapping[str, Any] = {**settings, "max_length": max_length}

    def scores(self, items: Sequence[tuple[Messages, str]]) -> list[float]:
        """The reward of each answer; equal questions and answers are scored once."""
        from prefeval.minitrainers import reward

        keys = [content_hash(item) for item in items]
        places = {key: place for place, key in enumerate(keys)}
        rewards = reward.score(
            self.model,
            self.tokenizer,
            [items[place] for place in places.values()],
            max_length=self.max_length,
            batch_size=self.batch_size,
        )
        known = dict(zip(places, rewards, strict=True))
        return [known[key] for key in keys]

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        """The Bradley-Terry probability that the first answer is better; None for a score that is
        not a finite number."""
        asked = [(item.prompt.messages, item.first) for item in items]
        asked += [(item.prompt.messages, item.second) for item in items]
        rewards = np.asarray(self.scores(asked), float).reshape(2, len(items))
        margins = rewards[0] - rewards[1]
        return [Verdict(_sigmoid(m) if math.isfinite(m) else None) for m in margins.tolist()]

    def audit(self, pairs: Sequence[PreferencePair], *, seed: int = 0) -> Audit:
        """``audit`` of this judge's scores on ``pairs``, which it must not have been trained on."""
        items = [(pair.prompt, pair.chosen) for pair in pairs]
        items += [(pair.prompt, pair.rejected) for pair in pairs]
        rewards = np.asarray(self.scores(items), float).reshape(2, len(pairs))
        return audit(
            rewards[0],
            rewards[1],
            [len(pair.chosen) for pair in pairs],
            [len(pair.rejected) for pair in pairs],
            [pair.cluster or pair.id for pair in pairs],
            rng=np.random.default_rng(seed),
        )


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def from_folder(
    folder: str | os.PathLike[str] = "", *, device: str = "cpu", dtype: str = "float32"
) -> RewardModelJudge:
    """The judge that ``train`` saved, or any one-label sequence classifier with a chat template.

    Raises ``PrefevalError`` for a folder that holds none.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    if not folder:
        raise PrefevalError("the judge reward_model needs a folder: --judge reward_model:DIR")
    path = models.check_model_dir(folder)
    try:
        with hub.quiet():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                str(path),
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises many kinds
        raise PrefevalError(
            f"{path} cannot be loaded as a reward model ({hub.first_line(error)}); "
            "train one, or name another folder"
        ) from error
    if report["missing_keys"] or model.config.num_labels != 1:
        raise PrefevalError(
            f"{path} is no reward model (it has no score head of one label); name another folder"
        )
    models.check_finite(model, path)
    tokenizer = models.load_tokenizer(path)
    context = getattr(model.config, "max_position_embeddings", None) or 1024
    return RewardModelJudge(model.to(device), tokenizer, _settings(path), max_length=context)


def _settings(folder: Path) -> Mapping[str, Any]:
    """What a reward model's scores depend on, beside the texts."""
    return {
        "judge": RewardModelJudge.name,
        "weights": models.weights_hash(folder),
        "tokenizer": models.tokenizer_hash(folder),
    }


class Trained(NamedTuple):
    """A judge, what it is worth, and how many of its pairs were too long to train on."""

    judge: RewardModelJudge
    audit: Audit
    too_long: int


def train(
    base: str | os.PathLike[str],
    pairs: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    config: TrainConfig,
    *,
    out_dir: Path,
    on_step: OnStep | None = None,
) -> Trained:
    """Train a reward model on ``pairs`` from the body of ``base``, and audit it on ``held_out``.

    Saved as ``out_dir/model``. Pairs whose prompt leaves no room for an answer are left out and
    counted.

    Raises ``PrefevalError`` when a conversation is in both sets, or nothing is left to train on.
    """
    from prefeval.minitrainers import reward
    from prefeval.minitrainers.precision import autocast
    from prefeval.minitrainers.run import STATE

    seen = {transcripts.opening_key(pair.prompt) for pair in pairs}
    if both := [p.id for p in held_out if transcripts.opening_key(p.prompt) in seen]:
        raise PrefevalError(
            f"{len(both)} held-out pairs share a conversation with the judge's training pairs, "
            f"first {both[0]!r}; split them with data.split_pairs"
        )
    tokenizer = models.load_tokenizer(base)
    encoded = encode(tokenizer, pairs, max_length=config.max_length)
    body = models.load_model(base, device=config.device)
    model = reward.from_causal_lm(body, tokenizer)
    config = replace(config, save_at=(1.0,))
    (out_dir / STATE).unlink(missing_ok=True)  # scorers are small: one that was stopped begins anew
    saved = reward.train_reward_model(
        model, tokenizer, encoded, config, out_dir=out_dir, on_step=on_step
    )
    (out_dir / STATE).unlink()
    folder = out_dir / "model"
    shutil.rmtree(folder, ignore_errors=True)
    saved[-1].path.rename(folder)
    judge = RewardModelJudge(model, tokenizer, _settings(folder), max_length=config.max_length)
    with autocast(config):
        worth = judge.audit(held_out, seed=config.seed)
    return Trained(judge, worth, len(pairs) - len(encoded))


def encode(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PreferencePair], *, max_length: int
) -> list[EncodedPair]:
    """Pairs in tokens, without those whose prompt fills ``max_length``."""
    from prefeval.minitrainers.batches import encode_all
    from prefeval.minitrainers.pairs import EncodedPair

    sides: list[Callable[[PreferencePair], str]] = [lambda p: p.chosen, lambda p: p.rejected]
    rows = [
        encode_all(tokenizer, [(p.prompt, side(p)) for p in pairs], max_length=max_length)
        for side in sides
    ]
    return [
        EncodedPair(pair.id, chosen, rejected)
        for pair, chosen, rejected in zip(pairs, *rows, strict=True)
        if chosen.completion_ids and rejected.completion_ids
    ]
