"""Checkpoints in a trainer's folder: which are there, whether they are whole, and a hold on them.

A trainer writes while this reads. Nothing tells when it is done, so a checkpoint counts as whole
when its safetensors are as long as their headers say, its index names only files that are there,
and no file has changed for a while. The clock that this is measured by is this process's own: a
file system over the network has another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefeval.harness import checkpoints, models
from prefeval.records import PrefevalError

PATTERN = r"(?:checkpoint|ckpt|step|global[-_]?step|epoch|iter|iteration)[-_]?0*(\d+)(?:_hf)?"
"""Names of Transformers, TRL, Axolotl and LLaMA-Factory (checkpoint-200), open-instruct (step_200,
epoch_1), verl (global_step_200) and OpenRLHF (global_step200_hf); the step is in brackets."""
STATE = "trainer_state.json"
DEPTH = 2  # folders under a checkpoint in which its model may lie: verl's actor/huggingface
WEIGHTS = "*.safetensors"

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Found:
    """A checkpoint folder. ``path`` is what the trainer calls it, ``model`` where the model is in
    it; ``files`` are its model's files with size (bytes) and time of change (ns)."""

    path: Path
    model: Path
    step: int
    files: Signature

    @property
    def key(self) -> tuple[str, Signature]:
        """The same as long as nobody writes into it."""
        return str(self.path), self.files

    @property
    def has_config(self) -> bool:
        """Whether the model's config, or the adapter's, is with it."""
        return any((self.model / n).is_file() for n in ("config.json", "adapter_config.json"))


def step_pattern(text: str) -> re.Pattern[str]:
    """``--pattern``, or the names that are known; ``PrefevalError`` for one that finds no step."""
    try:
        pattern = re.compile(text or PATTERN)
    except re.error as error:
        raise PrefevalError(f"--pattern {text!r} is no regular expression ({error})") from error
    if pattern.groups != 1:
        raise PrefevalError(
            f"--pattern {text!r} has {pattern.groups} groups; put the step in the only one: "
            r"'run-(\d+)'"
        )
    return pattern


def find(folder: Path, pattern: re.Pattern[str]) -> list[Found]:
    """The checkpoints directly in ``folder``, by step; whole or not."""
    found = []
    for path in _folders(folder):
        if match := pattern.fullmatch(path.name):
            if not (match[1] or "").isdecimal():
                raise PrefevalError(f"--pattern takes {match[1] or ''!r} of {path.name} for a step")
            model = _model_in(path)
            found.append(Found(path, model, int(match[1]), _signature(model)))
    with_model = {f.step for f in found if f.files}  # beside which a trainer's own state may lie
    found = [f for f in found if f.files or f.step not in with_model]
    return sorted(found, key=lambda f: (f.step, f.path.name))


def _folders(folder: Path) -> list[Path]:
    try:
        return [f for f in sorted(folder.iterdir()) if f.is_dir()]
    except OSError:  # it is not there, or not any more
        return []


def _model_in(path: Path) -> Path:
    """The first folder with weights, at the path or under it; else the first with a config."""
    level = [path]
    every = []
    for _ in range(DEPTH + 1):
        every += level
        level = [inner for folder in level for inner in _folders(folder)]
    for pattern in (WEIGHTS, "*config.json"):
        for folder in every:
            if any(folder.glob(pattern)):
                return folder
    return path


def _signature(model: Path) -> Signature:
    """What changes when the trainer writes on; the optimizer's files beside it do not count."""
    found = []
    for file in (*model.glob(WEIGHTS), *model.glob("*.json"), *model.glob("*.jinja")):
        try:
            stat = file.stat()
        except OSError:  # deleted between two looks
            continue
        found.append((file.name, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))


def why_not_whole(found: Found, others: Sequence[Found]) -> str:
    """What a checkpoint lacks; "" where it is whole as far as its files tell.

    Where the trainer left its state in another checkpoint, this one must have it too.
    """
    folder = found.model
    try:
        if models.is_adapter(folder):
            if not (folder / checkpoints.ADAPTER).is_file():
                return f"no {checkpoints.ADAPTER} yet"
            models.check_safetensors(folder / checkpoints.ADAPTER)
        else:
            if not any(folder.glob(WEIGHTS)):  # accelerate's save_state writes them alone
                models.read_config(folder)
            for file in models.weight_files(folder):
                models.check_safetensors(file)
        for file in sorted(folder.iterdir()):
            if file.is_symlink() and not file.exists():
                return f"{file} is a link to what is not there"
    except (PrefevalError, OSError) as error:
        return str(error)
    states = any((other.path / STATE).is_file() for other in others)
    if states and not (found.path / STATE).is_file():
        return f"{found.path} has no {STATE} yet, and another checkpoint has one"
    return ""


class Settled:
    """Which checkpoints have not changed for ``seconds``; asked again and again. ``changed`` is
    when any last did, by the clock of whoever asks."""

    def __init__(self, seconds: float, now: float) -> None:
        self.seconds, self.changed = seconds, now
        self._since: dict[Path, tuple[Signature, float]] = {}

    def see(self, found: Found, now: float) -> bool:
        """Take in one look at a checkpoint, at ``now`` seconds of a clock that never goes back."""
        files, since = self._since.get(found.path, (None, now))
        if files != found.files:
            since = self.changed = now
            self._since[found.path] = (found.files, now)
        return now - since >= self.seconds
