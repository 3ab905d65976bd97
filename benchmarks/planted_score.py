"""The diagnoses of planted runs against what was planted: from the whole run, and from its log as
another trainer would have written it."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
from planted_faults import Case

from prefeval import records
from prefeval.harness.diagnose import diagnose
from prefeval.harness.diagnose import of_run as diagnose_run
from prefeval.harness.diagnose import training as diagnose_training
from prefeval.metrics import diagnosis, stats
from prefeval.metrics.diagnosis import from_log, from_run, row_stats
from prefeval.metrics.diagnosis.terms import Diagnosis, Signal

EVERY = 5  # steps a row of the foreign log
IN_LOGS = (
    "policy_is_reference", "wrong_reference", "one_class_batches", "not_learning", "high_beta",
    "low_beta_drift", "logprob_collapse", "diverged", "inverted_labels", "noisy_labels",
    "overfit", "no_anchor_drift", "ppo_kl_runaway",
    "ppo_value_failing", "entropy_collapse", "nan",
)  # fmt: skip
"""Causes that these logs can show: KTO's imbalance needs counts, which they do not have, and a
random word makes a near-identical answer far less likely."""
DRIFTS = (
    "low_beta_drift", "logprob_collapse", "no_anchor_drift", "ppo_kl_runaway", "unknown",
    "format_unlearned", "tool_use_unlearned", "refusal_unlearned",
)  # fmt: skip
APART = {
    "compound": "two faults at once, one of them named",
    "unknown": "faults of no listed kind, called unknown or by the damage",
}
OFFSET = 0.1  # nats/sequence by which a wrong reference is wrong, of about 16
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
    print(f"{len(there)} of {len(chosen)} runs are there.")
    whole = [_whole(c, out) for c in _progress(there)]
    logs = [b._replace(measurable=a.measurable) for a in whole for b in _foreign(a.case, out)]
    for world in ("tune", "judge"):
        parts = {
            "full runs": [a for a in whole if a.case.world == world],
            "logs alone": [a for a in logs if a.case.world == world],
        }
        if not parts["full runs"]:
            continue
        print(f"\nWorld {world!r}:\n")
        _rates(parts)
        _matrix(parts)
        _precision(parts)
        for answer in [a for part in parts.values() for a in part] if misses else []:
            if not _right(answer):
                mark = "" if answer.measurable else " (no measurable damage)"
                print(f"  {answer.case.name}: {answer.said or 'healthy'}{mark}")
    return 0


LABELS = diagnose_training._labels
FOUND: dict[str, dict[str, Signal]] = {}


def _labels_once(trained_on: Path, held_out: Path) -> dict[str, Signal]:
    """What text predicts of the labels, once for all cases with the same pairs."""
    key = records.content_hash([f.read_text(encoding="utf-8") for f in (trained_on, held_out)])
    if key not in FOUND:
        FOUND[key] = LABELS(trained_on, held_out)
    return FOUND[key]


def _progress(there: Sequence[Case]) -> Iterator[Case]:
    for number, case in enumerate(there, 1):
        print(f"\r{number}/{len(there)}", end="", file=sys.stderr, flush=True)
        yield case
    print(file=sys.stderr)


def _first(found: Diagnosis) -> str:
    return next((f.cause for f in found.findings if f.severity != "info"), "")


def _trial(case: Case, out: Path) -> Path:
    return next((out / "cases" / case.name / "trials").iterdir())


def _whole(case: Case, out: Path) -> Answer:
    signals = _signals(case, out)
    found = diagnosis.diagnose(signals, method=case.method)
    return Answer(case, _first(found), _measurable(case, signals))


def _signals(case: Case, out: Path) -> dict[str, Signal]:
    """A run's signals, kept for as long as the code that reads them is the same: rules may change
    without reading 300 runs again."""
    sources = [m.__file__ for m in (diagnose_run, diagnose_training, from_log, from_run, row_stats)]
    key = records.content_hash([Path(f).read_text(encoding="utf-8") for f in sources])
    kept = out / "signals" / f"{case.name}.json"
    if kept.exists() and (saved := records.read_json(kept))["key"] == key:
        return {
            name: Signal(*(math.nan if v is None else v for v in values))
            for name, values in saved["signals"].items()
        }
    with mock.patch.object(diagnose_training, "_labels", _labels_once):
        signals = diagnose.read(_trial(case, out))[0].signals
    plain = {name: [s.value, s.ci_low, s.ci_high, s.n] for name, s in signals.items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    records.write_json(kept, {"key": key, "signals": plain})
    return dict(signals)


def _measurable(case: Case, signals: Any) -> bool:
    """Whether the planted fault left a mark: of a drift, that a behaviour is shown damaged or the
    win rate shown below 50; of other faults that or a KL. Those of measuring and of not moving
    leave theirs elsewhere."""
    quiet = ("not_learning", "high_beta", "judge_too_noisy", "suite_too_small", "")
    if case.cause in quiet or "damaged" not in signals:
        return True
    if case.cause == "wrong_reference":
        return bool(signals["pair_start"].value > OFFSET)
    if signals["damaged"].value > 0 or signals["lc_win_rate"].ci_high < 50:
        return True
    return case.cause not in DRIFTS and bool(signals["kl_per_token"].value > KL_FLOOR)


# -- the log, as TRL would have written it ---------------------------------------------------------


def _foreign(case: Case, out: Path) -> list[Answer]:
    """The diagnosis of the run's log in TRL's form; nothing where the log cannot show the cause.
    Of some healthy ones a copy whose loss turns NaN."""
    if case.cause and case.cause not in (*IN_LOGS, "compound"):
        return []
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
    return sorted(found, key=lambda r: r["step"])


# -- figures ---------------------------------------------------------------------------------------


def _share(good: int, n: int) -> str:
    if not n:
        return ""
    found = stats.proportion(np.repeat([1.0, 0.0], [good, n - good]))
    return (
        f"{good} of {n} = {100 * found.value:.1f}% "
        f"[{100 * found.ci_low:.1f}, {100 * found.ci_high:.1f}]"
    )


def _right(answer: Answer) -> bool:
    return answer.said in (answer.case.accepted or (answer.case.cause,))


def _rates(parts: Mapping[str, Sequence[Answer]]) -> None:
    """Rates with 95% intervals, a column a kind of input."""
    rows: dict[str, list[str]] = {}
    for answers in parts.values():
        healthy = [a for a in answers if not a.case.cause]
        faulty = [a for a in answers if a.case.cause]
        plain = [a for a in faulty if a.measurable and a.case.cause not in APART]
        kinds = {
            "false alarms on healthy runs": (sum(not _right(a) for a in healthy), len(healthy)),
            "top cause right": (sum(map(_right, plain)), len(plain)),
        }
        for kind in APART:
            some = [a for a in faulty if a.case.cause == kind]
            kinds[APART[kind]] = (sum(map(_right, some)), len(some))
        faint = [a for a in faulty if not a.measurable and a.case.cause not in APART]
        kinds["faults without measurable damage, named"] = (sum(map(_right, faint)), len(faint))
        for name, (good, n) in kinds.items():
            rows.setdefault(name, []).append(_share(good, n))
    print(f"| | {' | '.join(parts)} |\n|---|{'---|' * len(parts)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def _matrix(parts: Mapping[str, Sequence[Answer]]) -> None:
    """What was said of each planted cause, the answers that count as right first."""
    causes = sorted({a.case.cause for part in parts.values() for a in part})
    heads = " | ".join(f"{name}: right, said instead" for name in parts)
    print(f"\n| planted | {heads} |\n|---|{'---|' * len(parts)}")
    for cause in causes:
        cells = []
        for answers in parts.values():
            some = [a for a in answers if a.case.cause == cause]
            wrong = Counter(_word(a) for a in some if not _right(a))
            said = "".join(f", {word} {n}" for word, n in wrong.most_common())
            cells.append(f"{sum(map(_right, some))}/{len(some)}{said}" if some else "")
        name = f"`{cause}`" if cause and cause not in APART else APART.get(cause, "healthy")
        print(f"| {name} | {' | '.join(cells)} |")
    print()


def _word(answer: Answer) -> str:
    word = f"`{answer.said}`" if answer.said else "nothing"
    return word if answer.measurable else f"{word} (faint)"


def _precision(parts: Mapping[str, Sequence[Answer]]) -> None:
    """Of each answer, how often it was right."""
    for name, answers in parts.items():
        said = Counter(a.said for a in answers if a.said)
        right = Counter(a.said for a in answers if a.said and _right(a))
        words = ", ".join(f"{cause} {right[cause]}/{n}" for cause, n in sorted(said.items()))
        print(f"{name}, right of those said: {words}")
