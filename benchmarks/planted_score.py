"""The diagnoses of planted runs against what was planted: from the whole run, and from its log as
another trainer would have written it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from planted import Case

from prefeval import records
from prefeval.harness import diagnose
from prefeval.metrics import stats

EVERY = 5  # steps a row of the foreign log
IN_LOGS = (
    "policy_is_reference", "wrong_reference", "one_class_batches", "not_learning", "high_beta",
    "low_beta_drift", "logprob_collapse", "diverged", "inverted_labels", "noisy_labels",
    "overfit", "near_identical_pairs", "no_anchor_drift", "kto_imbalance", "ppo_kl_runaway",
    "ppo_value_failing", "entropy_collapse", "nan",
)  # fmt: skip
"""Causes that a training log can show at all."""
DRIFTS = (
    "low_beta_drift", "logprob_collapse", "no_anchor_drift", "ppo_kl_runaway", "unknown",
    "format_unlearned", "tool_use_unlearned", "refusal_unlearned",
)  # fmt: skip
KL_FLOOR = 0.03  # nats/token


class Answer(NamedTuple):
    """What was said of one run: the first grave finding, "" where there is none."""

    case: Case
    said: str
    measurable: bool
    error: str = ""


def score(chosen: Sequence[Case], out: Path, *, misses: bool) -> int:
    """Print confusion and rates, from full runs and from logs alone, world by world."""
    there = [c for c in chosen if (out / "cases" / c.name / ".done").exists()]
    print(f"{len(there)} of {len(chosen)} runs are there")
    whole = [_whole(c, out) for c in there]
    logs = [b._replace(measurable=a.measurable) for a in whole for b in _foreign(a.case, out)]
    for world in ("tune", "judge"):
        for title, answers in (("full runs", whole), ("logs alone", logs)):
            _print(f"{title}, world {world!r}", [a for a in answers if a.case.world == world],
                   misses, logs=title == "logs alone")  # fmt: skip
    return 0


def _first(found: diagnose.Diagnosis) -> str:
    return next((f.cause for f in found.findings if f.severity != "info"), "")


def _trial(case: Case, out: Path) -> Path:
    return next((out / "cases" / case.name / "trials").iterdir())


def _whole(case: Case, out: Path) -> Answer:
    subject = diagnose.read(_trial(case, out))[0]
    return Answer(case, _first(subject.diagnosis), _measurable(case, subject.signals))


def _measurable(case: Case, signals: Any) -> bool:
    """Whether the planted fault left a mark: of a drift, that a behaviour is shown damaged or the
    win rate shown below 50; of other faults that or a KL. Those of measuring and of not moving
    leave theirs elsewhere."""
    quiet = ("not_learning", "high_beta", "judge_too_noisy", "suite_too_small", "")
    if case.cause in quiet or "damaged" not in signals:
        return True
    if signals["damaged"].value > 0 or signals["lc_win_rate"].ci_high < 50:
        return True
    return case.cause not in DRIFTS and bool(signals["kl_per_token"].value > KL_FLOOR)


# -- the log, as TRL would have written it ---------------------------------------------------------


def _foreign(case: Case, out: Path) -> list[Answer]:
    """The diagnosis of the run's log in TRL's form; nothing where the log cannot show the cause.
    Of some healthy ones a copy whose loss turns NaN."""
    if case.cause and case.cause not in (*IN_LOGS, "compound"):
        return []
    if case.cause == "near_identical_pairs" and case.strength < 1:
        return []  # means of batches show only what all pairs have
    folder = out / "logs" / case.name
    trial = _trial(case, out)
    rows = pd.DataFrame(records.read_jsonl(trial / "train.jsonl"))
    history = _history(case, rows, _evaluations(case, trial))
    answers = [_read(case, folder, history)]
    if not case.cause and case.seed % 100 == 0:
        at = len(history) // 2
        broken = [r if i < at else {**r, **_nan(r)} for i, r in enumerate(history)]
        planted = Case(f"{case.name}-nan", "nan", case.method, case.beta, case.seed, case.world)
        answers.append(_read(planted, out / "logs" / planted.name, broken))
    return answers


def _nan(row: dict[str, Any]) -> dict[str, float]:
    return {k: float("nan") for k in row if k in ("loss", "grad_norm")}


def _read(case: Case, folder: Path, history: list[dict[str, Any]]) -> Answer:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"log_history": history, "global_step": len(history)}))
    loss = {"dpo": "sigmoid"}.get(case.method, case.method)
    settings = {"beta": case.beta, "loss_type": loss, "trainer": case.method}
    (folder / "config.json").write_text(json.dumps(settings))
    subject = diagnose.read(path)[0]
    return Answer(case, _first(subject.diagnosis), True)


def _evaluations(case: Case, trial: Path) -> list[dict[str, Any]]:
    """Evaluation rows from the held-out pairs of each checkpoint."""
    found = []
    run = trial.parents[1]
    reference = pd.DataFrame(records.read_jsonl(run / "reference" / "pairs.jsonl"))
    for path in sorted(trial.glob("checkpoint-*/pairs.jsonl")):
        own = pd.DataFrame(records.read_jsonl(path)).merge(
            reference, on="pair_id", suffixes=("", "_ref")
        )
        up = case.beta * (own["chosen_logps"] - own["chosen_logps_ref"])
        down = case.beta * (own["rejected_logps"] - own["rejected_logps_ref"])
        found.append(
            {
                "step": int(path.parent.name.rpartition("-")[2]),
                "eval_loss": float(np.logaddexp(0, -(up - down)).mean()),
                "eval_rewards/chosen": float(up.mean()),
                "eval_rewards/rejected": float(down.mean()),
                "eval_rewards/margins": float((up - down).mean()),
                "eval_rewards/accuracies": float((up > down).mean()),
            }
        )
    return found


def _history(case: Case, rows: pd.DataFrame, evals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``EVERY`` steps averaged, under TRL's names."""
    if case.method in ("ppo", "grpo"):
        names = {
            "reward": "objective/scores", "kl": "objective/kl",
            "entropy": "policy/entropy_avg", "value_loss": "loss/value_avg",
            "policy_loss": "loss/policy_avg", "explained_variance": "val/var_explained",
            "length": "completions/mean_length", "grad_norm": "grad_norm",
        }  # fmt: skip
        every = 1
    else:
        rows = rows.assign(
            up=case.beta * rows["delta_chosen"], down=case.beta * rows["delta_rejected"]
        )
        rows["gap"] = rows["up"] - rows["down"]
        names = {
            "loss": "loss", "grad_norm": "grad_norm", "lr": "learning_rate",
            "chosen_logps": "logps/chosen", "rejected_logps": "logps/rejected",
            "up": "rewards/chosen", "down": "rewards/rejected", "gap": "rewards/margins",
            "accuracy": "rewards/accuracies",
        }  # fmt: skip
        if case.method == "simpo":  # TRL's rewards are beta times log-probabilities, no reference
            names = {k: v for k, v in names.items() if k not in ("up", "down", "gap")}
        every = EVERY
    found: list[dict[str, Any]] = []
    last = float(rows["step"].iloc[-1])
    for at in range(0, len(rows), every):
        part = rows.iloc[at : at + every]
        step = int(part["step"].iloc[-1])
        row = {"step": step, "epoch": case.settings.get("epochs", 1) * step / last}
        means = {v: float(part[k].mean()) for k, v in names.items() if k in part}
        found.append({**row, **{k: v for k, v in means.items() if np.isfinite(v)}})
        found += [e for e in evals if step - every < e["step"] <= step]
    return found


