"""Lab runs with one known fault each (`planted_faults`), and how such a run is made.

A case is an ordinary run folder of one trial, so `prefeval diagnose` reads it as any other. Faults
are planted where they arise in practice: in the preference file, in its tokens, in the reference's
log-probabilities, in the order of batches, in the trainer's settings, in the judge.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from planted_faults import OF_THE_SOURCE, TEXTS, TOKENS, WORLDS, Case, Rows

from prefeval import records
from prefeval.harness import steps
from prefeval.records import PrefevalError, Trial

CHECKPOINTS = (0.4, 0.7, 1.0)
LABELS: dict[str, dict[str, Any]] = {
    "plain": {"pairs": 2400, "thumbs": 2400, "temperature": 1.5, "length_bias": 0.02},
    "long": {"pairs": 2400, "thumbs": 2400, "temperature": 1.0, "length_bias": 0.25},
}  # fmt: skip


def prepare_base(world: str, labels: str, out: Path, prompts: int) -> Path:
    """The run that cases of one world and one kind of labels start from: data, and what the
    reference says."""
    from rich.console import Console

    from prefeval.harness import train
    from prefeval.harness.evaluate import Evaluator
    from prefeval.harness.lab.lab import DataConfig, ReferenceConfig
    from prefeval.harness.run_folder import RunFolder
    from prefeval.harness.settings import LAB_TRAINING, SweepConfig
    from prefeval.harness.sweep import prepare_inputs
    from prefeval.harness.task import Sizes

    folder = out / "bases" / f"{world}-{labels}-{prompts}"
    if (folder / ".base").exists():
        return folder
    config = SweepConfig(
        methods=tuple(LAB_TRAINING),
        betas=dict.fromkeys(LAB_TRAINING, (0.1,)),
        lab=ReferenceConfig(**WORLDS[world]),
        lab_data=DataConfig(**LABELS[labels]),
        sizes=Sizes(diverse_prompts=16, diverse_samples=6, self_play=1, held_out_pairs=384),
        prompts=prompts,
    )
    run = RunFolder(folder.absolute())
    task = prepare_inputs(config, run, Console(quiet=True), ["benchmarks/diagnosis.py"]).task
    Evaluator(task).measure_reference()
    train.prepare_pairs(task)
    train.prepare_thumbs(task)
    if labels == "plain":
        train.prepare_reward_model(task, config.reward_model_settings(), lambda row: None)
    (folder / ".base").touch()
    return folder


def make(case: Case, out: Path) -> Path:
    """Make the run of a case unless it is there; its folder."""
    folder = out / "cases" / case.name
    if (folder / ".done").exists():
        return folder
    base = prepare_base(case.world, case.labels, out, case.prompts)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, copy_function=os.link)
    (folder / "task.json").unlink()
    task = _task(case, base, folder)
    draw = random.Random(case.name)
    _plant_text(case, task.data, draw)
    _plant_tokens(case, task, draw)
    settings = {**_default_settings(case), **case.settings, "save_at": CHECKPOINTS}
    trial = Trial(case.method, case.beta, case.seed, settings)
    with ExitStack() as patches:
        if case.plant in PATCHES:
            patches.enter_context(PATCHES[case.plant]())
        _train_and_measure(case, task, trial)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    (folder / ".done").touch()
    return folder


def _default_settings(case: Case) -> dict[str, Any]:
    from prefeval.harness.settings import LAB_TRAINING

    found = dict(LAB_TRAINING[case.method])
    if case.method in ("ppo", "grpo"):
        return {**found, "reward": "model", "iterations": 16}
    return {**found, "epochs": 1}


def _task(case: Case, base: Path, folder: Path) -> Any:
    from prefeval.harness.task import Task

    task = Task.read(base / "task.json")
    task = replace(task, run=str(folder.absolute()))
    if case.plant == "coin":
        task = replace(task, judge=f"{task.judge},position_bias={case.strength}")
    records.write_json(folder / "task.json", task)
    return task


def _rewrite(path: Path, rows: Rows) -> None:
    """A file of this case alone (the base's is linked, not copied), still whole to its step."""
    key = path.with_name(f".{path.name}.key")
    path.unlink()
    records.write_jsonl(path, rows)
    if key.exists():
        steps.mark_done(path, key.read_text(encoding="utf-8").split()[0])


def _plant_text(case: Case, data: Path, draw: random.Random) -> None:
    if case.plant in TEXTS:
        kind, plant = TEXTS[case.plant]
        path = data / f"{kind}.jsonl"
        _rewrite(path, plant(records.read_jsonl(path), case, draw))
        if case.plant in OF_THE_SOURCE:
            held_out = data / "pairs_held_out.jsonl"
            _rewrite(held_out, plant(records.read_jsonl(held_out), case, draw))


def _plant_tokens(case: Case, task: Any, draw: random.Random) -> None:
    """Change the training tokens, and let the reference score what they have become."""
    from prefeval.harness import models, train
    from prefeval.minitrainers import pairs as pair_methods

    if case.plant not in (*TOKENS, "shaken_reference"):
        return
    rows = train.prepare_pairs(task)
    if case.plant in TOKENS:
        plant = TOKENS[case.plant]
        rows = [
            {**r, **{s: plant(r[s], case.strength, draw) for s in ("chosen", "rejected")}}
            for r in rows
        ]
    reference = models.load_model(task.reference, dtype="float32", device=task.device)
    if case.plant == "shaken_reference":
        _shake(reference, case.strength, case.seed)
    known = pair_methods.with_reference(
        reference, replace(train._pair_data(rows), ref_chosen_logps=None, ref_rejected_logps=None)
    )
    assert known.ref_chosen_logps is not None
    assert known.ref_rejected_logps is not None
    scores = zip(rows, known.ref_chosen_logps, known.ref_rejected_logps, strict=True)
    _rewrite(
        task.reference_dir / "train_pairs.jsonl",
        [{**r, "ref": [float(c), float(j)]} for r, c, j in scores],
    )


def _shake(model: Any, scale: float, seed: int) -> None:
    """Add noise of ``scale`` standard deviations to every matrix."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                noise = torch.randn(weights.shape, generator=generator)
                weights += scale * weights.std() * noise


@contextmanager
def _own_reference() -> Iterator[None]:
    """DPO against the policy itself, as if both were one model."""
    from prefeval.minitrainers import pairs

    real = pairs.PairLogps

    def one(chosen: Any, rejected: Any, *rest: Any, **named: Any) -> Any:
        found = real(chosen, rejected, *rest, **named)
        return found._replace(
            ref_chosen=found.chosen.detach(), ref_rejected=found.rejected.detach()
        )

    with mock.patch.object(pairs, "PairLogps", one):
        yield


@contextmanager
def _sorted_thumbs() -> Iterator[None]:
    """Thumbs in the order of a file that is sorted by label, never shuffled."""
    from prefeval.minitrainers import kto

    def batches(data: Any, config: Any) -> list[list[int]]:
        order = sorted(range(len(data.thumbs)), key=lambda i: not data.thumbs[i].desirable)
        size = config.batch_size
        one = [order[i : i + size] for i in range(0, len(order), size)]
        return [b for _ in range(int(config.epochs)) for b in one]

    with mock.patch.object(kto, "thumb_batches", batches):
        yield


PATCHES: dict[str, Callable[[], Any]] = {
    "own_reference": _own_reference,
    "sorted_thumbs": _sorted_thumbs,
}


def _train_and_measure(case: Case, task: Any, trial: Trial) -> None:
    from prefeval.harness import train
    from prefeval.harness.evaluate import Evaluator

    folder = Path(task.run) / "trials" / trial.name
    try:
        folder = train.train_trial(task, trial, lambda row: None)
    except PrefevalError as error:  # a trainer that stops itself leaves its log
        records.write_text(folder / "stopped.txt", str(error))
    if case.plant == "shaken_weights":
        _shake_saved(folder, case)
    evaluator = Evaluator(task)
    evaluator.measure_reference()
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        try:
            evaluator.measure(checkpoint, checkpoint)
        except PrefevalError as error:
            records.write_text(checkpoint / "stopped.txt", str(error))


def _shake_saved(folder: Path, case: Case) -> None:
    """Noise in the saved weights: a damaged copy, of no listed kind."""
    from prefeval.harness import models

    for checkpoint in folder.glob("checkpoint-*"):
        model = models.load_model(str(checkpoint), dtype="float32", device="cpu")
        _shake(model, case.strength, case.seed)
        model.save_pretrained(checkpoint)
