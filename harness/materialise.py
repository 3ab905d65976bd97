"""From a configuration to the run's ``data`` folder: pairs, thumbs, held-out pairs and prompts.

The lab and a person's own files end up in one layout; what was dropped is counted.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness import data as preference_data
from prefeval.harness import models, steps, suite_source
from prefeval.harness.lab import lab
from prefeval.harness.settings import SweepConfig
from prefeval.harness.task import Task
from prefeval.minitrainers import METHODS
from prefeval.records import PreferencePair, PrefevalError, Prompt, Thumb
from prefeval.suites.builtin import BUILTIN

LAB_FILES = ("pairs.jsonl", "thumbs.jsonl", "pairs_held_out.jsonl")
ENOUGH_PROMPTS = 400
LAB_JUDGE = "shape=saturating,length_bias=0.14,temperature=1,position_bias=0.1"


@dataclass(frozen=True)
class Materials:
    """The task, and what the manifest says of where it came from."""

    task: Task
    counts: Mapping[str, Any]
    trains_judge: bool = False
    lab: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = field(default_factory=tuple)


def materialise(config: SweepConfig, run: Path, on_progress: lab.OnProgress) -> Materials:
    """Write the run's ``data`` folder (once) and say what it holds."""
    if config.is_lab:
        return _from_lab(config, run, on_progress)
    return _from_own(config, run)


def _from_lab(config: SweepConfig, run: Path, on_progress: lab.OnProgress) -> Materials:
    built = lab.build(config.lab, config.lab_data, on_progress)
    data = run / "data"
    with steps.disk_errors(data):
        data.mkdir(parents=True, exist_ok=True)
        for name in LAB_FILES:
            shutil.copy(built.data / name, data / name)
    prompts = _capped(lab.suite(built.world), config.prompts)
    with steps.disk_errors(data):
        records.write_jsonl(data / "prompts.jsonl", prompts)
    world = f"seed={config.lab.seed},people={config.lab.people}"
    judge = config.judge or f"lab:{world},{LAB_JUDGE}"
    task = Task(str(run), str(built.reference), judge, **_settings(config))
    counts = {
        "pairs": len(records.read_jsonl(data / "pairs.jsonl")),
        **_thumb_counts(records.read_jsonl(data / "thumbs.jsonl")),
        "held_out_pairs": len(records.read_jsonl(data / "pairs_held_out.jsonl")),
        **_prompt_counts(prompts),
    }
    about = {"reference": config.lab, "data": config.lab_data}
    return Materials(task, counts, lab=records.to_jsonable(about))


def _settings(config: SweepConfig) -> dict[str, Any]:
    """What a task takes over as it is."""
    names = ("sizes", "length_unit", "dtype", "device", "backend")
    return {name: getattr(config, name) for name in names}


def _from_own(config: SweepConfig, run: Path) -> Materials:
    reference = models.check_model_dir(config.model)
    tokenizer = models.load_tokenizer(reference)
    pairs, thumbs, dropped = _load(config)
    trains_judge = not config.judge
    if trains_judge and not pairs:
        raise PrefevalError("thumbs alone cannot train a judge; name one with --judge")
    share = 0.2 if trains_judge else 0.0
    held = config.held_out
    split = None
    if pairs:
        split = preference_data.split_pairs(pairs, held_out=held, reward_model=share)
    thumb_split = preference_data.split_pairs(thumbs, held_out=held, reward_model=share)
    held_pairs: Sequence[PreferencePair] = split.held_out if split else ()
    asked = held_pairs or thumb_split.held_out
    prompts, too_long = _win_rate_prompts(asked, tokenizer, config)
    prompts = _capped([*prompts, *suite_source.load(config.suite or BUILTIN)], config.prompts)
    used = _examples_used(config)
    parts: dict[str, tuple[Sequence[Any], int | None]] = {
        "pairs.jsonl": (split.train if split else (), used),
        "thumbs.jsonl": (thumb_split.train, used),
        "pairs_held_out.jsonl": (held_pairs, _held_out_pairs_used(config)),
    }
    if trains_judge and split:
        parts["pairs_judge.jsonl"] = (split.reward_model, config.reward_model_pairs)
    files: dict[str, Sequence[Any]] = {"prompts.jsonl": prompts}
    for name, (items, most) in parts.items():
        fits = _with_room(items, tokenizer, config.sizes.max_length)
        files[name] = [preference_data.to_trl(i) for i in fits[:most]]
        if name != "thumbs.jsonl" or not pairs:  # which are of the same prompts as the pairs
            dropped["prompt too long"] += len(items) - len(fits)
    data = run / "data"
    with steps.disk_errors(data):
        data.mkdir(parents=True, exist_ok=True)
        for name, rows_ in files.items():
            records.write_jsonl(data / name, rows_)
    judge = config.judge or f"reward_model:{run / 'judge' / 'model'}"
    task = Task(str(run), str(reference), judge, **_settings(config))
    counts = {
        **{Path(name).stem: len(rows_) for name, rows_ in files.items() if "pairs" in name},
        **_thumb_counts(files["thumbs.jsonl"]),
        "dropped": +dropped,
        "prompts_too_long": too_long,
        **_prompt_counts(prompts),
    }
    return Materials(task, counts, trains_judge, warnings=_warnings(prompts, +dropped, too_long))


