"""Models and tokenizers from Hugging Face folders and hub names, refused early and in one line.

Only safetensors are read: a pickle runs code when it is opened. A folder is looked over without
loading anything (``check_model_dir``), then loaded, then its numbers are checked. Nothing here
runs code that comes with a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.harness import hub
from prefeval.records import PrefevalError, content_hash

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
NO_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "scaler.*")
"""What trainers leave beside the weights; none of it is ever opened."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
TEXT_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
CONVERT = (
    "convert it once where you trust it: "
    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
)


def model_dir(source: str | os.PathLike[str]) -> Path:
    """The folder of a model: ``source`` itself, or the local copy of what the hub calls so.

    Raises ``PrefevalError`` when there is neither such a folder nor such a name to be had.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path.absolute()
    if path.exists():
        raise PrefevalError(f"{path} is a file; give the folder that holds it")
    name = os.fspath(source)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise PrefevalError(f"no such model folder: {path}; give a folder or a hub name")
    from huggingface_hub import snapshot_download

    try:
        with hub.quiet(), hub.offline_if_away():
            return Path(snapshot_download(name, allow_patterns=["*.safetensors", *TEXT_FILES]))
    except Exception as error:  # offline, unknown, gated: one line each
        raise PrefevalError(
            f"{name} is no folder here and could not be had from the hub "
            f"({hub.first_line(error)}); check the name and the network"
        ) from error


def check_model_dir(source: str | os.PathLike[str]) -> Path:
    """Look over a model folder without loading it; returns the folder.

    Raises ``PrefevalError`` for: no folder, no or broken config, an adapter, no weights, pickled
    weights, a missing shard, a truncated safetensors file, no tokenizer, no chat template.
    """
    folder = model_dir(source)
    if is_adapter(folder):
        raise PrefevalError(
            f"{folder} is an adapter; merge it first: "
            "PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(new_folder)"
        )
    read_config(folder)
    for file in weight_files(folder):
        check_safetensors(file)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise PrefevalError(
            f"{folder} has no tokenizer; save it there: tokenizer.save_pretrained(...)"
        )
    if not has_template(folder):
        raise PrefevalError(_no_template(folder))
    return folder


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    whole = (folder / "config.json").is_file() and _has_weights(folder)
    return (folder / "adapter_config.json").is_file() and not whole


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``."""
    path = folder / "config.json"
    if not path.is_file():
        raise PrefevalError(
            f"{folder} has no config.json; give the folder that save_pretrained made"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PrefevalError(f"{path} is not valid JSON ({error}); save the model again") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise PrefevalError(
            f"{path} names no model_type; save the model again with save_pretrained"
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights, in the order of their names."""
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PrefevalError(f"{index} is broken ({error!r}); save the model again") from error
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise PrefevalError(
                f"{folder} lacks {missing[0]} ({len(missing)} of {len(names)} weight files); "
                "copy or download it again"
            )
        return [folder / name for name in names]
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    raise PrefevalError(_no_weights(folder))


def _has_weights(folder: Path) -> bool:
    return (folder / INDEX).is_file() or (folder / "model.safetensors").is_file()


def _no_weights(folder: Path) -> str:
    """Why a folder without safetensors is refused."""
    trainer_files = {file for pattern in NO_WEIGHTS for file in folder.glob(pattern)}
    pickles = sorted({file for kind in PICKLES for file in folder.glob(kind)} - trainer_files)
    if pickles:
        return (
            f"{folder} has its weights as a pickle ({pickles[0].name}), which runs code when it is "
            f"opened, and no safetensors; {CONVERT}"
        )
    if ggufs := sorted(folder.glob("*.gguf")):
        return f"{folder} has GGUF weights ({ggufs[0].name}) and no safetensors; {CONVERT}"
    found = ", ".join(sorted(file.name for file in folder.iterdir())[:6]) or "nothing"
    return f"{folder} has no weights (found {found}); give a folder with model.safetensors"


def check_safetensors(path: Path) -> None:
    """Raise ``PrefevalError`` unless the file is as long as its header says.

    Layout: 8 bytes of header length, a JSON header with the offsets of each tensor, the tensors.
    """
    size = path.stat().st_size
    broken = f"{path} is truncated or damaged"
    with path.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length + 8 > size:
            raise PrefevalError(f"{broken} ({size} bytes, shorter than its header); fetch it again")
        try:
            header = json.loads(handle.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PrefevalError(f"{broken} (its header is unreadable); fetch it again") from error
    if not ends:
        raise PrefevalError(f"{path} holds no tensor; save the model again")
    if (wanted := 8 + length + max(ends)) != size:
        raise PrefevalError(f"{broken} ({size} of {wanted} bytes); copy or download it again")


def has_template(folder: Path) -> bool:
    """Whether a folder's tokenizer has a chat template."""
    if any((folder / f"chat_template.{kind}").is_file() for kind in ("jinja", "json")):
        return True
    config = folder / "tokenizer_config.json"
    try:
        return bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _no_template(folder: Path) -> str:
    return (
        f"{folder} has no chat template; set tokenizer.chat_template to the one that the model was "
        "tuned with and save the tokenizer there"
    )


def load_tokenizer(source: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name.

    Raises ``PrefevalError`` where it cannot be read, has no chat template or no end token.
    """
    from transformers import AutoTokenizer

    folder = model_dir(source)
    try:
        with hub.quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False
            )
    except Exception as error:  # transformers raises many kinds
        raise PrefevalError(
            f"{folder} has no tokenizer that can be read ({hub.first_line(error)}); "
            "save it again with tokenizer.save_pretrained"
        ) from error
    if not tokenizer.chat_template:
        raise PrefevalError(_no_template(folder))
    if tokenizer.eos_token_id is None:
        raise PrefevalError(
            f"the tokenizer of {folder} has no end token, so no answer would ever end; "
            'set "eos_token" in tokenizer_config.json'
        )
    try:
        asked = [{"role": "user", "content": "Hello"}]
        tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template is a program
        raise PrefevalError(
            f"the chat template of {folder} fails ({hub.first_line(error)}); correct it"
        ) from error
    return tokenizer


def load_model(
    source: str | os.PathLike[str],
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
) -> PreTrainedModel:
    """A causal language model in evaluation mode.

    ``dtype``: "float32", "bfloat16", ..., or "auto" for the one that it was saved in.

    Raises ``PrefevalError`` for what ``check_model_dir`` refuses, weights that do not fit the
    config, an unknown dtype or device, and weights that are not finite.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    folder = check_model_dir(source)
    named = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if named != "auto" and not (isinstance(named, torch.dtype) and named.is_floating_point):
        raise PrefevalError(f"unknown dtype {dtype!r}; try float32, bfloat16 or auto")
    transformers_logging.disable_progress_bar()
    try:
        with hub.quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=named,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises many kinds
        why = hub.first_line(error)
        if "mismatched" in why:
            why = "its weights have other shapes than its config.json says"
        raise PrefevalError(f"{folder} cannot be loaded ({why}); save the model again") from error
    if missing := sorted(report["missing_keys"]):
        raise PrefevalError(
            f"{folder} lacks the weights of {len(missing)} tensors, first {missing[0]}; "
            "save the whole model again"
        )
    check_finite(model, folder)
    return _place(model, device)


def _place(model: Any, device: str | torch.device) -> PreTrainedModel:
    """The model on its device; "auto" is a GPU where there is one."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        placed: PreTrainedModel = model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise PrefevalError(
            f"cannot put the model on {device} ({hub.first_line(error)}); try --device cpu"
        ) from error
    return placed


def check_finite(model: PreTrainedModel, name: str | os.PathLike[str]) -> None:
    """Raise ``PrefevalError`` naming the first weight that holds NaN or infinity."""
    for key, weight in model.named_parameters():
        if not bool(weight.detach().isfinite().all()):
            raise PrefevalError(
                f"{name}: the weight {key} holds NaN or infinity, so the training diverged; "
                "use an earlier checkpoint or a lower learning rate"
            )


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ``PrefevalError`` when the tokenizer has tokens that the model does not know."""
    known = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > known:
        raise PrefevalError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {known}; "
            "use the tokenizer that the model was saved with"
        )


def context_length(source: str | os.PathLike[str]) -> int | None:
    """How many tokens the model was made for, where its config says so."""
    config = read_config(check_model_dir(source))
    for part in (config, config.get("text_config")):
        for name in ("max_position_embeddings", "n_positions"):
            if isinstance(part, dict) and isinstance(part.get(name), int):
                return int(part[name])
    return None


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def weights_hash(source: str | os.PathLike[str]) -> str:
    """SHA-256 of what the model computes with: its weight files and its config.

    Two folders with the same bytes have the same hash wherever they lie; the versions and paths
    that libraries write into the config do not count.
    """
    folder = model_dir(source)
    ignored = ("_name_or_path", "transformers_version")
    config = {key: value for key, value in read_config(folder).items() if key not in ignored}
    return content_hash([config, [file_hash(file) for file in weight_files(folder)]])


def tokenizer_hash(source: str | os.PathLike[str]) -> str:
    """SHA-256 of what turns a conversation into tokens: the tokenizer's files and the template."""
    folder = model_dir(source)
    names = [*TOKENIZER_FILES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json"]
    names += ["added_tokens.json", "chat_template.jinja", "chat_template.json"]
    return content_hash({n: file_hash(folder / n) for n in names if (folder / n).is_file()})
