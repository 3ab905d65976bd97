"""What a training run was started with, as far as the files beside its log say.

JSON, YAML and the head of a model card are read; ``training_args.bin``, where TRL keeps beta, is a
pickle and is never opened. Names become prefeval's own (``TrainConfig``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefeval.harness.logs import keys as log_keys

METHODS = ("dpo", "ipo", "kto", "simpo", "ppo", "grpo")
LARGEST = 1 << 20  # bytes of a file of settings

# prefeval's name: the last word of a setting's path elsewhere, the best first.
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "beta": (
        "beta", "pref_beta", "rl_beta", "dpo_beta", "kto_beta", "simpo_beta",
        "reference_policy_kl_penalty", "ref_policy_kl_penalty", "init_kl_coef", "kl_coef",
    ),
    "lr": ("lr", "learning_rate", "actor_learning_rate"),
    "epochs": (
        "num_train_epochs", "epochs", "num_epochs", "n_epochs", "max_epochs", "total_epochs",
    ),
    "batch_size": ("total_train_batch_size", "batch_size", "train_batch_size", "global_batch_size"),
    "label_smoothing": ("label_smoothing", "dpo_label_smoothing"),
    "gamma": ("simpo_gamma",),
    "desirable_weight": ("desirable_weight", "kto_chosen_weight", "kto_desirable_weight"),
    "undesirable_weight": ("undesirable_weight", "kto_rejected_weight", "kto_undesirable_weight"),
    "max_length": ("max_length", "cutoff_len", "max_seq_length", "sequence_len"),
    "warmup": ("warmup", "warmup_ratio", "lr_warmup_ratio"),
    "schedule": ("schedule", "lr_scheduler_type", "lr_scheduler"),
    "weight_decay": ("weight_decay",),
    "grad_clip": ("grad_clip", "max_grad_norm", "gradient_clip_val"),
    "max_steps": ("max_steps",),
    "group_size": ("group_size", "num_generations"),
    "seed": ("seed",),
}  # fmt: skip
LOSSES = ("preference_loss", "pref_loss", "loss_name", "loss_type")
ALIASES = {
    "sigmoid": "dpo", "gae": "ppo", "dapo": "grpo", "bnpo": "grpo", "dr_grpo": "grpo",
    "rloo": "grpo", "reinforce_plus_plus": "grpo",
}  # fmt: skip


class Found(NamedTuple):
    """The method ("" unknown), its settings, and what a reader should know of them."""

    method: str
    settings: dict[str, Any]
    notes: list[str]


def read(log: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Found:
    """The settings beside a log; of a checkpoint's trainer_state.json the parent folder counts."""
    folders = [log.parent]
    if log.parent.name.startswith("checkpoint-"):
        folders.append(log.parent.parent)
    given: dict[str, Any] = {}
    for path in (path for folder in folders for path in _files(folder)):
        given = {**_flat(_load(path)), **given}
    settings = _named(given)
    notes = []
    if "beta" not in settings and (beta := _constant(rows, "beta")) is not None:
        settings["beta"] = beta
    pickles = (p for f in folders for p in (f, *f.glob("checkpoint-*")))
    if "beta" not in settings and any((p / "training_args.bin").exists() for p in pickles):
        notes.append(
            "beta may lie in training_args.bin, a pickle, which is not opened: it is not known"
        )
    return Found(_method(given) or _from_names(names), settings, notes)


def _files(folder: Path) -> Iterator[Path]:
    """Files that may hold settings, prefeval's own first."""
    patterns = (
        "trial.json", "args.json", "*args*.json", "*args*.yaml", "*config.yaml", "*config.yml",
        ".hydra/config.yaml", "files/config.yaml", "config.json", "README.md",
        "trainer_state.json",
    )  # fmt: skip
    seen: set[Path] = set()
    only = [*folder.glob("*.yaml"), *folder.glob("*.yml")]
    for paths in (*map(folder.glob, patterns), only if len(only) == 1 else ()):
        for path in sorted(paths):
            if path not in seen and path.is_file() and path.stat().st_size <= LARGEST:
                seen.add(path)
                yield path


