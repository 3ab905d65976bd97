"""A sweep's configuration: what a person asked for, and the settings that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness import backends, judges
from prefeval.harness.lab.lab import DataConfig, ReferenceConfig
from prefeval.harness.task import Sizes
from prefeval.minitrainers import METHODS
from prefeval.records import PrefevalError, Trial

LAB = "lab"
UNITS = ("characters", "tokens")

PAIRWISE: Mapping[str, Any] = {
    "lr": 3.5e-4, "schedule": "constant", "batch_size": 32, "epochs": 2,
}  # fmt: skip

# Calibrated with the lab, so that DPO's usable window lies about 0.05-0.3 (see docs/lab.md).
LAB_TRAINING: Mapping[str, Mapping[str, Any]] = {
    "dpo": PAIRWISE,
    "ipo": PAIRWISE,
    "kto": PAIRWISE,
    "simpo": {**PAIRWISE, "lr": 2e-4, "gamma": 1.0},
    "ppo": {
        "lr": 3e-4, "value_lr": 1e-3, "batch_size": 64, "iterations": 20, "max_new_tokens": 96,
        "ppo_epochs": 2, "minibatches": 4,
    },
    "grpo": {
        "lr": 3e-4, "batch_size": 64, "group_size": 8, "iterations": 20, "max_new_tokens": 96,
        "ppo_epochs": 2, "minibatches": 4,
    },
}  # fmt: skip
LAB_ROUNDS: Mapping[str, Any] = {"max_new_tokens": 96, "round_prompts": 512}
LAB_REWARD_MODEL: Mapping[str, Any] = {"lr": 5e-4, "batch_size": 32, "epochs": 1}

# For models of a person's own: what practice reports for full fine-tuning.
OWN_TRAINING: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"lr": 1e-5, "batch_size": 8},
    "ipo": {"lr": 1e-5, "batch_size": 8},
    "kto": {"lr": 1e-5, "batch_size": 8},
    "simpo": {"lr": 1e-5, "batch_size": 8, "gamma": 1.0},
    "ppo": {"lr": 3e-6, "value_lr": 1e-5, "batch_size": 16, "iterations": 20, "ppo_epochs": 2},
    "grpo": {"lr": 3e-6, "batch_size": 16, "group_size": 4, "iterations": 20, "ppo_epochs": 2},
}
LORA_LR = 10.0  # an adapter takes about ten times the rate of full fine-tuning
THEN_ITERATIONS, THEN_KL_COEF = 10, 0.1  # of a phase after another method
PAIRS_ONLY = ("rounds", "round_prompts", "samples", "refresh_reference", "epochs")
ROLLOUTS_ONLY = ("iterations", "target_kl", "group_size")
OWN_REWARD_MODEL: Mapping[str, Any] = {"lr": 1e-4, "batch_size": 8, "epochs": 1}

SMOKE = {"max_steps": 2, "checkpoints": 1}


@dataclass(frozen=True)
class SweepConfig:
    """One sweep, resolved. Equal configurations have equal hashes, and so equal run folders."""

    methods: tuple[str, ...]
    betas: Mapping[str, tuple[float, ...]]
    seeds: tuple[int, ...] = (0,)
    model: str = LAB
    data: str = LAB
    suite: str = ""
    judge: str = ""
    lab: ReferenceConfig = field(default_factory=ReferenceConfig)
    lab_data: DataConfig = field(default_factory=DataConfig)
    sizes: Sizes = field(default_factory=Sizes)
    length_unit: str = UNITS[0]
    training: Mapping[str, Any] = field(default_factory=dict)
    """settings of every trainer that the person gave (lr, epochs, batch_size, ...)"""
    checkpoints: int = 3
    """of a trial, evenly over the second half of training: before margins near 1/beta are reached
    beta changes nothing, and early checkpoints of all betas look alike"""
    prompts: int | None = None
    """at most so many win-rate prompts (and own held-out pairs), a quarter as many a behaviour"""
    held_out: float = 0.2
    """share of the conversations that nothing is trained on: prompts and pairs to measure with"""
    reward_model_pairs: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    backend: str = backends.DEFAULT
    """what generates, as ``--backend`` takes it"""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """content hashes of a person's own model and data"""

    @property
    def is_lab(self) -> bool:
        """Whether the embedded world is what is run on."""
        return self.model == LAB

    @property
    def hash(self) -> str:
        """What names the run; the lab's knobs count in the lab alone, a judge's pace and the place
        of a backend never, the default backend as if there were no other."""
        found = {**records.to_jsonable(self), "judge": judges.identity(self.judge)}
        found |= {} if self.is_lab else {"lab": None, "lab_data": None}
        if (backend := backends.identity(found.pop("backend"))) != backends.DEFAULT:
            found["backend"] = backend
        return records.content_hash(found)

    @property
    def name(self) -> str:
        """``<data>-<hash8>``: the same command finds its run."""
        stem = Path(self.data).name.split(".")[0] or "data"
        return f"{stem}-{self.hash[:8]}"

    def settings(self, method: str) -> dict[str, Any]:
        """The trainer's settings of one method, with its reward and the phase that follows it."""
        given = dict(self.training)
        then = given.pop("then", None)
        then_iterations = given.pop("then_iterations", THEN_ITERATIONS)
        found = self._trainer(method, given)
        rolls_out = METHODS[method].data == "prompts"
        if then and not rolls_out:
            phase = self._trainer(then, {**given, "iterations": then_iterations})
            phase.pop("reward", None)
            found["then"] = {"method": then, "beta": THEN_KL_COEF, **phase}
        if rolls_out or then or found.get("rounds"):
            found["reward"] = self._reward(given, rounds=bool(found.get("rounds")))
        else:
            found.pop("reward", None)
        return found

    def _trainer(self, method: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """One trainer's settings: the table's, with what was given over them where it applies."""
        table = LAB_TRAINING if self.is_lab else OWN_TRAINING
        share = tuple(0.5 + (i + 1) / self.checkpoints / 2 for i in range(self.checkpoints))
        found = {**table.get(method, {}), "save_at": share}
        if given.get("lora_rank"):
            found["lr"] = found["lr"] * LORA_LR
        if given.get("rounds") and METHODS[method].data == "pairs":
            found |= {"max_new_tokens": self.sizes.max_new_tokens}
            found |= LAB_ROUNDS if self.is_lab else {}
        if METHODS[method].data == "prompts":
            found.setdefault("max_new_tokens", self.sizes.max_new_tokens)
        foreign = {"pairs": ROLLOUTS_ONLY, "thumbs": (*ROLLOUTS_ONLY, *PAIRS_ONLY[:-1])}.get(
            METHODS[method].data, PAIRS_ONLY
        )
        if method != "ppo":
            foreign = (*foreign, "target_kl")
        if method != "grpo":
            foreign = (*foreign, "group_size")
        if method != "kto":
            foreign = (*foreign, "desirable_weight", "undesirable_weight")
        return {**found, **{k: v for k, v in given.items() if k not in foreign}}

    def _reward(self, given: Mapping[str, Any], *, rounds: bool) -> str:
        """What rewards the policy's own answers; the lab labels rounds as its pairs."""
        reward = str(given.get("reward") or ("labels" if self.is_lab and rounds else "model"))
        if reward != "labels":
            return reward
        d = self.lab_data
        return (
            f"labels:shape={d.judge},length_bias={d.length_bias},temperature={d.temperature},"
            f"noise={d.noise}"
        )

    @property
    def needs_reward_model(self) -> bool:
        """Whether any trial is rewarded by a model of the training pairs."""
        return any(self.settings(m).get("reward") == "model" for m in self.methods)

    def reward_model_settings(self) -> dict[str, Any]:
        """How reward models are trained: PPO's, and the judge where none is named."""
        found = dict(LAB_REWARD_MODEL if self.is_lab else OWN_REWARD_MODEL)
        for name in ("micro_batch", "max_steps"):
            if name in self.training:
                found[name] = self.training[name]
        if self.dtype == "bfloat16":
            found["dtype"] = "bfloat16"
        return {**found, "device": self.device}

    def trials(self) -> list[Trial]:
        """The grid, methods slowest to start first so that the end is not waited for."""
        order = sorted(self.methods, key=lambda m: (METHODS[m].data != "prompts", m != "kto"))
        return [
            Trial(method, beta, seed, self.settings(method))
            for method in order
            for seed in self.seeds
            for beta in self.betas[method]
        ]


def resolve_device(text: str) -> str:
    """``auto`` takes a GPU where there is one."""
    if text == "cpu":
        return text
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise PrefevalError(
            f"device {text!r} is not to be had ({first}); try --device cpu"
        ) from None
    return text
