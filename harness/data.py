"""Preference data from files and hubs, in the formats that TRL trains on.

Pairs: ``prompt/chosen/rejected``, plain or conversational, or ``chosen/rejected`` that share their
beginning, Anthropic's transcripts included. Thumbs: ``prompt/completion/label``. Read through
``datasets`` from JSONL, JSON, CSV or Parquet (gzipped or not), a folder, or a hub name. Columns
``id``, ``behaviour`` and ``cluster`` are taken where there are any.

What cannot be used is dropped and counted by reason, never silently; a file that is at fault is a
``PrefevalError`` of one line.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prefeval.harness import tables, transcripts
from prefeval.records import Message, PreferencePair, PrefevalError, Thumb, content_hash

PROMPT_COLUMNS = ("prompt", "messages", "conversations")
T = TypeVar("T", PreferencePair, Thumb)


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """Usable rows, and how many of ``rows`` were dropped, by reason."""

    items: list[T]
    dropped: Mapping[str, int]
    rows: int
    source: str

    def describe(self) -> str:
        """One line: "2306 of 2312 rows (dropped: 4 empty answer, 2 identical)"."""
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
        return f"{len(self.items)} of {self.rows} rows" + (
            f" (dropped: {dropped})" if dropped else ""
        )


LoadedPairs = Loaded[PreferencePair]
LoadedThumbs = Loaded[Thumb]


def load_pairs(source: str | os.PathLike[str], *, split: str = "train") -> LoadedPairs:
    """Preference pairs from a file, a folder or a hub name (``split`` is for the latter two).

    Rows whose answers are the same or empty, whose prompt is empty or whose answers are not one
    assistant turn each are dropped and counted. White space around an answer is not kept.

    Raises ``PrefevalError``: no such file, unreadable or empty data, missing columns (naming those
    found), ids given twice, nothing left to use.
    """
    rows, columns = tables.read(source, split)
    if missing := [name for name in ("chosen", "rejected") if name not in columns]:
        hint = "; these look like thumbs, which KTO takes" if "label" in columns else ""
        raise PrefevalError(_missing(source, missing, columns) + hint)
    prompt_column = next((name for name in PROMPT_COLUMNS if name in columns), None)

    def build(row: Mapping[str, Any], name: str) -> PreferencePair:
        prompt = row[prompt_column] if prompt_column else None
        if prompt_column and prompt is None:
            raise transcripts.Unusable("empty prompt")
        sides = transcripts.read_pair(prompt, row["chosen"], row["rejected"])
        return PreferencePair(name, *sides, *_family(row, sides.prompt))

    return _collect(source, rows, build)


def load_thumbs(source: str | os.PathLike[str], *, split: str = "train") -> LoadedThumbs:
    """Answers with a label each (KTO's data), from the sources that ``load_pairs`` takes.

    ``completion`` may be missing where ``messages`` (or a conversational ``prompt``) ends with the
    answer. ``label`` is true or false, 1 or 0. Raises as ``load_pairs`` does.
    """
    rows, columns = tables.read(source, split)
    prompt_column = next((name for name in PROMPT_COLUMNS if name in columns), None)
    missing = [] if "label" in columns else ["label"]
    if "completion" not in columns and prompt_column in (None, "prompt"):
        missing.append("completion")
    if missing:
        hint = "; these look like pairs" if "chosen" in columns else ""
        raise PrefevalError(_missing(source, missing, columns) + hint)

    def build(row: Mapping[str, Any], name: str) -> Thumb:
        if row["label"] not in (0, 1):
            raise ValueError(f"label must be true or false, got {row['label']!r}")
        prompt = row[prompt_column] if prompt_column else None
        if "completion" not in columns:
            prompt, completion = None, prompt
        else:
            completion = row["completion"]
        asked, answer = transcripts.read_thumb(prompt, completion)
        return Thumb(name, asked, answer, bool(row["label"]), *_family(row, asked))

    return _collect(source, rows, build)


def _missing(source: str | os.PathLike[str], names: Sequence[str], columns: Sequence[str]) -> str:
    wanted = " and ".join(repr(name) for name in names)
    return f"{source} has no column {wanted}; found {', '.join(columns)}; rename them"


def _family(row: Mapping[str, Any], prompt: Sequence[Message]) -> tuple[str, str]:
    """Behaviour and cluster; prompts of one conversation are one cluster unless a column says."""
    cluster = row.get("cluster") or transcripts.opening_key(prompt)
    return str(row.get("behaviour") or ""), str(cluster)


def _collect(
    source: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    build: Callable[[Mapping[str, Any], str], T],
) -> Loaded[T]:
    """Build every row, count the ones to drop, and refuse a source that leaves nothing."""
    items: list[T] = []
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    for number, row in enumerate(rows):
        name = f"row-{number:06d}" if row.get("id") is None else str(row["id"])
        if name in seen:
            raise PrefevalError(f"{source}: id {name!r} is given twice (row {number}); rename one")
        seen.add(name)
        try:
            items.append(build(row, name))
        except transcripts.Unusable as reason:
            dropped[str(reason)] += 1
        except ValueError as error:
            raise PrefevalError(f"{source}: row {number}: {error}") from error
    loaded = Loaded(items, dict(dropped), len(seen), str(source))
    if not seen:
        raise PrefevalError(f"{source} is empty; give a file with at least one row")
    if not items:
        raise PrefevalError(
            f"{source}: nothing is left to use, {loaded.describe()}; correct the data"
        )
    return loaded


@dataclass(frozen=True)
class Split(Generic[T]):
    """Three parts of a data set with no conversation in two of them."""

    train: list[T]
    held_out: list[T]
    reward_model: list[T]


def split_pairs(
    items: Sequence[T],
    *,
    held_out: float = 0.2,
    reward_model: float = 0.2,
    seed: int = 0,
    key: Callable[[T], str] = lambda item: transcripts.opening_key(item.prompt),
) -> Split[T]:
    """Split pairs (or thumbs) by a hash of the conversation's opening.

    A row's part depends on its opening and ``seed`` alone: not on the other rows, their order or
    their number. ``held_out`` and ``reward_model`` are shares of the openings, met on average.

    Raises ``PrefevalError`` for shares that leave nothing to train on, or a part that is asked for
    and stays empty.
    """
    if not (held_out >= 0 and reward_model >= 0 and held_out + reward_model < 1):  # NaN too
        raise PrefevalError(
            f"held_out {held_out:g} and reward_model {reward_model:g} must be >= 0 and leave "
            "something to train on; try 0.2 and 0.2"
        )
    parts: dict[str, list[T]] = {"train": [], "held_out": [], "reward_model": []}
    for item in items:
        place = _uniform(f"{seed}/{key(item)}")
        part = "held_out" if place < held_out else "reward_model"
        parts[part if place < held_out + reward_model else "train"].append(item)
    for part, share in (("train", 1.0), ("held_out", held_out), ("reward_model", reward_model)):
        if share and not parts[part]:
            raise PrefevalError(
                f"no rows fall into the {part} part of {len(items)}; give more data or its share"
            )
    return Split(**parts)


def _uniform(text: str) -> float:
    """A number in [0, 1) that is a function of ``text``."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / math.pow(2, 48)


def thumbs_from_pairs(pairs: Sequence[PreferencePair], *, seed: int = 0) -> list[Thumb]:
    """One answer of each pair, the chosen or the rejected by the toss of a hash: unpaired data."""
    thumbs = []
    for pair in pairs:
        liked = _uniform(f"{seed}/thumb/{pair.id}") < 0.5
        answer = pair.chosen if liked else pair.rejected
        thumbs.append(Thumb(pair.id, pair.prompt, answer, liked, pair.behaviour, pair.cluster))
    return thumbs


def distinct(items: Sequence[T]) -> list[T]:
    """One item of each prompt, in order."""
    first: dict[str, T] = {}
    for item in items:
        first.setdefault(content_hash(item.prompt), item)
    return list(first.values())


def with_room(items: Sequence[T], tokenizer: Any, room: int) -> list[T]:
    """The items whose prompt takes at most ``room`` tokens."""
    from prefeval.minitrainers import batches

    prompts = [(item.prompt, None) for item in items]
    encoded = batches.encode_all(tokenizer, prompts, max_length=room)
    return [i for i, e in zip(items, encoded, strict=True) if len(e.prompt_ids) <= room]


def to_trl(item: PreferencePair | Thumb) -> dict[str, Any]:
    """A row in TRL's conversational format, which any other trainer reads and so does this one."""
    if isinstance(item, Thumb):
        said = {"completion": _assistant(item.completion), "label": item.desirable}
    else:
        said = {"chosen": _assistant(item.chosen), "rejected": _assistant(item.rejected)}
    family = {"behaviour": item.behaviour, "cluster": item.cluster}
    return {"id": item.id, "prompt": list(item.prompt), **said, **family}


def _assistant(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]