# -- figures ---------------------------------------------------------------------------------------


def _share(good: int, n: int) -> str:
    if not n:
        return "none"
    found = stats.proportion(np.repeat([1.0, 0.0], [good, n - good]))
    return (
        f"{good} of {n} = {100 * found.value:.1f}% "
        f"[{100 * found.ci_low:.1f}, {100 * found.ci_high:.1f}]"
    )


def _right(answer: Answer) -> bool:
    return answer.said in (answer.case.accepted or (answer.case.cause,))


def _print(title: str, answers: Sequence[Answer], misses: bool, *, logs: bool) -> None:
    healthy = [a for a in answers if not a.case.cause]
    faulty = [a for a in answers if a.case.cause]
    plain = [a for a in faulty if a.measurable and a.case.cause not in ("compound", "unknown")]
    print(f"\n## {title}")
    print(f"false alarms: {_share(sum(bool(a.said) for a in healthy), len(healthy))}")
    print(f"top cause right: {_share(sum(map(_right, plain)), len(plain))}")
    for kind in ("compound", "unknown"):
        some = [a for a in faulty if a.case.cause == kind]
        print(f"{kind}: {_share(sum(map(_right, some)), len(some))}")
    faint = [a for a in faulty if not a.measurable]
    print(f"without measurable damage: {_share(sum(map(_right, faint)), len(faint))}")
    table: dict[str, Counter[str]] = {}
    for a in answers:
        table.setdefault(a.case.cause or "healthy", Counter())[a.said or "healthy"] += 1
    print("| planted | n | said |\n|---|---|---|")
    for cause, said in sorted(table.items()):
        words = ", ".join(f"{k} {v}" for k, v in said.most_common())
        print(f"| `{cause}` | {sum(said.values())} | {words} |")
    if misses:
        for a in answers:
            if a.said != a.case.cause and not (a.case.cause and _right(a)):
                mark = "" if a.measurable else " (no measurable damage)"
                print(f"  {a.case.name}: {a.said or 'healthy'}{mark}")
