"""Experiment trackers: what a run folder holds, sent to MLflow, W&B, trackio or TensorBoard.

A tracker is a small class in a file of its own. It reads nothing of prefeval's: it is given the
`read.Tracked` of a run, and for every trial a `read.Series`. It leaves alone what it has already,
and replaces what has changed, so that a run may be sent any number of times.

    mlflow[:URI or folder]    wandb[:PROJECT]    trackio[:PROJECT]    tensorboard:FOLDER
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from prefeval.harness.trackers.read import Series, Tracked

TRACKERS: Mapping[str, str] = {
    "mlflow": "prefeval.harness.trackers.to_mlflow:MLflow",
    "wandb": "prefeval.harness.trackers.to_wandb:WandB",
    "trackio": "prefeval.harness.trackers.to_trackio:Trackio",
    "tensorboard": "prefeval.harness.trackers.to_tensorboard:TensorBoard",
}
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
WRITE_TOKEN = re.compile(r"([?&](?:write_)?token=)[^&\s]+", re.IGNORECASE)


class Tracker(Protocol):
    """What a tracker is: opened on a run, given its trials, closed."""

    def __init__(self, argument: str) -> None: ...

    def open(self, run: Tracked) -> None:
        """Find or make the place of the run."""

    def send(self, series: Series) -> None:
        """One trial: its configuration and its numbers by step."""

    def close(self, run: Tracked) -> None:
        """The verdict and the report, when all trials are sent."""


@dataclass(frozen=True)
class Target:
    """A tracker and what was said after its name: an address, a folder or a project."""

    name: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name


def parse(text: str) -> tuple[Target, ...]:
    """The targets of ``mlflow:URI,wandb,trackio:PROJECT,tensorboard:DIR``, each of which is
    installed.

    Raises ``PrefevalError`` for an unknown or missing tracker, one given twice, and an address
    that carries a password: it would be written wherever the command is.
    """
    targets: list[Target] = []
    for part in re.split(rf",(?=(?:{'|'.join(TRACKERS)})(?:[:,]|$))", text):
        name, _, argument = part.strip().partition(":")
        if name not in TRACKERS:
            raise PrefevalError(f"unknown tracker {name!r}; the trackers are {', '.join(TRACKERS)}")
        if CREDENTIALS.search(argument) or WRITE_TOKEN.search(argument):
            raise PrefevalError(
                f"the address for {name} carries a password or token; take it out and give it by "
                "the tracker's environment variable (docs/trackers.md)"
            )
        target = Target(name, argument)
        if target in targets:
            raise PrefevalError(f"{target} is given twice; give each tracker once")
        if name == "tensorboard" and not argument:
            raise PrefevalError("TensorBoard needs a folder: tensorboard:FOLDER")
        targets.append(target)
    for target in targets:
        _require_installed(target.name)
    return tuple(targets)


def _require_installed(name: str) -> None:
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise PrefevalError(f"{name} is not installed; pip install 'prefeval[{name}]'")


def make(target: Target) -> Tracker:
    """The tracker of a target; imports its package."""
    module, _, name = TRACKERS[target.name].partition(":")
    made: Tracker = getattr(import_module(module), name)(target.argument)
    return made


def without_secrets(text: Any, environment: Mapping[str, str] = os.environ) -> str:
    """``text`` without passwords in addresses and without the values of secret variables."""
    found = WRITE_TOKEN.sub(r"\1***", CREDENTIALS.sub("***@", str(text)))
    for name, value in environment.items():
        if SECRET.search(name) and len(value) >= 6:
            found = found.replace(value, "***")
    return found
