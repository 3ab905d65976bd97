"""Checkpoints as trainers leave them: whole models, or adapters on the reference.

An adapter means nothing without its base, and on another base of the same shape it would load and
answer nonsense: so the base's weights are compared, by the hash that was written beside the
adapter or by the folder that its config names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.harness import hub, models
from prefeval.minitrainers import lora
from prefeval.minitrainers.run import BASE
from prefeval.records import PrefevalError, content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter_model.safetensors"


def check(source: str | Path, base: str | Path | None) -> Path:
    """Look over a checkpoint without loading it; returns its folder.

    Raises ``PrefevalError`` for what ``models.check_model_dir`` refuses, an adapter without
    safetensors or with a broken config, and one that was trained on other weights than ``base``
    (None: not known yet).
    """
    folder = models.model_dir(source)
    if not models.is_adapter(folder):
        return models.check_model_dir(folder)
    if not (folder / ADAPTER).is_file():
        raise PrefevalError(
            f"{folder} has no {ADAPTER}: an adapter saved as a pickle runs code when it is opened; "
            "save it again with safetensors"
        )
    models.check_safetensors(folder / ADAPTER)
    found, named = _base_of(folder)
    if None not in (found, base) and found != models.weights_hash(str(base)):
        raise PrefevalError(
            f"{folder} is an adapter for another base ({named}); its weights are not those of "
            f"{base}: give the base that it was trained on as the reference"
        )
    return folder


def _base_of(folder: Path) -> tuple[str | None, str]:
    """The hash of the weights that an adapter was trained on, where that can be known, and their
    name."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        named = str(config["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise PrefevalError(
            f"{folder / 'adapter_config.json'} is broken ({error!r}); save the adapter again"
        ) from error
    if (folder / BASE).is_file():
        written = json.loads((folder / BASE).read_text(encoding="utf-8")).get("weights_hash")
        if written:
            return written, named
    if Path(named).is_dir():
        return models.weights_hash(named), named
    return None, named


def tokenizer_dir(folder: Path, base: str | Path) -> Path:
    """Where a checkpoint's tokenizer is: with it, or with its base."""
    own = any((folder / name).is_file() for name in models.TOKENIZER_FILES)
    return folder if own else models.model_dir(base)


def weights_hash(source: str | Path, base: str | Path) -> str:
    """SHA-256 of what a checkpoint computes with."""
    folder = models.model_dir(source)
    if not models.is_adapter(folder):
        return models.weights_hash(folder)
    files = (ADAPTER, "adapter_config.json")
    return content_hash([models.weights_hash(base), [models.file_hash(folder / f) for f in files]])


def load(
    source: str | Path, base: str | Path, *, dtype: str = "float32", device: str = "cpu"
) -> PreTrainedModel:
    """A checkpoint as a causal language model; an adapter is merged into its base in float32.

    Raises ``PrefevalError`` for what `check` refuses, and an adapter that does not fit.
    """
    folder = check(source, base)
    if not models.is_adapter(folder):
        return models.load_model(folder, dtype=dtype, device=device)
    import torch
    from peft import PeftModel

    policy = models.load_model(base, dtype="float32", device=device)
    try:
        with hub.quiet(), lora.quiet_peft():
            adapted: Any = PeftModel.from_pretrained(policy, str(folder))
    except Exception as error:  # peft raises many kinds
        raise PrefevalError(
            f"{folder} is an adapter that does not fit {base} ({hub.first_line(error)}); give the "
            "base that it was trained on as the reference"
        ) from error
    merged: PreTrainedModel = adapted.merge_and_unload()
    models.check_finite(merged, folder)
    return merged.to(getattr(torch, dtype)).eval()
