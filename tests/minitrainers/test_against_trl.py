"""Whole training runs held to TRL's: from one start, over the same batches, step by step.

TRL renders, tokenizes and pads the pairs, computes log-probabilities and loss, clips, steps and
logs by its own code. It is given the pairs in prefeval's order, torch's plain AdamW, and a schedule
written out here. Its IPO averages over tokens and its DPO smooths labels in another way, so what
can be compared is DPO, and SimPO with smoothed labels.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefeval.harness import data, models
from prefeval.harness.judges.reward_model import encode
from prefeval.harness.lab import lab
from prefeval.minitrainers import load
from prefeval.minitrainers.loop import TrainConfig, all_batches
from prefeval.minitrainers.pairs import EncodedPair, PairData

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "`past_key_values` is deprecated:FutureWarning",  # transformers, as the lab is sampled
        "`gradient_checkpointing` is deprecated:FutureWarning",  # transformers, at TRL's settings
        "`is_gradient_checkpointing` is deprecated:FutureWarning",  # transformers, at TRL's DPO
        "You are importing from 'trl.experimental':UserWarning",  # TRL, where its SimPO lives
    )
]

# Relative. Measured on one thread, with the kernels of plain x86, AVX2 and AVX-512: at most 1e-5
# over all steps and 3e-7 at the first. float32 sums are taken in another order, and Adam carries on
# what differs. The mildest wrong setting below, clipping at 1.01, gives 1e-3.
TOLERANCE = 1e-4
FIRST_STEP = 1e-5

STEPS, WARMUP = 24, 2
DPO = TrainConfig(
    "dpo", beta=0.1, lr=1e-3, batch_size=8, epochs=3, warmup=0.1, weight_decay=0.1,
    max_length=lab.MAX_LENGTH, save_at=(1.0,),
)  # fmt: skip
SIMPO = replace(DPO, method="simpo", beta=2.0, gamma=0.7, label_smoothing=0.1)

# Ours, and theirs; SimPO's log-probabilities are TRL's per token, ours per sequence.
ALIKE = {"loss": "loss", "grad_norm": "grad_norm"}
LOGPS = {"chosen_logps": "logps/chosen", "rejected_logps": "logps/rejected"}
REWARDS = {
    "delta_chosen": "rewards/chosen",
    "delta_rejected": "rewards/rejected",
    "margin": "rewards/margins",
}


@dataclass(frozen=True)
class Run:
    """What each step logged, each (steps,), and how far every weight (n,) went."""

    log: dict[str, np.ndarray]
    moved: torch.Tensor


@dataclass(frozen=True)
class Start:
    """The lab's reference and its pairs, as rows for TRL and in tokens for prefeval."""

    folder: Path
    rows: list[dict[str, Any]]
    pairs: list[EncodedPair]

    def model(self) -> PreTrainedModel:
        return models.load_model(str(self.folder), dtype="float32", device="cpu")

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return models.load_tokenizer(str(self.folder))

    def run(self, log: list[dict[str, Any]], trained: PreTrainedModel) -> Run:
        weights = zip(trained.parameters(), self.model().parameters(), strict=True)
        moved = torch.cat([(after - before).detach().flatten() for after, before in weights])
        return Run({name: np.array([row[name] for row in log]) for name in log[0]}, moved)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Pairs as the loader gives them (it strips white space), none of them cut or dropped."""
    pytest.importorskip("trl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        built = lab.build(
            lab.ReferenceConfig(people=16, hidden=48, demonstrations=640, epochs=1),
            lab.DataConfig(pairs=64, thumbs=1),
        )
    loaded = data.load_pairs(built.data / "pairs.jsonl").items
    columns = ("prompt", "chosen", "rejected")
    rows = [{column: data.to_trl(pair)[column] for column in columns} for pair in loaded]
    tokenizer = models.load_tokenizer(str(built.reference))
    pairs = encode(tokenizer, loaded, max_length=lab.MAX_LENGTH)
    assert [p.id for p in pairs] == [p.id for p in loaded]
    assert not any(p.chosen.truncated or p.rejected.truncated for p in pairs)
    return Start(built.reference, rows, pairs)


def run_prefeval(start: Start, config: TrainConfig, out: Path) -> Run:
    policy, log, pairs = start.model(), [], PairData(start.pairs)
    train = load(config.method).train
    train(policy, start.tokenizer(), pairs, config, out_dir=out, on_step=log.append)
    return start.run(log, policy)


def schedule(step: int) -> float:
    """A third and two thirds of the learning rate, then from all of it down to 1/22."""
    return (step + 1) / (WARMUP + 1) if step < WARMUP else (STEPS - step) / (STEPS - WARMUP)


def run_trl(start: Start, config: TrainConfig, out: Path) -> Run:
    """All epochs as one dataset, in the order of prefeval's batches."""
    import datasets
    from trl import DPOConfig, DPOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    batches = all_batches([max(p.chosen.length, p.rejected.length) for p in start.pairs], config)
    assert [len(batch) for batch in batches] == STEPS * [config.batch_size]
    policy = start.model()
    adamw = torch.optim.AdamW(
        policy.parameters(), lr=config.lr, betas=(0.9, 0.999), eps=1e-8,
        weight_decay=config.weight_decay, foreach=False,
    )  # fmt: skip
    settings = {
        "output_dir": str(out), "report_to": "none", "save_strategy": "no", "logging_steps": 1,
        "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "bf16": False,
        "gradient_checkpointing": False, "num_train_epochs": 1, "beta": config.beta,
        "per_device_train_batch_size": config.batch_size, "max_length": config.max_length,
        "max_grad_norm": config.grad_clip,
    }  # fmt: skip
    if config.method == "dpo":
        kind, args, more = DPOTrainer, DPOConfig(**settings), {"ref_model": start.model()}
    else:
        kind, more = CPOTrainer, {}
        args = CPOConfig(
            **settings, loss_type="simpo", cpo_alpha=0.0, simpo_gamma=config.gamma,
            label_smoothing=config.label_smoothing, remove_unused_columns=False,
        )  # fmt: skip

    class InOrder(kind):
        def _get_train_sampler(self, *_: object) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    trainer = InOrder(
        policy,
        args=args,
        train_dataset=datasets.Dataset.from_list([start.rows[i] for b in batches for i in b]),
        processing_class=start.tokenizer(),
        optimizers=(adamw, LambdaLR(adamw, schedule)),
        **more,
    )
    trainer.train()
    return start.run([row for row in trainer.state.log_history if "loss" in row], policy)


