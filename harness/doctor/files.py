"""The doctor's checks of a model's files, which are read piece by piece and never as a whole."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from prefeval.harness import checkpoints, models
from prefeval.harness.doctor.patient import Check, Patient, error, ok, warning
from prefeval.minitrainers import METHODS

TRAINED = {"ppo": 2}
"""models whose weights a method updates, where it is not one: PPO's policy and value"""
SHAPING = ("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "min_length",
           "bad_words_ids", "suppress_tokens", "encoder_repetition_penalty")  # fmt: skip
"""settings that change even a greedy answer"""
NARROWING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff")
NEUTRAL: dict[str, Any] = {
    "temperature": (1.0,), "top_p": (1.0,), "top_k": (0, 50), "min_p": (0.0,), "typical_p": (1.0,),
    "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,), "epsilon_cutoff": (0.0,),
    "no_repeat_ngram_size": (0,), "min_length": (0,), "min_new_tokens": (0,),
}  # fmt: skip
"""values that change nothing, and the 50 of top_k that transformers used to write unasked"""


class Tensor(NamedTuple):
    """One tensor as a safetensors header describes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def header(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file that `models.check_safetensors` found whole, by name."""
    with file.open("rb") as handle:
        length = struct.unpack("<Q", handle.read(8))[0]
        found = json.loads(handle.read(length))
    return {
        name: Tensor(file, about["dtype"], tuple(about["shape"]))
        for name, about in found.items()
        if name != "__metadata__"
    }


def tensors(patient: Patient) -> dict[str, Tensor]:
    """All tensors of the weights, an adapter's own beside its base's."""
    files = models.weight_files(patient.base)
    if patient.base != patient.folder:
        files = [*files, patient.folder / checkpoints.ADAPTER]
    return {name: tensor for file in files for name, tensor in header(file).items()}


def n_weights(patient: Patient) -> int:
    """How many numbers the weights are; an adapter's are merged into its base's."""
    files = models.weight_files(patient.base)
    return sum(math.prod(t.shape) for file in files for t in header(file).values())


def folder(patient: Patient) -> Check:
    """Whether there is such a folder, and anything in it."""
    if not any(patient.folder.iterdir()):
        return error(f"{patient.folder} is empty", "give the folder that save_pretrained made")
    return ok(str(patient.folder))


def adapter(patient: Patient) -> Check:
    """Whether an adapter's base is there and is the one that it was trained on."""
    if not models.is_adapter(patient.folder):
        return ok("a whole model, no adapter")
    checkpoints.check(patient.folder, None)
    checkpoints.check(patient.folder, patient.base)
    return ok(f"an adapter on {patient.base}")


def config(patient: Patient) -> Check:
    """Whether ``config.json`` can be read and names a model."""
    return ok(f"model_type {patient.config['model_type']}")