def _load(path: Path) -> Any:
    """A file's settings; None for one that cannot be read, which is no reason to stop."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if path.name == "README.md":
            head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
            return yaml.safe_load(head[1]) if head else None
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    if not isinstance(found, dict) or "model_type" in found:  # a model's own config.json
        return None
    if path.name == "trainer_state.json":  # its batch size is a device's, without accumulation
        return {k: found[k] for k in ("num_train_epochs", "max_steps") if k in found}
    if isinstance(loss := found.get("loss"), dict) and "name" in loss:  # the authors' DPO
        found["loss_name"] = loss["name"]
    return found


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Settings by the last word of their path, outer before inner; W&B's "value" is no word."""
    if not isinstance(value, Mapping):
        return {name: value} if name else {}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found = {**_flat(inner, name if key == "value" else str(key)), **found}
    outer = {str(k): v for k, v in value.items() if not isinstance(v, Mapping) and k != "value"}
    return {**found, **outer}


def _named(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that prefeval has a name for."""
    found = {}
    given = dict(given)
    if given.get("use_kl_in_reward") is False:  # verl writes both coefficients, used or not
        given.pop("kl_coef", None)
    if given.get("use_kl_loss") is True:
        given["beta"] = given.get("kl_loss_coef")
    for ours, names in SETTINGS.items():
        for name in names:
            value = _plain(given.get(name))
            if value is not None:
                found[ours] = value
                break
    a_device = _plain(given.get("per_device_train_batch_size"))
    if "total_train_batch_size" not in given and isinstance(a_device, (int, float)):
        times = _plain(given.get("gradient_accumulation_steps"))
        found["batch_size"] = a_device * (times if isinstance(times, int) else 1)
    if found.get("max_steps", 1) <= 0:  # transformers' -1: as many as the epochs have
        del found["max_steps"]
    if "gamma" in given and "simpo" in json.dumps(given, default=str).lower():
        found.setdefault("gamma", _plain(given["gamma"]))
    return found


def _plain(value: Any) -> Any:
    """A number (YAML reads 1e-5 as text), a word, or None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value or None
        return number if math.isfinite(number) else None
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _method(given: Mapping[str, Any]) -> str:
    """What the settings say: a trainer for pairs may have another loss than DPO's."""
    said = [word for name in ("method", "rl", "stage", "adv_estimator", "tags")
            for word in _words(given.get(name))]  # fmt: skip
    method = next((m for word in said if (m := ALIASES.get(word, word)) in METHODS), "")
    losses = [word for name in LOSSES for word in _words(given.get(name))]
    if losses and method in ("", "dpo"):
        method = ALIASES.get(losses[0], losses[0])
    return method if method in METHODS else ""


def _words(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [v.lower() for v in values if isinstance(v, str)]


def _constant(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """A number that every row that logs it agrees on."""
    values = {_plain(row[name]) for row in rows if name in row}
    value = next(iter(values)) if len(values) == 1 else None
    return float(value) if isinstance(value, (int, float)) else None


def _from_names(names: Sequence[str]) -> str:
    """The method where the names of a log leave no other; pairs alone could be of several."""
    joined = {"".join(log_keys.words(name)) for name in names}
    columns = set(log_keys.plan(names).train)
    if "value_loss" in columns or "valvpred" in joined:
        return "ppo"
    if joined & {"fracrewardzerostd", "flatgroups"} or {"policy_loss", "kl_per_token"} <= columns:
        return "grpo"
    if (
        "kl" in columns
        and {"reward_chosen", "reward_rejected"} & columns
        and not ({"accuracy", "policy_loss", "reward"} & columns)
    ):
        return "kto"
    return ""
