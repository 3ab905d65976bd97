"""A training run on disk: its log, its checkpoints, and the state from which it goes on.

The state is one safetensors file, written beside its place and renamed: weights, the optimizers'
moments, and in its header the step and what the run was started with. A run that was stopped goes
on from it to the very bits that it would have reached undisturbed, because nothing else decides
what comes next: batches, draws and learning rates are functions of the settings and the step.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prefeval.minitrainers.optimiser import Optimiser
from prefeval.records import PrefevalError, to_jsonable, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefeval.minitrainers.loop import TrainConfig

Row = dict[str, Any]
OnStep = Callable[[Row], None]
STATE, LOG, BASE = "state.safetensors", "train.jsonl", "base.json"


class CheckpointInfo(NamedTuple):
    """A saved checkpoint: an ordinary Hugging Face folder."""

    step: int
    path: Path


class SavedState(NamedTuple):
    """The header of a state file."""

    method: str
    step: int
    first_step: int
    settings: Mapping[str, Any]
    data: str
    numbers: Mapping[str, float]


def save_steps(n_steps: int, config: TrainConfig) -> set[int]:
    """The steps, counted from 1, after which to save."""
    if config.save_every:
        return {*range(config.save_every, n_steps + 1, config.save_every), n_steps}
    return {min(n_steps, max(1, round(share * n_steps))) for share in (*config.save_at, 1.0)}


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out_dir: Path,
    step: int,
    base_hash: str = "",
) -> CheckpointInfo:
    """Write ``checkpoint-000200/`` beside its place, then rename: never half of one is seen.

    Of a policy with an adapter the adapter alone is written, with the hash of its base.
    """
    path = out_dir / f"checkpoint-{step:06d}"
    temporary = out_dir / f".{path.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    if hasattr(model, "peft_config"):
        model.save_pretrained(temporary, save_embedding_layers=False)
        (temporary / BASE).write_text(json.dumps({"weights_hash": base_hash}), encoding="utf-8")
    else:
        model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)
    return CheckpointInfo(step, path)


def read_state(out_dir: Path) -> SavedState | None:
    """What a run in this folder can go on from; None where there is nothing.

    Raises
    ------
    PrefevalError
        If the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = out_dir / STATE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return SavedState(**json.loads(file.metadata()["run"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise PrefevalError(
            f"{path} is damaged ({error}); delete it to train from the beginning"
        ) from error


class Run:
    """One phase of training in ``out_dir``, new or continued.

    Parameters
    ----------
    optimisers
        Whose parameters and moments are the state.
    n_steps
        Of this phase; ``first_step`` steps of other phases came before it in the same folder.
    data
        Hash of what is trained on.
    numbers
        What else changes as the run goes on (a KL coefficient), by name.

    Attributes
    ----------
    done
        Steps of this phase that are already done.

    Raises
    ------
    PrefevalError
        If the folder holds the state of a run with other settings or data.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainConfig,
        *,
        n_steps: int,
        optimisers: Mapping[str, Optimiser],
        out_dir: Path,
        data: str,
        on_step: OnStep | None = None,
        numbers: Mapping[str, float] | None = None,
        first_step: int = 0,
    ) -> None:
        self.config, self.n_steps, self.first_step = config, n_steps, first_step
        self.numbers = dict(numbers or {})
        self.done = 0
        self._model, self._tokenizer, self._optimisers = model, tokenizer, optimisers
        self._out_dir, self._data, self._on_step = out_dir, data, on_step
        self._to_save = save_steps(n_steps, config)
        out_dir.mkdir(parents=True, exist_ok=True)
        state = read_state(out_dir)
        if state is not None and (state.method, state.first_step) == (config.method, first_step):
            self._restore(state)
        elif state is not None and state.first_step + state.step != first_step:
            raise PrefevalError(
                f"{out_dir} holds a run of {state.method}; choose another folder, or delete "
                f"{STATE} there to train from the beginning"
            )
        self._tidy()
        self._keep_log()
        self._file = (out_dir / LOG).open("a", encoding="utf-8", buffering=1)

    @property
    def saved(self) -> list[CheckpointInfo]:
        """This phase's checkpoints until now."""
        return [
            CheckpointInfo(self.first_step + step, self._out_dir / f"checkpoint-{at:06d}")
            for step in sorted(self._to_save)
            if step <= self.done and (at := self.first_step + step)
        ]

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = to_jsonable({**asdict(self.config), "steps": self.n_steps})
        del settings["state_every"]  # changes no number
        return settings

    def _restore(self, state: SavedState) -> None:
        from safetensors.torch import load_file

        now = self._settings()
        where = f"{self._out_dir} holds a stopped run"
        for name in sorted(now.keys() | state.settings.keys()):
            if (old := state.settings.get(name)) != (new := now.get(name)):
                raise PrefevalError(
                    f"{where} with {name} {old}, and now it is {new}; set it back to continue, or "
                    f"delete {STATE} there to train from the beginning"
                )
        if state.data != self._data:
            raise PrefevalError(
                f"{where} on other data; delete {STATE} there to train from the beginning"
            )
        tensors = load_file(self._out_dir / STATE)
        for name, optimiser in self._optimisers.items():
            own = {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(name)}
            optimiser.load_state(own)
        self.done, self.numbers = state.step, dict(state.numbers)

    def _keep_log(self) -> None:
        """Drop the rows of steps that will be done again, and a row cut short."""
        path = self._out_dir / LOG
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        kept = []
        for line in text.splitlines():
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError):
                break
            if step > self.first_step + self.done:
                break
            kept.append(line + "\n")
        if "".join(kept) != text:
            write_text(path, "".join(kept))

    def _tidy(self) -> None:
        """Remove what a killed process was writing."""
        for path in self._out_dir.glob(".*.tmp"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def finish_step(self, row: Row, **numbers: float) -> None:
        """Log the step that was just done, as soon as it is; save where it is time to.

        ``numbers`` replace those that the run was opened with.
        """
        self.done += 1
        self.numbers |= numbers
        row = {"step": self.first_step + self.done, **row}
        self._file.write(json.dumps(to_jsonable(row)) + "\n")
        if self._on_step:
            self._on_step(row)
        if self.done in self._to_save:
            save_checkpoint(
                self._model, self._tokenizer, self._out_dir, row["step"], self.config.base_hash
            )
        every = self.config.state_every
        if self.done in self._to_save or (every and self.done % every == 0):
            self._save_state()

    def _save_state(self) -> None:
        from safetensors.torch import save_file

        state = SavedState(
            self.config.method, self.done, self.first_step, self._settings(), self._data,
            self.numbers,
        )  # fmt: skip
        tensors = {
            f"{name}/{key}": tensor.contiguous()
            for name, optimiser in self._optimisers.items()
            for key, tensor in optimiser.state().items()
        }
        temporary = self._out_dir / f".{STATE}.{os.getpid()}.tmp"
        try:
            save_file(tensors, temporary, {"run": json.dumps(to_jsonable(state._asdict()))})
            os.replace(temporary, self._out_dir / STATE)
        finally:
            temporary.unlink(missing_ok=True)

    def require_finite(self, values: Mapping[str, float], ids: Iterable[str]) -> None:
        """Stop the run at the first number that is not finite, and say where it was."""
        for name, value in values.items():
            if not math.isfinite(value):
                now = self.first_step + self.done + 1
                good = [c for c in self._out_dir.glob("checkpoint-*") if _step_of(c) < now]
                last = max(good, key=_step_of, default="none")
                raise PrefevalError(
                    f"{name} is {value} at step {now} "
                    f"(examples {', '.join(ids)}; last good checkpoint: {last}); "
                    "lower the learning rate or drop these examples"
                )


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def data_hash(
    ids: Sequence[str], rows: Iterable[Sequence[int]], *numbers: Sequence[float] | Any
) -> str:
    """Names what a run is trained on, so that it is not continued on something else."""
    digest = hashlib.sha256(json.dumps(list(ids)).encode())
    for row in rows:
        digest.update(np.asarray(row, dtype=np.int64).tobytes() + b"|")
    for values in numbers:
        digest.update(np.asarray(values, dtype=np.float64).tobytes() + b"|")
    return digest.hexdigest()
