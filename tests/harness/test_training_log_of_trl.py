"""Logs that TRL itself wrote, by training the lab's reference: what is found in them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefeval.harness import data, models
from prefeval.harness.lab import lab
from prefeval.harness.logs import training_log

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "`past_key_values` is deprecated:FutureWarning",  # transformers, as the lab is sampled
        "`gradient_checkpointing` is deprecated:FutureWarning",  # transformers, at TRL's settings
        "`is_gradient_checkpointing` is deprecated:FutureWarning",  # transformers, at TRL's DPO
        "You are importing from 'trl.experimental'",  # where older TRL keeps KTO
    )
]
STEPS, EVERY = 30, 10
LOGPS = {"chosen_logps": "logps/chosen", "rejected_logps": "logps/rejected"}
REWARDS = {
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
    "reward_margin": "rewards/margins",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> lab.Lab:
    pytest.importorskip("trl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return lab.build(
            lab.ReferenceConfig(people=16, hidden=48, demonstrations=640, epochs=1),
            lab.DataConfig(pairs=64, thumbs=64),
        )


def train(method: str, built: lab.Lab, out: Path) -> None:
    """Thirty steps of TRL's trainer, evaluated every ten, with a checkpoint at the fifteenth."""
    import datasets
    import trl

    kinds: Mapping[str, Any] = {
        "dpo": (trl.DPOTrainer, trl.DPOConfig, data.load_pairs, "pairs.jsonl"),
        "kto": (trl.KTOTrainer, trl.KTOConfig, data.load_thumbs, "thumbs.jsonl"),
    }
    trainer, config, load, name = kinds[method]
    unused = ("id", "behaviour", "cluster")
    rows = [
        {key: value for key, value in data.to_trl(item).items() if key not in unused}
        for item in load(built.data / name).items
    ]
    args = config(
        output_dir=str(out), report_to="none", logging_steps=1, max_steps=STEPS, seed=0, beta=0.1,
        learning_rate=1e-3, per_device_train_batch_size=8, per_device_eval_batch_size=8,
        eval_strategy="steps", eval_steps=EVERY, save_strategy="steps", save_steps=STEPS // 2,
        disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )  # fmt: skip
    reference = str(built.reference)
    policy, fixed = (models.load_model(reference, dtype="float32", device="cpu") for _ in range(2))
    trainer(
        policy,
        ref_model=fixed,
        args=args,
        train_dataset=datasets.Dataset.from_list(rows[16:]),
        eval_dataset=datasets.Dataset.from_list(rows[:16]),
        processing_class=models.load_tokenizer(reference),
    ).train()


@pytest.mark.parametrize(("method", "first_loss"), [("dpo", math.log(2)), ("kto", 0.5)])
def test_what_trl_wrote_and_printed_is_found(
    method: str,
    first_loss: float,
    built: lab.Lab,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import huggingface_hub

    folder = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
        train(method, built, folder)
    log = training_log.read(folder)
    assert log.path == folder / f"checkpoint-{STEPS}" / "trainer_state.json"
    assert (log.method, log.settings["max_steps"]) == (method, STEPS)
    assert log.train["step"].tolist() == list(range(1, STEPS + 1))
    assert log.evals["step"].tolist() == list(range(EVERY, STEPS + 1, EVERY))
    assert log.unrecognised == ()
    assert ["training_args.bin" in note for note in log.notes] == [True]

    history = json.loads(log.path.read_text())["log_history"]
    rows = [row for row in history if "loss" in row]
    own = {"dpo": {"accuracy": "rewards/accuracies"}, "kto": {"kl": "kl"}}[method]
    names = {"loss": "loss", "lr": "learning_rate", "grad_norm": "grad_norm"}
    for column, name in {**names, **LOGPS, **REWARDS, **own}.items():
        assert log.names[column] == name
        written = [row.get(name, math.nan) for row in rows]  # KTO: a batch may lack a class
        np.testing.assert_array_equal(log.train[column], written)
    for column, name in {**LOGPS, **REWARDS, "loss": "loss", **own}.items():
        written = [row[f"eval_{name}"] for row in history if "eval_loss" in row]
        np.testing.assert_array_equal(log.evals[column], written)

    assert log.train["loss"][0] == pytest.approx(first_loss, abs=1e-6)  # policy = reference
    assert abs(log.train["reward_chosen"][0]) < 1e-6
    if method == "dpo":
        margin = log.train["reward_chosen"] - log.train["reward_rejected"]
        np.testing.assert_allclose(log.train["reward_margin"], margin, atol=1e-5)

    console = tmp_path / "console.log"
    console.write_text(capsys.readouterr().out)
    shown = training_log.read(console)
    assert len(shown.evals) == len(log.evals)
    for column in log.names.keys() - {"step", "epoch"}:
        np.testing.assert_allclose(shown.train[column], log.train[column], rtol=2e-3, atol=2e-4)
