"""TRL's DPOTrainer on a real model and real pairs, stopped by its evaluation: SmolLM2-135M-Instruct
on Anthropic's harmless-base pairs (human preferences; offensive text), on a laptop's CPU.

    python scripts/callback_run.py --data harmless-base.test.jsonl.gz --out runs/callback

Few, short pairs over many passes at a high rate: made to overfit within minutes. What stops it is
the share of held-out pairs in which the chosen answer has gained on the rejected one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
TRAIN, LONGEST = 32, 700  # pairs to train on, and characters of a whole row at most


def arguments() -> argparse.Namespace:
    """Options of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the pairs, as published")
    parser.add_argument("--model", type=Path, help="the model's folder; fetched if not given")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=40, help="to measure with")
    parser.add_argument("--out", type=Path, default=Path("runs/callback"))
    return parser.parse_args()


def fetch() -> Path:
    """The model's folder, fetched into the user's cache where it is not there yet."""
    command = [sys.executable, str(SCRIPTS / "fetch_smollm2.py")]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(found.stdout.split()[-1])


def split(data: Path, out: Path) -> tuple[list[dict[str, Any]], Path]:
    """Rows to train on, and a file of others to measure with, both of short conversations."""
    from prefeval.harness.data import load_pairs, to_trl

    rows = [to_trl(pair) for pair in load_pairs(data).items]
    short = [row for row in rows if len(json.dumps(row)) < LONGEST]
    out.mkdir(parents=True, exist_ok=True)
    held_out = out / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in short[TRAIN:]), encoding="utf-8")
    return short[:TRAIN], held_out


def main() -> int:
    """Train until the evaluation stops it, and say what it saw."""
    options = arguments()
    if not options.data.is_file():
        print(f"callback_run: no such file: {options.data}; give Anthropic's harmless-base pairs")
        return 2
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from prefeval import PrefevalCallback

    model = options.model or fetch()
    train, held_out = split(options.data, options.out)
    print(f"{len(train)} pairs to train on", flush=True)

    callback = PrefevalCallback(
        data=held_out, metric="implicit_accuracy", patience=2, prompts=options.prompts,
        judge_pairs=32, max_new_tokens=24, max_length=128, dtype="bfloat16",
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16),
        args=DPOConfig(
            output_dir=str(options.out), num_train_epochs=options.epochs, learning_rate=5e-4,
            per_device_train_batch_size=4, gradient_accumulation_steps=2, max_length=128,
            save_strategy="epoch", save_only_model=True, save_total_limit=2, logging_steps=2,
            bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none", seed=0,
            disable_tqdm=True, precompute_ref_log_probs=True,
        ),
        train_dataset=Dataset.from_list(
            [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in train]
        ),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=16, task_type="CAUSAL_LM", target_modules="all-linear"),
        callbacks=[callback],
    )  # fmt: skip
    start = time.monotonic()
    trainer.train()

    print("step  epoch  held-out accuracy [95%]   KL     LC WR  length  worst  training accuracy")
    history = trainer.state.log_history
    for row in history:
        if "eval_prefeval/kl" in row:
            r = {k.removeprefix("eval_prefeval/"): v for k, v in row.items()}
            before = [h for h in history if "rewards/accuracies" in h and h["step"] <= r["step"]]
            print(
                f"{r['step']:4d}  {r['epoch']:5.1f}  {r['implicit_accuracy']:5.1f} "
                f"[{r['implicit_accuracy_ci_low']:.1f}, {r['implicit_accuracy_ci_high']:.1f}]"
                f"  {r['kl']:11.3g}  {r.get('lc_win_rate', float('nan')):5.1f}"
                f"  {r['length_ratio']:6.2f}  {r['worst_retention']:5.1f}"
                f"  {100 * before[-1]['rewards/accuracies']:5.0f}"
            )
    state = trainer.state
    print(
        f"stopped at step {state.global_step} of {state.max_steps} (epoch {state.epoch:.0f} of "
        f"{options.epochs}): {callback.stopped or 'not by the evaluation'}; "
        f"best {state.best_model_checkpoint} ({state.best_metric:.1f}); "
        f"{time.monotonic() - start:.0f} s"
    )
    return 0 if callback.stopped else 1


if __name__ == "__main__":
    sys.exit(main())
