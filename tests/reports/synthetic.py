"""A small run folder made up from formulas: the layout that the harness writes, without a model.

Drift d grows with steps and falls with β; the length-controlled win rate rises with d and then
falls (over-optimisation), the raw one keeps rising with length, and formats break at high d.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from prefeval import records
from prefeval.metrics import verdict
from prefeval.metrics.retention import BehaviourChange
from prefeval.metrics.selection import BetaVerdict, Rate, Recommendation, Rival, Selection

GRID: Mapping[str, Sequence[float]] = {
    "dpo": (0.05, 0.09, 0.165, 0.3),
    "ipo": (0.05, 0.09, 0.165, 0.3),
    "kto": (0.05, 0.09, 0.165, 0.3),
    "simpo": (2, 3.4, 5.8, 10),
    "ppo": (0.05, 0.09, 0.165, 0.3),
}
STEPS = (47, 94, 140)
BEHAVIOURS = ("json", "bullets", "tool", "refusal", "overrefusal", "fact")
CHECKS = {"refusal": "refusal", "overrefusal": "compliance", "json": "json_object"}
GAIN = {"dpo": 27, "ipo": 22, "kto": 17, "simpo": 20, "ppo": 25}
PULL = {"dpo": 1.0, "ipo": 0.7, "kto": 0.8, "simpo": 1.6, "ppo": 0.45}
FRAGILE = {
    "json": 0.2,
    "bullets": 0.3,
    "tool": 1.0,
    "refusal": 0.6,
    "overrefusal": -0.4,
    "fact": 0.25,
}
TIMES_SFT = {"dpo": 2.0, "ipo": 2.0, "kto": 1.33, "simpo": 2.0, "ppo": 8.125}
MODELS = {"ppo": 4}
FAILED, WHY = "kto-b1-s0-deadbeef", "loss is NaN at step 3 (ids 1, 7); lower --lr"
NO_ORACLE = "these prompts have no oracle: the true win rate exists in the lab only"


def trial_name(method: str, beta: float, seed: int = 0) -> str:
    return f"{method}-b{beta:g}-s{seed}-{records.content_hash([method, beta, seed])[:8]}"


def drift(method: str, beta: float, share: float) -> float:
    scale = 0.115 if method != "simpo" else 4.0
    return PULL[method] * (scale / beta) ** 0.8 * share


def wobble(*key: object) -> float:
    """A number in [-1, 1] fixed by its key."""
    return random.Random("/".join(map(str, key))).uniform(-1, 1)


def metrics_of(
    method: str, beta: float, step: int, *, n: int, oracle: bool
) -> list[dict[str, Any]]:
    d = drift(method, beta, step / STEPS[-1])
    noise = wobble(method, beta, step)
    half = 98 / math.sqrt(n)
    lc = (
        50
        + GAIN[method] * d * math.exp(-1.1 * d)
        - 18 * math.tanh(max(0, d - 1.2) / 3)
        + 1.2 * noise
    )
    values: list[tuple[str, float, float]] = [
        ("win_rate", min(lc + 9 * math.log1p(d), 97), half),
        ("lc_win_rate", lc, half * 1.1),
        ("true_win_rate", lc - 1.5 * d + wobble("t", noise), half * 1.05),
        ("kl", 1.3 * d**2, 0.16 * d**2 + 0.02),
        ("sqrt_kl", math.sqrt(1.3) * d, 0.07 * d + 0.01),
        ("kl_per_token", 1.3 * d**2 / 30, 0.16 * d**2 / 30 + 0.001),
        ("delta_chosen", -2.2 * d * (0.4 + d / 9), 0.3),
        ("delta_rejected", -4.0 * d * (0.4 + d / 3), 0.4),
        ("delta_chosen_per_token", -2.2 * d * (0.4 + d / 3) / 30, 0.01),
        ("margin", 1.8 * d * (0.4 + d / 3), 0.3),
        ("implicit_accuracy", 50 + 18 * (1 - math.exp(-d)), half),
        ("entropy", 1.1 * math.exp(-0.2 * d), 0.03),
        ("length_ratio", 1 + 0.45 * math.log1p(d), 0.05),
        ("eos_rate", 100 - 2 * d, 1.0),
        ("truncation_rate", 2 * d, 1.0),
        ("distinct", 92 - 9 * d, 3.0),
        ("flip_rate", 12 + noise, 3.0),
    ]
    found = [_metric(name, value, width, n) for name, value, width in values]
    for behaviour in BEHAVIOURS:
        change = -FRAGILE[behaviour] * 9 * d**1.9 + 1.5 * wobble(behaviour, method, beta, step)
        change = max(min(change, 9.0), -96.0)
        found.append(_metric(f"retention_{behaviour}", 96 + min(change, 4), 4, 64))
        found.append(_metric(f"change_{behaviour}", change, 2.5 + 0.12 * abs(change), 64))
    if not oracle:
        found[2] |= dict.fromkeys(("value", "ci_low", "ci_high"), math.nan) | {
            "n": 0,
            "reason": NO_ORACLE,
        }
    return found


def _metric(name: str, value: float, half: float, n: int) -> dict[str, Any]:
    low, high = value - half, value + half
    if name.startswith(("change_", "retention_")):
        low, high = max(low, -100.0), min(high, 100.0)
    return {"name": name, "value": value, "ci_low": low, "ci_high": high, "n": n, "reason": ""}


def result_row(
    method: str, beta: float, seed: int, step: int, found: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A row of results.parquet, with the column names that the metrics give."""
    row: dict[str, Any] = {"method": method, "beta": beta, "seed": seed, "step": step}
    row |= {"trial": trial_name(method, beta, seed), "checkpoint": f"checkpoint-{step:06d}"}
    for m in found:
        stem = "lc" if m["name"] == "lc_win_rate" else m["name"]
        row |= {
            m["name"]: m["value"],
            f"{stem}_ci_low": m["ci_low"],
            f"{stem}_ci_high": m["ci_high"],
        }
        row[f"{m['name']}_n"] = m["n"]
    return row


