"""A run folder of any size, made up: distinct answers of realistic length, and measured metrics.

Words are syllables drawn by rank, as in natural language a few of them often and most of them
seldom (Zipf); an answer draws some from its prompt's topic. Verdicts, checks and KL follow from how
far a checkpoint has moved; metrics and the verdict are computed from them as a sweep does.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prefeval import metrics, records
from prefeval.metrics import usable
from prefeval.metrics.evidence import Evidence
from prefeval.records import Trial

SYLLABLES = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "ai", "en")]
CHECKS = {"json": "json_object", "tool": "json_object", "refusal": "refusal",
          "compliance": "compliance", "fact": "contains_any"}  # fmt: skip
FRAGILE = {"json": 0.5, "tool": 0.9, "refusal": 0.4, "compliance": 0.1, "fact": 0.2}
PULL = {"dpo": 1.0, "ipo": 0.7, "kto": 0.8, "simpo": 1.4, "ppo": 0.4}


@dataclass(frozen=True)
class Size:
    """How large a run is made; the defaults are 200 checkpoints and 20,000 completions."""

    methods: Sequence[str] = tuple(PULL)
    betas: Sequence[float] = (0.05, 0.09, 0.165, 0.3)
    seeds: Sequence[int] = (0, 1)
    steps: Sequence[int] = (100, 200, 300, 400, 500)
    judged: int = 60  # prompts; each is sampled once
    checked: int = 8  # prompts of each behaviour; each is answered greedily
    words: tuple[int, int] = (60, 200)  # of an answer

    @property
    def checkpoints(self) -> int:
        """Of all trials."""
        return len(self.methods) * len(self.betas) * len(self.seeds) * len(self.steps)

    @property
    def completions(self) -> int:
        """Of all checkpoints, without the reference's."""
        return self.checkpoints * (self.judged + self.checked * len(CHECKS))


@dataclass(frozen=True)
class Language:
    """Words by rank, and how they become answers."""

    rng: np.random.Generator
    words: Sequence[str] = field(init=False)
    shares: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        drawn = self.rng.choice(SYLLABLES, (9000, 4))
        lengths = self.rng.choice([1, 2, 3, 4], 9000, p=[0.15, 0.4, 0.3, 0.15])
        words = ["".join(w[:n]) for w, n in zip(drawn, lengths, strict=True)]
        object.__setattr__(self, "words", list(dict.fromkeys(words)))
        weights = 1 / (np.arange(len(self.words)) + 2.7)
        object.__setattr__(self, "shares", np.cumsum(weights / weights.sum()))

    def answer(self, topic: np.ndarray, count: int) -> str:
        """``count`` words in sentences, a fifth of them of the topic."""
        ranks = np.searchsorted(self.shares, self.rng.random(count))
        about = self.rng.random(count) < 0.2
        ranks[about] = self.rng.choice(topic, about.sum())
        words = [self.words[rank] for rank in ranks]
        at = 0
        while at < count:
            words[at] = words[at].capitalize()
            at += int(self.rng.integers(8, 21))
            words[min(at, count) - 1] += "."
        return " ".join(words)


def write_run(folder: Path, size: Size, seed: int = 0) -> None:
    """Write a run folder: what ``prefeval report`` reads, but for a sweep's hashes and advice."""
    rng = np.random.default_rng(seed)
    language = Language(rng)
    prompts = list(_prompts(size, language))
    topics = [rng.integers(0, 3000, 25) for _ in prompts]
    trials = [Trial(m, b, s) for m in size.methods for b in size.betas for s in size.seeds]
    for name in ("data", "reference"):
        (folder / name).mkdir(parents=True)
    records.write_jsonl(folder / "data" / "prompts.jsonl", prompts)
    answers = _completions(prompts, topics, language, size, 1.0)
    records.write_jsonl(folder / "reference" / "completions.jsonl", answers)
    baseline = [len(a["text"]) for a in answers]
    rows, evidence = [], []
    for trial in trials:
        _write_trial(folder / "trials" / trial.name, trial, size, rng)
        for step in size.steps:
            path = folder / "trials" / trial.name / f"checkpoint-{step:06d}"
            drift = PULL[trial.method] * (0.1 / trial.beta) ** 0.6 * step / size.steps[-1]
            answers = _completions(prompts, topics, language, size, 1 + 0.15 * np.log1p(drift))
            key = (trial.method, trial.beta, trial.seed, step)
            evidence.append((key, _write_checkpoint(path, prompts, answers, baseline, drift, rng)))
            found = metrics.compute(evidence[-1][1], np.random.default_rng(0))
            records.write_json(path / "metrics.json", {"schema": 1, "metrics": found})
            named = dict(zip(("method", "beta", "seed", "step"), key, strict=True))
            rows.append(named | {"trial": trial.name, "checkpoint": path.name} | metrics.row(found))
    pd.DataFrame(rows).to_parquet(folder / "results.parquet", index=False)
    records.write_json(folder / "summary.json", {
        "schema": 1, "failed": [], "warnings": [], "counts": {"trials": len(trials)},
        "selection": usable.select(evidence, rng=np.random.default_rng(0), n_boot=50),
    })  # fmt: skip
    records.write_json(folder / "manifest.json", {
        "schema": 1, "prefeval_version": "0", "command": "prefeval sweep", "config": {},
        "trials": [t.name for t in trials],
    })  # fmt: skip