def _with_room(items: Sequence[Any], tokenizer: Any, max_length: int) -> list[Any]:
    """The items whose prompt leaves room for an answer within ``max_length`` tokens."""
    fits = preference_data.with_room(items, tokenizer, max_length - 1)
    if items and not fits:
        raise PrefevalError(
            f"all {len(items)} prompts to train on are longer than {max_length} tokens; "
            "raise --max-length"
        )
    return fits


def _examples_used(config: SweepConfig) -> int | None:
    """How many examples the longest trial can see when ``--max-steps`` ends it early."""
    if "max_steps" not in config.training:
        return None
    sizes = [config.settings(m)["batch_size"] for m in config.methods]
    return int(config.training["max_steps"] * max(sizes))


def _held_out_pairs_used(config: SweepConfig) -> int:
    """How many held-out pairs are followed: no more than there are win-rate prompts at most."""
    most = config.sizes.held_out_pairs
    return most if config.prompts is None else min(most, config.prompts)


def _load(config: SweepConfig) -> tuple[list[PreferencePair], list[Thumb], Counter[str]]:
    """Pairs and thumbs of the data; thumbs are made from pairs where there are none."""
    try:
        loaded = preference_data.load_pairs(config.data)
    except PrefevalError as error:
        if "look like thumbs" not in str(error):
            raise
        paired = [m for m in config.methods if METHODS[m].data != "thumbs"]
        if paired:
            raise PrefevalError(
                f"{config.data} holds thumbs, which only KTO learns from; run --methods kto"
            ) from None
        thumbs = preference_data.load_thumbs(config.data)
        return [], thumbs.items, Counter(thumbs.dropped)
    thumbs_of = preference_data.thumbs_from_pairs(loaded.items)
    return loaded.items, thumbs_of, Counter(loaded.dropped)


def _win_rate_prompts(
    items: Sequence[PreferencePair] | Sequence[Thumb], tokenizer: Any, config: SweepConfig
) -> tuple[list[Prompt], int]:
    """The distinct prompts of held-out data that leave room for an answer."""
    found: list[Any] = preference_data.distinct(items)
    sizes = config.sizes
    room = sizes.max_length - sizes.max_new_tokens
    fits = preference_data.with_room(found, tokenizer, room)
    if not fits:
        raise PrefevalError(
            f"no held-out prompt leaves room for {sizes.max_new_tokens} new tokens within "
            f"{sizes.max_length}; raise --max-length"
        )
    prompts = [
        Prompt(i.id, i.prompt, i.behaviour or "prose", "win_rate", i.cluster or i.id) for i in fits
    ]
    return prompts, len(found) - len(fits)


def _capped(prompts: Sequence[Prompt], most: int | None) -> list[Prompt]:
    """At most ``most`` win-rate prompts spread over all, and a quarter as many a behaviour."""
    if most is None:
        return list(prompts)
    groups: dict[tuple[str, str], list[Prompt]] = {}
    for p in prompts:
        groups.setdefault((p.use, p.behaviour if p.use != "win_rate" else ""), []).append(p)
    out = []
    for (use, _), group in groups.items():
        limit = most if use == "win_rate" else max(2, most // 4)
        kept = min(limit, len(group))
        out += [group[i * len(group) // kept] for i in range(kept)]
    return out


def _thumb_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {"thumbs": len(rows), "thumbs_up": sum(bool(row["label"]) for row in rows)}


def _prompt_counts(prompts: Sequence[Prompt]) -> dict[str, Any]:
    win_rate = sum(p.use == "win_rate" for p in prompts)
    behaviours: dict[str, int] = {}
    for p in prompts:
        if p.use == "retention":
            behaviours[p.behaviour] = behaviours.get(p.behaviour, 0) + 1
    return {"win_rate_prompts": win_rate, "retention_prompts": behaviours}


def _warnings(
    prompts: Sequence[Prompt], dropped: Mapping[str, int], too_long: int
) -> tuple[str, ...]:
    found = []
    n = sum(p.use == "win_rate" for p in prompts)
    if n < ENOUGH_PROMPTS:
        found.append(f"win rates over {n} prompts only; {ENOUGH_PROMPTS} or more tell more apart")
    if dropped:
        words = ", ".join(f"{count} {why}" for why, count in sorted(dropped.items()))
        found.append(f"rows dropped from the data: {words}")
    if too_long:
        found.append(f"{too_long} held-out prompts were too long to leave room for an answer")
    return tuple(found)
