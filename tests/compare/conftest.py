"""Small runs of the layout that the harness writes, with planted differences and no model."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prefeval import records
from prefeval.harness.task import Sizes, Task
from prefeval.records import Trial

HOSTILE = (
    "</script><img src=x onerror=alert(1)><!-- {{ 7*7 }} {% raw %}",
    "\u202etxet desrever\u202c \u2028 line \x1b[31mred\x1b[0m \x00 ``` | end",
)
WORDS = ("Ada", "lives", "in", "Bergen", "and", "keeps", "one", "dog", "near", "the", "harbour")
RunWriter = Callable[..., Path]


@dataclass(frozen=True)
class Planted:
    """One checkpoint: how it differs from the reference."""

    win: float = 0.0
    kl: float = 1.0
    length: float = 1.0
    json_lost: int = 0
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """A run to write: its checkpoints by (β, step), and what another run may have otherwise."""

    checkpoints: Mapping[tuple[float, int], Planted]
    recommended: tuple[float, int] | None = None
    prompts: int = 60
    judge: str = "lab:seed=0"
    hashes: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    changed_prompts: int = 0
    length_unit: str = "characters"
    config: Mapping[str, Any] = field(default_factory=dict)
    oracle: bool = True


def _prompts(count: int, changed: int) -> list[dict[str, Any]]:
    found = []
    for use, behaviour in (("win_rate", "about"), ("retention", "json")):
        for i in range(count):
            text = f"Tell me of person {i}{' again' if i < changed else ''}."
            found.append(
                {"id": f"{behaviour}/{i:03d}", "messages": [{"role": "user", "content": text}]}
                | {"behaviour": behaviour, "use": use, "cluster": f"c{i:03d}"}
                | {"check": None if use == "win_rate" else {"kind": "json_object"}}
            )
    return found


def _say(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(max(1, words)))


def _completion(prompt: str, mode: str, index: int, text: str) -> dict[str, Any]:
    n = max(1, len(text.split()))
    return {"prompt_id": prompt, "mode": mode, "index": index, "text": text,
            "token_ids": list(range(n)), "ended": True}  # fmt: skip


def _checkpoint(folder: Path, asked: list[dict[str, Any]], plan: Planted, oracle: bool) -> None:
    draw = random.Random(f"{folder.parent.name}{folder.name}")
    rows: dict[str, list[dict[str, Any]]] = {n: [] for n in ("completions", "judgments", "samples",
                                                             "pairs", "checks")}  # fmt: skip
    texts = list(plan.texts)
    for i, prompt in enumerate(asked):
        text = texts.pop(0) if texts else _say(draw, round(10 * plan.length + draw.gauss(0, 2)))
        shared = {"prompt_id": prompt["id"], "cluster": prompt["cluster"]}
        shared |= {"behaviour": prompt["behaviour"]}
        if prompt["use"] == "retention":
            rows["completions"].append(_completion(prompt["id"], "greedy", 0, text))
            number = int(prompt["id"].rpartition("/")[2])
            rows["checks"].append(
                shared | {"index": 0, "passed": int(number >= plan.json_lost), "ref_passed": 1}
            )
            continue
        first, second = (min(1, max(0, draw.betavariate(3, 3) + plan.win)) for _ in range(2))
        rows["completions"].append(_completion(prompt["id"], "sample", 0, text))
        rows["completions"] += [
            _completion(prompt["id"], "diverse", k, _say(draw, 3)) for k in (0, 1)
        ]
        rows["judgments"].append(
            shared
            | {"preference": (first + second) / 2}
            | {"preference_first": first, "preference_second": second}
            | {"true_preference": draw.choice((0.0, 0.5, 1.0)) if oracle else None}
            | {"len_output": len(text), "len_baseline": 40 + 12 * (i % 8)}
        )
        rows["samples"].append(
            shared
            | {"kl": plan.kl * draw.uniform(0.5, 1.5), "k1": 1.0, "entropy": draw.uniform(0.5, 1)}
            | {"n_tokens": len(text.split()), "ref_n_tokens": 10, "ended": 1, "ref_ended": 1}
        )
        rows["pairs"].append(
            {"pair_id": prompt["id"], "cluster": prompt["cluster"]}
            | {"chosen_logps": draw.gauss(-30, 1), "rejected_logps": draw.gauss(-31, 1)}
            | {"chosen_lengths": 9, "rejected_lengths": 9}
        )
    folder.mkdir(parents=True)
    for name, found in rows.items():
        records.write_jsonl(folder / f"{name}.jsonl", found)
    records.write_json(folder / "metrics.json", {"schema": 1, "metrics": []})


def write(folder: Path, plan: Written) -> Path:
    """Write the run."""
    asked = _prompts(plan.prompts, plan.changed_prompts)
    (folder / "data").mkdir(parents=True)
    (folder / "reference").mkdir()
    judged = [p for p in asked if p["use"] == "win_rate"]
    pairs = [
        {"id": p["id"], "prompt": p["messages"], "chosen": "yes", "rejected": "no"} for p in judged
    ]
    records.write_jsonl(folder / "data" / "prompts.jsonl", asked)
    records.write_jsonl(folder / "data" / "pairs_held_out.jsonl", pairs)
    draw = random.Random(1)
    said = [
        _completion(p["id"], "sample" if p["use"] == "win_rate" else "greedy", 0, _say(draw, 10))
        for p in asked
    ]
    said += [_completion(p["id"], "diverse", k, _say(draw, 3)) for p in judged for k in (0, 1)]
    records.write_jsonl(folder / "reference" / "completions.jsonl", said)
    records.write_jsonl(
        folder / "reference" / "pairs.jsonl",
        [{"pair_id": p["id"], "chosen_logps": -30.0, "rejected_logps": -31.0} for p in judged],
    )
    calibration = {"version": 2, "unit": "characters", "C": 2.78, "estimator": "fixed"}
    records.write_json(folder / "reference" / "calibration.json", calibration | {"difficulty": {}})
    for (beta, step), planted in plan.checkpoints.items():
        trial = Trial("dpo", beta, 0)
        at = folder / "trials" / trial.name
        if not (at / "trial.json").exists():
            at.mkdir(parents=True)
            records.write_json(at / "trial.json", trial)
        _checkpoint(at / f"checkpoint-{step:06d}", asked, planted, plan.oracle)
    best = plan.recommended and {"method": "dpo", "beta": plan.recommended[0], "seed": 0,
                                 "step": plan.recommended[1]}  # fmt: skip
    records.write_json(folder / "summary.json", {"selection": {"recommended": best}})
    task = Task(str(folder), "reference", plan.judge, Sizes(**plan.sizes), plan.length_unit)
    records.write_json(folder / "task.json", task)
    records.write_json(
        folder / "manifest.json",
        {"prefeval_version": "0.1.0", "created": folder.name, "command": folder.name}
        | {
            "config": dict(plan.config),
            "hashes": {"reference": "r", "template": "t"} | plan.hashes,
        },
    )
    return folder


def folder_of(run: Path, beta: float, step: int) -> Path:
    """The folder of one checkpoint."""
    return run / "trials" / Trial("dpo", beta, 0).name / f"checkpoint-{step:06d}"


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture(scope="session")
def at() -> Callable[[Path, float, int], Path]:
    return folder_of


@pytest.fixture
def write_run(tmp_path: Path) -> RunWriter:
    """``write_run("name", {(β, step): {...}}, **more)``: a run in a folder of that name."""

    def make(name: str, checkpoints: Mapping[tuple[float, int], Any], **more: Any) -> Path:
        planted = {key: Planted(**plan) for key, plan in checkpoints.items()}
        return write(tmp_path / name, Written(planted, **more))

    return make


@pytest.fixture
def run(write_run: RunWriter) -> Path:
    """A plain checkpoint and one that wins more, is longer and has lost JSON; hostile answers."""
    return write_run(
        "one",
        {
            (0.3, 10): {},
            (0.3, 20): {"win": 0.05},
            (0.1, 20): {
                "win": 0.25, "kl": 4.0, "length": 2.0, "json_lost": 20, "texts": HOSTILE,
            },
        },
        recommended=(0.3, 20),
    )  # fmt: skip
