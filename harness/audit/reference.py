"""A reference model's log-probabilities of preference data, beside those of its own samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prefeval.harness import models
from prefeval.harness.audit import tokens as audit_tokens
from prefeval.harness.audit.tokens import Item, answers_of
from prefeval.harness.backends.hugging_face import HuggingFaceBackend
from prefeval.minitrainers import batches
from prefeval.minitrainers.pairs import sequence_logps
from prefeval.records import PrefevalError, Prompt, Sampling

CHUNK = 8  # rows between two progress lines
NEW_TOKENS = 128
"""Tokens of the reference's own answers: a mean per token needs no whole answer."""
OnProgress = Callable[[int, int, float], None]


def measure(
    items: Sequence[Item],
    reference: str,
    *,
    rows: int,
    seed: int,
    max_length: int,
    device: str,
    on_progress: OnProgress,
) -> pd.DataFrame:
    """The frame of ``data_reference.reference_findings`` for ``rows`` of ``items``, drawn by seed.

    Costs a pass over both answers and one own sample of up to 128 tokens a row. ``on_progress``
    gets rows done, rows in all, and seconds left. Raises ``PrefevalError`` where no prompt leaves
    room for an answer.
    """
    tokenizer = models.load_tokenizer(reference)
    order = np.random.default_rng(seed).permutation(len(items))
    drawn = []
    for place in order:
        if audit_tokens.room(tokenizer, items[place].prompt, max_length):
            drawn.append(items[place])
        if len(drawn) == rows:
            break
    if not drawn:
        raise PrefevalError(
            f"no prompt leaves room for an answer in {max_length} tokens; raise --max-length"
        )
    drawn.sort(key=lambda item: sum(len(turn["content"]) for turn in item.prompt))
    model = models.load_model(reference, dtype="float32", device=device)
    backend = HuggingFaceBackend(model, tokenizer, max_length=max_length, batch_size=CHUNK)
    found: list[dict[str, Any]] = []
    start = time.monotonic()
    # the longest first: what is left is then never more than it seems
    for first in range(0, len(drawn), CHUNK):
        part = drawn[::-1][first : first + CHUNK]
        found += _chunk(part, backend, max_length, seed + first)
        spent = time.monotonic() - start
        on_progress(len(found), len(drawn), spent / len(found) * (len(drawn) - len(found)))
    return pd.DataFrame(found)


def _chunk(
    items: Sequence[Item], backend: HuggingFaceBackend, max_length: int, seed: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"id": i.id, "cluster": i.cluster} for i in items]
    for name in answers_of(items[0]):
        asked = [(i.prompt, answers_of(i)[name]) for i in items]
        encoded = batches.encode_all(backend.tokenizer, asked, max_length=max_length)
        _note(found, name, backend, encoded)
    prompts = [Prompt(i.id, i.prompt, "", "win_rate") for i in items]
    sampling = Sampling("sample", 1.0, NEW_TOKENS, seed=seed)
    own = backend.generate(prompts, sampling)
    plain = [(i.prompt, None) for i in items]
    prompt_ids = [
        e.prompt_ids for e in batches.encode_all(backend.tokenizer, plain, max_length=max_length)
    ]
    rows = [batches.Encoded(ids, list(c.token_ids)) for ids, c in zip(prompt_ids, own, strict=True)]
    _note(found, "own", backend, rows)
    return found


def _note(
    found: list[dict[str, Any]],
    name: str,
    backend: HuggingFaceBackend,
    encoded: Sequence[batches.Encoded],
) -> None:
    logps = sequence_logps(backend.model, encoded, batch_size=CHUNK)
    for row, value, tokens in zip(found, logps, encoded, strict=True):
        row[f"{name}_logps"] = float(value)
        row[f"{name}_tokens"] = max(1, len(tokens.completion_ids))