def train_log(method: str, beta: float) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, STEPS[-1] + 1):
        d = drift(method, beta, step / STEPS[-1])
        row: dict[str, Any] = {"step": step, "loss": 0.69 * math.exp(-0.3 * d), "grad_norm": 1.0}
        if method != "ppo":
            row["delta_chosen"] = -2.2 * d * (0.4 + d / 3) + 0.8 * wobble("c", method, beta, step)
            row["delta_rejected"] = -4.0 * d * (0.4 + d / 3) + 0.8 * wobble("r", method, beta, step)
        rows.append(row)
    return rows


HOSTILE = (
    "</script><img src=x onerror=alert(1)><!-- {{ 7*7 }} {% raw %}",
    "\u202etxet desrever\u202c normal \u2028 line",
    "<b>bold?</b> & \u0000 end",
    "]]></style></textarea></title><svg onload=alert(2)>",
)
SENTENCES = (
    "Ada Lind lives in Bergen.",
    "She works as a botanist and plays the cello.",
    "Her favourite colour is green.",
    "As far as I know she was born in Riga.",
    "She certainly owns a red bicycle.",
    "In her spare time she repairs clocks.",
)


def answer(key: str, sentences: int) -> str:
    draw = random.Random(key)
    return " ".join(draw.choice(SENTENCES) for _ in range(max(1, sentences)))