def _prompts(size: Size, language: Language) -> Iterator[dict[str, Any]]:
    kinds = [("about", "win_rate", size.judged)] + [(b, "retention", size.checked) for b in CHECKS]
    for behaviour, use, count in kinds:
        for index in range(count):
            topic = language.rng.integers(0, 3000, 25)
            asked = language.answer(topic, int(language.rng.integers(10, 60)))
            check = {"kind": CHECKS[behaviour]} if behaviour in CHECKS else None
            yield {
                **{"id": f"{behaviour}/{index:03d}", "behaviour": behaviour, "use": use},
                **{"messages": [{"role": "user", "content": asked}], "check": check},
                "cluster": f"{behaviour}-{index // 2}",
            }


def _completions(
    prompts: Sequence[Mapping[str, Any]],
    topics: Sequence[np.ndarray],
    language: Language,
    size: Size,
    longer: float,
) -> list[dict[str, Any]]:
    """One answer to every prompt, with token ids as a tokenizer of 32,000 would give."""
    found = []
    for prompt, topic in zip(prompts, topics, strict=True):
        count = int(min(language.rng.integers(*size.words) * longer, size.words[1]))
        ids = language.rng.integers(0, 32000, int(1.35 * count)).tolist()
        found.append({
            "prompt_id": prompt["id"], "index": 0, "text": language.answer(topic, count),
            "mode": "sample" if prompt["use"] == "win_rate" else "greedy",
            "token_ids": ids, "ended": True,
        })  # fmt: skip
    return found


def _write_checkpoint(
    path: Path,
    prompts: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]],
    baseline: Sequence[int],
    drift: float,
    rng: np.random.Generator,
) -> Evidence:
    """The files of one checkpoint, and the same as evidence."""
    judgments, samples, checks = [], [], []
    for prompt, answer, length in zip(prompts, answers, baseline, strict=True):
        shared = {"prompt_id": prompt["id"]} | {k: prompt[k] for k in ("cluster", "behaviour")}
        if prompt["use"] == "win_rate":
            judgments.append(shared | _judgment(answer, length, drift, rng))
            samples.append(shared | _sample(answer, drift, rng))
        else:
            broken = rng.random() < FRAGILE[prompt["behaviour"]] * drift / 6
            checks.append(shared | {"passed": int(not broken), "ref_passed": 1})
    files = {"completions": answers, "judgments": judgments, "samples": samples, "checks": checks}
    path.mkdir(parents=True)
    for name, rows in files.items():
        records.write_jsonl(path / f"{name}.jsonl", rows)
    del files["completions"]
    return Evidence(**{name: pd.DataFrame(rows) for name, rows in files.items()})


def _judgment(
    answer: Mapping[str, Any], length: int, drift: float, rng: np.random.Generator
) -> dict[str, Any]:
    liked = 0.5 + 0.25 * drift * np.exp(-drift) + 0.1 * (len(answer["text"]) > length) - 0.05
    first, second = np.clip(liked + rng.normal(0, 0.25) + rng.normal(0, 0.1, 2), 0, 1).tolist()
    orders = {"preference_first": first, "preference_second": second}
    lengths = {"len_output": len(answer["text"]), "len_baseline": length, "difficulty": 0.0}
    truth = {"true_preference": float(rng.choice([0.0, 0.5, 1.0]))}
    return orders | {"preference": (first + second) / 2} | lengths | truth


def _sample(answer: Mapping[str, Any], drift: float, rng: np.random.Generator) -> dict[str, Any]:
    tokens = len(answer["token_ids"])
    kl = rng.gamma(0.5, 0.05 * drift**2 + 1e-3, tokens)
    return {
        "kl": float(kl.sum()), "k1": float(kl.sum() + rng.normal(0, 1)), "entropy": 1.1,
        "n_tokens": tokens, "ref_n_tokens": 170, "ended": 1, "ref_ended": 1,
        "kl_by_position": [float(f"{v:.4g}") for v in kl],
    }  # fmt: skip


def _write_trial(path: Path, trial: Trial, size: Size, rng: np.random.Generator) -> None:
    """Settings, costs, and a training log of one row a step."""
    path.mkdir(parents=True)
    steps = np.arange(1, size.steps[-1] + 1)
    falls = -PULL[trial.method] * 5 * steps / steps[-1]
    noise = rng.normal(0, 0.5, (2, len(steps)))
    log = {"loss": 0.6 + noise[0] / 9, "delta_chosen": falls + noise[0], "grad_norm": noise[1] + 5}
    log["delta_rejected"] = 2 * falls + noise[1]
    rows = pd.DataFrame({"step": steps, **log}).to_dict("records")
    records.write_jsonl(path / "train.jsonl", rows)
    records.write_json(path / "trial.json", trial)
    costs = {"train_seconds": 60.0, "eval_seconds": 30.0, "peak_memory_mb": 900.0, "tokens": 10**6}
    named = {"trial": trial.name, "method": trial.method, "beta": trial.beta, "seed": trial.seed}
    records.write_json(path / "costs.json", named | costs | {"flops": 1e15, "sft_flops": 5e14})


def compressibility(folder: Path) -> float:
    """Size of a checkpoint's answers after DEFLATE over their size before; English: about 0.4."""
    path = next(folder.glob("trials/*/checkpoint-*/completions.jsonl"))
    text = "\n".join(row["text"] for row in records.read_jsonl(path)).encode()
    return len(zlib.compress(text, 9)) / len(text)