@pytest.fixture(scope="module")
def trl_run(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainConfig], Run]:
    """``trl_run(config)``: TRL's run, once for each configuration."""
    import huggingface_hub

    @functools.cache
    def run(config: TrainConfig) -> Run:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
            return run_trl(start, config, tmp_path_factory.mktemp("trl"))

    return run


def apart(ours: Run, theirs: Run, config: TrainConfig) -> dict[str, np.ndarray]:
    """Relative difference of every curve at each step, and of how far the weights went.

    Rewards begin at 0 and change sign: theirs is relative to the largest of the run.
    """
    found = {}
    for name, other in (ALIKE | LOGPS if config.method == "dpo" else ALIKE).items():
        found[name] = abs(ours.log[name] / theirs.log[other] - 1)
    for name, other in REWARDS.items() if config.method == "dpo" else ():
        difference = config.beta * ours.log[name] - theirs.log[other]
        found[name] = abs(difference) / abs(theirs.log[other]).max()
    found["weights"] = ((ours.moved - theirs.moved).norm() / theirs.moved.norm()).numpy()
    return found


@pytest.mark.parametrize("config", [DPO, SIMPO], ids=lambda c: c.method)
def test_a_training_run_is_trls(
    config: TrainConfig, start: Start, trl_run: Callable[[TrainConfig], Run], tmp_path: Path
) -> None:
    ours, theirs = run_prefeval(start, config, tmp_path), trl_run(config)
    assert (theirs.log["grad_norm"] > config.grad_clip).any()
    found = apart(ours, theirs, config)
    assert {name: v.max() for name, v in found.items() if not v.max() < TOLERANCE} == {}
    first = {name: v[0] for name, v in found.items() if name != "weights"}
    assert {name: v for name, v in first.items() if not v < FIRST_STEP} == {}


def test_the_same_tokens_are_seen_at_every_step(
    start: Start, trl_run: Callable[[TrainConfig], Run], tmp_path: Path
) -> None:
    ours = run_prefeval(start, DPO, tmp_path).log["tokens"]
    assert ours.cumsum().tolist() == trl_run(DPO).log["num_tokens"].tolist()


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (DPO, {"beta": 0.101}),
        (DPO, {"seed": 1}),
        (DPO, {"lr": 1.01e-3}),
        (DPO, {"warmup": 0.0}),
        (DPO, {"schedule": "cosine"}),
        (DPO, {"weight_decay": 0.0}),
        (DPO, {"grad_clip": 1.01}),
        (DPO, {"label_smoothing": 0.01}),
        (SIMPO, {"beta": 2.02}),
        (SIMPO, {"gamma": 0.71}),
        (SIMPO, {"label_smoothing": 0.0}),
    ],
    ids=lambda value: value.method if isinstance(value, TrainConfig) else next(iter(value)),
)
def test_a_run_with_one_other_setting_is_told_from_trls(
    config: TrainConfig,
    wrong: dict[str, Any],
    start: Start,
    trl_run: Callable[[TrainConfig], Run],
    tmp_path: Path,
) -> None:
    """What the tolerance is worth: one percent of a setting, or another order, is outside it."""
    ours = run_prefeval(start, replace(config, **wrong), tmp_path)
    found = apart(ours, trl_run(config), config)
    assert found["weights"] > 5 * TOLERANCE
    assert found["loss"].max() > 5 * TOLERANCE