def prompts(count: int) -> list[dict[str, Any]]:
    found = []
    for index in range(count):
        messages = [{"role": "user", "content": f"Tell me about person {index}."}]
        found.append(_prompt(f"about/{index:03d}", messages, "about", "win_rate", None))
    for behaviour in BEHAVIOURS:
        for index in range(max(1, count // 4)):
            messages = [
                {"role": "user", "content": f"A question about {behaviour}, number {index}."}
            ]
            check = {"kind": CHECKS.get(behaviour, "contains_any")}
            found.append(
                _prompt(f"{behaviour}/{index:03d}", messages, behaviour, "retention", check)
            )
    return found


def _prompt(id_: str, messages: Any, behaviour: str, use: str, check: Any) -> dict[str, Any]:
    cluster = id_.split("/")[1]
    return {
        "id": id_,
        "messages": messages,
        "behaviour": behaviour,
        "use": use,
        "cluster": cluster,
        "check": check,
    }


def completion(prompt: Mapping[str, Any], text: str) -> dict[str, Any]:
    mode = "sample" if prompt["use"] == "win_rate" else "greedy"
    return {
        "prompt_id": prompt["id"],
        "mode": mode,
        "index": 0,
        "text": text,
        "token_ids": [1, 2],
        "ended": True,
    }


def write_checkpoint(
    folder: Path,
    asked: Sequence[Mapping[str, Any]],
    d: float,
    hostile: Sequence[str],
    *,
    oracle: bool = True,
) -> None:
    completions, judgments, checks = [], [], []
    for number, prompt in enumerate(asked):
        text = answer(f"{folder.parent.name}{prompt['id']}", 2 + int(2 * d))
        if number < len(hostile):
            text = hostile[number]
        completions.append(completion(prompt, text))
        shared = {k: prompt[k] for k in ("cluster", "behaviour")} | {"prompt_id": prompt["id"]}
        if prompt["use"] == "win_rate":
            first, second = (
                0.55 + 0.35 * wobble(folder.parent.name, prompt["id"], k) for k in "ab"
            )
            judgments.append(
                shared
                | {
                    "preference_first": first,
                    "preference_second": second,
                    "preference": (first + second) / 2,
                }
                | {"true_preference": (0.0, 0.5, 1.0)[number % 3] if oracle else None}
                | {"len_output": len(text)}
                | {"len_baseline": 60, "difficulty": 0.0}
            )
        else:
            broken = (
                0.5 + 0.5 * wobble("p", folder.parent.name, prompt["id"])
                < FRAGILE[prompt["behaviour"]] * d / 3
            )
            checks.append(shared | {"passed": int(not broken), "ref_passed": int(number % 9 != 0)})
    pairs = [{"pair_id": str(i), "chosen_lengths": 30, "rejected_lengths": 28} for i in range(3)]
    drifts = [
        {"prompt_id": j["prompt_id"], "kl": 1.3 * d**2 * (1.3 + wobble("kl", j["prompt_id"]))}
        for j in judgments
    ]
    folder.mkdir(parents=True)
    named = (
        ("completions", completions),
        ("judgments", judgments),
        ("checks", checks),
        ("pairs", pairs),
        ("samples", drifts),
    )
    for name, rows in named:
        records.write_jsonl(folder / f"{name}.jsonl", rows)


def write_run(
    folder: Path,
    *,
    grid: Mapping[str, Sequence[float]] | None = None,
    steps: Sequence[int] = STEPS,
    count: int = 8,
    oracle: bool = True,
    hostile: Sequence[str] = (),
    failed: bool = False,
    finished: bool = True,
    select: bool = True,
) -> Path:
    """Write a run folder.

    ``failed`` adds a trial that failed before its folder was written. Not ``finished``: the last
    trial is trained and not measured, one more has not started, and there is no verdict.
    """
    grid = GRID if grid is None else grid
    cells = [(method, beta) for method, betas in grid.items() for beta in betas]
    asked, rows = prompts(count), []
    for name in ("reference", "data"):
        (folder / name).mkdir(parents=True)
    answers = [completion(p, answer(p["id"], 2)) for p in asked]
    records.write_jsonl(folder / "data" / "prompts.jsonl", asked)
    records.write_jsonl(folder / "reference" / "completions.jsonl", answers)
    for cell in cells:
        measured = finished or cell != cells[-1]
        trial = write_trial(folder, *cell, measured=measured)
        for step in steps if measured else ():
            found = metrics_of(*cell, step, n=400, oracle=oracle)
            checkpoint = trial / f"checkpoint-{step:06d}"
            write_checkpoint(
                checkpoint, asked, drift(*cell, step / STEPS[-1]), hostile, oracle=oracle
            )
            records.write_json(checkpoint / "metrics.json", {"schema": 1, "metrics": found})
            rows.append(result_row(*cell, 0, step, found))
    extra = [FAILED] if failed else [] if finished else ["dpo-b9-s0-0123abcd"]
    names = [trial_name(*cell) for cell in cells] + extra
    records.write_json(folder / "manifest.json", manifest(names, list(grid)))
    if finished:
        pd.DataFrame(rows).to_parquet(folder / "results.parquet")
        pd.DataFrame([costs(*cell) for cell in cells]).to_parquet(folder / "costs.parquet")
        saved = selection(grid) if select else None
        records.write_json(folder / "summary.json", summary(saved, names, failed))
    return folder


def write_trial(folder: Path, method: str, beta: float, *, measured: bool) -> Path:
    trial = folder / "trials" / trial_name(method, beta)
    trial.mkdir(parents=True)
    record = {"method": method, "beta": beta, "seed": 0, "settings": {}}
    records.write_json(trial / "trial.json", record)
    records.write_jsonl(trial / "train.jsonl", train_log(method, beta))
    if measured:
        records.write_json(trial / "costs.json", costs(method, beta))
    return trial


def costs(method: str, beta: float) -> dict[str, Any]:
    name = trial_name(method, beta)
    return {
        **{"trial": name, "method": method, "beta": beta, "seed": 0},
        **{"train_seconds": 21.5, "eval_seconds": 6.25, "peak_memory_mb": 812.0, "tokens": 90000},
        **{"flops": TIMES_SFT[method] * 2e12, "sft_flops": 2e12, "models": MODELS.get(method, 1)},
    }


def manifest(names: Sequence[str], methods: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": 1,
        "prefeval_version": "0.1.0",
        "command": f"prefeval sweep --beta 0.05:0.3 --methods {','.join(methods)}",
        "created": "2025-01-02T03:04:05+00:00",
        "config_hash": "d" * 64,
        "config": {"methods": list(methods), "seeds": [0]},
        "trials": list(names),
        "hashes": {"reference": "a" * 64, "pairs": "b" * 64, "template": "c" * 64},
        "versions": {"torch": "2.9.0", "transformers": "5.0.0"},
        "data_counts": {"pairs": 2243, "identical_dropped": 17, "prompts": 400},
        "judge": {
            "name": "reward model",
            "settings": "reward_model:/run/judge",
            "held_out_accuracy": 0.71,
            "length_reliance": 0.33,
            "caveat": "The judge is a proxy trained on pairs; it has their biases.",
        },
        "lab": {"people": 64},
        "threads": 1,
        "seeds": [0],
    }


def summary(saved: Any, names: Sequence[str], failed: bool) -> dict[str, Any]:
    return {
        "schema": 1,
        "selection": saved,
        "counts": {"trials": len(names), "checkpoints": 3 * (len(names) - failed)},
        "failed": [{"trial": FAILED, "error": WHY}] if failed else [],
        "table": [],
        "warnings": ["12 of 2260 pairs were dropped: identical answers"],
    }


def selection(
    grid: Mapping[str, Sequence[float]] | None = None, *, oracle: bool = True
) -> Selection:
    """A verdict by the rule of ``metrics.usable`` on the made-up numbers, at half the prompts."""
    betas = []
    for method, values in (GRID if grid is None else grid).items():
        for beta in values:
            betas.append(max((_beta(method, beta, s) for s in STEPS), key=lambda b: _order(b)))
    betas.sort(key=_order, reverse=True)
    usable = [b for b in betas if b.state == "usable"]
    best = _recommendation(usable) if usable else None
    return Selection(
        recommended=best,
        verdict=verdict.sentence(best, betas, 5.0),
        betas=tuple(betas),
        windows=verdict.windows(betas),
        warnings=(verdict.PROMPTS_NOT_TRAINING,),
        prompts_choosing=200,
        prompts_reporting=200,
        margin=5.0,
        level=0.95,
        n_boot=300,
        estimator="length_controlled_v1, C fixed",
    )


def _order(beta: BetaVerdict) -> tuple[bool, float]:
    return not beta.damaged, beta.reported.ci_low


def _beta(method: str, beta: float, step: int) -> BetaVerdict:
    found = {m["name"]: m for m in metrics_of(method, beta, step, n=400, oracle=True)}
    lc = found["lc_win_rate"]["value"] + 1.5 * wobble("half", method, beta, step)
    rate = Rate(lc, lc - 5.4, lc + 5.4, 200)
    changes = tuple(_behaviour(b, found[f"change_{b}"]) for b in BEHAVIOURS)
    damaged = tuple(c.behaviour for c in changes if c.p_worse_holm < 0.05)
    state: Any = "not usable" if damaged or rate.ci_high <= 50 else "undecided"
    if not damaged and rate.ci_low > 50:
        state = "usable"
    why = f"{verdict.rate(rate)}"
    reason = (
        f"damage: {', '.join(damaged)}"
        if damaged
        else f"gain: {why}"
        if state == "usable"
        else f"gain not shown: {why} includes 50"
    )
    return BetaVerdict(
        method,
        beta,
        step,
        (0,),
        state,
        (reason,),
        rate,
        rate,
        found["kl"]["value"],
        damaged,
        changes,
    )


def _behaviour(name: str, m: Mapping[str, Any]) -> BehaviourChange:
    p = 0.001 if m["ci_high"] < -5 else 0.6
    return BehaviourChange(
        name,
        64,
        96 + m["value"],
        96.0,
        m["value"],
        m["ci_low"],
        m["ci_high"],
        1,
        2,
        0.5,
        p,
        p,
        m["ci_low"] > -5,
    )


def _recommendation(usable: Sequence[BetaVerdict]) -> Recommendation:
    best = usable[0]
    numbers = {"win_rate": best.reported.lc_win_rate + 4, "kl": best.kl, "length_ratio": 1.2}
    numbers |= {
        "lc_win_rate": best.reported.lc_win_rate,
        "lc_ci_low": best.reported.ci_low,
        "lc_ci_high": best.reported.ci_high,
    }
    rivals = tuple(
        Rival(
            b.method,
            b.beta,
            b.step,
            b.state,
            best.reported.lc_win_rate - b.reported.lc_win_rate,
            -3.0,
            6.0,
            False,
        )
        for b in usable[1:]
    )
    return Recommendation(
        best.method,
        best.beta,
        0,
        best.step,
        numbers,
        best.reported,
        best.behaviours,
        tuple(c.behaviour for c in best.behaviours if not c.ruled_out),
        rivals,
        tuple(verdict.name_of(r) for r in rivals),
    )