def architecture(patient: Patient) -> Check:
    """Whether the installed transformers knows the architecture as a causal language model."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    name = patient.config["model_type"]
    if name not in KNOWN:
        own = " (it brings code of its own, which is never run)" * ("auto_map" in patient.config)
        return error(
            f"transformers {transformers.__version__} knows no causal language model of type "
            f"{name!r}{own}",
            "update transformers, or convert the model to an architecture that it knows",
        )
    return ok(f"{KNOWN[name]} of transformers {transformers.__version__}")


def weights(patient: Patient) -> Check:
    """Whether every weight file is there and as long as its header says, and holds what the index
    says of it."""
    files = models.weight_files(patient.base)
    for file in files:
        models.check_safetensors(file)
    index = patient.base / models.INDEX
    if index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        held = {file.name: header(file) for file in files}
        if lost := [name for name, file in listed.items() if name not in held[file]]:
            return error(
                f"{lost[0]} is not in {listed[lost[0]]}, where the index has it "
                f"({len(lost)} of {len(listed)} tensors)",
                "copy or download the model again",
            )
    size = sum(file.stat().st_size for file in files)
    return ok(f"{len(files)} safetensors, {_size(size)}, all whole")


def finite(patient: Patient) -> Check:
    """Whether every weight is a number; NaN and infinity are counted tensor by tensor."""
    from safetensors import safe_open

    found: list[str] = []
    types: dict[str, int] = {}
    by_file: dict[Path, list[str]] = {}
    for name, tensor in tensors(patient).items():
        types[tensor.dtype] = types.get(tensor.dtype, 0) + math.prod(tensor.shape)
        by_file.setdefault(tensor.file, []).append(name)
    for file, names in by_file.items():
        with safe_open(file, framework="pt") as opened:
            for name in names:
                values = opened.get_tensor(name)
                if values.is_floating_point() and not bool((good := values.isfinite()).all()):
                    found.append(f"{name} ({int((~good).sum())} of {values.numel()})")
    if found:
        return error(
            f"NaN or infinity in {len(found)} tensors: {', '.join(found[:5])}"
            + ", ..." * (len(found) > 5),
            "use an earlier checkpoint, or train again at a lower learning rate",
        )
    counted = ", ".join(f"{n / 1e6:.1f} M in {name}" for name, n in sorted(types.items()))
    return ok(f"{counted}, all finite")


def memory(patient: Patient) -> Check:
    """Whether a trial of each method fits, beside what this machine has.

    Training holds float32 weights. What is trained takes 4 times its weights (AdamW: weights,
    gradients, two moments), any other model once: DPO, IPO, KTO and SimPO 4 (the reference's
    log-probabilities are kept, not its weights), GRPO 4 + 2, PPO 2 x 4 + 2. Activations come on
    top and depend on --micro-batch and length.
    """
    n = n_weights(patient)
    need = {
        name: 4 * n * (method.models + 3 * TRAINED.get(name, 1)) for name, method in METHODS.items()
    }
    total, where = _total_memory(patient.device)
    groups: dict[int, list[str]] = {}
    for name, size in need.items():
        groups.setdefault(size, []).append(name)
    told = ", ".join(f"{'/'.join(names)} {_size(b)}" for b, names in sorted(groups.items()))
    said = (
        f"{n / 1e6:.1f} M weights; float32 with AdamW and without activations: {told}; "
        f"{where} has {_size(total)}"
    )
    lora = "--lora-rank 16 holds the weights once and trains few"
    if 4 * n > total:
        return error(said, "the weights alone do not fit: use a larger machine or a smaller model")
    if min(need.values()) > total:
        return warning(said, f"no method fits in full: {lora}")
    if too_large := [name for name, size in need.items() if size > total]:
        return warning(said, f"leave out {', '.join(too_large)}, or {lora}")
    return ok(said)


def _total_memory(device: str) -> tuple[int, str]:
    """Bytes of the machine's or the GPU's memory, and which it is."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[1]), "the GPU"
    import psutil

    return int(psutil.virtual_memory().total), "this machine"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"


def tied(patient: Patient) -> Check:
    """Whether the head that the files hold is the one that the config means."""
    from safetensors import safe_open

    files = models.weight_files(patient.base)
    found = {name: tensor for file in files for name, tensor in header(file).items()}
    head = next((n for n in found if n.endswith("lm_head.weight")), None)
    table = next((n for n in found if n.endswith(("embed_tokens.weight", "wte.weight"))), None)
    text = patient.config.get("text_config") or patient.config
    if not text.get("tie_word_embeddings", patient.config.get("tie_word_embeddings", False)):
        return ok("the head has weights of its own")
    if head is None or table is None:
        return ok("the head is the embedding table, saved once")
    kept = []
    for name in (head, table):
        with safe_open(found[name].file, framework="pt") as opened:
            kept.append(opened.get_tensor(name))
    if kept[0].shape != kept[1].shape or not bool((kept[0] == kept[1]).all()):
        return error(
            f"config.json ties the head to the embeddings, and {head} differs from {table}: one "
            "of the two is not used",
            'if they were trained apart set "tie_word_embeddings": false; else save the model '
            "again with save_pretrained",
        )
    return ok("the head is the embedding table, saved twice alike")


def settings(patient: Patient) -> Check:
    """What ``generation_config.json`` would do to answers, which prefeval does not read."""
    given = patient.generation
    if not (patient.base / "generation_config.json").is_file():
        return ok("no generation_config.json: nothing but the policy itself is sampled")
    changed = {
        name: given[name]
        for name in (*SHAPING, *NARROWING)
        if given.get(name) is not None and given[name] not in NEUTRAL.get(name, ())
    }
    told = ", ".join(f"{name} {value}" for name, value in changed.items())
    if any(name in SHAPING for name in changed):
        return warning(
            f"generation_config.json sets {told}, which changes even greedy answers; prefeval "
            "ignores it and measures the policy itself",
            "remove it from generation_config.json, or expect other answers where you serve it",
        )
    if changed:
        return ok(
            f"generation_config.json sets {told}; prefeval ignores it: it samples the whole "
            "distribution at temperature 1, and greedily for the suite"
        )
    return ok("nothing that would make the sampler another policy's")


def template(patient: Patient) -> Check:
    """Whether there is a chat template, and which."""
    place = patient.tokenizer_folder
    if not any((place / name).is_file() for name in models.TOKENIZER_FILES):
        return error(
            f"{place} has no tokenizer", "save it there with tokenizer.save_pretrained(...)"
        )
    if not models.has_template(place):
        return error(
            f"{place} has no chat template",
            "set tokenizer.chat_template to the one that the model was tuned with, and save the "
            "tokenizer there",
        )
    return ok(f"there is one in {place}")
